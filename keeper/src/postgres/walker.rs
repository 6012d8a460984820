//! Walks through directories that may be on a file system that does not answer, such as that of a dead NFS server: the
//! kernel holds a thread that asks one, and nothing ends it. So there is one walk at a time, on a thread of its own, and
//! whoever waits for it gives up when it does not get on.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long a walk may take from one step to the next.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A walk does not get on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} does not answer", path.display())]
pub struct FileSystemHung {
    /// What it looks at.
    pub path: PathBuf,
}

/// Runs walks, one after the other.
#[derive(Debug, Clone)]
pub struct Walker {
    limit: Duration,
    permit: Arc<Semaphore>,
    state: Arc<WalkState>,
}

#[derive(Debug, Default)]
struct WalkState {
    at: Mutex<PathBuf>,
    steps: AtomicU64,
}

impl Walker {
    /// Nothing is under way; each step of a walk may take as long as `limit`.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            permit: Arc::new(Semaphore::new(1)),
            state: Arc::default(),
        }
    }

    /// Runs `walk` on a thread of its own, after the one that is under way. A walk that is given up is not ended: until
    /// it ends by itself no other one begins, and the next caller is told what it hangs at.
    pub async fn run<T: Send + 'static>(&self, walk: impl FnOnce() -> T + Send + 'static) -> Result<T, FileSystemHung> {
        let turn = self.acquire().await?;
        let state = Arc::clone(&self.state);
        let walk = spawn_blocking(move || {
            let _turn = turn;
            CURRENT.set(Some(state));
            let found = walk();
            CURRENT.set(None);
            found
        });
        let found = self.unless_hung(walk).await?;
        Ok(found.expect("looking at directories does not panic"))
    }

    /// Waits for the end of the walk that is under way; no other one begins before the turn is dropped.
    pub async fn acquire(&self) -> Result<WalkPermit, FileSystemHung> {
        let turn = self.unless_hung(Arc::clone(&self.permit).acquire_owned()).await?;
        Ok(WalkPermit(turn.expect("the semaphore is never closed")))
    }

    async fn unless_hung<F: Future>(&self, end: F) -> Result<F::Output, FileSystemHung> {
        let mut end = pin!(end);
        loop {
            let steps = self.state.steps.load(Ordering::Relaxed);
            if let Ok(output) = timeout(self.limit, &mut end).await {
                return Ok(output);
            }
            if self.state.steps.load(Ordering::Relaxed) == steps {
                let path = self.state.at.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(FileSystemHung { path });
            }
        }
    }
}

/// As long as it is there, no walk is under way but that of its owner.
#[derive(Debug)]
pub struct WalkPermit(#[expect(dead_code, reason = "it is held for its drop")] OwnedSemaphorePermit);

impl Default for Walker {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

thread_local!(static CURRENT: RefCell<Option<Arc<WalkState>>> = const { RefCell::new(None) });

/// A step of the walk on this thread, if there is one: what it looks at next.
pub(crate) fn progress_at(path: &Path) {
    CURRENT.with_borrow(|current| {
        if let Some(state) = current {
            path.clone_into(&mut state.at.lock().unwrap_or_else(PoisonError::into_inner));
            state.steps.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Does something on this thread, and counts its steps.
#[cfg(test)]
pub(crate) fn count_steps<T>(walk: impl FnOnce() -> T) -> (T, u64) {
    let state = Arc::new(WalkState::default());
    CURRENT.set(Some(Arc::clone(&state)));
    let done = walk();
    CURRENT.set(None);
    (done, state.steps.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_walk_that_hangs_is_named_and_no_other_one_begins_until_it_ends() {
        let walker = Walker::new(Duration::from_millis(50));
        let (answer, waits) = mpsc::channel::<()>();
        let hung = walker.run(move || {
            progress_at(Path::new("/fast"));
            progress_at(Path::new("/dead"));
            waits.recv()
        });
        let dead = FileSystemHung { path: "/dead".into() };
        assert_eq!(hung.await, Err(dead.clone()));
        let (begun, begins) = mpsc::channel();
        let second = walker.run({
            let begun = begun.clone();
            move || begun.send(2)
        });
        assert_eq!(second.await, Err(dead));
        answer.send(()).unwrap();
        while walker.run(|| ()).await.is_err() {}
        drop(begun);
        assert!(begins.recv().is_err(), "the second one never began");
    }

    #[tokio::test]
    async fn a_walk_that_gets_on_may_take_longer_than_the_limit() {
        let walker = Walker::new(Duration::from_millis(500));
        let (_kept, never) = mpsc::channel::<()>();
        let walk = walker.run(move || {
            for _ in 0..10 {
                progress_at(Path::new("/large"));
                let _ = never.recv_timeout(Duration::from_millis(100)); // it passes in any case
            }
        });
        assert_eq!(walk.await, Ok(()));
    }
}
