//! `failover` on an etcd, with a test in place of the sentinel (cli 20; synchronous SY-20).

use model::{ClusterData, FailoverRequest, Role, from_slice, to_compact};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;
use store::{Revision, Txn};

use crate::harness::{CommandOutput, CtlHarness};

/// Master k1 is gone, the standby k2 is far behind.
const BEHIND: &str = r#"{"formatVersion":1,"cluster":{"uid":"c1","spec":{"initMode":"new"},"status":{"phase":"normal","master":"d1"}},"keepers":{"k1":{"uid":"k1","status":{"lastHealthyTime":"2024-05-06T07:05:12Z"}},"k2":{"uid":"k2","status":{"healthy":true}}},"dbs":{"d1":{"uid":"d1","generation":1,"spec":{"keeperUID":"k1","role":"master"},"status":{"currentGeneration":1,"timelineID":1,"xLogPos":83886408}},"d2":{"uid":"d2","generation":1,"spec":{"keeperUID":"k2","role":"standby","followConfig":{"type":"internal","dbuid":"d1"}},"status":{"healthy":true,"currentGeneration":1,"timelineID":1,"xLogPos":67108864}}},"proxy":{"generation":3,"spec":{"masterDbUid":"d1"}}}"#;

const FAILOVER: [&str; 4] = ["failover", "--to", "k2", "--accept-data-loss"];

impl CtlHarness {
    async fn request(&self) -> Option<(FailoverRequest, Revision)> {
        let entry = self.store.get(&self.store.keys().failover_request()).await.unwrap()?;
        assert!(entry.lease.is_some(), "it would stay");
        Some((from_slice(&entry.value).unwrap(), entry.mod_revision))
    }

    async fn wait_requested(&self) -> (FailoverRequest, Revision) {
        eventually("the request", SHORT_TIMEOUT, async || {
            self.request().await.ok_or("none")
        })
        .await
    }

    /// Changes the cluster data, and deletes the request if `completes`.
    async fn change(&self, completes: bool, change: impl FnOnce(&mut ClusterData)) {
        let mut data = ClusterData::parse(self.get().await.unwrap().as_bytes())
            .unwrap()
            .unwrap();
        change(&mut data);
        let keys = self.store.keys();
        let txn = Txn::new().put(&keys.cluster_data(), to_compact(&data));
        let txn = if completes {
            txn.delete(&keys.failover_request())
        } else {
            txn
        };
        self.store.commit(txn).await.unwrap();
    }

    async fn run_failover(&self, more: &[&str]) -> CommandOutput {
        self.run(&[&FAILOVER[..], more].concat()).await
    }
}

fn close(data: &mut ClusterData) {
    data.proxy.as_mut().unwrap().spec.master_db_uid = "".into();
}

fn elect(data: &mut ClusterData) {
    close(data);
    data.cluster.as_mut().unwrap().status.master = "d2".into();
    let spec = &mut data.dbs_mut().get_mut("d2").unwrap().spec;
    (spec.role, spec.follow_config) = (Role::Master, None);
}

#[tokio::test]
async fn a_failover_is_requested_and_followed_until_the_new_master_is_announced() {
    let harness = CtlHarness::with(BEHIND).await;
    let sentinel = async {
        let (request, _) = harness.wait_requested().await;
        assert_eq!((request.to.as_str(), request.master.as_str()), ("k2", "d1"));
        assert!(request.accept_data_loss && !request.id.is_empty());
        harness.change(false, close).await;
        harness.change(true, elect).await;
        let announce = |data: &mut ClusterData| data.proxy.as_mut().unwrap().spec.master_db_uid = "d2".into();
        harness.change(false, announce).await;
    };
    let (output, ()) = tokio::join!(harness.run_failover(&["--yes"]), sentinel);
    assert_eq!((output.stderr.as_str(), output.status), ("", 0), "{output:?}");
    let steps = output.stdout.split_once("\n\n").unwrap().1;
    let words: Vec<&str> = steps
        .lines()
        .map(|line| line.rsplit_once(" s  ").map_or(line, |(_, step)| step))
        .collect();
    assert_eq!(
        words,
        [
            "requested, for 40s at most",
            "proxies closed",
            "elected: keeper k2",
            "promoted and announced: keeper k2 has the master"
        ]
    );
}

#[tokio::test]
async fn nothing_is_requested_without_both_options_and_a_yes() {
    let harness = CtlHarness::with(BEHIND).await;
    harness
        .run(&["failover"])
        .await
        .assert_failed_with("--to KEEPER required");
    let output = harness.run(&["failover", "--to", "k2"]).await;
    output.assert_failed_with("--accept-data-loss required");
    harness
        .run_failover(&["k2"])
        .await
        .assert_failed_with("too many arguments");
    let output = harness.run_with(&FAILOVER, b"no\n").await;
    assert_eq!((output.stderr.as_str(), output.status), ("", 0));
    assert!(
        output.stdout.starts_with("Master to be replaced: keeper k1, db d1\n"),
        "{}",
        output.stdout
    );
    assert!(output.stdout.ends_with("[yes/no] exiting\n"), "{}", output.stdout);
    let output = harness.run_with(&FAILOVER, b"").await;
    output.assert_stderr_has("give --yes");
    assert_eq!(
        (harness.get().await.as_deref(), harness.request().await),
        (Some(BEHIND), None)
    );
}

#[tokio::test]
async fn a_failover_that_cannot_be_is_refused_before_anything_is_written() {
    let healthy = BEHIND.replace(
        r#""status":{"lastHealthyTime"#,
        r#""status":{"healthy":true,"lastHealthyTime"#,
    );
    let healthy = healthy.replacen(
        r#""status":{"currentGeneration"#,
        r#""status":{"healthy":true,"currentGeneration"#,
        1,
    );
    let harness = CtlHarness::with(&healthy).await;
    harness
        .run_failover(&["--yes"])
        .await
        .assert_failed_with("the master is healthy: keeper k1");
    harness.put(BEHIND).await;
    let run = async |to: &str| {
        harness
            .run(&["failover", "--accept-data-loss", "--yes", "--to", to])
            .await
    };
    run("nosuch").await.assert_failed_with("keeper doesn't exist: nosuch");
    run("k1").await.assert_failed_with("keeper k1 has the master already");
    harness.put("{}").await;
    run("k2")
        .await
        .assert_failed_with("unsupported clusterdata format version 0");
    assert_eq!(harness.request().await, None);
}

#[tokio::test]
async fn a_second_request_names_the_first() {
    let harness = CtlHarness::with(BEHIND).await;
    let key = harness.store.keys().failover_request();
    let text = r#"{"id":"a","to":"k7","master":"d1","acceptDataLoss":true,"requestedAt":"2024-05-06T07:05:12Z"}"#;
    harness.put_expiring(&key, text).await;
    let output = harness.run_failover(&["--yes"]).await;
    output.assert_failed_with("a failover to keeper k7 was requested already, at 2024-05-06T07:05:12Z: wait until");
    for value in ["{", "", "{}"] {
        harness.put_expiring(&key, value).await;
        let output = harness.run_failover(&["--yes"]).await;
        output.assert_failed_with("c/failover exists and cannot be read: wait until it has ended");
    }
    // nor beside a switchover
    let switchover = harness.store.keys().switchover();
    let request = r#"{"id":"a1","to":"k7","requestedAt":"2024-05-06T07:05:12Z"}"#;
    harness.store.commit(Txn::new().delete(&key)).await.unwrap();
    harness.put_expiring(&switchover, request).await;
    let output = harness.run_failover(&["--yes"]).await;
    output.assert_failed_with("a switchover to keeper k7 was requested already, at 2024-05-06T07:05:12Z (id a1): wait");
    assert_eq!(harness.request().await, None);
    harness.store.commit(Txn::new().delete(&switchover)).await.unwrap();
    let words = format!(
        "{key} exists without a lease: it is ignored, and it does not expire: delete it with `etcdctl del {key}`"
    );
    for value in [text, "{", "", "{}"] {
        harness.store.put(&key, value).await.unwrap();
        harness.run_failover(&["--yes"]).await.assert_failed_with(&words);
    }
}

#[tokio::test]
async fn a_request_that_nobody_carries_out_is_withdrawn() {
    let harness = CtlHarness::with(BEHIND).await;
    let output = harness.run_failover(&["--yes", "--timeout", "5s"]).await;
    assert_eq!(output.status, 1, "{output:?}");
    output.assert_stderr_has("not elected within 5s, the request is withdrawn: nothing was changed; ");
    assert_eq!(
        (harness.get().await.as_deref(), harness.request().await),
        (Some(BEHIND), None)
    );
}

#[tokio::test]
async fn a_failover_ends_when_the_master_is_back_or_another_one_is_elected() {
    let harness = CtlHarness::with(BEHIND).await;
    let back = |data: &mut ClusterData| {
        close(data);
        data.keepers_mut().get_mut("k1").unwrap().status.healthy = true;
        data.dbs_mut().get_mut("d1").unwrap().status.healthy = true;
    };
    let sentinel = async {
        harness.wait_requested().await;
        harness.change(false, back).await;
    };
    let (output, ()) = tokio::join!(harness.run_failover(&["--yes"]), sentinel);
    assert_eq!(output.status, 1, "{output:?}");
    output.assert_stderr_has("the master of keeper k1 is healthy again: nobody was elected; the proxies are closed");
    assert_eq!(harness.request().await, None);

    harness.put(BEHIND).await;
    let sentinel = async {
        harness.wait_requested().await;
        let other = |data: &mut ClusterData| data.cluster.as_mut().unwrap().status.master = "d3".into();
        harness.change(false, other).await;
    };
    let (output, ()) = tokio::join!(harness.run_failover(&["--yes"]), sentinel);
    assert_eq!(output.status, 1, "{output:?}");
    output.assert_stderr_has("another db was elected");
    assert_eq!(harness.request().await, None);
}

#[tokio::test]
async fn an_elected_master_that_is_not_announced_in_time_is_an_error() {
    let harness = CtlHarness::with(BEHIND).await;
    let sentinel = async {
        harness.wait_requested().await;
        harness.change(true, elect).await;
    };
    let (output, ()) = tokio::join!(harness.run_failover(&["--yes", "--timeout", "5s"]), sentinel);
    assert_eq!(output.status, 1, "{output:?}");
    output.assert_stderr_has("not announced within 5s: keeper k2 is elected and may still be announced");
}
