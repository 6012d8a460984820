//! The announcements under way. An announcement is sent again while no answer has come, so that answers which take most of
//! proxyTimeout still renew the lease in time. What an announcement says, and what follows from it, is left to `announce`.

use std::time::Duration;

use control::clock::Boottime;
use control::store::{Attempt, LeaseId, Revision, StoreError};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// No more copies than this are under way at once.
const COPIES_MAX: usize = 4;
/// Copies follow each other after this part of proxyTimeout.
const COPIES_PER_TIMEOUT: u32 = 6;
/// Pause between copies for the shortest of timeouts.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(50);

/// What copies of one announcement have in common. Answers to others say nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    /// The cluster data that it was decided on.
    pub(super) revision: Revision,
    pub(super) generation: i64,
    /// The proxyTimeout in the info.
    pub(super) timeout: Duration,
    /// The lease of the store that the info hangs on.
    pub(super) lease: LeaseId,
}

/// The copies of one announcement whose answers are still of use.
#[derive(Debug, Default)]
pub(super) struct Copies {
    content: Option<Content>,
    under_way: JoinSet<(Boottime, Result<Attempt, StoreError>)>,
    last_sent: Option<Boottime>,
    /// The sending of the newest copy that was carried out. Answers may overtake each other.
    answered: Option<Boottime>,
}

impl Copies {
    /// Ignores all answers that are still to come. The copies may be carried out all the same.
    pub(super) fn discard(&mut self) {
        *self = Self::default();
    }

    /// Sends copies of this announcement until one is answered; the moment before that one was sent, and its answer. The
    /// others stay under way, so that the next call has its answer sooner.
    ///
    /// `send` starts a copy at the given moment; none: it may not be sent any more.
    ///
    /// # Errors
    /// The store has refused one, or no other is under way or can be sent; [`None`]: the limit has ended.
    pub(super) async fn answer<F, Fut>(
        &mut self,
        content: Content,
        limit: Duration,
        now: impl Fn() -> Boottime,
        send: F,
    ) -> Result<(Boottime, Attempt), Option<StoreError>>
    where
        F: Fn(Boottime) -> Option<Fut>,
        Fut: Future<Output = Result<Attempt, StoreError>> + Send + 'static,
    {
        if self.content != Some(content) {
            self.discard();
            self.content = Some(content);
        }
        let again_after = (content.timeout / COPIES_PER_TIMEOUT).max(AGAIN_AFTER_MIN);
        let end = now() + limit;
        loop {
            let sent = now();
            let due = self.last_sent.map_or(sent, |last| last + again_after);
            if due <= sent && self.under_way.len() < COPIES_MAX {
                // counted from before it is known whether the lease of the store lasts long enough for it
                if let Some(copy) = send(sent) {
                    self.under_way.spawn(async move { (sent, copy.await) });
                }
                self.last_sent = Some(sent);
                continue;
            }
            let wait = if self.under_way.len() < COPIES_MAX {
                due.min(end)
            } else {
                end
            };
            let answer = tokio::select! {
                biased;
                Some(answer) = self.under_way.join_next() => answer,
                () = sleep(wait.since(sent)) => {
                    if now() >= end {
                        return Err(None);
                    }
                    continue;
                }
            };
            // a copy that panicked has no answer
            let Ok((sent, answer)) = answer else { continue };
            match answer {
                Ok(Attempt::Committed(_)) if self.answered.is_some_and(|newer| newer >= sent) => {}
                Ok(Attempt::Committed(committed)) => {
                    self.answered = Some(sent);
                    return Ok((sent, Attempt::Committed(committed)));
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
                    if self.under_way.is_empty() {
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

    use control::store::Committed;
    use tokio::time::Instant;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_secs(3);

    const CONTENT: Content = Content {
        revision: Revision(7),
        generation: 1,
        timeout: TIMEOUT,
        lease: LeaseId(1),
    };

    /// A store whose answers take the same time each.
    struct Scene {
        began: Instant,
        copies: Copies,
        takes: Duration,
        answer: fn() -> Result<Attempt, StoreError>,
        sent: Mutex<Vec<u128>>,
    }

    fn committed() -> Result<Attempt, StoreError> {
        Ok(Attempt::Committed(Committed { revision: Revision(8) }))
    }

    fn unanswered() -> Result<Attempt, StoreError> {
        Err(StoreError::Unanswered {
            attempt: "write".to_owned(),
            limit: SECOND,
            source: None,
        })
    }

    impl Scene {
        #[expect(clippy::disallowed_methods, reason = "the test's own clock, which is paused")]
        fn new(takes: Duration) -> Self {
            Self {
                began: Instant::now(),
                copies: Copies::default(),
                takes,
                answer: committed,
                sent: Mutex::default(),
            }
        }

        fn at(&self) -> Boottime {
            Boottime::from_nanos(1) + self.began.elapsed()
        }

        /// When the answered copy was sent, and how long ago that is, in milliseconds.
        async fn answer(&mut self, content: Content, limit: Duration) -> Option<(u128, u128)> {
            let (began, takes, answer, sent) = (self.began, self.takes, self.answer, &self.sent);
            let now = move || Boottime::from_nanos(1) + began.elapsed();
            let since = |at: Boottime| at.since(Boottime::from_nanos(1)).as_millis();
            let send = |at| {
                sent.lock().unwrap().push(since(at));
                Some(async move {
                    sleep(takes).await;
                    answer()
                })
            };
            let (at, _) = self.copies.answer(content, limit, now, send).await.ok()?;
            Some((since(at), since(self.at()) - since(at)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_slower_than_half_of_the_timeout_renew_the_lease_before_it_ends() {
        let mut scene = Scene::new(2 * SECOND);
        let mut lease_end = None;
        for _ in 0..100 {
            let (sent, ago) = scene.answer(CONTENT, 5 * SECOND).await.unwrap();
            let now = sent + ago;
            assert!(lease_end.is_none_or(|end| now < end), "{now} of {lease_end:?}");
            assert_eq!(ago, 2000, "counted from the sending of its own copy");
            lease_end = Some(sent + TIMEOUT.as_millis());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_store_gets_one_copy_a_check_in() {
        let mut scene = Scene::new(MILLI);
        for _ in 0..5 {
            scene.answer(CONTENT, SECOND).await.unwrap();
            sleep(SECOND).await;
        }
        assert_eq!(scene.sent.lock().unwrap().len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_copies_are_under_way_than_the_bound() {
        let mut scene = Scene::new(100 * SECOND);
        assert_eq!(scene.answer(CONTENT, 30 * SECOND).await, None);
        assert_eq!(*scene.sent.lock().unwrap(), [0, 500, 1000, 1500]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_another_announcement_is_not_taken() {
        let mut scene = Scene::new(2 * SECOND);
        assert_eq!(scene.answer(CONTENT, 1900 * MILLI).await, None);
        let changes = [
            Content {
                revision: Revision(9),
                ..CONTENT
            },
            Content {
                generation: 2,
                ..CONTENT
            },
            Content {
                timeout: 2 * TIMEOUT,
                ..CONTENT
            },
            Content {
                lease: LeaseId(2),
                ..CONTENT
            },
        ];
        for changed in changes {
            let before = scene.at().since(Boottime::from_nanos(1)).as_millis();
            assert_eq!(scene.answer(changed, 5 * SECOND).await, Some((before, 2000)));
        }
        scene.copies.discard();
        let before = scene.at().since(Boottime::from_nanos(1)).as_millis();
        assert_eq!(scene.answer(changes[3], 5 * SECOND).await, Some((before, 2000)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_error_is_no_answer_while_another_copy_is_under_way() {
        let mut scene = Scene::new(1200 * MILLI);
        scene.answer = unanswered;
        // at 1.2 s the first one fails, at 1.7 s the second one
        assert_eq!(scene.answer(CONTENT, 1900 * MILLI).await, None);
        assert_eq!(scene.sent.lock().unwrap().len(), 4);
        let mut alone = Scene::new(300 * MILLI);
        alone.answer = unanswered;
        assert_eq!(alone.answer(CONTENT, 5 * SECOND).await, None);
        assert_eq!(alone.sent.lock().unwrap().len(), 1, "its error is returned at once");
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_copy_that_is_answered_later_is_not_taken() {
        let mut scene = Scene::new(1400 * MILLI);
        assert_eq!(scene.answer(CONTENT, 900 * MILLI).await, None); // sent at 0 and 0.5 s
        scene.takes = MILLI;
        assert_eq!(scene.answer(CONTENT, 5 * SECOND).await, Some((1000, 1)));
        scene.takes = 10 * SECOND;
        assert_eq!(
            scene.answer(CONTENT, SECOND).await,
            None,
            "those sent before are no news"
        );
    }
}
