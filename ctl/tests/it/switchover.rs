//! `switchover` on an etcd, with a test in place of the sentinel and the keepers (cli 21; extensions X-2).

use model::{
    ClusterData, KeeperInfo, ProxyInfo, Role, SentinelInfo, SwitchoverReport, SwitchoverRequest, SwitchoverState,
    from_slice, to_compact,
};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::process::{Process, Signal};
use stolon_tests::wait::eventually;
use store::Txn;

use crate::harness::{CommandOutput, CtlHarness};

/// Master k1 with the standby of k2, and a proxy.
const CLUSTER: &str = r#"{"formatVersion":1,"cluster":{"uid":"c1","spec":{"initMode":"new"},"status":{"phase":"normal","master":"d1"}},"keepers":{"k1":{"uid":"k1"},"k2":{"uid":"k2"}},"dbs":{"d1":{"uid":"d1","generation":1,"spec":{"keeperUID":"k1","role":"master"},"status":{"currentGeneration":1}},"d2":{"uid":"d2","generation":1,"spec":{"keeperUID":"k2","role":"standby","followConfig":{"type":"internal","dbuid":"d1"}},"status":{"currentGeneration":1}}},"proxy":{"generation":3,"spec":{"masterDbUid":"d1","enabledProxies":["p1"]}}}"#;

const REQUEST: &str = r#"{"id":"a1","to":"k7","requestedAt":"2024-05-06T07:05:12Z"}"#;

const FAILOVER_REQUEST: &str =
    r#"{"id":"a","to":"k8","master":"d1","acceptDataLoss":true,"requestedAt":"2024-05-06T07:05:12Z"}"#;

/// Values that are no request, of either kind.
const UNREADABLE: [&str; 4] = ["{", "", "{}", r#"{"id":"","requestedAt":"2024-05-06T07:05:12Z"}"#];

/// Returns the keys of a request for a switchover and of one for a failover.
fn request_keys(harness: &CtlHarness) -> (String, String) {
    let keys = harness.store.keys();
    (keys.switchover(), keys.failover_request())
}

/// Puts what a leading sentinel and the keepers publish.
async fn cluster() -> CtlHarness {
    let harness = CtlHarness::with(CLUSTER).await;
    let keys = harness.store.keys().clone();
    let candidate = format!("{}1", keys.election());
    harness.store.put(&candidate, "s1").await.unwrap();
    harness.publish(true, None).await;
    harness.publish_keeper(true).await;
    harness
}

impl CtlHarness {
    async fn publish(&self, switchovers: bool, switchover: Option<SwitchoverReport>) {
        let info = SentinelInfo {
            uid: "s1".into(),
            switchover,
            switchovers,
        };
        let key = self.store.keys().sentinel_info("s1");
        self.store.put(&key, to_compact(&info)).await.unwrap();
    }

    async fn publish_keeper(&self, orders: bool) {
        let info = KeeperInfo {
            uid: "k1".into(),
            orders,
            ..KeeperInfo::default()
        };
        let key = self.store.keys().keeper_info("k1");
        self.store.put(&key, to_compact(&info)).await.unwrap();
    }

    async fn publish_proxy(&self, generation: i64) {
        let info = ProxyInfo {
            uid: "p1".into(),
            generation,
            ..ProxyInfo::default()
        };
        let key = self.store.keys().proxy_info("p1");
        self.store.put(&key, to_compact(&info)).await.unwrap();
    }

    async fn switchover_request(&self) -> Option<SwitchoverRequest> {
        let entry = self.store.get(&self.store.keys().switchover()).await.unwrap()?;
        assert!(entry.lease.is_some(), "it would stay");
        Some(from_slice(&entry.value).unwrap())
    }

    async fn wait_switchover_requested(&self) -> SwitchoverRequest {
        eventually("the request", SHORT_TIMEOUT, async || {
            self.switchover_request().await.ok_or("none")
        })
        .await
    }

    /// Publishes how far the switchover is, as the leader.
    async fn report(&self, request: &SwitchoverRequest, state: SwitchoverState, reason: &str) {
        let report = SwitchoverReport {
            id: request.id.clone(),
            state,
            to: "k2".into(),
            reason: reason.to_owned(),
        };
        self.publish(true, Some(report)).await;
    }

    /// Changes the cluster data, and deletes the request if `ends`.
    async fn change_cluster(&self, ends: bool, change: impl FnOnce(&mut ClusterData)) {
        let stored = self.get().await.unwrap();
        let mut data = ClusterData::parse(stored.as_bytes()).unwrap().unwrap();
        change(&mut data);
        let keys = self.store.keys();
        let txn = Txn::new().put(&keys.cluster_data(), to_compact(&data));
        let txn = if ends { txn.delete(&keys.switchover()) } else { txn };
        self.store.commit(txn).await.unwrap();
    }

    async fn end_request(&self) {
        let key = self.store.keys().switchover();
        self.store.commit(Txn::new().delete(&key)).await.unwrap();
    }
}

fn announce(db: &'static str) -> impl FnOnce(&mut ClusterData) {
    move |data| {
        let section = data.proxy.as_mut().unwrap();
        section.generation += 1;
        section.spec.master_db_uid = db.into();
    }
}

fn elect(data: &mut ClusterData) {
    data.cluster.as_mut().unwrap().status.master = "d2".into();
    let spec = &mut data.dbs_mut().get_mut("d2").unwrap().spec;
    (spec.role, spec.follow_config) = (Role::Master, None);
}

/// Returns the steps without their times.
fn steps(output: &CommandOutput) -> Vec<&str> {
    let lines = output.stdout.lines();
    lines
        .map(|line| line.rsplit_once(" s  ").map_or(line, |(_, step)| step))
        .collect()
}

#[tokio::test]
async fn a_switchover_is_requested_and_followed_until_the_proxies_have_the_new_master() {
    let harness = cluster().await;
    harness.publish_proxy(3).await;
    let sentinel = async {
        let request = harness.wait_switchover_requested().await;
        assert_eq!(request.to, Some("k2".into()));
        harness.report(&request, SwitchoverState::Checkpoint, "").await;
        harness.change_cluster(false, announce("")).await;
        harness.report(&request, SwitchoverState::Stopping, "").await;
        harness.change_cluster(false, elect).await;
        harness.change_cluster(true, announce("d2")).await;
        harness.report(&request, SwitchoverState::Done, "").await;
        harness.publish_proxy(5).await;
    };
    let (output, ()) = tokio::join!(harness.run(&["switchover", "--to", "k2"]), sentinel);
    assert_eq!((output.stderr.as_str(), output.status), ("", 0), "{output:?}");
    let steps = steps(&output);
    // Steps that follow each other at once may be read together.
    let (first, last) = (steps.first().unwrap(), &steps[steps.len() - 3..]);
    assert_eq!(
        *first,
        "requested: keeper k2 replaces the master of keeper k1, within 30s"
    );
    assert_eq!(
        last,
        [
            "elected: keeper k2",
            "promoted and announced: keeper k2 has the master",
            "the proxies connect clients to it"
        ]
    );
}

#[tokio::test]
async fn without_a_keeper_the_request_names_none() {
    let harness = cluster().await;
    let sentinel = async {
        let request = harness.wait_switchover_requested().await;
        assert_eq!(request.to, None);
        harness.change_cluster(false, elect).await;
        harness.change_cluster(true, announce("d2")).await;
    };
    let (output, ()) = tokio::join!(harness.run(&["switchover"]), sentinel);
    assert_eq!((output.stderr.as_str(), output.status), ("", 0), "{output:?}");
    let text = "requested: the best standby replaces the master of keeper k1, within 30s\n";
    assert!(output.stdout.starts_with(text), "{}", output.stdout);
}

#[tokio::test]
async fn a_refusal_is_printed_with_its_reason() {
    let harness = cluster().await;
    let sentinel = async {
        let request = harness.wait_switchover_requested().await;
        harness.end_request().await; // the reason may come later
        harness
            .report(&request, SwitchoverState::Refused, "k2 cannot be master")
            .await;
    };
    let (output, ()) = tokio::join!(harness.run(&["switchover"]), sentinel);
    assert_eq!(output.status, 1, "{output:?}");
    output.assert_stderr_has(
        "the switchover is refused: k2 cannot be master: keeper k1 has the master, and the proxies are sent to it",
    );
}

#[tokio::test]
async fn a_switchover_that_is_given_up_ends_with_the_reason_once_a_master_is_announced() {
    let harness = cluster().await;
    let sentinel = async {
        let request = harness.wait_switchover_requested().await;
        harness.report(&request, SwitchoverState::Stopping, "").await;
        harness.change_cluster(true, announce("")).await;
        harness.report(&request, SwitchoverState::Aborted, "k2 is gone").await;
        harness.change_cluster(false, announce("d1")).await;
    };
    let (output, ()) = tokio::join!(harness.run(&["switchover"]), sentinel);
    assert_eq!(output.status, 1, "{output:?}");
    output.assert_stderr_has("the switchover was given up: k2 is gone");
    output.assert_stderr_has("keeper k1 has the master, and the proxies are sent to it");
}

#[tokio::test]
async fn a_request_that_is_gone_without_a_reason_is_an_error() {
    let harness = cluster().await;
    let operator = async {
        harness.wait_switchover_requested().await;
        harness.end_request().await;
    };
    let (output, ()) = tokio::join!(harness.run(&["switchover"]), operator);
    assert_eq!(output.status, 1, "{output:?}");
    output.assert_stderr_has(
        "the request has expired or was deleted (the leading sentinel has not begun it: see its log)",
    );
}

#[tokio::test]
async fn a_switchover_that_nobody_carries_out_is_withdrawn() {
    let harness = cluster().await;
    let copying = |data: &mut ClusterData| data.dbs_mut().get_mut("d2").unwrap().status.current_generation = 0;
    harness.change_cluster(false, copying).await;
    let before = harness.get().await;
    let output = harness.run(&["switchover", "--timeout", "1s"]).await;
    assert_eq!(output.status, 1, "{output:?}");
    let warning = "WARNING: keeper k2 has not reported its db yet";
    assert!(output.stderr.contains(warning), "{output:?}");
    assert!(
        output
            .stderr
            .contains("no new master within 1s, the switchover is given up")
            || output.stderr.contains("the request has expired or was deleted"),
        "{output:?}"
    );
    assert_eq!(harness.switchover_request().await, None);
    assert_eq!(harness.get().await, before);
}

#[tokio::test]
async fn an_interrupted_command_withdraws_its_request() {
    // Ctrl-C, `kill`, the end of the terminal's session
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let harness = cluster().await;
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("stolonctl.log");
        let mut process = Process::start("stolonctl", command(&harness), None, &log);
        harness.wait_switchover_requested().await;
        process.wait_for_log("requested: the best standby", SHORT_TIMEOUT).await;
        process.signal(signal);
        assert_eq!(process.exit_status(SHORT_TIMEOUT).await, 1);
        process
            .wait_for_log(
                "interrupted, the switchover is given up: keeper k1 has the master",
                SHORT_TIMEOUT,
            )
            .await;
        assert_eq!(harness.switchover_request().await, None);
    }
}

fn command(harness: &CtlHarness) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stolonctl"));
    command.args(["switchover", "--cluster-name=c", "--store-backend=etcdv3"]);
    command.arg(format!("--store-endpoints={}", harness.etcd.endpoint()));
    command
}

#[tokio::test]
async fn a_command_whose_output_cannot_be_written_withdraws_its_request() {
    let harness = cluster().await;
    let mut command = command(&harness);
    command.stdout(std::fs::File::create("/dev/full").unwrap());
    let status = tokio::process::Command::from(command).status().await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(harness.switchover_request().await, None);
}

#[tokio::test]
async fn what_cannot_be_requested_is_refused_before_anything_is_written() {
    let harness = cluster().await;
    let failed = async |args: &[&str], words: &str| {
        let output = harness.run(&[&["switchover"], args].concat()).await;
        output.assert_failed_with(words);
        assert_eq!(harness.switchover_request().await, None, "{args:?}");
    };
    failed(&["--to", "nosuch"], "keeper doesn't exist: nosuch").await;
    failed(&["--to", "k1"], "keeper k1 has the master already").await;
    failed(&["--to="], "--to is empty").await;
    failed(&["k2"], "too many arguments").await;
    for timeout in ["0", "601s", "10m1s"] {
        failed(&["--timeout", timeout], "out of range").await;
    }
    let output = harness.run(&["switchover", "--timeout", "soon"]).await;
    assert!(output.status != 0 && output.stderr.contains("--timeout"), "{output:?}");
    harness.publish_keeper(false).await;
    failed(&[], "keeper k1 has the master, and it is of Go stolon").await;
    harness.publish(false, None).await;
    failed(&[], "sentinel s1 leads, and it is of Go stolon").await;
    harness.put("null").await;
    failed(&[], "no cluster data").await;
}

#[tokio::test]
async fn another_request_is_named() {
    let harness = cluster().await;
    let (switchover, failover) = request_keys(&harness);
    let failed = async |key: &str, value: &str, words: &str| {
        harness.put_expiring(key, value).await;
        let output = harness.run(&["switchover"]).await;
        output.assert_failed_with(words);
        output.assert_stderr_has(&format!("s at the latest, or withdraw it with `etcdctl del {key}`"));
        harness.store.commit(Txn::new().delete(key)).await.unwrap();
    };
    let known = "a switchover to keeper k7 was requested already, at 2024-05-06T07:05:12Z (id a1): wait until it has ended, in ";
    failed(&switchover, REQUEST, known).await;
    let known = "a failover to keeper k8 was requested already, at 2024-05-06T07:05:12Z: wait until it has ended, in ";
    failed(&failover, FAILOVER_REQUEST, known).await;
    for key in [&switchover, &failover] {
        for value in UNREADABLE {
            let words = format!("{key} exists and cannot be read: wait until it has ended, in ");
            failed(key, value, &words).await;
        }
    }
}

/// It never expires, and the sentinel ignores it, so waiting would not help.
#[tokio::test]
async fn a_request_without_a_lease_has_to_be_deleted_whatever_is_in_it() {
    let harness = cluster().await;
    let (switchover, failover) = request_keys(&harness);
    for (key, request) in [(&switchover, REQUEST), (&failover, FAILOVER_REQUEST)] {
        let words = format!(
            "{key} exists without a lease: it is ignored, and it does not expire: delete it with `etcdctl del {key}`"
        );
        for value in [request].into_iter().chain(UNREADABLE) {
            harness.store.put(key, value).await.unwrap();
            harness.run(&["switchover"]).await.assert_failed_with(&words);
        }
        let stays = harness.store.get(key).await.unwrap();
        assert!(stays.is_some(), "the command does not delete what it did not write");
        harness.store.commit(Txn::new().delete(key)).await.unwrap();
    }
    let output = harness.run(&["switchover", "--timeout", "1s"]).await;
    assert!(output.stdout.starts_with("requested: "), "{output:?}");
}
