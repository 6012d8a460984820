//! Two sentinels: one leads, the other takes over, and who was deposed changes nothing any more.

use control::model::Role;
use stolon_tests::cluster::{Cluster, LONG_TIMEOUT, Profile, SHORT_TIMEOUT, check, error_text};
use stolon_tests::process::Signal;
use stolon_tests::tcp_relay::{Direction, NetworkCondition, TcpRelay};
use stolon_tests::wait::eventually;

/// store 6.1 and E-9: a sentinel that stops revokes its lease, so that the other one leads at once; one that is
/// killed is succeeded when its lease ends. The next failure is judged by the new leader either way.
#[tokio::test]
async fn the_other_sentinel_takes_over_and_judges_the_next_failure() {
    let mut cluster = Cluster::builder(Profile::Fast).sentinels(2).start().await;
    let first = leader(&cluster).await;
    let second = if first == "sentinel0" { "sentinel1" } else { "sentinel0" };

    stands_by(&cluster, 2).await;
    assert_eq!(cluster.stop(&first, Signal::TERM).await, 0);
    // revoked before it ended, and not run out: nobody waits for the end of its lease
    let election = cluster.store.keys().election();
    assert_eq!(cluster.store.list(&election).await.unwrap().len(), 1);
    leads(&cluster, second).await;

    cluster.start(&first);
    stands_by(&cluster, 2).await;
    cluster.process(second).kill();
    leads(&cluster, &first).await;

    cluster.kill_keeper_and_postgres("keeper0");
    assert_eq!(cluster.wait_other_master("keeper0", SHORT_TIMEOUT).await, "keeper1");
    cluster.wait_serving("proxy0").await;
}

/// fencing F-6: the enabled proxies survive a change of leadership.
#[tokio::test]
async fn a_new_leader_changes_nothing_in_a_healthy_cluster() {
    let mut cluster = Cluster::builder(Profile::Fast).sentinels(2).start().await;
    let session = cluster.connect("proxy0").await;
    let before = cluster.data().await.unwrap();
    let first = leader(&cluster).await;
    cluster.process(&first).kill();
    let second = if first == "sentinel0" { "sentinel1" } else { "sentinel0" };
    leads(&cluster, second).await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    let after = cluster.data().await.unwrap();
    assert_eq!(before.proxy.unwrap().spec, after.proxy.unwrap().spec);
    assert_eq!(session.value("select 1").await.unwrap(), "1");
}

/// fencing 4.4, F-7: a leader whose write is held back until another one leads changes nothing with it.
#[tokio::test]
async fn the_write_of_a_deposed_sentinel_is_refused() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .sentinels(0)
        .keepers(0)
        .proxies(0)
        .start()
        .await;
    let relay = TcpRelay::to(&cluster.etcd.address()).await;
    let deposed = cluster.prepare_sentinel();
    cluster.program(&deposed).store_endpoint = relay.endpoint();
    // the request must outlive the time that it is held back for
    cluster
        .program(&deposed)
        .options
        .extend(["--store-timeout=60s".to_owned(), "--log-level=debug".to_owned()]);
    cluster.start(&deposed);
    leads(&cluster, &deposed).await;
    let other = cluster.add_sentinel();
    stands_by(&cluster, 2).await;

    // the first keeper is a reason to write; the reads before it get through, the write does not
    relay.hold_from(Direction::ToServer, b"\"formatVersion\"");
    cluster.add_keeper();
    eventually("the write to be under way", SHORT_TIMEOUT, async || {
        check(relay.is_held(Direction::ToServer), || "nothing is held".to_owned())
    })
    .await;
    leads(&cluster, &other).await;
    let before = cluster
        .store
        .get(&cluster.store.keys().cluster_data())
        .await
        .unwrap()
        .unwrap();
    cluster
        .process(&deposed)
        .wait_for_log("sentinel leadership lost", SHORT_TIMEOUT)
        .await;
    let said = cluster.process(&deposed).log().len();
    relay.set(Direction::ToServer, NetworkCondition::Normal);

    // the answer to that request: the conditions did not hold
    cluster
        .process(&deposed)
        .wait_for_log_after(said, "the store has changed since it was read", SHORT_TIMEOUT)
        .await;
    // the other one goes on from what it knows
    cluster.wait_healthy("keeper0", &Role::Master).await;
    let after = cluster
        .store
        .get(&cluster.store.keys().cluster_data())
        .await
        .unwrap()
        .unwrap();
    assert!(after.mod_revision > before.mod_revision);
    assert!(!cluster.process(&deposed).log().contains("panic"));
}

async fn leader(cluster: &Cluster) -> String {
    eventually("a leader", SHORT_TIMEOUT, async || {
        cluster.leading_sentinel().await.map_err(error_text)
    })
    .await
}

async fn leads(cluster: &Cluster, name: &str) {
    eventually(format!("{name} to lead"), LONG_TIMEOUT, async || {
        let leader = cluster.leading_sentinel().await.map_err(error_text)?;
        check(leader == name, || format!("{leader} leads"))
    })
    .await;
}

async fn stands_by(cluster: &Cluster, candidates: usize) {
    eventually(format!("{candidates} candidates"), SHORT_TIMEOUT, async || {
        let found = cluster
            .store
            .list(&cluster.store.keys().election())
            .await
            .map_err(|error| error.to_string())?;
        check(found.len() == candidates, || format!("{} of them", found.len()))
    })
    .await;
}
