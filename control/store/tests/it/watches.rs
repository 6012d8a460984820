//! Watches: the changes they report, and that they resume.

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::{
    etcd::Etcd,
    tcp_relay::{NetworkCondition, TcpRelay},
};
use store::{Changes, KeyChange, KeyRange, Watch};
use tokio::time::timeout;

use crate::{run_etcdctl, store, store_with_timeout, until};

async fn next(watch: &Watch) -> Changes {
    timeout(SHORT_TIMEOUT, watch.changed())
        .await
        .expect("a change is reported")
}

fn value(changes: &Changes, key: &str) -> Option<String> {
    let KeyChange { entry: now, .. } = changes.keys.get(key)?;
    now.as_ref()
        .map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

/// Waits until the watch is established: one that watches from now on begins with a gap.
async fn established(watch: &Watch) {
    while !next(watch).await.gap {}
}

#[tokio::test]
async fn a_watch_reports_puts_and_deletes_since_the_revision_read() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let (data, info) = (store.keys().cluster_data(), store.keys().keeper_info("k"));
    let read = store.put(&data, "before").await.unwrap();
    store.put(&data, "between").await.unwrap();
    let targets = vec![
        KeyRange::Key(data.clone()),
        KeyRange::Prefix(store.keys().keeper_infos()),
    ];
    let watch = store.watch(targets, Some(read));
    let changes = next(&watch).await;
    assert_eq!(
        (value(&changes, &data).as_deref(), changes.gap),
        (Some("between"), false)
    );

    store.put(&info, "info").await.unwrap();
    assert_eq!(value(&next(&watch).await, &info).as_deref(), Some("info"));
    store.commit(store::Txn::new().delete(&info)).await.unwrap();
    let changes = next(&watch).await;
    assert_eq!(changes.keys[&info].entry, None);
    assert_eq!(watch.take(), None);
}

#[tokio::test]
async fn only_the_last_change_of_each_key_is_kept_for_the_reader() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let key = store.keys().cluster_data();
    let read = store.put(&key, "0").await.unwrap();
    let watch = store.watch(vec![KeyRange::Prefix(format!("{}/", store.keys().base()))], Some(read));
    for n in 1..=20 {
        store.put(&key, n.to_string()).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("20") {
        let changes = next(&watch).await;
        assert_eq!(changes.keys.len(), 1);
        seen.extend(value(&changes, &key));
    }
}

#[tokio::test]
async fn a_watch_continues_without_a_gap_after_a_lost_connection() {
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let (store, direct) = (store(&relay.endpoint()), store(&etcd.endpoint()));
    let key = store.keys().cluster_data();
    let read = store.put(&key, "0").await.unwrap();
    let watch = store.watch(vec![KeyRange::Key(key.clone())], Some(read));
    direct.put(&key, "1").await.unwrap();
    assert_eq!(value(&next(&watch).await, &key).as_deref(), Some("1"));

    relay.disable();
    direct.put(&key, "2").await.unwrap();
    relay.enable();
    let changes = next(&watch).await;
    assert_eq!((value(&changes, &key).as_deref(), changes.gap), (Some("2"), false));
}

#[tokio::test]
async fn after_a_compaction_a_watch_reports_a_gap_and_continues() {
    // store 7, corner case 15
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let key = store.keys().cluster_data();
    let read = store.put(&key, "0").await.unwrap();
    let mut last = read;
    for n in 1..5 {
        last = store.put(&key, n.to_string()).await.unwrap();
    }
    run_etcdctl(&etcd, &["compact", &last.to_string()]);
    let watch = store.watch(vec![KeyRange::Key(key.clone())], Some(read));
    assert!(next(&watch).await.gap);
    store.put(&key, "after").await.unwrap();
    assert_eq!(value(&next(&watch).await, &key).as_deref(), Some("after"));
}

#[tokio::test]
async fn a_watch_survives_a_restart_of_its_server() {
    let mut etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let key = store.keys().cluster_data();
    let watch = store.watch(vec![KeyRange::Key(key.clone())], None);
    established(&watch).await;
    etcd.stop().await;
    etcd.restart().await;
    store.put(&key, "again").await.unwrap();
    let mut received = None;
    while received.as_deref() != Some("again") {
        received = value(&next(&watch).await, &key);
    }
}

#[tokio::test]
async fn a_silent_watch_is_re_established() {
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let limit = std::time::Duration::from_secs(1);
    let (store, direct) = (store_with_timeout(&relay.endpoint(), limit), store(&etcd.endpoint()));
    let key = store.keys().cluster_data();
    let watch = store.watch(vec![KeyRange::Key(key.clone())], None);
    established(&watch).await;
    let connections = relay.accepted();
    relay.set_both(NetworkCondition::Hold);
    direct.put(&key, "unheard").await.unwrap();
    until("a new connection", async || relay.accepted() > connections).await;
    relay.set_both(NetworkCondition::Normal);
    let mut received = None;
    while received.as_deref() != Some("unheard") {
        received = value(&next(&watch).await, &key);
    }
}

#[tokio::test]
async fn a_watch_detects_a_store_that_was_set_up_again() {
    // as after a restore from a backup: its revisions are lower than the last ones
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start_in(dir.path()).await;
    let store = store(&etcd.endpoint());
    let key = store.keys().cluster_data();
    let mut read = store.put(&key, "0").await.unwrap();
    for n in 1..50 {
        read = store.put(&key, n.to_string()).await.unwrap();
    }
    let watch = store.watch(vec![KeyRange::Key(key.clone())], Some(read));
    etcd.stop().await;
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    etcd.restart().await;
    established(&watch).await;
    store.put(&key, "anew").await.unwrap();
    assert_eq!(value(&next(&watch).await, &key).as_deref(), Some("anew"));
}
