//! A switchover that is held up on the way, and what becomes of it.

use std::time::Duration;

use model::Role;
use serde_json::{Value, json};
use stolon_tests::cluster::{Cluster, Profile, check, db_of, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{self, Process, Signal};
use stolon_tests::spec::update;
use stolon_tests::wait::{eventually, throughout};
use stolon_tests::wal_receiver::{SuspendedReceiver, wait_only_standby_streams};
use stolon_tests::writers::Writers;
use store::Entry;

use super::{assert_nothing_is_lost, info, start, switch_over, wait_no_keys};

/// convergenceTimeout of clusters that run out of it.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a suspended proxy may still forward, and so holds a switchover up in the step in which proxies close.
const PROXY_TIMEOUT: &str = "20s";
/// Rows that keeper1 lacks.
const LACKED_ROWS: &str = "100";

/// A switchover to keeper1 that is held up after keeper0 has accepted the order: keeper1's WAL receiver was suspended when
/// the proxies were closing, and the shutdown of keeper0's server waits for it. keeper1 lacks rows that were acknowledged
/// after that.
struct HeldSwitchover {
    cluster: Cluster,
    command: Process,
    receiver: SuspendedReceiver,
    /// They are without a master while it is held.
    writers: Writers,
    /// The db of keeper0.
    db: String,
}

impl HeldSwitchover {
    async fn start(sentinels: usize, arguments: &[&str]) -> Self {
        Self::start_with(sentinels, json!({}), arguments).await
    }

    /// `spec` is patched before the switchover is requested.
    async fn start_with(sentinels: usize, spec: Value, arguments: &[&str]) -> Self {
        let builder = Cluster::builder(Profile::Fast)
            .proxies(2)
            .with("proxyTimeout", PROXY_TIMEOUT);
        let mut cluster = start(builder.sentinels(sentinels), 2).await;
        if spec != json!({}) {
            update(&cluster, &spec).await;
        }
        let db = cluster.db_uid("keeper0").await;
        let writers = Writers::through(&cluster, "proxy0", 2).await;
        cluster.wait_caught_up("keeper1", "keeper0").await;
        let direct = cluster.connect("keeper0").await;
        direct.run("create table lacked (id int)").await.unwrap();
        let arguments = [&["switchover", "--to", "keeper1"], arguments].concat();
        cluster.process("proxy1").signal(Signal::STOP);
        let command = cluster.start_stolonctl(&arguments);
        command
            .wait_for_log("the proxies close their connections", LONG_TIMEOUT)
            .await;
        let receiver = SuspendedReceiver::of(&cluster, "keeper1").await;
        let insert = format!("insert into lacked select generate_series(1, {LACKED_ROWS})");
        direct.run(&insert).await.unwrap();
        cluster.process("proxy1").signal(Signal::CONT);
        let mut held = Self {
            cluster,
            command,
            receiver,
            writers,
            db,
        };
        held.wait_held().await;
        held
    }

    async fn wait_held(&mut self) {
        let stops = "the master stops: keeper keeper0";
        self.command.wait_for_log(stops, LONG_TIMEOUT).await;
        eventually("keeper0 to accept the order", LONG_TIMEOUT, async || {
            let info = info(&self.cluster, "keeper0").await?;
            check(!info.stopping.is_empty() && info.stopped.is_none(), || {
                format!("{info:?}")
            })
        })
        .await;
        assert!(self.cluster.process("keeper0").try_wait().is_none());
        self.assert_standby_lacks_rows().await;
    }

    /// Asserts that the test could lose something.
    async fn assert_standby_lacks_rows(&self) {
        let rows = self.cluster.query("keeper1", "select count(*) from lacked").await;
        assert_eq!(rows.unwrap(), "0", "keeper1 has acknowledged rows");
    }

    /// Returns the order of keeper0.
    async fn order(&self) -> Result<Option<Entry>, String> {
        let key = self.cluster.store.keys().order("keeper0");
        self.cluster.store.get(&key).await.map_err(|error| error.to_string())
    }

    /// Kills the leading sentinel, and waits for the order of another one.
    async fn replace_leader(&mut self) {
        let order = self.order().await.unwrap().expect("it was accepted").mod_revision;
        let leader = self.cluster.leading_sentinel().await.unwrap();
        self.cluster.process(&leader).kill();
        eventually("the order of the other sentinel", LONG_TIMEOUT, async || {
            let found = self.order().await?;
            let is_new = found.as_ref().is_some_and(|found| found.mod_revision > order);
            check(is_new, || format!("{found:?}"))
        })
        .await;
    }

    async fn wait_status(&mut self, status: i32) -> String {
        let found = self.command.exit_status(LONG_TIMEOUT).await;
        let output = self.command.log();
        assert_eq!(found, status, "{output}");
        output
    }

    /// Asserts that keeper0 is the announced master as before, that nobody else was in between, that it has every row, and
    /// that clients go on.
    async fn assert_given_up(&mut self) {
        self.cluster.wait_healthy("keeper0", &Role::Master).await;
        self.cluster.wait_proxy_serves("proxy0").await;
        assert_eq!(self.cluster.proxied_master().await.unwrap(), "keeper0");
        // Each election gives the old master's keeper another db, and each promotion begins a timeline.
        assert_eq!(self.cluster.db_uid("keeper0").await, self.db);
        let timeline = "select timeline_id from pg_control_checkpoint()";
        assert_eq!(self.cluster.query("keeper0", timeline).await.unwrap(), "1");
        self.assert_clients_go_on().await;
        wait_no_keys(&self.cluster).await;
    }

    /// Asserts that clients commit again, and that no row is lost.
    async fn assert_clients_go_on(&self) {
        let held = self.writers.rows();
        assert!(held > 0, "nothing was committed before");
        self.writers.wait_each_client_commits(10).await;
        let stats = self.writers.stats();
        assert_nothing_is_lost(&self.cluster, &stats).await;
        let rows = self.cluster.query("proxy0", "select count(*) from lacked").await;
        assert_eq!(rows.unwrap(), LACKED_ROWS);
    }

    /// The change raises the generations of the dbs after the stop has begun, and the leader dies after that.
    async fn with_changed_spec_and_another_leader() -> Self {
        let spec = json!({ "failInterval": "20s", "convergenceTimeout": format!("{CONVERGENCE_TIMEOUT:?}") });
        let mut held = Self::start_with(2, spec, &["--timeout", "2m"]).await;
        update(&held.cluster, &json!({ "pgParameters": { "work_mem": "5MB" } })).await;
        eventually("a generation that is not applied", SHORT_TIMEOUT, async || {
            let data = held.cluster.data().await.map_err(error_text)?;
            let (_, db) = db_of(&data, "keeper0").map_err(error_text)?;
            let (wanted, applied) = (db.generation, db.status.current_generation);
            check(wanted > applied, || format!("{applied} of {wanted} is applied"))
        })
        .await;
        held.replace_leader().await;
        held
    }

    /// Ends the WAL sender that keeper0's shutdown waits for, so that keeper1 cannot receive the rest.
    fn end_wal_sender(&self) {
        let postmaster = self.cluster.postmaster("keeper0").expect("it is stopping");
        let is_sender = |pid: &u32| {
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&cmdline).contains("walsender")
        };
        let senders: Vec<u32> = process::children(postmaster).into_iter().filter(is_sender).collect();
        assert_eq!(senders.len(), 1, "WAL senders: {senders:?}");
        process::send_signal(senders[0], Signal::TERM);
    }

    /// keeper1 still lacks rows when keeper0 is back.
    async fn assert_came_back_with_the_change(&mut self) {
        self.assert_given_up().await;
        assert_eq!(self.cluster.query("keeper0", "show work_mem").await.unwrap(), "5MB");
        self.assert_standby_lacks_rows().await;
        self.receiver.resume();
        self.cluster.wait_caught_up("keeper1", "keeper0").await;
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
    held.receiver.resume();
    let output = held.wait_status(1).await;
    assert!(output.contains("keeper keeper0 stays the master"), "{output}");
    held.cluster.start("keeper0");
    held.assert_given_up().await;
}

/// Rule: extensions.
#[tokio::test]
async fn another_sentinel_completes_the_switchover_of_a_leader_that_dies() {
    let mut held = HeldSwitchover::start(2, &["--timeout", "60s"]).await;
    held.replace_leader().await;
    held.receiver.resume();
    held.wait_status(0).await;
    assert_eq!(held.cluster.proxied_master().await.unwrap(), "keeper1");
    held.assert_clients_go_on().await;
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
    held.assert_given_up().await;
    held.receiver.resume();
    // and another one succeeds, once keeper1 streams again
    held.cluster.wait_caught_up("keeper1", "keeper0").await;
    wait_only_standby_streams(&held.cluster, "keeper0").await;
    switch_over(&held.cluster, &["--to", "keeper1"]).await;
    held.assert_clients_go_on().await;
}

/// Ctrl-C while the master stops. It does not wait for the suspended standby any longer (keeper 4.4.4).
#[tokio::test]
async fn an_interrupted_command_leaves_the_old_master() {
    let mut held = HeldSwitchover::start(1, &[]).await;
    let waits = "postgres is still shutting down, and the receivers of these WAL senders";
    held.cluster.process("keeper0").wait_for_log(waits, LONG_TIMEOUT).await;
    held.command.signal(Signal::INT);
    let output = held.wait_status(1).await;
    assert!(output.contains("interrupted, the switchover is given up"), "{output}");
    held.assert_given_up().await;
    held.receiver.resume();
    held.cluster.wait_caught_up("keeper1", "keeper0").await;
}

/// Short intervals: failInterval is twice what the old master needs to be back, and convergenceTimeout passes while it is
/// stopped and cannot apply the change of its spec.
#[tokio::test]
async fn a_master_whose_spec_has_changed_comes_back_from_a_switchover_that_is_withdrawn() {
    let mut held = HeldSwitchover::with_changed_spec_and_another_leader().await;
    throughout("the held switchover", CONVERGENCE_TIMEOUT * 2, async || {
        let master = held.cluster.master().await.map_err(error_text)?;
        check(master == "keeper0", || format!("{master} was elected"))
    })
    .await;
    held.command.signal(Signal::INT);
    let output = held.wait_status(1).await;
    assert!(output.contains("interrupted, the switchover is given up"), "{output}");
    held.assert_came_back_with_the_change().await;
}

/// The same, at the limit of the wait for the standby.
#[tokio::test]
async fn a_master_whose_spec_has_changed_comes_back_when_the_standby_does_not_receive_the_rest() {
    let mut held = HeldSwitchover::with_changed_spec_and_another_leader().await;
    held.end_wal_sender();
    let receives = "the new master receives the rest of the WAL: keeper keeper1";
    held.command.wait_for_log(receives, LONG_TIMEOUT).await;
    let output = held.wait_status(1).await;
    let reason = "the switchover was given up: no standby received all that the master wrote";
    assert!(output.contains(reason), "{output}");
    held.assert_came_back_with_the_change().await;
}
