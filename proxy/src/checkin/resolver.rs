//! Looks names up in the background. There is one current lookup, which continues when a check-in stops waiting for it.
//! What a response means is left to `address`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::address::LookupResult;
use crate::route::MasterEndpoint;

/// Limit of concurrent lookups. An abandoned one cannot be cancelled (getaddrinfo(3)), and occupies a thread.
const LOOKUPS_MAX: usize = 4;

/// The system's blocking lookup, or a test's.
type LookupFn = dyn Fn(&MasterEndpoint) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The resolver with its current lookup.
pub(super) struct Resolver {
    look_up: Arc<LookupFn>,
    permits: Arc<Semaphore>,
    finished: Arc<Notify>,
    pending: Option<PendingLookup>,
}

struct PendingLookup {
    endpoint: MasterEndpoint,
    task: JoinHandle<io::Result<Vec<SocketAddr>>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = self.pending.as_ref().map(|pending| &pending.endpoint);
        f.debug_struct("Resolver")
            .field("pending", &pending)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// Returns a resolver that uses the system's.
    pub(super) fn system() -> Self {
        Self::new(|endpoint| Ok((endpoint.host.as_str(), endpoint.port).to_socket_addrs()?.collect()))
    }

    fn new(look_up: impl Fn(&MasterEndpoint) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self {
            look_up: Arc::new(look_up),
            permits: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            finished: Arc::new(Notify::new()),
            pending: None,
        }
    }

    /// Starts to look the name up, or continues to, and waits up to `timeout`. Each response is returned once.
    pub(super) async fn look_up_within(&mut self, endpoint: &MasterEndpoint, timeout: Duration) -> LookupResult {
        let pending = match self.pending.take().filter(|pending| pending.endpoint == *endpoint) {
            Some(pending) => pending,
            None => match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => self.start(endpoint.clone(), permit),
                Err(_) => return LookupResult::Failed(format!("{LOOKUPS_MAX} earlier lookups are still not answered")),
            },
        };
        let pending = self.pending.insert(pending); // stays when this future is dropped
        let Ok(answer) = tokio::time::timeout(timeout, &mut pending.task).await else {
            return LookupResult::Pending;
        };
        self.pending = None;
        match answer {
            Ok(Ok(addresses)) => LookupResult::Addresses(addresses),
            Ok(Err(error)) => LookupResult::Failed(error.to_string()),
            Err(error) => LookupResult::Failed(error.to_string()),
        }
    }

    fn start(&self, endpoint: MasterEndpoint, permit: OwnedSemaphorePermit) -> PendingLookup {
        let (look_up, finished, target) = (Arc::clone(&self.look_up), Arc::clone(&self.finished), endpoint.clone());
        let task = tokio::task::spawn_blocking(move || {
            let answer = look_up(&target);
            drop(permit);
            finished.notify_one();
            answer
        });
        PendingLookup { endpoint, task }
    }

    /// Waits until a lookup has finished whose response was not returned yet.
    pub(super) async fn finished(&self) {
        loop {
            self.finished.notified().await;
            if self.pending.is_some() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};

    use super::*;

    const NO_WAIT: Duration = Duration::ZERO;
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

    /// Returns a resolver that hangs until a response is sent to it.
    fn scripted() -> (Resolver, Sender<io::Result<Vec<SocketAddr>>>) {
        let (answers, script): (_, Receiver<io::Result<Vec<SocketAddr>>>) = channel();
        let script = Mutex::new(script);
        let resolver = Resolver::new(move |_| {
            let script = script.lock().unwrap_or_else(PoisonError::into_inner);
            script
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the test is over")))
        });
        (resolver, answers)
    }

    fn named(host: &str) -> MasterEndpoint {
        MasterEndpoint {
            host: host.to_owned(),
            port: 5432,
        }
    }

    fn addresses(last: u8) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([192, 0, 2, last], 5432))]
    }

    #[tokio::test]
    async fn a_lookup_that_is_not_waited_for_continues_and_is_returned_later() {
        let (mut resolver, answers) = scripted();
        for _ in 0..3 {
            assert_eq!(
                resolver.look_up_within(&named("db"), NO_WAIT).await,
                LookupResult::Pending
            );
        }
        answers.send(Ok(addresses(1))).unwrap();
        let woken = tokio::time::timeout(ANSWER_TIMEOUT, resolver.finished()).await;
        woken.expect("its end is noticed");
        // All calls shared one lookup: the next one has to wait for another answer.
        assert_eq!(
            resolver.look_up_within(&named("db"), ANSWER_TIMEOUT).await,
            LookupResult::Addresses(addresses(1))
        );
        assert_eq!(
            resolver.look_up_within(&named("db"), NO_WAIT).await,
            LookupResult::Pending
        );
    }

    #[tokio::test]
    async fn an_answer_for_another_name_is_not_returned() {
        let (mut resolver, answers) = scripted();
        assert_eq!(
            resolver.look_up_within(&named("old"), NO_WAIT).await,
            LookupResult::Pending
        );
        assert_eq!(
            resolver.look_up_within(&named("new"), NO_WAIT).await,
            LookupResult::Pending
        );
        answers.send(Ok(addresses(1))).unwrap();
        answers.send(Err(io::Error::other("no such name"))).unwrap();
        let answer = resolver.look_up_within(&named("new"), ANSWER_TIMEOUT).await;
        // Either thread may take either answer; that of the old name is never returned.
        assert!(
            matches!(answer, LookupResult::Addresses(_) | LookupResult::Failed(_)),
            "{answer:?}"
        );
        assert!(resolver.pending.is_none());
    }

    #[tokio::test]
    async fn a_resolver_that_never_answers_occupies_a_bounded_number_of_threads() {
        let (mut resolver, answers) = scripted();
        for number in 0..LOOKUPS_MAX {
            assert_eq!(
                resolver.look_up_within(&named(&number.to_string()), NO_WAIT).await,
                LookupResult::Pending
            );
        }
        let refused = resolver.look_up_within(&named("one more"), NO_WAIT).await;
        assert_eq!(
            refused,
            LookupResult::Failed("4 earlier lookups are still not answered".to_owned())
        );
        drop(answers);
    }

    #[tokio::test]
    async fn invalid_names_are_errors() {
        let mut resolver = Resolver::system();
        for host in ["", "\0", "no such host", &"a".repeat(100_000)] {
            let answer = resolver.look_up_within(&named(host), ANSWER_TIMEOUT).await;
            assert!(matches!(answer, LookupResult::Failed(_)), "{host:?}: {answer:?}");
        }
    }
}
