//! `stolonctl switchover` (extensions X-2): another keeper becomes the master without loss; what fails meanwhile leaves the
//! old one.

use std::path::PathBuf;
use std::time::Duration;

use model::{KeeperInfo, Role, from_slice};
use stolon_tests::cluster::{Cluster, ClusterBuilder, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{self, Process, Signal};
use stolon_tests::wait::eventually;
use stolon_tests::writers::{WriterStats, Writers, lost_rows};
use store::Entry;

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

async fn assert_nothing_is_lost(cluster: &Cluster, stats: &[WriterStats]) {
    let sql = cluster.connect("proxy0").await;
    assert_eq!(lost_rows(&sql, stats).await.unwrap(), 0, "acknowledged rows are lost");
}

/// Asserts that a keeper's instance has become a standby of `master` without a copy.
async fn assert_follows_without_a_copy(cluster: &mut Cluster, keeper: &str, marker: &PathBuf, master: &str) {
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
    let marker = mark(&cluster, "keeper0");
    writers.reset_gaps();

    let output = switch_over(&cluster, &[]).await;

    writers.wait_each_client_commits(10).await;
    let stats = writers.stop();
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
    let marker = mark(&cluster, "keeper0");
    writers.reset_gaps();

    let last = format!("keeper{}", keepers - 1);
    switch_over(&cluster, &["--to", &last]).await;

    writers.wait_each_client_commits(10).await;
    let stats = writers.stop();
    let gap = stats.iter().map(|stats| stats.longest_gap).max().unwrap_or_default();
    println!("longest gap: {gap:?}");
    assert_eq!(cluster.proxied_master().await.unwrap(), last);
    assert_nothing_is_lost(&cluster, &stats).await;
    assert_follows_without_a_copy(&mut cluster, "keeper0", &marker, &last).await;
    wait_no_keys(&cluster).await;
}

/// A switchover to keeper1 that is held up after keeper0 has accepted the order: keeper1's WAL receiver is suspended, and
/// the shutdown of keeper0's server waits for it.
struct HeldSwitchover {
    cluster: Cluster,
    command: Process,
    /// The WAL receiver.
    receiver: u32,
    stats: Vec<WriterStats>,
}

impl HeldSwitchover {
    async fn start(sentinels: usize, arguments: &[&str]) -> Self {
        let mut cluster = start(Cluster::builder(Profile::Fast).sentinels(sentinels), 2).await;
        let writers = Writers::through(&cluster, "proxy0", 2).await;
        let stats = writers.stop();
        cluster.wait_caught_up("keeper1", "keeper0").await;
        let receiver = eventually("keeper1's WAL receiver", SHORT_TIMEOUT, async || {
            let standby = cluster.connect("keeper1").await;
            let pid = standby.value("select pid from pg_stat_wal_receiver").await;
            pid.map_err(error_text)?
                .parse::<u32>()
                .map_err(|error| error.to_string())
        })
        .await;
        process::send_signal(receiver, Signal::STOP);
        let arguments = [&["switchover", "--to", "keeper1"], arguments].concat();
        let command = cluster.start_stolonctl(&arguments);
        command
            .wait_for_log("the master stops: keeper keeper0", LONG_TIMEOUT)
            .await;
        eventually("keeper0 to accept the order", LONG_TIMEOUT, async || {
            let info = info(&cluster, "keeper0").await?;
            check(!info.stopping.is_empty() && info.stopped.is_none(), || {
                format!("{info:?}")
            })
        })
        .await;
        assert!(cluster.process("keeper0").try_wait().is_none());
        Self {
            cluster,
            command,
            receiver,
            stats,
        }
    }

    fn release(&self) {
        process::send_signal(self.receiver, Signal::CONT);
    }

    /// Returns the order of keeper0.
    async fn order(&self) -> Result<Option<Entry>, String> {
        let key = self.cluster.store.keys().order("keeper0");
        self.cluster.store.get(&key).await.map_err(|error| error.to_string())
    }

    async fn wait_status(&mut self, status: i32) -> String {
        let found = self.command.exit_status(LONG_TIMEOUT).await;
        let output = self.command.log();
        assert_eq!(found, status, "{output}");
        output
    }

    /// Asserts that keeper0 is the announced master as before, and has every row.
    async fn assert_given_up(&mut self) {
        self.cluster.wait_healthy("keeper0", &Role::Master).await;
        self.cluster.wait_proxy_serves("proxy0").await;
        assert_eq!(self.cluster.proxied_master().await.unwrap(), "keeper0");
        assert_nothing_is_lost(&self.cluster, &self.stats).await;
        wait_no_keys(&self.cluster).await;
    }
}

#[tokio::test]
async fn the_old_master_goes_on_when_the_elected_one_dies_on_the_way() {
    let mut held = HeldSwitchover::start(1, &[]).await;
    held.cluster.kill_keeper_and_postgres("keeper1");
    let output = held.wait_status(1).await;
    assert!(output.contains("the switchover was given up: "), "{output}");
    held.assert_given_up().await;
    held.cluster.start("keeper1");
    held.cluster.wait_healthy("keeper1", &Role::Standby).await;
}

#[tokio::test]
async fn an_old_master_that_is_killed_after_the_order_comes_back_as_the_master() {
    let mut held = HeldSwitchover::start(1, &["--timeout", "20s"]).await;
    held.cluster.kill_keeper_and_postgres("keeper0");
    held.release();
    let output = held.wait_status(1).await;
    assert!(output.contains("keeper keeper0 stays the master"), "{output}");
    held.cluster.start("keeper0");
    held.assert_given_up().await;
}

/// Rule: extensions.
#[tokio::test]
async fn another_sentinel_completes_the_switchover_of_a_leader_that_dies() {
    let mut held = HeldSwitchover::start(2, &["--timeout", "60s"]).await;
    let order = held.order().await.unwrap().expect("it was accepted").mod_revision;
    let leader = held.cluster.leading_sentinel().await.unwrap();
    held.cluster.process(&leader).kill();
    eventually("the order of the other sentinel", LONG_TIMEOUT, async || {
        let found = held.order().await?;
        let is_new = found.as_ref().is_some_and(|found| found.mod_revision > order);
        check(is_new, || format!("{found:?}"))
    })
    .await;
    held.release();
    held.wait_status(0).await;
    assert_eq!(held.cluster.proxied_master().await.unwrap(), "keeper1");
    assert_nothing_is_lost(&held.cluster, &held.stats).await;
    held.cluster.wait_healthy("keeper0", &Role::Standby).await;
    wait_no_keys(&held.cluster).await;
}

#[tokio::test]
async fn a_switchover_that_takes_too_long_leaves_the_old_master() {
    let mut held = HeldSwitchover::start(1, &["--timeout", "5s"]).await;
    let output = held.wait_status(1).await;
    assert!(
        output.contains("no new master within 5s") || output.contains("the switchover was given up"),
        "{output}"
    );
    held.release();
    held.assert_given_up().await;
    // and another one succeeds, once keeper1 streams again
    held.cluster.wait_caught_up("keeper1", "keeper0").await;
    eventually("keeper1 to stream", LONG_TIMEOUT, async || {
        let count = "select count(*) from pg_stat_replication where state = 'streaming'";
        let streaming = held.cluster.query("keeper0", count).await?;
        check(streaming == "1", || streaming)
    })
    .await;
    switch_over(&held.cluster, &["--to", "keeper1"]).await;
    assert_nothing_is_lost(&held.cluster, &held.stats).await;
}

/// Ctrl-C before anything is stopped, and while the master stops.
#[tokio::test]
async fn an_interrupted_command_leaves_the_old_master() {
    let mut held = HeldSwitchover::start(1, &[]).await;
    held.command.signal(Signal::INT);
    let output = held.wait_status(1).await;
    assert!(output.contains("interrupted, the switchover is given up"), "{output}");
    held.release();
    held.assert_given_up().await;
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
