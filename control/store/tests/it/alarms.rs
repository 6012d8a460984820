//! States in which etcd responds but does not serve requests: each is reported with its remedy, in the error and in one
//! log line.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::{etcd::Etcd, wait::eventually};
use store::{EtcdFault, INFO_TTL_MIN, Store, StoreError, Txn};

use crate::{outages::Heard, run_etcdctl, store, store_with_timeout};

/// Returns the whole text of an error, as the programs log it.
fn text(error: &StoreError) -> String {
    base::Chain(error).to_string()
}

async fn filled(store: &Store) -> StoreError {
    eventually("the store to be full", SHORT_TIMEOUT, async || {
        match store.put("filler", vec![b'x'; 200 * 1024]).await {
            Ok(_) => Err("not yet"),
            Err(error) => Ok(error),
        }
    })
    .await
}

#[tokio::test]
async fn a_full_store_is_reported_with_its_remedy_until_it_accepts_writes_again() {
    let heard = Heard::listen();
    let etcd = Etcd::start_with_options(&["--quota-backend-bytes=2000000"]).await;
    let store = store(&etcd.endpoint());
    let error = filled(&store).await;
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert_eq!(error.etcd_fault(), Some(EtcdFault::OutOfSpace));
    let text = text(&error);
    for words in [
        "write filler",
        "NOSPACE",
        "--quota-backend-bytes",
        "etcdctl alarm disarm",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    // every kind of write fails, and reads are served
    let txn = Txn::new().if_absent("key").put("key", "value");
    for error in [
        store.commit(txn).await.unwrap_err(),
        store.put_leased("key", "value", INFO_TTL_MIN).await.unwrap_err(),
    ] {
        assert_eq!(error.etcd_fault(), Some(EtcdFault::OutOfSpace), "{error:?}");
    }
    store.get("filler").await.unwrap().unwrap();
    assert_eq!(heard.here(), ["the store has no space left"]);

    let revision = store.get("filler").await.unwrap().unwrap().mod_revision.to_string();
    run_etcdctl(&etcd, &["compact", &revision]);
    run_etcdctl(&etcd, &["defrag"]);
    run_etcdctl(&etcd, &["alarm", "disarm"]);
    eventually("a write", SHORT_TIMEOUT, async || store.put("key", "value").await).await;
    assert_eq!(heard.here(), ["the store has no space left", "the store serves again"]);
}

#[tokio::test]
async fn a_corrupt_store_is_reported_with_its_remedy() {
    let heard = Heard::listen();
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    store.put("key", "value").await.unwrap();
    let mut client = Client::connect([etcd.endpoint()], None).await.unwrap();
    client
        .alarm(AlarmAction::Activate, AlarmType::Corrupt, None)
        .await
        .unwrap();
    let error = store.put("key", "another").await.unwrap_err();
    assert_eq!(error.etcd_fault(), Some(EtcdFault::Corrupt), "{error:?}");
    assert!(text(&error).contains("etcdctl alarm list"), "{error:?}");
    assert_eq!(heard.here(), ["the store is corrupt"]);
}

#[tokio::test]
async fn a_store_without_quorum_is_reported_with_its_remedy_until_it_has_one() {
    let heard = Heard::listen();
    let [one, mut two, mut three] = Etcd::start_cluster().await;
    let endpoints = [&one, &two, &three].map(Etcd::endpoint).join(",");
    let store = store_with_timeout(&endpoints, Duration::from_secs(3));
    store.put("key", "value").await.unwrap();
    two.kill();
    three.kill();
    let error = eventually("no leader", SHORT_TIMEOUT, async || match store.get("key").await {
        Ok(_) => Err("it is served".to_owned()),
        Err(error) if error.etcd_fault() == Some(EtcdFault::NoLeader) => Ok(error),
        Err(error) => Err(text(&error)),
    })
    .await;
    assert!(text(&error).contains("more than half of its members"), "{error:?}");
    // a write, too
    let error = store.put("key", "another").await.unwrap_err();
    assert!(error.etcd_fault().is_some(), "{error:?}");
    let lines = heard.here();
    assert!(lines.iter().any(|line| line == "the store has no leader"), "{lines:?}");

    tokio::join!(two.restart(), three.restart());
    eventually("a write", SHORT_TIMEOUT, async || store.put("key", "value").await).await;
    assert_eq!(heard.here().last().map(String::as_str), Some("the store serves again"));
}

#[tokio::test]
async fn a_store_that_requires_a_user_is_reported_with_its_remedy() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    store.put("key", "value").await.unwrap();
    run_etcdctl(&etcd, &["user", "add", "root:password"]);
    run_etcdctl(&etcd, &["user", "grant-role", "root", "root"]);
    run_etcdctl(&etcd, &["auth", "enable"]);
    for error in [
        store.get("key").await.unwrap_err(),
        store.put("key", "another").await.unwrap_err(),
    ] {
        assert!(text(&error).contains("etcdctl auth disable"), "{}", text(&error));
    }
}

#[tokio::test]
async fn a_value_that_is_too_large_is_reported_with_the_limit() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    for bytes in [1_600 * 1024, 3 * 1024 * 1024] {
        let error = store.put("key", vec![b'x'; bytes]).await.unwrap_err();
        assert!(text(&error).contains("--max-request-bytes"), "{}", text(&error));
    }
}
