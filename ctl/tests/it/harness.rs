//! The harness of this test binary: an etcd, the program, and a store client to prepare and inspect values.

use std::process::Stdio;

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::etcd::Etcd;
use stolon_tests::store_client;
use store::{Revision, Store};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// A valid document with two keepers, their dbs and a third keeper without one.
pub(crate) const CLUSTER: &str = r#"{"formatVersion":1,"changeTime":"0001-01-01T00:00:00Z","cluster":{"uid":"5f0c1a9e","generation":1,"changeTime":"2024-05-06T07:05:12.4Z","spec":{"sleepInterval":"1s","additionalWalSenders":null,"additionalMasterReplicationSlots":null,"initMode":"new","pgHBA":null,"automaticPgRestart":null},"status":{"phase":"normal","master":"d1"}},"keepers":{"k1":{"uid":"k1","generation":1,"changeTime":"0001-01-01T00:00:00Z","spec":{},"status":{"healthy":true,"lastHealthyTime":"0001-01-01T00:00:00Z","postgresBinaryVersion":{"Maj":15,"Min":6}}},"k2":{"uid":"k2","generation":1,"changeTime":"0001-01-01T00:00:00Z","spec":{},"status":{"healthy":true,"lastHealthyTime":"0001-01-01T00:00:00Z","postgresBinaryVersion":{"Maj":15,"Min":6}}},"k3":{"uid":"k3","generation":1,"changeTime":"0001-01-01T00:00:00Z","spec":{},"status":{"healthy":true,"lastHealthyTime":"0001-01-01T00:00:00Z","postgresBinaryVersion":{"Maj":15,"Min":6}}}},"dbs":{"d1":{"uid":"d1","generation":2,"changeTime":"0001-01-01T00:00:00Z","spec":{"keeperUID":"k1","requestTimeout":"10s","additionalWalSenders":5,"additionalReplicationSlots":null,"pgHBA":null,"role":"master","followers":["d2"],"synchronousStandbys":null,"externalSynchronousStandbys":null},"status":{"synchronousStandbys":null}},"d2":{"uid":"d2","generation":2,"changeTime":"0001-01-01T00:00:00Z","spec":{"keeperUID":"k2","requestTimeout":"10s","additionalWalSenders":5,"additionalReplicationSlots":null,"pgHBA":null,"role":"standby","followers":[],"synchronousStandbys":null,"externalSynchronousStandbys":null},"status":{"synchronousStandbys":null}}},"proxy":{"changeTime":"0001-01-01T00:00:00Z","spec":{},"status":{}}}"#;

/// The result of a run of the program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandOutput {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: i32,
}

impl CommandOutput {
    /// Asserts success, exactly this on standard output and nothing on standard error.
    pub(crate) fn assert_printed(&self, stdout: &str) {
        assert_eq!(
            (self.stdout.as_str(), self.stderr.as_str(), self.status),
            (stdout, "", 0)
        );
    }

    /// Asserts status 1, nothing on standard output, and one line on standard error that contains `words`.
    pub(crate) fn assert_failed_with(&self, words: &str) {
        assert_eq!((self.stdout.as_str(), self.status), ("", 1), "{self:?}");
        self.assert_stderr_has(words);
    }

    /// Asserts that standard error is one line that contains `words`.
    pub(crate) fn assert_stderr_has(&self, words: &str) {
        assert!(self.stderr.contains(words), "no {words:?} in {self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
    }
}

/// Runs the program with exactly these arguments.
pub(crate) async fn stolonctl(args: &[&str], variables: &[(&str, &str)], stdin: &[u8]) -> CommandOutput {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stolonctl"))
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(stdin).await; // a program that does not read its input closes it
    drop(input);
    let output = timeout(SHORT_TIMEOUT, child.wait_with_output()).await.unwrap().unwrap();
    CommandOutput {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code().unwrap_or(-1),
    }
}

/// An etcd with one cluster, `c`.
pub(crate) struct CtlHarness {
    pub(crate) etcd: Etcd,
    pub(crate) store: Store,
}

impl CtlHarness {
    pub(crate) async fn start() -> Self {
        let etcd = Etcd::start().await;
        let store = store_client::connect(&etcd.endpoint(), "c");
        Self { etcd, store }
    }

    /// Starts an etcd and stores this value as the cluster data.
    pub(crate) async fn with(clusterdata: &str) -> Self {
        let harness = Self::start().await;
        harness.put(clusterdata).await;
        harness
    }

    pub(crate) async fn run(&self, args: &[&str]) -> CommandOutput {
        self.run_with(args, b"").await
    }

    pub(crate) async fn run_with(&self, args: &[&str], stdin: &[u8]) -> CommandOutput {
        let endpoint = self.etcd.endpoint();
        let variables = [
            ("STOLONCTL_CLUSTER_NAME", "c"),
            ("STOLONCTL_STORE_BACKEND", "etcdv3"),
            ("STOLONCTL_STORE_ENDPOINTS", &endpoint),
        ];
        stolonctl(args, &variables, stdin).await
    }

    pub(crate) async fn put(&self, clusterdata: &str) -> Revision {
        self.store
            .put(&self.store.keys().cluster_data(), clusterdata)
            .await
            .unwrap()
    }

    /// Puts a key under a lease that outlives the test.
    pub(crate) async fn put_expiring(&self, key: &str, value: &str) {
        self.store.put_leased(key, value, SHORT_TIMEOUT).await.unwrap();
    }

    /// Returns the stored cluster data.
    pub(crate) async fn get(&self) -> Option<String> {
        let entry = self.store.get(&self.store.keys().cluster_data()).await.unwrap();
        entry.map(|entry| String::from_utf8(entry.value).unwrap())
    }
}
