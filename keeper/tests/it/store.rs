//! The keeper's writes to a real etcd: its info, the permit, the liveness key.

use std::future::Future;
use std::time::Duration;

use base::{Clock, RandomBytes};
use keeper::liveness::LivenessKey;
use keeper::publish::{Due, InfoReport, KeeperIdentity, PermitConditions, PermitResponse, Publisher};
use model::{KeeperInfo, KeeperUid, LIVENESS_PERIOD, LIVENESS_TTL, Stopped, from_slice};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::etcd::Etcd;
use stolon_tests::store_client;
use stolon_tests::tcp_relay::{Direction, NetworkCondition, TcpRelay};
use stolon_tests::wait::{eventually, now, throughout};
use store::{Revision, Store};

const INTERVAL: Duration = Duration::from_secs(5);

fn store(etcd: &Etcd) -> Store {
    store_at(etcd.endpoint())
}

/// Asserts that this was granted on a request sent by now.
fn assert_granted(permit: PermitResponse) {
    assert!(
        matches!(permit, PermitResponse::Granted(sent) if sent <= now()),
        "{permit:?}"
    );
}

/// Whether a tick is due.
fn is_due(ticks: &mut tokio::time::Interval) -> bool {
    ticks
        .poll_tick(&mut std::task::Context::from_waker(std::task::Waker::noop()))
        .is_ready()
}

fn store_at(endpoints: String) -> Store {
    store_client::connect(&endpoints, "main")
}

fn publisher(store: &Store, boot: &str) -> Publisher {
    let fixed = KeeperIdentity {
        uid: "k1".into(),
        boot: boot.into(),
        can_be_master: true,
        can_be_synchronous_replica: true,
    };
    let report = InfoReport {
        cluster: "c1".into(),
        ..InfoReport::default()
    };
    Publisher::new(
        store.clone(),
        fixed,
        report,
        INTERVAL,
        Clock::system(),
        RandomBytes::system(),
    )
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
        publisher.publish_within(SHORT_TIMEOUT).await;
        assert_eq!(info(&store).await, None);
        publisher.change(Due::Later, |report| report.cluster = "c1".into());
        publisher.publish_within(SHORT_TIMEOUT).await;
        let (published, _) = info(&store).await.unwrap();
        assert!(published.liveness_key, "extensions X-8.1");
        assert_eq!(published.cluster_uid.as_str(), "c1");
    });
}

#[test]
fn each_publication_is_new_and_its_lease_as_old_as_itself() {
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let publisher = publisher(&store, "b1");
        let mut seen = Vec::new();
        for _ in 0..2 {
            publisher.publish_within(SHORT_TIMEOUT).await;
            let entry = store.get(&store.keys().keeper_info("k1")).await.unwrap().unwrap();
            let info: KeeperInfo = from_slice(&entry.value).unwrap();
            let lease = entry.lease.unwrap();
            let left = store.remaining(lease).await.unwrap().unwrap();
            assert!(left.granted >= Duration::from_secs(20), "store S-20");
            seen.push((info.info_uid, left.remaining));
            // until the lease is observed to run down, and the next publication renews it
            let runs = async || match store.remaining(lease).await.unwrap().unwrap() {
                left if left.remaining + Duration::from_secs(1) < left.granted => Ok(()),
                left => Err(format!("{left:?}")),
            };
            eventually("the lease to run", SHORT_TIMEOUT, runs).await;
        }
        assert_ne!(seen[0].0, seen[1].0, "store S-22");
        let younger = seen[1].1 + Duration::from_secs(1);
        assert!(younger >= seen[0].1, "sentinel E-6: {seen:?}");
    });
}

#[test]
fn a_keeper_continues_from_the_info_of_its_predecessor_or_another_process() {
    // Rule: extensions.
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        publisher(&store, "earlier").publish_within(SHORT_TIMEOUT).await;
        let publisher = publisher(&store, "b1");
        publisher.publish_within(SHORT_TIMEOUT).await;
        assert_eq!(info(&store).await.unwrap().0.boot_uuid.as_str(), "b1");
        store.put(&store.keys().keeper_info("k1"), "garbage").await.unwrap();
        publisher.publish_within(SHORT_TIMEOUT).await;
        assert_eq!(info(&store).await.unwrap().0.boot_uuid.as_str(), "b1");
    });
}

#[test]
fn stopped_is_published_only_over_an_existing_info() {
    // where no info exists there may be none again much later (extensions)
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let publisher = publisher(&store, "b1");
        publisher.publish_within(SHORT_TIMEOUT).await;
        let key = store.keys().keeper_info("k1");
        store.commit(store::Txn::new().delete(&key)).await.unwrap();
        publisher.change(Due::Later, |report| report.stopped = Some(Stopped::default()));
        publisher.publish_within(SHORT_TIMEOUT).await;
        let entry = store.get(&key).await.unwrap().unwrap();
        assert!(from_slice::<KeeperInfo>(&entry.value).unwrap().stopped.is_some());
        assert!(entry.create_revision < entry.mod_revision, "an info came first");
    });
}

#[test]
fn a_permit_needs_unchanged_cluster_data_and_no_orders_key_and_removes_stopped() {
    // Rule: extensions.
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let keys = store.keys().clone();
        let publisher = publisher(&store, "b1");
        publisher.change(Due::Later, |report| report.stopped = Some(Stopped::default()));
        publisher.publish_within(SHORT_TIMEOUT).await;
        assert!(info(&store).await.unwrap().0.stopped.is_some());

        let read = store.put(&keys.cluster_data(), "1").await.unwrap();
        let changed = store.put(&keys.cluster_data(), "2").await.unwrap();
        assert_eq!(
            publisher.permit(read, |_| false).await.unwrap(),
            PermitResponse::Refused
        );
        assert!(
            info(&store).await.unwrap().0.stopped.is_some(),
            "a refusal changes nothing"
        );

        store.put(&keys.order("k1"), "stop").await.unwrap();
        assert_eq!(
            publisher.permit(changed, |_| true).await.unwrap(),
            PermitResponse::Refused
        );
        store.commit(store::Txn::new().delete(&keys.order("k1"))).await.unwrap();

        assert_granted(publisher.permit(changed, |_| false).await.unwrap());
        assert_eq!(info(&store).await.unwrap().0.stopped, None);
        assert_eq!(
            publisher.report().stopped,
            None,
            "later publications do not bring it back"
        );
    });
}

#[test]
fn an_order_is_accepted_only_as_it_was_read_together_with_the_cluster_data() {
    // Rule: extensions.
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let keys = store.keys().clone();
        let publisher = publisher(&store, "b1");
        publisher.change(Due::Later, |report| report.stopped = Some(Stopped::default()));
        publisher.publish_within(SHORT_TIMEOUT).await;

        let data = store.put(&keys.cluster_data(), "master k1, seen 1").await.unwrap();
        let earlier = store.put(&keys.order("k1"), "stop").await.unwrap();
        let order = store.put(&keys.order("k1"), "stop").await.unwrap();
        let is_unchanged =
            |entry: Option<&store::Entry>| entry.is_some_and(|entry| entry.value.starts_with(b"master k1"));
        let accept = async |cluster_data, order| {
            let conditions = PermitConditions { cluster_data, order };
            publisher.accept_order(conditions, "s1", is_unchanged).await.unwrap()
        };
        assert_eq!(accept(data, earlier).await, PermitResponse::Refused, "put again");
        assert_eq!(accept(data, Revision::ABSENT).await, PermitResponse::Refused);
        store.put(&keys.cluster_data(), "master k2").await.unwrap();
        assert_eq!(accept(data, order).await, PermitResponse::Refused);
        let (published, _) = info(&store).await.unwrap();
        assert!(
            published.stopping.is_empty() && published.stopped.is_some(),
            "a refusal changes nothing"
        );

        // only times and positions are others
        store.put(&keys.cluster_data(), "master k1, seen 2").await.unwrap();
        assert_granted(accept(data, order).await);
        let (published, _) = info(&store).await.unwrap();
        assert_eq!((published.stopping.as_str(), published.stopped), ("s1", None));

        publisher.change(Due::Later, |report| report.stopped = Some(Stopped::default()));
        publisher.publish_within(SHORT_TIMEOUT).await;
        assert_eq!(
            info(&store).await.unwrap().0.stopping,
            "s1",
            "later publications keep it"
        );
        store.commit(store::Txn::new().delete(&keys.order("k1"))).await.unwrap();
        assert_eq!(accept(data, order).await, PermitResponse::Refused, "the order is gone");
        assert_granted(publisher.permit(data, is_unchanged).await.unwrap());
        let (published, _) = info(&store).await.unwrap();
        assert!(
            published.stopping.is_empty() && published.stopped.is_none(),
            "{published:?}"
        );
    });
}

#[test]
fn the_last_publication_does_not_wait_for_an_unavailable_store() {
    // Rule: extensions.
    run(async {
        let mut etcd = Etcd::start().await;
        let store = store(&etcd);
        let publisher = publisher(&store, "b1");
        publisher.publish_within(SHORT_TIMEOUT).await;
        let before = info(&store).await;
        etcd.freeze().await;
        publisher.change(Due::Later, |report| report.leaving = true);
        let limit = Duration::from_millis(500);
        tokio::time::timeout(SHORT_TIMEOUT, publisher.publish_within(limit))
            .await
            .unwrap();
        etcd.thaw();
        // The result of the late request is unknown: the next one reads the key first, and succeeds.
        publisher.publish_within(SHORT_TIMEOUT).await;
        let (after, revision) = info(&store).await.unwrap();
        assert!(after.leaving && revision > before.unwrap().1);
    });
}

#[test]
fn the_liveness_key_is_renewed_and_ends_with_its_keeper() {
    // Rule: extensions.
    run(async {
        let etcd = Etcd::start().await;
        let store = store(&etcd);
        let uid = KeeperUid::from("k1");
        let key = store.keys().liveness_key("k1");
        let mut liveness_key = LivenessKey::new(&store, &uid, "b1".into(), RandomBytes::system());
        let there = async || store.get(&key).await.unwrap().ok_or("no key");
        liveness_key.renew();
        let made = eventually("the key", SHORT_TIMEOUT, there).await;
        assert_eq!(made.value, b"b1");
        let granted = store.remaining(made.lease.unwrap()).await.unwrap().unwrap().granted;
        assert_eq!(granted, LIVENESS_TTL);
        let outlives = Duration::from_secs(4);
        let mut renewal = tokio::time::interval(LIVENESS_PERIOD);
        throughout("the key with its beats", outlives, async || {
            if is_due(&mut renewal) {
                liveness_key.renew();
            }
            let renewed = there().await?;
            let is_same = renewed.mod_revision == made.mod_revision;
            if is_same { Ok(()) } else { Err("a beat wrote it") }
        })
        .await;
        store.revoke(made.lease.unwrap()).await.unwrap();
        liveness_key.renew();
        eventually("a lost key to be made again", SHORT_TIMEOUT, there).await;
        liveness_key.revoke(SHORT_TIMEOUT).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), None);
    });
}

#[test]
fn the_liveness_key_persists_on_a_store_as_slow_as_its_lease() {
    // a renewal does not wait for the response (extensions)
    run(async {
        let etcd = Etcd::start().await;
        let relay = TcpRelay::to(&etcd.address()).await;
        relay.set(Direction::ToClient, NetworkCondition::Delay(LIVENESS_TTL));
        let direct = store(&etcd);
        let key = direct.keys().liveness_key("k1");
        let mut liveness_key = LivenessKey::new(
            &store_at(relay.endpoint()),
            &KeeperUid::from("k1"),
            "b1".into(),
            RandomBytes::system(),
        );
        let mut renewal = tokio::time::interval(LIVENESS_PERIOD);
        let mut look = async || {
            if is_due(&mut renewal) {
                liveness_key.renew();
            }
            direct.get(&key).await.unwrap().ok_or("no key")
        };
        let made = eventually("the key", SHORT_TIMEOUT, &mut look).await;
        throughout("the key", LIVENESS_TTL * 4, async || {
            let there = look().await?;
            let is_same = there.create_revision == made.create_revision;
            if is_same { Ok(()) } else { Err("it was made again") }
        })
        .await;
    });
}

#[test]
fn a_permit_does_not_starve_under_the_leader_s_periodic_writes() {
    // what the permit depends on is unchanged, only the revision differs (extensions)
    run(async {
        let etcd = Etcd::start().await;
        let relay = TcpRelay::to(&etcd.address()).await;
        let direct = store(&etcd);
        let publisher = publisher(&store_at(relay.endpoint()), "b1");
        publisher.publish_within(SHORT_TIMEOUT).await;
        let data = direct.keys().cluster_data();
        let read = direct.put(&data, "master k1, seen 1").await.unwrap();
        relay.set(Direction::ToServer, NetworkCondition::Delay(Duration::from_millis(300)));
        let asked = publisher.permit(read, |entry| {
            entry.is_some_and(|entry| entry.value.starts_with(b"master k1"))
        });
        tokio::pin!(asked);
        // each is written while a request that depends on the previous one is in flight
        for n in 2..5 {
            let sent = relay.received(Direction::ToServer);
            eventually("a request", SHORT_TIMEOUT, async || {
                tokio::select! {
                    biased;
                    permit = &mut asked => panic!("{permit:?} too soon"),
                    () = tokio::task::yield_now() => {}
                }
                if relay.received(Direction::ToServer) > sent {
                    Ok(())
                } else {
                    Err("none yet")
                }
            })
            .await;
            direct.put(&data, format!("master k1, seen {n}")).await.unwrap();
        }
        assert_granted(asked.await.unwrap());
        let read = direct.get(&data).await.unwrap().unwrap().mod_revision;
        direct.put(&data, "master k2").await.unwrap();
        let refused = publisher.permit(read, |entry| {
            entry.is_some_and(|entry| entry.value.starts_with(b"master k1"))
        });
        assert_eq!(refused.await.unwrap(), PermitResponse::Refused);
    });
}
