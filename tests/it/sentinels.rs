//! Two sentinels: one leads, the other one takes over, and a write of the former leader is refused.

use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::http;
use stolon_tests::process::Signal;
use stolon_tests::tcp_relay::{Direction, NetworkCondition, TcpRelay};
use stolon_tests::wait::eventually;
use store::KeyRange;

/// A sentinel that stops revokes its lease, so that the other one leads at once; after SIGKILL it leads when the lease
/// ends (store 6.1 and E-8). Either way the new leader handles the next failure.
#[tokio::test]
async fn the_other_sentinel_takes_over_and_handles_the_next_failure() {
    let mut cluster = Cluster::builder(Profile::Fast).sentinels(2).start().await;
    let first = wait_leader(&cluster).await;
    let second = if first == "sentinel0" { "sentinel1" } else { "sentinel0" };

    wait_candidate_count(&cluster, 2).await;
    assert_eq!(cluster.stop(&first, Signal::TERM).await, 0);
    // The lease was revoked before the sentinel exited, and did not have to expire.
    let election = cluster.store.keys().election();
    assert_eq!(cluster.store.list(&election).await.unwrap().len(), 1);
    wait_leads(&cluster, second).await;

    cluster.start(&first);
    wait_candidate_count(&cluster, 2).await;
    cluster.process(second).kill();
    wait_leads(&cluster, &first).await;

    cluster.kill_keeper_and_postgres("keeper0");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", SHORT_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_proxy_serves("proxy0").await;
}

/// The enabled proxies do not change with the leading sentinel (fencing F-6).
#[tokio::test]
async fn a_new_leader_changes_nothing_in_a_healthy_cluster() {
    let mut cluster = Cluster::builder(Profile::Fast).sentinels(2).start().await;
    let session = cluster.connect("proxy0").await;
    let before = cluster.data().await.unwrap();
    let first = wait_leader(&cluster).await;
    cluster.process(&first).kill();
    let second = if first == "sentinel0" { "sentinel1" } else { "sentinel0" };
    wait_leads(&cluster, second).await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    let after = cluster.data().await.unwrap();
    assert_eq!(before.proxy.unwrap().spec, after.proxy.unwrap().spec);
    assert_eq!(session.value("select 1").await.unwrap(), "1");
}

/// Infos that only repeat a position or nothing cause no round (sentinel E-1).
#[tokio::test]
async fn a_settled_cluster_is_read_less_often_than_its_programs_publish() {
    let mut cluster = Cluster::builder(Profile::Fast).without_programs().start().await;
    let sentinel = cluster.prepare_sentinel();
    let page = cluster.serve_pages(&sentinel);
    cluster.start(&sentinel);
    for role in [Role::Master, Role::Standby] {
        let keeper = cluster.add_keeper();
        cluster.wait_healthy(&keeper, &role).await;
    }
    let proxy = cluster.add_proxy();
    cluster.wait_proxy_serves(&proxy).await;
    let keys = cluster.store.keys();
    let infos = [keys.keeper_infos(), keys.proxy_infos()].map(KeyRange::Prefix);
    let watch = cluster.store.watch(infos.into(), None);
    // Each batch is counted alone: the last changes of the start are in the first ones.
    eventually("fewer rounds than infos", LONG_TIMEOUT, async || {
        let before = round_count(&page)?;
        let mut published = 0;
        while published < 20 {
            published += watch.changed().await.keys.len();
        }
        let rounds = round_count(&page)? - before;
        check(2 * rounds <= published, || {
            format!("{rounds} rounds, {published} infos")
        })
    })
    .await;
}

/// The rounds of a sentinel since its start.
fn round_count(page: &str) -> Result<usize, String> {
    let (_, text) = http::get(page, "/metrics").map_err(|error| error.to_string())?;
    let rounds = text
        .lines()
        .filter(|line| line.starts_with("stolon_sentinel_rounds_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
    Ok(rounds.sum())
}

/// A leader's write that arrives after another sentinel leads is refused (fencing 4.4, F-7).
#[tokio::test]
async fn the_write_of_a_deposed_sentinel_is_refused() {
    let mut cluster = Cluster::builder(Profile::Fast).without_programs().start().await;
    let relay = TcpRelay::to(&cluster.etcd.address()).await;
    let deposed = cluster.prepare_sentinel();
    cluster.program(&deposed).store_endpoint = relay.endpoint();
    // The request's timeout is longer than the time for which it is held.
    cluster
        .program(&deposed)
        .options
        .extend(["--store-timeout=60s".to_owned(), "--log-level=debug".to_owned()]);
    cluster.start(&deposed);
    wait_leads(&cluster, &deposed).await;
    let other = cluster.add_sentinel();
    wait_candidate_count(&cluster, 2).await;

    // The first keeper causes a write; the reads before it are forwarded, the write is held.
    relay.hold_from(Direction::ToServer, b"\"formatVersion\"");
    cluster.add_keeper();
    eventually("the write to be held", SHORT_TIMEOUT, async || {
        check(relay.is_held(Direction::ToServer), || "nothing is held".to_owned())
    })
    .await;
    wait_leads(&cluster, &other).await;
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
    let log_length = cluster.process(&deposed).log().len();
    relay.set(Direction::ToServer, NetworkCondition::Normal);

    // The response to that request: its conditions did not hold.
    cluster
        .process(&deposed)
        .wait_for_log_after(log_length, "the store has changed since it was read", SHORT_TIMEOUT)
        .await;
    // The other sentinel continues from its own reads.
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

async fn wait_leader(cluster: &Cluster) -> String {
    eventually("a leader", SHORT_TIMEOUT, async || {
        cluster.leading_sentinel().await.map_err(error_text)
    })
    .await
}

async fn wait_leads(cluster: &Cluster, name: &str) {
    eventually(format!("{name} to lead"), LONG_TIMEOUT, async || {
        let leader = cluster.leading_sentinel().await.map_err(error_text)?;
        check(leader == name, || format!("{leader} leads"))
    })
    .await;
}

async fn wait_candidate_count(cluster: &Cluster, candidates: usize) {
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
