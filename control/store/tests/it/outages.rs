//! Store outages and recovery.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock},
    thread::{self, ThreadId},
    time::Duration,
};

use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::{
    etcd::Etcd,
    ports,
    tcp_relay::{Direction, NetworkCondition, TcpRelay},
    wait::{eventually, now},
};
use store::{KeyRange, Store, StoreError, Txn};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
};

use crate::{store_with_timeout, until};

const LIMIT: Duration = Duration::from_secs(1);

/// Waits for a first response: on a busy machine that takes longer than the timeout of these tests' requests.
async fn connected(store: &Store) {
    eventually("a first response", SHORT_TIMEOUT, async || store.get("key").await).await;
}

#[tokio::test]
async fn a_request_without_a_server_waits_for_its_timeout_and_names_the_endpoint() {
    // corner case 18
    let port = ports::free();
    let endpoint = format!("http://127.0.0.1:{port}");
    let store = store_with_timeout(&endpoint, LIMIT);
    let begun = now();
    let error = store.put("key", "value").await.unwrap_err();
    let took = now().since(begun);
    assert!(took >= LIMIT, "{took:?}");
    let StoreError::Unreachable { source: Some(why), .. } = &error else {
        panic!("{error:?}")
    };
    assert!(
        why.to_string().contains(&endpoint) && why.to_string().contains("refused"),
        "{why}"
    );
    assert!(!error.is_outcome_unknown());
}

#[tokio::test]
async fn a_request_made_during_an_outage_succeeds_once_the_store_is_back() {
    let mut etcd = Etcd::start().await;
    let store = store_with_timeout(&etcd.endpoint(), SHORT_TIMEOUT);
    store.put("key", "before").await.unwrap();
    etcd.stop().await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.get("key").await }
    });
    etcd.restart().await;
    assert_eq!(waiting.await.unwrap().unwrap().unwrap().value, b"before");
}

#[tokio::test]
async fn connections_are_re_established_automatically() {
    let mut etcd = Etcd::start().await;
    let store = store_with_timeout(&etcd.endpoint(), LIMIT);
    connected(&store).await;
    etcd.stop().await;
    // long enough for the delays between attempts to reach their maximum
    for _ in 0..4 {
        store.get("key").await.unwrap_err();
    }
    etcd.restart().await;
    eventually("a response", SHORT_TIMEOUT, async || store.get("key").await).await;
}

#[tokio::test]
async fn a_write_that_cannot_be_sent_in_time_is_not_sent_and_one_that_was_sent_is_waited_for() {
    // fencing F-7
    const IN_TIME: Duration = Duration::from_millis(200);
    let mut etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let store = store_with_timeout(&relay.endpoint(), SHORT_TIMEOUT);
    store.get("key").await.unwrap();
    relay.hold_from(Direction::ToServer, b"early");
    let begun = now();
    let early = store.sent_within(IN_TIME);
    let write = tokio::spawn(async move { early.put("key", "early").await });
    until("the time to send is over", async || {
        now().since(begun) > IN_TIME && relay.is_held(Direction::ToServer)
    })
    .await;
    relay.set(Direction::ToServer, NetworkCondition::Normal);
    write.await.unwrap().unwrap();

    etcd.stop().await;
    let error = store.sent_within(IN_TIME).put("key", "late").await.unwrap_err();
    assert!(
        matches!(error, StoreError::Unreachable { limit: IN_TIME, .. }),
        "{error:?}"
    );
    etcd.restart().await;
    assert_eq!(store.get("key").await.unwrap().unwrap().value, b"early");
}

#[tokio::test]
async fn a_write_without_a_response_may_have_been_applied() {
    // store S-32
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let (store, direct) = (
        store_with_timeout(&relay.endpoint(), LIMIT),
        store_with_timeout(&etcd.endpoint(), SHORT_TIMEOUT),
    );
    connected(&store).await;
    relay.set(Direction::ToClient, NetworkCondition::Hold);
    let error = store
        .commit(Txn::new().if_absent("key").put("key", "value"))
        .await
        .unwrap_err();
    assert!(error.is_outcome_unknown(), "{error:?}");
    assert_eq!(direct.get("key").await.unwrap().unwrap().value, b"value");
    relay.set(Direction::ToClient, NetworkCondition::Normal);
    assert_eq!(store.get("key").await.unwrap().unwrap().value, b"value");
}

#[tokio::test]
async fn a_silent_connection_is_replaced() {
    // a network that recovered long ago may leave a connection waiting for its next retransmission for minutes
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let store = store_with_timeout(&relay.endpoint(), LIMIT);
    connected(&store).await;
    let connections = relay.accepted();
    relay.set_both(NetworkCondition::Hold);
    store.get("key").await.unwrap_err();
    until("a new connection", async || relay.accepted() > connections).await;
    relay.set_both(NetworkCondition::Normal);
    eventually("a response", SHORT_TIMEOUT, async || store.get("key").await).await;
}

#[tokio::test]
async fn many_short_requests_detect_a_silent_connection_like_one_long_one() {
    let etcd = Etcd::start().await;
    let relay = TcpRelay::to(&etcd.address()).await;
    let store = store_with_timeout(&relay.endpoint(), LIMIT);
    let hasty = store.with_timeout(LIMIT / 5);
    connected(&store).await;
    let connections = relay.accepted();
    relay.set_both(NetworkCondition::Hold);
    hasty.get("key").await.unwrap_err();
    assert_eq!(relay.accepted(), connections);
    eventually("a new connection", SHORT_TIMEOUT, async || {
        hasty.get("key").await.unwrap_err();
        if relay.accepted() > connections {
            Ok(())
        } else {
            Err("none yet")
        }
    })
    .await;
}

#[tokio::test]
async fn a_paused_server_counts_as_unreachable_until_it_continues() {
    let mut etcd = Etcd::start().await;
    let store = store_with_timeout(&etcd.endpoint(), LIMIT);
    connected(&store).await;
    etcd.freeze().await;
    store.get("key").await.unwrap_err();
    let error = store.put("key", "value").await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    // also one that has never responded is named
    let error = store_with_timeout(&etcd.endpoint(), LIMIT)
        .get("key")
        .await
        .unwrap_err();
    let StoreError::Unreachable { source: Some(why), .. } = &error else {
        panic!("{error:?}")
    };
    assert!(why.to_string().starts_with(&etcd.endpoint()), "{why}");
    etcd.thaw();
    eventually("a response", SHORT_TIMEOUT, async || store.get("key").await).await;
}

#[tokio::test]
async fn one_endpoint_of_several_is_enough() {
    let etcd = Etcd::start().await;
    let (dead, frozen) = (ports::free(), TcpRelay::to(&etcd.address()).await);
    frozen.set_both(NetworkCondition::Hold);
    let endpoints = format!(
        "http://127.0.0.1:{dead},{},http://nowhere.invalid:2379,{}",
        frozen.endpoint(),
        etcd.endpoint()
    );
    // a write that is sent to the silent endpoint fails, however long this is
    let store = store_with_timeout(&endpoints, SHORT_TIMEOUT);
    for n in 0..10 {
        store.put("key", n.to_string()).await.unwrap();
    }
}

#[tokio::test]
async fn requests_move_to_the_remaining_endpoint() {
    let etcd = Etcd::start().await;
    let (one, two) = (TcpRelay::to(&etcd.address()).await, TcpRelay::to(&etcd.address()).await);
    let store = store_with_timeout(&format!("{},{}", one.endpoint(), two.endpoint()), SHORT_TIMEOUT);
    for _ in 0..4 {
        store.get("key").await.unwrap();
    }
    until("both to be connected", async || {
        one.accepted() > 0 && two.accepted() > 0
    })
    .await;
    one.disable();
    for n in 0..10 {
        store
            .get("key")
            .await
            .unwrap_or_else(|error| panic!("read {n}: {error:?}"));
    }
    two.disable();
    one.enable();
    eventually("a write", SHORT_TIMEOUT, async || store.put("key", "value").await).await;
}

/// Captures log lines by thread: each test runs on its own.
///
/// A subscriber for the whole process, because `tracing` caches the interest in events across threads.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<(ThreadId, String)>>>);

impl Heard {
    pub(crate) fn listen() -> Self {
        static HEARD: OnceLock<Heard> = OnceLock::new();
        let heard = HEARD.get_or_init(|| {
            let heard = Heard::default();
            tracing::subscriber::set_global_default(Registry::default().with(heard.clone())).unwrap();
            heard
        });
        heard.clone()
    }

    pub(crate) fn here(&self) -> Vec<String> {
        let (lines, here) = (self.0.lock().unwrap(), thread::current().id());
        lines
            .iter()
            .filter(|(thread, _)| *thread == here)
            .map(|(_, words)| words.clone())
            .collect()
    }
}

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Words(String);
        impl Visit for Words {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut words = Words(String::new());
        event.record(&mut words);
        if *event.metadata().level() <= Level::INFO {
            self.0.lock().unwrap().push((thread::current().id(), words.0));
        }
    }
}

#[tokio::test]
async fn one_line_reports_the_outage_and_one_its_end() {
    let heard = Heard::listen();
    let mut etcd = Etcd::start().await;
    let store = store_with_timeout(&etcd.endpoint(), LIMIT);
    let watch = store.watch(vec![KeyRange::Key("key".to_owned())], None);
    connected(&store).await;
    assert!(heard.here().is_empty());
    etcd.stop().await;
    for _ in 0..3 {
        store.get("key").await.unwrap_err();
    }
    etcd.restart().await;
    eventually("a response", SHORT_TIMEOUT, async || store.get("key").await).await;
    drop(watch);
    let logged = heard.here();
    assert_eq!(
        logged,
        [
            "store is unreachable, trying again until it is back",
            "store is reachable again"
        ]
    );
}
