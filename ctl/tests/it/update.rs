//! `update` (cli 8, cli 18.13). The races are in the program's own tests.

use crate::bench::{Bench, CLUSTER};

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let bench = Bench::with(CLUSTER).await;
    bench
        .run(&["update", "-p", r#"{"failInterval":"9s"}"#])
        .await
        .printed("");
    let expected = CLUSTER.replace(
        r#""sleepInterval":"1s","#,
        r#""sleepInterval":"1s","failInterval":"9s","#,
    );
    assert_eq!(bench.get().await, Some(expected.clone()));
    bench
        .run_with(&["update", "-pf", "-"], br#"{"pgHBA":[]}"#)
        .await
        .printed("");
    let expected = expected.replacen(r#""pgHBA":null"#, r#""pgHBA":[]"#, 1);
    assert_eq!(bench.get().await, Some(expected));
    bench
        .run(&["update", r#"{"initMode":"new","sleepInterval":"1s"}"#])
        .await
        .printed("");
    assert_eq!(bench.get().await.as_deref(), Some(CLUSTER));
}

#[tokio::test]
async fn a_patch_that_changes_nothing_still_writes() {
    let bench = Bench::with(CLUSTER).await;
    let key = bench.store.keys().cluster_data();
    let before = bench.store.get(&key).await.unwrap().unwrap();
    bench.run(&["update", "--patch", "null"]).await.printed("");
    let after = bench.store.get(&key).await.unwrap().unwrap();
    assert_eq!(after.value, before.value);
    assert!(after.mod_revision > before.mod_revision);
}

#[tokio::test]
async fn names_that_are_no_fields_are_told_and_ignored() {
    // data-model J-7
    let bench = Bench::with(CLUSTER).await;
    let whole = r#"{"initMode":"new","sleepInterval":"1s","sleepintervall":"2s"}"#;
    for args in [&["update", "-p", r#"{"maxStandby":1}"#][..], &["update", whole]] {
        let ran = bench.run(args).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{ran:?}");
        let unknown = if args.len() == 3 {
            "\"maxStandby\""
        } else {
            "\"sleepintervall\""
        };
        assert!(
            ran.stderr.starts_with("WARNING: ignored") && ran.stderr.contains(unknown),
            "{ran:?}"
        );
        assert_eq!(bench.get().await.as_deref(), Some(CLUSTER));
    }
    // directives of a patch are no names of fields
    let patch = r#"{"$patch":"replace","initMode":"new","sleepInterval":"1s"}"#;
    let ran = bench.run(&["update", "-p", patch]).await;
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn what_may_not_be_is_refused() {
    let bench = Bench::with(CLUSTER).await;
    for (args, words) in [
        (&["update"][..], "no cluster spec given"),
        (&["update", "{}", "-f", "x"], "only one"),
        (&["update", "{}", "{}"], "too many arguments"),
        (&["update", "-f", "/nonexistent/spec"], "/nonexistent/spec"),
        (&["update", "{}"], "invalid cluster spec: initMode undefined"),
        (&["update", "null"], "null"),
        (&["update", r#"{"sleepInterval":"10s"}"#], "initMode"),
        (
            &[
                "update",
                "-p",
                r#"{"initMode":"existing","existingConfig":{"keeperUID":"k"}}"#,
            ],
            "init mode",
        ),
        (&["update", "-p", r#"{"role":"standby","standbyConfig":{}}"#], "standby"),
        (&["update", "-p", r#"{"$retainKeys":[]}"#], "$retainKeys"),
        (&["update", "-p", "[]"], "patch"),
        (
            &["update", "-p", r#"{"synchronousReplication":true}"#],
            "not supported yet",
        ),
    ] {
        bench.run(args).await.failed_with(words);
    }
    assert_eq!(bench.get().await.as_deref(), Some(CLUSTER));
    for data in ["null", "garbage", r#"{"formatVersion":2}"#] {
        bench.put(data).await;
        assert_eq!(bench.run(&["update", "-p", "{}"]).await.status, 1);
        assert_eq!(bench.get().await.as_deref(), Some(data));
    }
}
