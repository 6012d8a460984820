//! `promote` (cli 9, cli 18.14). The recorded command of Go stolon is in `golden`.

use crate::harness::{CLUSTER, CommandOutput, CtlHarness};

const ALREADY: &str = "cluster spec role already set to master\n";

/// Returns the cluster data of a standby cluster.
fn standby_cluster() -> String {
    let pitr = r#""initMode":"pitr","pitrConfig":{"dataRestoreCommand":"restore %d"},"role":"standby","standbyConfig":{"standbySettings":{"primaryConninfo":"host=a"}}"#;
    CLUSTER.replacen(r#""initMode":"new""#, pitr, 1)
}

#[tokio::test]
async fn the_role_becomes_master_and_all_else_stays() {
    let standby = standby_cluster();
    let harness = CtlHarness::with(&standby).await;
    harness.run(&["promote", "--yes"]).await.assert_printed("");
    let expected = standby.replacen(r#""role":"standby""#, r#""role":"master""#, 1);
    let stored: serde_json::Value = serde_json::from_str(&harness.get().await.unwrap()).unwrap();
    assert_eq!(stored, serde_json::from_str::<serde_json::Value>(&expected).unwrap());
    // Once more changes nothing.
    let before = harness.get().await;
    let again = harness.run(&["promote", "-y"]).await;
    assert_eq!((again.status, again.stderr.as_str()), (0, ALREADY));
    assert_eq!(harness.get().await, before);
}

#[tokio::test]
async fn a_master_cluster_is_not_written() {
    let harness = CtlHarness::with(CLUSTER).await;
    let key = harness.store.keys().cluster_data();
    let before = harness.store.get(&key).await.unwrap().unwrap();
    let expected = CommandOutput {
        stdout: String::new(),
        stderr: ALREADY.to_owned(),
        status: 0,
    };
    assert_eq!(harness.run(&["promote", "-y"]).await, expected);
    let after = harness.store.get(&key).await.unwrap().unwrap();
    assert_eq!(after.mod_revision, before.mod_revision);
}

#[tokio::test]
async fn it_asks_for_confirmation_before_it_reads() {
    const QUESTION: &str = "Are you sure you want to continue? [yes/no] ";
    let standby = standby_cluster();
    let harness = CtlHarness::start().await;
    // Nothing is stored yet: the question comes first.
    let none = harness.run_with(&["promote"], b"yes\n").await;
    assert_eq!((none.status, none.stdout.as_str()), (1, QUESTION), "{none:?}");
    none.assert_stderr_has("no cluster data");
    harness.put(&standby).await;
    let no = harness.run_with(&["promote"], b"no\n").await;
    no.assert_printed(&format!("{QUESTION}exiting\n"));
    let unanswered = harness.run_with(&["promote"], b"").await;
    assert_eq!((unanswered.status, unanswered.stdout.as_str()), (1, QUESTION));
    unanswered.assert_stderr_has("give --yes");
    assert_eq!(harness.get().await.as_deref(), Some(standby.as_str()));
    let yes = harness.run_with(&["promote"], b"yes\n").await;
    yes.assert_printed(QUESTION);
    assert!(harness.get().await.unwrap().contains(r#""role":"master""#));
}

#[tokio::test]
async fn wrong_arguments_and_unusable_cluster_data_change_nothing() {
    let harness = CtlHarness::with(&standby_cluster()).await;
    let extra = harness.run(&["promote", "-y", "c2"]).await;
    extra.assert_failed_with("too many arguments: promote takes none");
    for (data, words) in [
        ("null", "no cluster data"),
        ("garbage", "cannot get cluster data"),
        (
            r#"{"formatVersion":2,"cluster":{"spec":{"initMode":"new"}}}"#,
            "format version 2",
        ),
        (r#"{"formatVersion":1}"#, "no cluster spec available"),
        (
            r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new","role":"standby"}}}"#,
            "clusterdata validation failed",
        ),
    ] {
        harness.put(data).await;
        harness.run(&["promote", "-y"]).await.assert_failed_with(words);
        assert_eq!(harness.get().await.as_deref(), Some(data));
    }
}
