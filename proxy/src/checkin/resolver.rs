//! Name lookups in the background: one at a time, which goes on when a check-in does not wait for its end. What an answer
//! means is left to `address`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::address::LookupResult;
use crate::route::MasterEndpoint;

/// This many lookups may wait for the system at once: one that nobody waits for any more cannot be ended (getaddrinfo(3)),
/// and each keeps a thread.
const LOOKUPS_MAX: usize = 4;

/// How the system looks a name up. It blocks.
type LookUp = dyn Fn(&MasterEndpoint) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The lookup that was started last.
pub(super) struct Resolver {
    look_up: Arc<LookUp>,
    room: Arc<Semaphore>,
    finished: Arc<Notify>,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    endpoint: MasterEndpoint,
    task: JoinHandle<io::Result<Vec<SocketAddr>>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way = self.under_way.as_ref().map(|under_way| &under_way.endpoint);
        f.debug_struct("Resolver")
            .field("under_way", &under_way)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// The system's.
    pub(super) fn system() -> Self {
        Self::new(|endpoint| Ok((endpoint.host.as_str(), endpoint.port).to_socket_addrs()?.collect()))
    }

    fn new(look_up: impl Fn(&MasterEndpoint) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self {
            look_up: Arc::new(look_up),
            room: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            finished: Arc::new(Notify::new()),
            under_way: None,
        }
    }

    /// Looks this name up, or goes on with it, for as long as `patience`. An answer is given once.
    pub(super) async fn ask(&mut self, endpoint: &MasterEndpoint, patience: Duration) -> LookupResult {
        let under_way = match self
            .under_way
            .take()
            .filter(|under_way| under_way.endpoint == *endpoint)
        {
            Some(under_way) => under_way,
            None => match Arc::clone(&self.room).try_acquire_owned() {
                Ok(room) => self.start(endpoint.clone(), room),
                Err(_) => return LookupResult::Failed(format!("{LOOKUPS_MAX} earlier lookups are still not answered")),
            },
        };
        let under_way = self.under_way.insert(under_way); // stays when this is cancelled
        let Ok(answer) = tokio::time::timeout(patience, &mut under_way.task).await else {
            return LookupResult::Pending;
        };
        self.under_way = None;
        match answer {
            Ok(Ok(found)) => LookupResult::Addresses(found),
            Ok(Err(error)) => LookupResult::Failed(error.to_string()),
            Err(error) => LookupResult::Failed(error.to_string()),
        }
    }

    fn start(&self, endpoint: MasterEndpoint, room: OwnedSemaphorePermit) -> UnderWay {
        let (look_up, finished, asked) = (Arc::clone(&self.look_up), Arc::clone(&self.finished), endpoint.clone());
        let task = tokio::task::spawn_blocking(move || {
            let answer = look_up(&asked);
            drop(room);
            finished.notify_one();
            answer
        });
        UnderWay { endpoint, task }
    }

    /// Waits until a lookup has finished whose answer nobody has taken.
    pub(super) async fn finished(&self) {
        loop {
            self.finished.notified().await;
            if self.under_way.is_some() {
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

    const AT_ONCE: Duration = Duration::ZERO;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A resolver that answers what is sent to it, and hangs before.
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

    fn found(last: u8) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([192, 0, 2, last], 5432))]
    }

    #[tokio::test]
    async fn a_lookup_that_is_not_waited_for_goes_on_and_is_taken_later() {
        let (mut resolver, answers) = scripted();
        for _ in 0..3 {
            assert_eq!(resolver.ask(&named("db"), AT_ONCE).await, LookupResult::Pending);
        }
        answers.send(Ok(found(1))).unwrap();
        let woken = tokio::time::timeout(PATIENCE, resolver.finished()).await;
        woken.expect("its end is noticed");
        // one lookup for all that asked: the next one would have to wait for another answer
        assert_eq!(
            resolver.ask(&named("db"), PATIENCE).await,
            LookupResult::Addresses(found(1))
        );
        assert_eq!(resolver.ask(&named("db"), AT_ONCE).await, LookupResult::Pending);
    }

    #[tokio::test]
    async fn an_answer_for_another_name_is_not_taken() {
        let (mut resolver, answers) = scripted();
        assert_eq!(resolver.ask(&named("old"), AT_ONCE).await, LookupResult::Pending);
        assert_eq!(resolver.ask(&named("new"), AT_ONCE).await, LookupResult::Pending);
        answers.send(Ok(found(1))).unwrap();
        answers.send(Err(io::Error::other("no such name"))).unwrap();
        let answer = resolver.ask(&named("new"), PATIENCE).await;
        // which of the two threads takes which answer is open; the old name's is never reported
        assert!(
            matches!(answer, LookupResult::Addresses(_) | LookupResult::Failed(_)),
            "{answer:?}"
        );
        assert!(resolver.under_way.is_none());
    }

    #[tokio::test]
    async fn a_system_that_never_answers_costs_a_few_threads_and_no_more() {
        let (mut resolver, answers) = scripted();
        for number in 0..LOOKUPS_MAX {
            assert_eq!(
                resolver.ask(&named(&number.to_string()), AT_ONCE).await,
                LookupResult::Pending
            );
        }
        let refused = resolver.ask(&named("one more"), AT_ONCE).await;
        assert_eq!(
            refused,
            LookupResult::Failed("4 earlier lookups are still not answered".to_owned())
        );
        drop(answers);
    }

    #[tokio::test]
    async fn names_that_are_none_are_errors() {
        let mut resolver = Resolver::system();
        for host in ["", "\0", "no such host", &"a".repeat(100_000)] {
            let answer = resolver.ask(&named(host), PATIENCE).await;
            assert!(matches!(answer, LookupResult::Failed(_)), "{host:?}: {answer:?}");
        }
    }
}
