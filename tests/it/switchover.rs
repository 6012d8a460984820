//! `stolonctl switchover` (extensions X-2): another keeper becomes the master without loss; what fails meanwhile leaves the
//! old one.

mod held;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{KeeperInfo, Role, from_slice};
use stolon_tests::cluster::{Cluster, ClusterBuilder, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::wait::eventually;
use stolon_tests::wal_receiver::SuspendedReceiver;
use stolon_tests::writers::{WriterStats, Writers, lost_rows};

/// Long enough that nothing here is a failover.
const FAIL_INTERVAL: &str = "60s";

/// Puts a file into a keeper's PGDATA that no copy has.
fn mark(cluster: &Cluster, keeper: &str) -> PathBuf {
    let marker = cluster.pgdata(keeper).join("no_copy_has_replaced_this_directory");
    std::fs::write(&marker, "").unwrap();
    marker
}

/// Starts a cluster, and waits until the standbys' keepers report them healthy: cluster data have a new db as healthy until
/// failInterval is over.
async fn start(builder: ClusterBuilder, keepers: usize) -> Cluster {
    let builder = builder.keepers(keepers).with("failInterval", FAIL_INTERVAL);
    let cluster = builder.start().await;
    for number in 0..keepers {
        let what = format!("keeper{number} to be reported healthy");
        eventually(what, LONG_TIMEOUT, async || {
            let info = info(&cluster, &format!("keeper{number}")).await?;
            let is_healthy = info.postgres_state.as_ref().is_some_and(|state| state.healthy);
            check(is_healthy, || format!("{info:?}"))
        })
        .await;
    }
    cluster
}

async fn info(cluster: &Cluster, keeper: &str) -> Result<KeeperInfo, String> {
    let key = cluster.store.keys().keeper_info(keeper);
    let entry = cluster.store.get(&key).await.map_err(|error| error.to_string())?;
    from_slice(&entry.ok_or("no info")?.value).map_err(|error| error.to_string())
}

/// Waits until no key of a switchover is left.
async fn wait_no_keys(cluster: &Cluster) {
    eventually("the keys to be deleted", SHORT_TIMEOUT, async || {
        let keys = cluster.store.keys();
        let request = cluster
            .store
            .get(&keys.switchover())
            .await
            .map_err(|error| error.to_string())?;
        let orders = cluster
            .store
            .list(&keys.orders())
            .await
            .map_err(|error| error.to_string())?;
        check(request.is_none() && orders.is_empty(), || {
            format!("{request:?} {orders:?}")
        })
    })
    .await;
}

/// Runs the command to its end; returns what it printed.
async fn switch_over(cluster: &Cluster, arguments: &[&str]) -> String {
    let (status, output) = cluster.stolonctl(&[&["switchover"], arguments].concat()).await;
    println!("{output}");
    assert_eq!(status, 0, "{output}");
    output
}

/// Asserts that the switchover has something to lose.
fn assert_each_commits(stats: &[WriterStats]) {
    for stats in stats {
        assert!(stats.rows() > 0, "a client has not committed before the switchover");
    }
}

async fn assert_nothing_is_lost(cluster: &Cluster, stats: &[WriterStats]) {
    let sql = cluster.connect("proxy0").await;
    assert_eq!(lost_rows(&sql, stats).await.unwrap(), 0, "acknowledged rows are lost");
}

/// Asserts that a keeper's instance has become a standby of `master` without a copy.
async fn assert_follows_without_a_copy(cluster: &mut Cluster, keeper: &str, marker: &Path, master: &str) {
    cluster.wait_healthy(keeper, &Role::Standby).await;
    cluster.wait_caught_up(keeper, master).await;
    let log = cluster.process(keeper).log();
    let last = log
        .rfind("accepted the order to stop postgres")
        .expect("it was ordered");
    assert!(!log[last..].contains("running pg_basebackup"), "a copy was made");
    assert!(marker.exists(), "the directory was replaced");
}

#[tokio::test]
async fn no_row_is_lost_under_load_and_the_old_master_follows_without_a_copy() {
    let mut cluster = start(Cluster::builder(Profile::Fast), 2).await;
    let writers = Writers::through(&cluster, "proxy0", 4).await;
    assert_each_commits(&writers.stats());
    let marker = mark(&cluster, "keeper0");
    writers.reset_gaps();

    let output = switch_over(&cluster, &[]).await;

    let switched = writers.rows();
    writers.wait_each_client_commits(10).await;
    let stats = writers.stop();
    assert!(
        stats.iter().map(WriterStats::rows).sum::<i64>() > switched,
        "no commit after the switchover"
    );
    let gap = stats.iter().map(|stats| stats.longest_gap).max().unwrap_or_default();
    println!("longest gap: {gap:?}");
    assert!(
        output.starts_with("requested: the best standby replaces the master of keeper keeper0"),
        "{output}"
    );
    assert!(output.contains("the proxies connect clients to it"), "{output}");
    assert_eq!(cluster.proxied_master().await.unwrap(), "keeper1");
    assert_nothing_is_lost(&cluster, &stats).await;
    assert_follows_without_a_copy(&mut cluster, "keeper0", &marker, "keeper1").await;
    wait_no_keys(&cluster).await;
}

/// There and back, so that each instance has been a master and a standby.
#[tokio::test]
async fn the_named_keeper_becomes_the_master_and_the_old_one_again() {
    let mut cluster = start(Cluster::builder(Profile::Fast), 3).await;
    let sql = cluster.connect("proxy0").await;
    sql.run("create table test (id int); insert into test values (1)")
        .await
        .unwrap();
    let markers = ["keeper0", "keeper1", "keeper2"].map(|keeper| mark(&cluster, keeper));
    for standby in ["keeper1", "keeper2"] {
        cluster.wait_caught_up(standby, "keeper0").await;
    }

    let output = switch_over(&cluster, &["--to", "keeper2"]).await;
    assert!(output.contains("elected: keeper keeper2"), "{output}");
    assert_follows_without_a_copy(&mut cluster, "keeper0", &markers[0], "keeper2").await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.wait_caught_up("keeper1", "keeper2").await;
    let sql = cluster.connect("proxy0").await;
    sql.run("insert into test values (2)").await.unwrap();

    switch_over(&cluster, &["--to", "keeper0"]).await;
    assert_eq!(cluster.proxied_master().await.unwrap(), "keeper0");
    assert_follows_without_a_copy(&mut cluster, "keeper2", &markers[2], "keeper0").await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    let rows = "select string_agg(id::text, ' ' order by id) from test";
    assert_eq!(cluster.query("proxy0", rows).await.unwrap(), "1 2");
    assert!(markers[1].exists(), "a standby was copied");
}

/// The standby has not connected again yet: a stop would leave nobody who has received everything.
#[tokio::test]
async fn a_switchover_soon_after_a_restart_of_the_master_waits_for_a_standby() {
    let mut cluster = start(Cluster::builder(Profile::Fast), 2).await;
    cluster.wait_caught_up("keeper1", "keeper0").await;
    let before = info(&cluster, "keeper0").await.unwrap().boot_uuid;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster.start("keeper0");
    eventually("keeper0 to report its server again", LONG_TIMEOUT, async || {
        let info = info(&cluster, "keeper0").await?;
        let is_healthy = info.postgres_state.as_ref().is_some_and(|state| state.healthy);
        check(is_healthy && info.boot_uuid != before, || format!("{info:?}"))
    })
    .await;
    cluster.wait_proxy_serves("proxy0").await;
    assert_eq!(cluster.proxied_master().await.unwrap(), "keeper0");
    let output = switch_over(&cluster, &["--to", "keeper1"]).await;
    assert!(output.contains("elected: keeper keeper1"), "{output}");
}

/// A shutdown would wait for such a standby, and clients with it.
#[tokio::test]
async fn a_standby_that_takes_no_wal_holds_a_switchover_up_before_clients_notice_it() {
    let cluster = start(Cluster::builder(Profile::Fast), 3).await;
    let writers = Writers::through(&cluster, "proxy0", 2).await;
    for keeper in ["keeper1", "keeper2"] {
        cluster.wait_caught_up(keeper, "keeper0").await;
    }
    let receiver = SuspendedReceiver::of(&cluster, "keeper2").await;
    writers.wait_each_client_commits(10).await;
    let waits = "waiting: the WAL up to the checkpoint is not yet received by keeper keeper2: ";
    // keeper1 has everything, but the master's shutdown would wait for keeper2, too
    let mut command = cluster.start_stolonctl(&["switchover", "--timeout", "2m"]);
    command.wait_for_log(waits, LONG_TIMEOUT).await;
    command.signal(Signal::INT);
    let status = command.exit_status(LONG_TIMEOUT).await;
    let output = command.log();
    assert!(
        status == 1 && !output.contains("the proxies close"),
        "{status} {output}"
    );
    wait_no_keys(&cluster).await;
    let errors: Vec<_> = writers.stats().into_iter().map(|stats| stats.errors).collect();
    assert!(errors.iter().all(BTreeMap::is_empty), "clients noticed it: {errors:?}");
    receiver.resume();
    cluster.wait_caught_up("keeper2", "keeper0").await;
    switch_over(&cluster, &["--to", "keeper1"]).await;
    writers.wait_each_client_commits(10).await;
    assert_nothing_is_lost(&cluster, &writers.stats()).await;
}

#[tokio::test]
async fn a_synchronous_cluster_of_two_keepers_switches_over() {
    synchronous(2).await;
}

#[tokio::test]
async fn a_synchronous_cluster_of_three_keepers_switches_over() {
    synchronous(3).await;
}

/// Rule: synchronous SY-14.
async fn synchronous(keepers: usize) {
    let builder = Cluster::builder(Profile::Fast).synchronous(Some((1, 1)));
    let mut cluster = start(builder, keepers).await;
    let writers = Writers::through(&cluster, "proxy0", 4).await;
    assert_each_commits(&writers.stats());
    let marker = mark(&cluster, "keeper0");
    writers.reset_gaps();

    let last = format!("keeper{}", keepers - 1);
    switch_over(&cluster, &["--to", &last]).await;

    let switched = writers.rows();
    writers.wait_each_client_commits(10).await;
    let stats = writers.stop();
    assert!(
        stats.iter().map(WriterStats::rows).sum::<i64>() > switched,
        "no commit after the switchover"
    );
    let gap = stats.iter().map(|stats| stats.longest_gap).max().unwrap_or_default();
    println!("longest gap: {gap:?}");
    assert_eq!(cluster.proxied_master().await.unwrap(), last);
    assert_nothing_is_lost(&cluster, &stats).await;
    assert_follows_without_a_copy(&mut cluster, "keeper0", &marker, &last).await;
    wait_no_keys(&cluster).await;
}

/// A sentinel of Go stolon, or none, and keepers that do not act on orders are refused by the command (`ctl/tests`); the
/// sentinel refuses what it cannot begin, with the reason.
#[tokio::test]
async fn a_refusal_of_the_sentinel_reaches_the_command() {
    let mut cluster = start(Cluster::builder(Profile::Fast), 2).await;
    cluster.kill_keeper_and_postgres("keeper1");
    eventually("keeper1 to be gone", Duration::from_secs(90), async || {
        let key = cluster.store.keys().liveness_key("keeper1");
        let found = cluster.store.get(&key).await.map_err(|error| error.to_string())?;
        check(found.is_none(), || format!("{found:?}"))
    })
    .await;
    let (status, output) = cluster
        .stolonctl(&["switchover", "--to", "keeper1", "--timeout", "10s"])
        .await;
    println!("{output}");
    assert_eq!(status, 1, "{output}");
    assert!(
        output.contains("the switchover is refused: keeper keeper1: "),
        "{output}"
    );
    assert!(
        output.contains("keeper keeper0 has the master, and the proxies are sent to it"),
        "{output}"
    );
    assert_eq!(cluster.proxied_master().await.unwrap(), "keeper0");
    wait_no_keys(&cluster).await;
}
