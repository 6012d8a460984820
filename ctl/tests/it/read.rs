//! `status` and `spec`: forms, errors, and what happens while the store is away (cli 12, cli 14, cli 18.16 to 18.22).

use control::store::Txn;
use stolon_tests::ports::Port;

use crate::bench::{Bench, CLUSTER, stolonctl};

#[tokio::test]
async fn json_has_every_field_also_when_there_is_nothing() {
    // cli 18.20
    let bench = Bench::with(r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"}}}"#).await;
    bench.run(&["status", "-f", "json"]).await.printed(
        "{\n\t\"sentinels\": [],\n\t\"proxies\": [],\n\t\"keepers\": [],\n\t\"cluster\": {\n\
        \t\t\"available\": false,\n\t\t\"master_keeper_uid\": \"\",\n\t\t\"master_db_uid\": \"\"\n\t}\n}\n",
    );
}

#[tokio::test]
async fn the_oldest_candidate_leads() {
    // cli 14.1, store E-11
    let bench = Bench::with(CLUSTER).await;
    let keys = bench.store.keys();
    bench.store.put(&(keys.election() + "ff"), "bbbbbbbb").await.unwrap();
    bench.store.put(&(keys.election() + "0a"), "aaaaaaaa").await.unwrap();
    for uid in ["bbbbbbbb", "aaaaaaaa"] {
        bench
            .store
            .put(&keys.sentinel_info(uid), format!(r#"{{"UID":"{uid}"}}"#))
            .await
            .unwrap();
    }
    let proxy = r#"{"infoUID":"1","UID":"6d5e4f3a","Generation":3,"ProxyTimeout":15000000000}"#;
    bench.store.put(&keys.proxy_info("6d5e4f3a"), proxy).await.unwrap();
    let ran = bench.run(&["status"]).await;
    assert!(
        ran.stdout
            .contains("\nID\t\tLEADER\naaaaaaaa\tfalse\nbbbbbbbb\ttrue\n\n"),
        "{ran:?}"
    );
    let ran = bench.run(&["status", "-fjson"]).await;
    assert!(
        ran.stdout
            .contains("\t\t\t\"uid\": \"6d5e4f3a\",\n\t\t\t\"generation\": 3\n"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn an_info_that_cannot_be_read_is_named_and_left_out() {
    // store S-12
    let bench = Bench::with(CLUSTER).await;
    let key = bench.store.keys().sentinel_info("x");
    bench.store.put(&key, "garbage").await.unwrap();
    let ran = bench.run(&["status"]).await;
    assert!(ran.status == 0 && ran.stdout.contains("No active sentinels"), "{ran:?}");
    ran.said(&key);
}

#[tokio::test]
async fn unknown_formats_are_refused() {
    // cli 18.21
    let bench = Bench::with(CLUSTER).await;
    for format in ["yaml", "JSON", "TEXT"] {
        bench.run(&["status", "--format", format]).await.failed_with(format);
    }
    let text = bench.run(&["status", "--format="]).await;
    assert_eq!(bench.run(&["status", "-f", "text"]).await, text);
}

#[tokio::test]
async fn no_cluster_data_is_an_error_in_both_forms() {
    // cli 14.2, cli 18.20
    let bench = Bench::start().await;
    bench.run(&["status"]).await.failed_with("no cluster data");
    let ran = bench.run(&["status", "-f", "json"]).await;
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    let said: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(said["error"].as_str().unwrap().contains("no cluster data"), "{ran:?}");
}

/// Initialising the cluster would discard the databases of these keepers.
#[tokio::test]
async fn cluster_data_that_are_missing_or_unreadable_are_not_initialised_where_keepers_have_databases() {
    let bench = Bench::start().await;
    let keys = bench.store.keys();
    let info = r#"{"uid":"k1","clusterUID":"5f0c1a9e"}"#;
    bench.store.put(&keys.keeper_info("k1"), info).await.unwrap();
    for missing in [None, Some("null"), Some("garbage")] {
        if let Some(value) = missing {
            bench.put(value).await;
        }
        for args in [
            &["status"][..],
            &["spec"],
            &["clusterdata", "read"],
            &["update", "-p", "{}"],
            &["failkeeper", "k1"],
            &["removekeeper", "k1"],
        ] {
            let ran = bench.run(args).await;
            ran.failed_with("k1 (cluster 5f0c1a9e)");
            ran.failed_with("`stolonctl clusterdata write --yes -f FILE`");
            ran.failed_with("discard them with `stolonctl init`");
            assert!(!ran.stderr.contains("initialise the cluster"), "{ran:?}");
        }
    }
    // Nothing writes over what cannot be read, and the remedy says so.
    for args in [&["init", "-y"][..], &["clusterdata", "write", "--yes"]] {
        let ran = bench.run_with(args, CLUSTER.as_bytes()).await;
        ran.failed_with("delete it with etcdctl, then restore a backup");
    }
}

/// The infos of keepers that are stopped are gone; the record of the creation is not.
#[tokio::test]
async fn a_cluster_that_was_created_here_is_not_initialised_again_by_advice() {
    let bench = Bench::start().await;
    bench
        .run(&["status"])
        .await
        .failed_with("initialise the cluster with `stolonctl init`");
    assert_eq!(bench.run(&["init", "-y"]).await.status, 0);
    let key = bench.store.keys().cluster_data();
    bench.store.commit(Txn::new().delete(&key)).await.unwrap();
    let ran = bench.run(&["status"]).await;
    ran.failed_with("was created here: restore a backup with");
}

#[tokio::test]
async fn every_command_ends_while_the_store_is_away() {
    // cli 18.20, store 10.18
    let nobody = Port::free();
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
        let ran = stolonctl(&[args, &common].concat(), &[], CLUSTER.as_bytes()).await;
        ran.failed_with("cannot be reached");
        ran.failed_with(&format!("http://127.0.0.1:{nobody}: "));
        ran.failed_with("--store-endpoints");
    }
    let ran = stolonctl(&[&["status", "-fjson"], &common[..]].concat(), &[], b"").await;
    assert!(ran.status == 1 && ran.stdout.contains("cannot be reached"), "{ran:?}");
}

#[tokio::test]
async fn spec_shows_what_was_set() {
    // cli 12, cli 18.16: empty lists and zero values are set; <, > and & are escaped
    let bench = Bench::start().await;
    let spec = r#"{"initMode":"new","syncTimeout":"0","usePgrewind":false,"pgHBA":[],"automaticPgRestart":null,"pgParameters":{"a":"<&>"}}"#;
    bench
        .put(&format!(r#"{{"formatVersion":1,"cluster":{{"spec":{spec}}}}}"#))
        .await;
    bench.run(&["spec"]).await.printed(
        "{\n\t\"syncTimeout\": \"0s\",\n\t\"usePgrewind\": false,\n\t\"initMode\": \"new\",\n\
        \t\"pgParameters\": {\n\t\t\"a\": \"\\u003c\\u0026\\u003e\"\n\t},\n\t\"pgHBA\": []\n}\n",
    );
    let all = bench.run(&["spec", "--defaults"]).await;
    assert_eq!((all.stdout.lines().count(), all.status), (34, 0), "{all:?}");
    assert!(
        all.stdout
            .contains("\n\t\"pgHBA\": [],\n\t\"automaticPgRestart\": false\n}\n"),
        "{all:?}"
    );
    assert!(all.stdout.contains("\n\t\"maxStandbyLag\": 1232896,\n"), "{all:?}");
}
