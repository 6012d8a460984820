//! Copies of one request, their responses and their errors, on a paused clock.

use std::sync::Mutex;

use store::Committed;
use tokio::time::Instant;

use super::*;
use crate::checkin::timing::CheckInTiming;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(3);

const PUBLICATION: Publication = Publication {
    revision: Revision(7),
    generation: 1,
    timeout: TIMEOUT,
    lease: LeaseId(1),
};

/// A store with constant latency.
struct SlowStore {
    started: Instant,
    requests: PublishRequests,
    latency: Duration,
    answer: fn() -> Result<CommitOrRead, StoreError>,
    sent: Mutex<Vec<u128>>,
}

fn committed() -> Result<CommitOrRead, StoreError> {
    Ok(CommitOrRead::Committed(Committed { revision: Revision(8) }))
}

fn unanswered() -> Result<CommitOrRead, StoreError> {
    Err(StoreError::Unanswered {
        request: "write".to_owned(),
        limit: SECOND,
        source: None,
    })
}

impl SlowStore {
    #[expect(clippy::disallowed_methods, reason = "the test's own clock, which is paused")]
    fn new(latency: Duration) -> Self {
        Self {
            started: Instant::now(),
            requests: PublishRequests::default(),
            latency,
            answer: committed,
            sent: Mutex::default(),
        }
    }

    fn at(&self) -> Boottime {
        Boottime::from_nanos(1) + self.started.elapsed()
    }

    /// Returns when the answered request was sent, and how long ago, in milliseconds.
    async fn answer(&mut self, publication: Publication, limit: Duration) -> Option<(u128, u128)> {
        let (began, latency, answer, sent) = (self.started, self.latency, self.answer, &self.sent);
        let now = move || Boottime::from_nanos(1) + began.elapsed();
        let since = |at: Boottime| at.since(Boottime::from_nanos(1)).as_millis();
        let send = |at| {
            sent.lock().unwrap().push(since(at));
            Some(async move {
                sleep(latency).await;
                answer()
            })
        };
        let (at, _) = self
            .requests
            .send_until_answered(publication, limit, now, send)
            .await
            .ok()?;
        Some((since(at), since(self.at()) - since(at)))
    }
}

#[tokio::test(start_paused = true)]
async fn answers_slower_than_half_of_the_timeout_renew_the_lease_before_it_ends() {
    let mut store = SlowStore::new(2 * SECOND);
    let mut lease_end = None;
    for _ in 0..100 {
        let (sent, ago) = store.answer(PUBLICATION, 5 * SECOND).await.unwrap();
        let now = sent + ago;
        assert!(lease_end.is_none_or(|end| now < end), "{now} of {lease_end:?}");
        assert_eq!(ago, 2000, "counted from the sending of its own copy");
        lease_end = Some(sent + TIMEOUT.as_millis());
    }
}

#[tokio::test(start_paused = true)]
async fn after_one_slow_answer_check_ins_return_to_leases_of_their_own() {
    let timing = CheckInTiming {
        check_interval: 2 * SECOND,
        timeout: TIMEOUT,
    };
    let mut store = SlowStore::new(600 * MILLI); // a second request is sent before the response
    let mut lease_end = None;
    for number in 0..10 {
        let (sent, ago) = store.answer(PUBLICATION, SECOND).await.unwrap();
        let now = sent + ago;
        assert!(
            lease_end.is_none_or(|end| now < end),
            "{number}: {now} of {lease_end:?}"
        );
        lease_end = Some(sent + TIMEOUT.as_millis());
        store.latency = MILLI;
        let left = TIMEOUT - MILLI * u32::try_from(ago).unwrap();
        sleep(timing.delay(left, store.latency)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fast_store_gets_one_request_per_check_in() {
    let mut store = SlowStore::new(MILLI);
    for _ in 0..5 {
        store.answer(PUBLICATION, SECOND).await.unwrap();
        sleep(SECOND).await;
    }
    assert_eq!(store.sent.lock().unwrap().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_check_in_soon_after_another_sends_at_once_while_no_answer_is_missing() {
    let mut store = SlowStore::new(MILLI);
    for _ in 0..5 {
        // Several check-ins, and the limit of each, within a sixth of the timeout.
        assert!(matches!(store.answer(PUBLICATION, 50 * MILLI).await, Some((_, 1))));
        sleep(50 * MILLI).await;
    }
    store.answer = unanswered;
    for sent in 6..9 {
        assert_eq!(store.answer(PUBLICATION, SECOND).await, None);
        assert_eq!(store.sent.lock().unwrap().len(), sent, "sent again after a failure");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_lease_has_ended_does_not_count() {
    let mut store = SlowStore::new(2 * SECOND);
    assert_eq!(store.answer(PUBLICATION, SECOND).await, None); // sent at 0 and 0.5 s
    sleep(4 * SECOND).await;
    assert_eq!(store.answer(PUBLICATION, 5 * SECOND).await, Some((5000, 2000)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_can_send_nothing_returns_at_once() {
    let store = SlowStore::new(SECOND);
    let mut requests = PublishRequests::default();
    let never = |_| None::<std::future::Ready<_>>;
    let outcome = requests
        .send_until_answered(PUBLICATION, 5 * SECOND, || store.at(), never)
        .await;
    assert!(matches!(outcome, Err(None)));
    let panics = |at| (at == store.at()).then_some(async { panic!("a request fails") });
    let outcome = requests
        .send_until_answered(PUBLICATION, 5 * SECOND, || store.at(), panics)
        .await;
    assert!(matches!(outcome, Err(None)));
    assert_eq!(store.at(), Boottime::from_nanos(1), "no time has passed");
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_bounded() {
    let mut store = SlowStore::new(100 * SECOND);
    assert_eq!(store.answer(PUBLICATION, 30 * SECOND).await, None);
    assert_eq!(*store.sent.lock().unwrap(), [0, 500, 1000, 1500]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_another_publication_is_ignored() {
    let mut store = SlowStore::new(2 * SECOND);
    assert_eq!(store.answer(PUBLICATION, 1900 * MILLI).await, None);
    let changes = [
        Publication {
            revision: Revision(9),
            ..PUBLICATION
        },
        Publication {
            generation: 2,
            ..PUBLICATION
        },
        Publication {
            timeout: 2 * TIMEOUT,
            ..PUBLICATION
        },
        Publication {
            lease: LeaseId(2),
            ..PUBLICATION
        },
    ];
    for changed in changes {
        let before = store.at().since(Boottime::from_nanos(1)).as_millis();
        assert_eq!(store.answer(changed, 5 * SECOND).await, Some((before, 2000)));
    }
    store.requests.discard();
    let before = store.at().since(Boottime::from_nanos(1)).as_millis();
    assert_eq!(store.answer(changes[3], 5 * SECOND).await, Some((before, 2000)));
}

#[tokio::test(start_paused = true)]
async fn an_error_is_ignored_while_another_request_is_in_flight() {
    let mut store = SlowStore::new(1200 * MILLI);
    store.answer = unanswered;
    // The first request fails at 1.2 s, the second one at 1.7 s.
    assert_eq!(store.answer(PUBLICATION, 1900 * MILLI).await, None);
    assert_eq!(store.sent.lock().unwrap().len(), 4);
    let mut alone = SlowStore::new(300 * MILLI);
    alone.answer = unanswered;
    assert_eq!(alone.answer(PUBLICATION, 5 * SECOND).await, None);
    assert_eq!(alone.sent.lock().unwrap().len(), 1, "its error is returned at once");
}

#[tokio::test(start_paused = true)]
async fn an_older_request_that_is_answered_later_is_ignored() {
    let mut store = SlowStore::new(1400 * MILLI);
    assert_eq!(store.answer(PUBLICATION, 900 * MILLI).await, None); // sent at 0 and 0.5 s
    store.latency = MILLI;
    assert_eq!(store.answer(PUBLICATION, 5 * SECOND).await, Some((1000, 1)));
    store.latency = 10 * SECOND;
    assert_eq!(
        store.answer(PUBLICATION, SECOND).await,
        None,
        "those sent before are no news"
    );
}
