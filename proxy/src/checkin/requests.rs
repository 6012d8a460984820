//! The requests that publish the info. A request is repeated while its answer is missing, so that a store whose answers
//! take most of the proxyTimeout still renews the lease in time. What is published, and what follows from it, is left
//! to `info_publisher`.

use std::time::Duration;

use base::clock::Boottime;
use store::{CommitOrRead, LeaseId, Revision, StoreError};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Limit of concurrent requests.
const REQUESTS_MAX: usize = 4;
/// Requests are repeated after this fraction of the proxyTimeout.
const REQUESTS_PER_TIMEOUT: u32 = 6;
/// Shortest time between two requests.
const RESEND_PAUSE_MIN: Duration = Duration::from_millis(50);

/// What is published. Only answers to requests with the same content count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Publication {
    /// Revision of the cluster data that the decision is based on.
    pub(super) revision: Revision,
    pub(super) generation: i64,
    /// The proxyTimeout in the info.
    pub(super) timeout: Duration,
    /// The lease of the store that the info is attached to.
    pub(super) lease: LeaseId,
}

/// The requests in flight for one publication.
#[derive(Debug, Default)]
pub(super) struct PublishRequests {
    publication: Option<Publication>,
    in_flight: JoinSet<(Boottime, Result<CommitOrRead, StoreError>)>,
    last_sent: Option<Boottime>,
    /// When the newest request that is known to be committed was sent. Answers may overtake each other.
    newest_committed: Option<Boottime>,
}

impl PublishRequests {
    /// Ignores all answers that are still to come. The store may execute the requests all the same.
    pub(super) fn discard(&mut self) {
        *self = Self::default();
    }

    /// Repeats the request until one of them is answered. Returns the time just before that one was sent, and its
    /// answer. The others stay in flight, so that the next call gets an answer sooner.
    ///
    /// `send` starts a request at the given time, or returns `None` if it must not be sent any more.
    ///
    /// # Errors
    ///
    /// The store has refused a request, or one failed and no other is in flight. `None`: the time limit has passed, or
    /// none is in flight and none can be sent.
    pub(super) async fn send_until_answered<F, Fut>(
        &mut self,
        publication: Publication,
        limit: Duration,
        now: impl Fn() -> Boottime,
        send: F,
    ) -> Result<(Boottime, CommitOrRead), Option<StoreError>>
    where
        F: Fn(Boottime) -> Option<Fut>,
        Fut: Future<Output = Result<CommitOrRead, StoreError>> + Send + 'static,
    {
        if self.publication != Some(publication) {
            self.discard();
            self.publication = Some(publication);
        }
        let resend_after = (publication.timeout / REQUESTS_PER_TIMEOUT).max(RESEND_PAUSE_MIN);
        let end = now() + limit;
        loop {
            let sent = now();
            // Without a request in flight there is no answer to wait for.
            let is_waiting = !self.in_flight.is_empty();
            let due = self
                .last_sent
                .filter(|_| is_waiting)
                .map_or(sent, |last| last + resend_after);
            if due <= sent && self.in_flight.len() < REQUESTS_MAX {
                // The time is taken before `send` checks whether the lease lasts long enough.
                match send(sent) {
                    Some(request) => drop(self.in_flight.spawn(async move { (sent, request.await) })),
                    None if is_waiting => {}
                    None => return Err(None),
                }
                self.last_sent = Some(sent);
                continue;
            }
            let wait = if self.in_flight.len() < REQUESTS_MAX {
                due.min(end)
            } else {
                end
            };
            let answer = tokio::select! {
                biased;
                Some(answer) = self.in_flight.join_next() => answer,
                () = sleep(wait.since(sent)) => {
                    if now() >= end {
                        return Err(None);
                    }
                    continue;
                }
            };
            let Ok((sent, answer)) = answer else {
                // a task that panicked has no answer
                if self.in_flight.is_empty() {
                    return Err(None);
                }
                continue;
            };
            // The process was paused after sending, or the answer waited for this call.
            let is_expired = sent + publication.timeout <= now();
            match answer {
                Ok(CommitOrRead::Committed(_))
                    if is_expired || self.newest_committed.is_some_and(|newer| newer >= sent) => {}
                Ok(CommitOrRead::Committed(committed)) => {
                    self.newest_committed = Some(sent);
                    return Ok((sent, CommitOrRead::Committed(committed)));
                }
                Ok(refused) => {
                    self.discard();
                    return Ok((sent, refused));
                }
                Err(error) => {
                    if matches!(error, StoreError::Refused { .. }) {
                        self.discard();
                        return Err(Some(error));
                    }
                    if self.in_flight.is_empty() {
                        return Err(Some(error));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use store::Committed;
    use tokio::time::Instant;

    use super::super::CheckInTiming;
    use super::*;

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
            attempt: "write".to_owned(),
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
        let mut store = SlowStore::new(600 * MILLI); // a second request is sent before the answer
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
            sleep(timing.pause(left, store.latency)).await;
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
}
