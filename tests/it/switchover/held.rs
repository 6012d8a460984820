//! A switchover that is held up on the way, and what becomes of it.

use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{self, Process, Signal};
use stolon_tests::wait::eventually;
use stolon_tests::writers::{WriterStats, Writers};
use store::Entry;

use super::{assert_nothing_is_lost, info, start, switch_over, wait_no_keys};

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
