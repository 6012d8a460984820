//! Walks through directories that may be on a hanging file system, such as that of a dead NFS server: the kernel blocks
//! the thread, and nothing can end it. Therefore only one walk runs at a time, on a thread of its own, and its caller
//! gives up when it makes no progress.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Time limit between two steps of a walk.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A walk makes no progress.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} does not answer", path.display())]
pub struct FileSystemHung {
    /// The path that it is accessing.
    pub path: PathBuf,
}

/// Runs walks one after another.
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
    /// Creates a walker; `limit` applies to each step of a walk.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            permit: Arc::new(Semaphore::new(1)),
            state: Arc::default(),
        }
    }

    /// Runs `walk` on a blocking thread, after the running one. An abandoned walk is not ended: until it returns no
    /// other starts, and callers get the path at which it hangs.
    pub async fn run<T: Send + 'static>(&self, walk: impl FnOnce() -> T + Send + 'static) -> Result<T, FileSystemHung> {
        let permit = self.acquire().await?;
        let state = Arc::clone(&self.state);
        let walk = spawn_blocking(move || {
            let _permit = permit;
            CURRENT.set(Some(state));
            let found = walk();
            CURRENT.set(None);
            found
        });
        let found = self.unless_hung(walk).await?;
        Ok(found.expect("looking at directories does not panic"))
    }

    /// Waits for the end of the running walk; no other starts until the permit is dropped.
    pub async fn acquire(&self) -> Result<WalkPermit, FileSystemHung> {
        let permit = self.unless_hung(Arc::clone(&self.permit).acquire_owned()).await?;
        Ok(WalkPermit(permit.expect("the semaphore is never closed")))
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

/// Permit to walk; no other walk runs while it is held.
#[derive(Debug)]
pub struct WalkPermit(#[expect(dead_code, reason = "it is held for its drop")] OwnedSemaphorePermit);

impl Default for Walker {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

thread_local!(static CURRENT: RefCell<Option<Arc<WalkState>>> = const { RefCell::new(None) });

/// Reports progress of the walk on this thread, if there is one: the path accessed next.
pub(crate) fn progress_at(path: &Path) {
    CURRENT.with_borrow(|current| {
        if let Some(state) = current {
            path.clone_into(&mut state.at.lock().unwrap_or_else(PoisonError::into_inner));
            state.steps.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Runs a walk on this thread and counts its steps.
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
    async fn a_hanging_walk_is_reported_and_no_other_starts_until_it_ends() {
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
    async fn a_walk_with_progress_may_take_longer_than_the_limit() {
        let walker = Walker::new(Duration::from_millis(500));
        let (_kept, never) = mpsc::channel::<()>();
        let walk = walker.run(move || {
            for _ in 0..10 {
                progress_at(Path::new("/large"));
                let _ = never.recv_timeout(Duration::from_millis(100)); // it times out
            }
        });
        assert_eq!(walk.await, Ok(()));
    }
}
