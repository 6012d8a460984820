//! Reads, writes, transactions and leases, with the store's corner cases (store 10).

use std::time::Duration;

use stolon_tests::etcd::Etcd;
use store::{INFO_TTL_MIN, KeyRange, LeaseId, Revision, Store, StoreError, Txn, TxnOutcome};

use crate::{options, store};

#[tokio::test]
async fn what_is_put_is_read_back_with_its_revisions() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let key = store.keys().cluster_data();
    assert_eq!(store.get(&key).await.unwrap(), None);

    let first = store.put(&key, "one").await.unwrap();
    let second = store.put(&key, "two").await.unwrap();
    let read = store.get(&key).await.unwrap().unwrap();
    assert_eq!(
        (read.value.as_slice(), read.create_revision, read.mod_revision),
        (&b"two"[..], first, second)
    );
    assert_eq!(read.lease, None);
}

#[tokio::test]
async fn a_prefix_is_listed_with_its_slash_and_in_order() {
    // store S-10: `keepers/infoX` is not a keeper info
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    for uid in ["b", "a"] {
        store.put(&store.keys().keeper_info(uid), uid).await.unwrap();
    }
    store
        .put(&format!("{}/keepers/infoX/y", store.keys().base()), "stray")
        .await
        .unwrap();
    let values: Vec<_> = store
        .list(&store.keys().keeper_infos())
        .await
        .unwrap()
        .into_iter()
        .map(|e| e.value)
        .collect();
    assert_eq!(values, [b"a", b"b"]);
    assert_eq!(store.list(&store.keys().proxy_infos()).await.unwrap(), []);
}

#[tokio::test]
async fn a_snapshot_holds_every_range_at_one_revision() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let keys = store.keys().clone();
    store.put(&keys.cluster_data(), "data").await.unwrap();
    let last = store.put(&keys.proxy_info("p"), "proxy").await.unwrap();
    let targets = [
        KeyRange::Key(keys.cluster_data()),
        KeyRange::Prefix(keys.keeper_infos()),
        KeyRange::Prefix(keys.proxy_infos()),
    ];
    let mut snapshot = store.snapshot(&targets).await.unwrap();
    assert_eq!(snapshot.revision, last);
    assert_eq!(snapshot.take_one(0).unwrap().value, b"data");
    assert_eq!(snapshot.take(1), []);
    assert_eq!(snapshot.take(2)[0].key, keys.proxy_info("p"));
}

#[tokio::test]
async fn a_conditional_write_fails_after_another_write() {
    // corner case 5
    let etcd = Etcd::start().await;
    let (ours, theirs) = (store(&etcd.endpoint()), store(&etcd.endpoint()));
    let key = ours.keys().cluster_data();
    let swap = async |store: &Store, seen, value: &str| {
        store
            .commit(Txn::new().if_unchanged(&key, seen).put(&key, value))
            .await
            .unwrap()
    };
    let value = async || ours.get(&key).await.unwrap().map(|entry| entry.value);

    let create = |value: &str| Txn::new().if_absent(&key).put(&key, value);
    let created = ours.commit(create("first")).await.unwrap().committed().unwrap();
    assert_eq!(ours.commit(create("second")).await.unwrap(), TxnOutcome::Conflict);
    assert_eq!(value().await.unwrap(), b"first");

    // the revision that a commit returns can be used as condition without reading (store C-2)
    let changed = swap(&ours, created, "changed").await.committed().unwrap();
    assert_eq!(swap(&theirs, created, "late").await, TxnOutcome::Conflict);

    theirs.commit(Txn::new().delete(&key)).await.unwrap();
    assert_eq!(swap(&ours, changed, "gone").await, TxnOutcome::Conflict);
    assert_eq!(value().await, None);
    let again = swap(&theirs, Revision::ABSENT, "again").await.committed().unwrap();
    assert_eq!(swap(&ours, changed, "re-created").await, TxnOutcome::Conflict);
    assert_eq!(
        swap(&ours, again, "known").await.committed(),
        Some(Revision(again.0 + 1))
    );
}

#[tokio::test]
async fn of_two_first_writers_exactly_one_wins() {
    // corner case 6
    let etcd = Etcd::start().await;
    let (one, two) = (store(&etcd.endpoint()), store(&etcd.endpoint()));
    let key = one.keys().cluster_data();
    let create = |value: &str| Txn::new().if_absent(&key).put(&key, value);
    let (first, second) = tokio::join!(one.commit(create("one")), two.commit(create("two")));
    let won = [first.unwrap(), second.unwrap()]
        .iter()
        .filter(|outcome| outcome.committed().is_some())
        .count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_write_is_refused_without_the_key_that_it_depends_on() {
    // fencing F-7: the leader's own key, with its creation revision
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let (key, own) = (store.keys().cluster_data(), "own");
    let born = store.put(own, "me").await.unwrap();
    let write = || Txn::new().if_created_at(own, born).if_exists(own).put(&key, "data");
    assert!(store.commit(write()).await.unwrap().committed().is_some());
    store.commit(Txn::new().delete(own)).await.unwrap();
    assert_eq!(store.commit(write()).await.unwrap(), TxnOutcome::Conflict);
    store.put(own, "someone else").await.unwrap();
    assert_eq!(store.commit(write()).await.unwrap(), TxnOutcome::Conflict);
}

#[tokio::test]
async fn an_info_moves_to_a_new_lease_at_each_put() {
    // corner cases 4 and 17
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let key = store.keys().keeper_info("keeper01");
    let mut leases = Vec::new();
    for round in 0..10 {
        let lease = store.put_leased(&key, round.to_string(), INFO_TTL_MIN).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().unwrap().lease, Some(lease));
        leases.push(lease);
    }
    assert_eq!(store.list(&store.keys().keeper_infos()).await.unwrap().len(), 1);
    leases.dedup();
    assert_eq!(leases.len(), 10);
    for lease in leases {
        let left = store.remaining(lease).await.unwrap().unwrap();
        assert_eq!(left.granted, INFO_TTL_MIN);
        assert!(left.remaining <= INFO_TTL_MIN);
    }
    store.put(&key, "without").await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().unwrap().lease, None);
}

#[tokio::test]
async fn revoking_a_lease_deletes_its_keys() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let key = store.keys().liveness_key("keeper01");
    let granted = store.grant(Duration::from_millis(3900)).await.unwrap();
    assert_eq!(granted.ttl, Duration::from_secs(3));
    store
        .commit(Txn::new().put_leased(&key, "boot", granted.lease))
        .await
        .unwrap();
    assert!(store.renew(granted.lease).await.unwrap());

    store.revoke(granted.lease).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert!(!store.renew(granted.lease).await.unwrap());
    assert_eq!(store.remaining(granted.lease).await.unwrap(), None);
    store.revoke(granted.lease).await.unwrap();
}

#[tokio::test]
async fn a_lease_longer_than_the_maximum_gets_the_maximum() {
    // a spec may hold 292 years, and the TTL of an info is twice as long
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    assert!(store.grant(Duration::MAX).await.unwrap().ttl > Duration::from_secs(8_000_000_000));
}

#[tokio::test]
async fn a_refused_put_leaves_the_old_value() {
    // corner case 20: the server's limit is 1.5 MiB
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let key = store.keys().cluster_data();
    store.put(&key, "small").await.unwrap();
    for bytes in [1_600 * 1024, 3 * 1024 * 1024] {
        let error = store.put(&key, vec![b'x'; bytes]).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    }
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, b"small");
}

#[test]
fn a_timeout_of_zero_is_refused() {
    // corner case 18, store S-19
    let mut options = options("");
    options.timeout = Duration::ZERO;
    assert!(store::StoreConfig::validate(&options).is_err());
}

/// fencing F-2
#[tokio::test]
async fn a_late_put_under_a_former_lease_is_refused() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let (former, present) = (LeaseId(1 << 40), LeaseId(1 << 41));
    for lease in [former, present] {
        store.grant_as(lease, Duration::from_secs(60)).await.unwrap();
    }
    let put = async |lease| {
        let txn = Txn::new()
            .if_lease_id_at_most("info", lease)
            .put_leased("info", "value", lease);
        store.commit(txn).await.unwrap().committed().is_some()
    };
    assert!(put(former).await, "the key does not exist");
    assert!(put(former).await);
    assert!(put(present).await);
    assert!(!put(former).await);
    assert!(put(present).await);
    let entry = store.get("info").await.unwrap().unwrap();
    assert_eq!(entry.lease, Some(present));
}
