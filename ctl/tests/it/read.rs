//! `status` and `spec`: output formats, errors, and an unreachable store (cli 12, cli 14, cli 18.16 to 18.22).

use stolon_tests::ports;
use store::Txn;

use crate::harness::{CLUSTER, CtlHarness, stolonctl};

#[tokio::test]
async fn json_has_every_field_also_when_there_is_nothing() {
    // cli 18.20
    let harness = CtlHarness::with(r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"}}}"#).await;
    harness.run(&["status", "-f", "json"]).await.assert_printed(
        "{\n\t\"sentinels\": [],\n\t\"proxies\": [],\n\t\"keepers\": [],\n\t\"cluster\": {\n\
        \t\t\"available\": false,\n\t\t\"master_keeper_uid\": \"\",\n\t\t\"master_db_uid\": \"\"\n\t}\n}\n",
    );
}

#[tokio::test]
async fn the_oldest_candidate_leads() {
    // cli 14.1, store E-11
    let harness = CtlHarness::with(CLUSTER).await;
    let keys = harness.store.keys();
    harness.store.put(&(keys.election() + "ff"), "bbbbbbbb").await.unwrap();
    harness.store.put(&(keys.election() + "0a"), "aaaaaaaa").await.unwrap();
    for uid in ["bbbbbbbb", "aaaaaaaa"] {
        harness
            .store
            .put(&keys.sentinel_info(uid), format!(r#"{{"UID":"{uid}"}}"#))
            .await
            .unwrap();
    }
    let proxy = r#"{"infoUID":"1","UID":"6d5e4f3a","Generation":3,"ProxyTimeout":15000000000}"#;
    harness.store.put(&keys.proxy_info("6d5e4f3a"), proxy).await.unwrap();
    let output = harness.run(&["status"]).await;
    assert!(
        output
            .stdout
            .contains("\nID\t\tLEADER\naaaaaaaa\tfalse\nbbbbbbbb\ttrue\n\n"),
        "{output:?}"
    );
    let output = harness.run(&["status", "-fjson"]).await;
    assert!(
        output
            .stdout
            .contains("\t\t\t\"uid\": \"6d5e4f3a\",\n\t\t\t\"generation\": 3\n"),
        "{output:?}"
    );
}

#[tokio::test]
async fn an_info_that_cannot_be_decoded_is_reported_and_left_out() {
    // store S-12
    let harness = CtlHarness::with(CLUSTER).await;
    let key = harness.store.keys().sentinel_info("x");
    harness.store.put(&key, "garbage").await.unwrap();
    let output = harness.run(&["status"]).await;
    assert!(
        output.status == 0 && output.stdout.contains("No active sentinels"),
        "{output:?}"
    );
    output.assert_stderr_has(&key);
}

#[tokio::test]
async fn unknown_formats_are_refused() {
    // cli 18.21
    let harness = CtlHarness::with(CLUSTER).await;
    for format in ["yaml", "JSON", "TEXT"] {
        harness
            .run(&["status", "--format", format])
            .await
            .assert_failed_with(format);
    }
    let text = harness.run(&["status", "--format="]).await;
    assert_eq!(harness.run(&["status", "-f", "text"]).await, text);
}

#[tokio::test]
async fn no_cluster_data_is_an_error_in_both_forms() {
    // cli 14.2, cli 18.20
    let harness = CtlHarness::start().await;
    harness.run(&["status"]).await.assert_failed_with("no cluster data");
    let output = harness.run(&["status", "-f", "json"]).await;
    assert_eq!((output.status, output.stderr.as_str()), (1, ""));
    let shown: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(
        shown["error"].as_str().unwrap().contains("no cluster data"),
        "{output:?}"
    );
}

/// Otherwise an initialisation would discard the databases of these keepers.
#[tokio::test]
async fn no_initialisation_is_proposed_while_keepers_have_databases() {
    let harness = CtlHarness::start().await;
    let keys = harness.store.keys();
    let info = r#"{"uid":"k1","clusterUID":"5f0c1a9e"}"#;
    harness.store.put(&keys.keeper_info("k1"), info).await.unwrap();
    for missing in [None, Some("null"), Some("garbage")] {
        if let Some(value) = missing {
            harness.put(value).await;
        }
        for args in [
            &["status"][..],
            &["spec"],
            &["clusterdata", "read"],
            &["update", "-p", "{}"],
            &["failkeeper", "k1"],
            &["removekeeper", "k1"],
        ] {
            let output = harness.run(args).await;
            output.assert_failed_with("k1 (cluster 5f0c1a9e)");
            output.assert_failed_with("`stolonctl clusterdata write --yes -f FILE`");
            output.assert_failed_with("discard them with `stolonctl init`");
            assert!(!output.stderr.contains("initialise the cluster"), "{output:?}");
        }
    }
    // No command overwrites data that cannot be decoded: the remedy deletes it first.
    for args in [&["init", "-y"][..], &["clusterdata", "write", "--yes"]] {
        let output = harness.run_with(args, CLUSTER.as_bytes()).await;
        output.assert_failed_with("delete it with etcdctl, then restore a backup");
    }
}

/// The infos of stopped keepers are gone; the record of the initialisation is not.
#[tokio::test]
async fn no_initialisation_is_proposed_after_a_cluster_was_created() {
    let harness = CtlHarness::start().await;
    harness
        .run(&["status"])
        .await
        .assert_failed_with("initialise the cluster with `stolonctl init`");
    assert_eq!(harness.run(&["init", "-y"]).await.status, 0);
    let key = harness.store.keys().cluster_data();
    harness.store.commit(Txn::new().delete(&key)).await.unwrap();
    let output = harness.run(&["status"]).await;
    output.assert_failed_with("was created here: restore a backup with");
}

#[tokio::test]
async fn status_without_cluster_data_shows_what_keepers_report() {
    // cli 14.3
    let harness = CtlHarness::start().await;
    let info = r#"{"uid":"k1","clusterUID":"c1","problems":[{"kind":"data","text":"lost","remedy":"restore it"}]}"#;
    harness
        .store
        .put(&harness.store.keys().keeper_info("k1"), info)
        .await
        .unwrap();
    for data in [None, Some("garbage"), Some("{}")] {
        if let Some(data) = data {
            harness.put(data).await;
        }
        let text = harness.run(&["status"]).await;
        assert_eq!((text.stdout.as_str(), text.status), ("", 1), "{text:?}");
        let lines: Vec<&str> = text.stderr.lines().skip(1).collect();
        assert_eq!(
            lines,
            ["=== Problems ===", "", "k1: data: lost", "    restore it"],
            "{data:?}"
        );
        let json = harness.run(&["status", "-fjson"]).await;
        assert_eq!((json.stderr.as_str(), json.status), ("", 1), "{json:?}");
        assert!(
            json.stdout.contains("\"error\": ") && json.stdout.contains("\"text\": \"lost\""),
            "{json:?}"
        );
    }
}

#[tokio::test]
async fn every_command_ends_while_the_store_is_unreachable() {
    // cli 18.20, store 10.18
    let nobody = ports::free();
    let endpoint = format!("--store-endpoints=127.0.0.1:{nobody}");
    let common = [
        "--cluster-name=c",
        "--store-backend=etcdv3",
        "--store-timeout=200ms",
        &endpoint,
    ];
    for args in [
        &["status"][..],
        &["spec"],
        &["clusterdata", "read"],
        &["clusterdata", "write", "-y"],
        &["init", "-y"],
        &["update", "-p", "{}"],
        &["failkeeper", "k1"],
        &["removekeeper", "k1"],
    ] {
        let output = stolonctl(&[args, &common].concat(), &[], CLUSTER.as_bytes()).await;
        output.assert_failed_with("cannot be reached");
        output.assert_failed_with(&format!("http://127.0.0.1:{nobody}: "));
        output.assert_failed_with("--store-endpoints");
        let operation = output.stderr.split(": ").next().unwrap_or_default();
        assert!(operation.starts_with("cannot "), "{output:?}");
        assert!(!output.stderr.contains("stolon/cluster/c/"), "{output:?}");
    }
    let status = stolonctl(&[&["status"], &common[..]].concat(), &[], b"").await;
    let start =
        format!("cannot read the status: the store cannot be reached (waited 200ms): http://127.0.0.1:{nobody}: ");
    assert!(status.stderr.starts_with(&start), "{status:?}");
    let output = stolonctl(&[&["status", "-fjson"], &common[..]].concat(), &[], b"").await;
    assert!(
        output.status == 1 && output.stdout.contains("cannot be reached"),
        "{output:?}"
    );
}

#[tokio::test]
async fn spec_shows_what_was_set() {
    // cli 12, cli 18.16: empty lists and zero values are set; <, > and & are escaped
    let harness = CtlHarness::start().await;
    let spec = r#"{"initMode":"new","syncTimeout":"0","usePgrewind":false,"pgHBA":[],"automaticPgRestart":null,"pgParameters":{"a":"<&>"}}"#;
    harness
        .put(&format!(r#"{{"formatVersion":1,"cluster":{{"spec":{spec}}}}}"#))
        .await;
    harness.run(&["spec"]).await.assert_printed(
        "{\n\t\"syncTimeout\": \"0s\",\n\t\"usePgrewind\": false,\n\t\"initMode\": \"new\",\n\
        \t\"pgParameters\": {\n\t\t\"a\": \"\\u003c\\u0026\\u003e\"\n\t},\n\t\"pgHBA\": []\n}\n",
    );
    let all = harness.run(&["spec", "--defaults"]).await;
    assert_eq!((all.stdout.lines().count(), all.status), (34, 0), "{all:?}");
    assert!(
        all.stdout
            .contains("\n\t\"pgHBA\": [],\n\t\"automaticPgRestart\": false\n}\n"),
        "{all:?}"
    );
    assert!(all.stdout.contains("\n\t\"maxStandbyLag\": 1232896,\n"), "{all:?}");
}
