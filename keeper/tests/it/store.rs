//! What the keeper writes into a real etcd: its info, the permit, the liveness key.

use std::future::Future;
use std::time::Duration;

use control::model::{KeeperInfo, KeeperUid, Stopped, from_slice};
use control::store::{Revision, Store, StoreConfig, StoreOptions};
use keeper::alive::{self, Alive};
use keeper::publish::{Due, Fixed, Permit, Publisher, Report};
use stolon_tests::etcd::Etcd;

const INTERVAL: Duration = Duration::from_secs(5);
/// Plenty for requests that are answered.
const PATIENCE: Duration = Duration::from_secs(60);

fn store(etcd: &Etcd) -> Store {
    let options = StoreOptions {
        endpoints: etcd.endpoint(),
        cluster_name: "main".into(),
        ..StoreOptions::default()
    };
    Store::connect(StoreConfig::load(&options).unwrap())
}

fn publisher(store: &Store, boot: &str) -> Publisher {
    let fixed = Fixed {
        uid: "k1".into(),
        boot: boot.into(),
        can_be_master: true,
        can_be_synchronous_replica: true,
    };
    let report = Report {
        cluster: "c1".into(),
        ..Report::default()
    };
    Publisher::new(store.clone(), fixed, report, INTERVAL)
}

async fn info(store: &Store) -> Option<(KeeperInfo, Revision)> {
    let entry = store.get(&store.keys().keeper_info("k1")).await.unwrap()?;
    Some((from_slice(&entry.value).unwrap(), entry.mod_revision))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn nothing_is_published_before_a_cluster_is_known() {
    // keeper 3.4
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let publisher = publisher(&store, "b1");
        publisher.change(Due::Later, |report| report.cluster = "".into());
        publisher.say_within(PATIENCE).await;
        assert_eq!(info(&store).await, None);
        publisher.change(Due::Later, |report| report.cluster = "c1".into());
        publisher.say_within(PATIENCE).await;
        let (published, _) = info(&store).await.unwrap();
        assert!(published.liveness_key, "beyond X-8.1");
        assert_eq!(published.cluster_uid.as_str(), "c1");
    });
}

#[test]
fn each_publication_is_new_and_under_a_fresh_lease() {
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let publisher = publisher(&store, "b1");
        let mut seen = Vec::new();
        for _ in 0..2 {
            publisher.say_within(PATIENCE).await;
            let entry = store.get(&store.keys().keeper_info("k1")).await.unwrap().unwrap();
            let info: KeeperInfo = from_slice(&entry.value).unwrap();
            let lease = entry.lease.unwrap();
            let granted = store.remaining(lease).await.unwrap().unwrap().granted;
            assert!(granted >= Duration::from_secs(20), "store S-20");
            seen.push((info.info_uid, lease));
        }
        assert_ne!(seen[0].0, seen[1].0, "store S-22");
        assert_ne!(seen[0].1, seen[1].1, "sentinel E-6");
    });
}

#[test]
fn a_keeper_goes_on_from_what_its_predecessor_or_a_stranger_wrote() {
    // beyond
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        publisher(&store, "earlier").say_within(PATIENCE).await;
        let publisher = publisher(&store, "b1");
        publisher.say_within(PATIENCE).await;
        assert_eq!(info(&store).await.unwrap().0.boot_uuid.as_str(), "b1");
        store.put(&store.keys().keeper_info("k1"), "garbage").await.unwrap();
        publisher.say_within(PATIENCE).await;
        assert_eq!(info(&store).await.unwrap().0.boot_uuid.as_str(), "b1");
    });
}

#[test]
fn stopped_is_said_only_on_top_of_an_info() {
    // beyond: where no info is there may be none once more, much later
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let publisher = publisher(&store, "b1");
        publisher.say_within(PATIENCE).await;
        let key = store.keys().keeper_info("k1");
        store.commit(control::store::Txn::new().delete(&key)).await.unwrap();
        publisher.change(Due::Later, |report| report.stopped = Some(Stopped::default()));
        publisher.say_within(PATIENCE).await;
        let entry = store.get(&key).await.unwrap().unwrap();
        assert!(from_slice::<KeeperInfo>(&entry.value).unwrap().stopped.is_some());
        assert!(entry.create_revision < entry.mod_revision, "an info came first");
    });
}

#[test]
fn a_permit_needs_the_cluster_data_as_read_and_no_order_and_takes_stopped_back() {
    // beyond
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let keys = store.keys().clone();
        let publisher = publisher(&store, "b1");
        publisher.change(Due::Later, |report| report.stopped = Some(Stopped::default()));
        publisher.say_within(PATIENCE).await;
        assert!(info(&store).await.unwrap().0.stopped.is_some());

        let read = store.put(&keys.cluster_data(), "1").await.unwrap();
        let changed = store.put(&keys.cluster_data(), "2").await.unwrap();
        assert_eq!(publisher.permit(read).await.unwrap(), Permit::Refused);
        assert!(
            info(&store).await.unwrap().0.stopped.is_some(),
            "a refusal changes nothing"
        );

        store.put(&keys.order("k1"), "stop").await.unwrap();
        assert_eq!(publisher.permit(changed).await.unwrap(), Permit::Refused);
        store
            .commit(control::store::Txn::new().delete(&keys.order("k1")))
            .await
            .unwrap();

        assert_eq!(publisher.permit(changed).await.unwrap(), Permit::Granted);
        assert_eq!(info(&store).await.unwrap().0.stopped, None);
        assert_eq!(
            publisher.report().stopped,
            None,
            "later publications do not bring it back"
        );
    });
}

#[test]
fn last_words_do_not_wait_for_a_store_that_is_away() {
    // beyond
    run(async {
        let mut etcd = Etcd::start().await;
        let store = store(&etcd);
        let publisher = publisher(&store, "b1");
        publisher.say_within(PATIENCE).await;
        let before = info(&store).await;
        etcd.freeze().await;
        publisher.change(Due::Later, |report| report.leaving = true);
        let limit = Duration::from_millis(500);
        tokio::time::timeout(PATIENCE, publisher.say_within(limit))
            .await
            .unwrap();
        etcd.thaw();
        // Nobody knows what became of the late request: the next one reads the key first, and wins.
        publisher.say_within(PATIENCE).await;
        let (after, revision) = info(&store).await.unwrap();
        assert!(after.leaving && revision > before.unwrap().1);
    });
}

#[test]
fn the_liveness_key_lives_by_its_beats_and_ends_with_its_keeper() {
    // beyond
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let uid = KeeperUid::from("k1");
        let key = store.keys().alive("k1");
        let mut alive = Alive::new(&store, &uid, "b1".into());
        alive.beat().await.unwrap();
        let made = store.get(&key).await.unwrap().unwrap();
        assert_eq!(made.value, b"b1");
        let granted = store.remaining(made.lease.unwrap()).await.unwrap().unwrap().granted;
        assert_eq!(granted, alive::TTL);
        alive.beat().await.unwrap();
        let renewed = store.get(&key).await.unwrap().unwrap();
        assert_eq!(renewed.mod_revision, made.mod_revision, "a beat is no write");
        store.revoke(made.lease.unwrap()).await.unwrap();
        alive.beat().await.unwrap();
        assert!(store.get(&key).await.unwrap().is_some(), "a lost key is made again");
        alive.end(PATIENCE).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), None);
    });
}
