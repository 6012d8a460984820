//! `failkeeper` and `removekeeper` (cli 10, cli 11, cli 18.15). The races are in the program's own tests.

use crate::harness::{CLUSTER, CtlHarness};

#[tokio::test]
async fn failkeeper_sets_the_flag_of_that_keeper() {
    let harness = CtlHarness::with(CLUSTER).await;
    harness.run(&["failkeeper", "k1"]).await.assert_printed("");
    let k2 = r#"},"k2":{"uid":"k2""#;
    let at = CLUSTER.find(k2).unwrap() - 1;
    let expected = format!("{},\"forceFail\":true{}", &CLUSTER[..at], &CLUSTER[at..]);
    assert_eq!(harness.get().await, Some(expected));
}

#[tokio::test]
async fn removekeeper_takes_the_keeper_and_its_db() {
    let harness = CtlHarness::with(CLUSTER).await;
    harness.run(&["removekeeper", "k3"]).await.assert_printed("");
    harness.run(&["removekeeper", "k2"]).await.assert_printed("");
    let text = harness.get().await.unwrap();
    assert!(
        !text.contains(r#""k2""#) && !text.contains(r#""k3""#) && !text.contains(r#""uid":"d2""#),
        "{text}"
    );
    assert!(text.contains(r#""followers":["d2"]"#), "the sentinel cleans up: {text}");
    harness.run(&["removekeeper", "k1"]).await.assert_failed_with("master");
}

#[tokio::test]
async fn wrong_arguments_and_unknown_keepers_change_nothing() {
    let harness = CtlHarness::with(CLUSTER).await;
    for command in ["failkeeper", "removekeeper"] {
        harness.run(&[command]).await.assert_failed_with("keeper uid required");
        harness
            .run(&[command, "k1", "k2"])
            .await
            .assert_failed_with("too many arguments");
        harness.run(&[command, "nosuch"]).await.assert_failed_with("nosuch");
        let hostile = harness.run(&[command, "kä\u{1b}[2J"]).await;
        hostile.assert_failed_with("keeper doesn't exist: kä\\u{1b}[2J\n");
    }
    assert_eq!(harness.get().await.as_deref(), Some(CLUSTER));
}
