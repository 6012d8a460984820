//! The requests that publish the info. A request is repeated while its response is missing, so that a store whose responses
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
const RESEND_DELAY_MIN: Duration = Duration::from_millis(50);

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

/// When the answered request was sent, and the response; or why there is none.
pub(super) type PublishAnswer = Result<(Boottime, CommitOrRead), Option<StoreError>>;

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
    /// Ignores all responses that are still to come. The store may execute the requests all the same.
    pub(super) fn discard(&mut self) {
        *self = Self::default();
    }

    /// Repeats the request until one of them is answered. Returns the time just before that one was sent, and its
    /// response. The others stay in flight, so that the next call gets a response sooner.
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
    ) -> PublishAnswer
    where
        F: Fn(Boottime) -> Option<Fut>,
        Fut: Future<Output = Result<CommitOrRead, StoreError>> + Send + 'static,
    {
        if self.publication != Some(publication) {
            self.discard();
            self.publication = Some(publication);
        }
        let end = now() + limit;
        loop {
            let sent = now();
            // Without a request in flight there is no response to wait for.
            let is_waiting = !self.in_flight.is_empty();
            let due = self.next_due(publication, sent);
            if due.is_some_and(|due| due <= sent) {
                // The time is taken before `send` checks whether the lease lasts long enough.
                match send(sent) {
                    Some(request) => drop(self.in_flight.spawn(async move { (sent, request.await) })),
                    None if is_waiting => {}
                    None => return Err(None),
                }
                self.last_sent = Some(sent);
                continue;
            }
            let wait = due.map_or(end, |due| due.min(end));
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
            let outcome = match answer {
                Ok((sent, answer)) => self.accept(sent, answer, publication, now()),
                // A task that panicked has no response.
                Err(_) => self.in_flight.is_empty().then_some(Err(None)),
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    /// Returns when the next request is to be sent; `None` while there are enough in flight.
    fn next_due(&self, publication: Publication, now: Boottime) -> Option<Boottime> {
        let resend_after = (publication.timeout / REQUESTS_PER_TIMEOUT).max(RESEND_DELAY_MIN);
        let last_sent = self.last_sent.filter(|_| !self.in_flight.is_empty());
        let due = last_sent.map_or(now, |last| last + resend_after);
        (self.in_flight.len() < REQUESTS_MAX).then_some(due)
    }

    /// Takes the response to the request that was sent then. Returns what the caller gets; `None`: the response does not
    /// count, and others are awaited.
    fn accept(
        &mut self,
        sent: Boottime,
        answer: Result<CommitOrRead, StoreError>,
        publication: Publication,
        now: Boottime,
    ) -> Option<PublishAnswer> {
        // The process was paused after sending, or the response waited for this call.
        let is_expired = sent + publication.timeout <= now;
        match answer {
            Ok(CommitOrRead::Committed(_))
                if is_expired || self.newest_committed.is_some_and(|newer| newer >= sent) =>
            {
                None
            }
            Ok(CommitOrRead::Committed(committed)) => {
                self.newest_committed = Some(sent);
                Some(Ok((sent, CommitOrRead::Committed(committed))))
            }
            Ok(refused) => {
                self.discard();
                Some(Ok((sent, refused)))
            }
            Err(error) => {
                let is_refused = matches!(error, StoreError::Refused { .. });
                if is_refused {
                    self.discard();
                }
                (is_refused || self.in_flight.is_empty()).then_some(Err(Some(error)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
