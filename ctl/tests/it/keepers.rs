//! `failkeeper` and `removekeeper` (cli 10, cli 11, cli 18.15). The races are in the program's own tests.

use crate::bench::{Bench, CLUSTER};

#[tokio::test]
async fn failkeeper_sets_the_flag_of_that_keeper() {
    let bench = Bench::with(CLUSTER).await;
    bench.run(&["failkeeper", "k1"]).await.printed("");
    let k2 = r#"},"k2":{"uid":"k2""#;
    let at = CLUSTER.find(k2).unwrap() - 1;
    let expected = format!("{},\"forceFail\":true{}", &CLUSTER[..at], &CLUSTER[at..]);
    assert_eq!(bench.get().await, Some(expected));
}

#[tokio::test]
async fn removekeeper_takes_the_keeper_and_its_db() {
    let bench = Bench::with(CLUSTER).await;
    bench.run(&["removekeeper", "k3"]).await.printed("");
    bench.run(&["removekeeper", "k2"]).await.printed("");
    let text = bench.get().await.unwrap();
    assert!(
        !text.contains(r#""k2""#) && !text.contains(r#""k3""#) && !text.contains(r#""uid":"d2""#),
        "{text}"
    );
    assert!(text.contains(r#""followers":["d2"]"#), "the sentinel cleans up: {text}");
    bench.run(&["removekeeper", "k1"]).await.failed_with("master");
}

#[tokio::test]
async fn wrong_arguments_and_unknown_keepers_change_nothing() {
    let bench = Bench::with(CLUSTER).await;
    for command in ["failkeeper", "removekeeper"] {
        bench.run(&[command]).await.failed_with("keeper uid required");
        bench
            .run(&[command, "k1", "k2"])
            .await
            .failed_with("too many arguments");
        bench.run(&[command, "nosuch"]).await.failed_with("nosuch");
    }
    assert_eq!(bench.get().await.as_deref(), Some(CLUSTER));
}
