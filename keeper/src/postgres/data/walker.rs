//! Walks through directories that may be on a hanging file system, such as that of a dead NFS server: the kernel blocks
//! the thread, and nothing can end it. Therefore each walker runs one walk at a time, on a thread of its own, and its
//! caller gives up when it makes no progress. Walks for different purposes have a walker each (keeper 12.11). A slow fsync makes progress as long as its device writes.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt;
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
    /// Statistics of the device that is being synced (Documentation/block/stat.rst).
    device: Mutex<Option<PathBuf>>,
}

/// How far a walk has got: its steps, and what the device that it syncs has written.
#[derive(Debug, PartialEq, Eq)]
struct WalkProgress {
    steps: u64,
    written: Option<u64>,
}

impl WalkState {
    fn progress(&self) -> WalkProgress {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner).clone();
        WalkProgress {
            steps: self.steps.load(Ordering::Relaxed),
            written: device.and_then(|statistics| sectors_written(&statistics)),
        }
    }
}

fn sectors_written(statistics: &Path) -> Option<u64> {
    let text = fs::read_to_string(statistics).ok()?;
    text.split_whitespace().nth(6)?.parse().ok()
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
            let before = self.state.progress();
            if let Ok(output) = timeout(self.limit, &mut end).await {
                return Ok(output);
            }
            if self.state.progress() == before {
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

/// Reports progress as [`progress_at`] does, and runs `sync`, which syncs a file or directory at this path. It may take
/// long on a busy device, and makes progress as long as the device writes.
pub(crate) fn sync_at<T>(path: &Path, sync: impl FnOnce() -> T) -> T {
    progress_at(path);
    let device = fs::metadata(path).ok().map(|found| statistics_of(found.dev()));
    set_device(device);
    let synced = sync();
    set_device(None);
    synced
}

/// Returns where the kernel has the statistics of a block device. Other file systems' devices have none.
fn statistics_of(device: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"))
}

fn set_device(statistics: Option<PathBuf>) {
    CURRENT.with_borrow(|current| {
        if let Some(state) = current {
            *state.device.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
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
    use std::sync::mpsc::{self, RecvTimeoutError};

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

    /// A sync that takes this number of twentieths of a second, or until the walker has given it up, while the statistics
    /// of its device are what `next` returns.
    async fn slow_sync(duration: u64, next: impl Fn(u64) -> String + Send + 'static) -> Result<(), FileSystemHung> {
        let dir = tempfile::tempdir().unwrap();
        let statistics = dir.path().join("stat");
        let (given_up, wait) = mpsc::channel::<()>();
        let sync = move || {
            sync_at(Path::new("/busy"), || {
                set_device(Some(statistics.clone()));
                for n in 0..duration {
                    let is_written = fs::write(&statistics, next(n)).is_ok();
                    let waited = wait.recv_timeout(Duration::from_millis(50));
                    if !is_written || waited == Err(RecvTimeoutError::Disconnected) {
                        break;
                    }
                }
            });
        };
        let result = Walker::new(Duration::from_millis(500)).run(sync).await;
        drop(given_up);
        result
    }

    #[tokio::test]
    async fn a_slow_sync_is_waited_for_as_long_as_its_device_writes() {
        // Reads, merges, sectors, time; the same of writes; in flight, and two times.
        let written = slow_sync(20, |n| format!("1 0 8 1 5 0 {n} 7 1 7 8")).await;
        assert_eq!(written, Ok(()));
        let stuck = slow_sync(1000, |n| format!("{n} 0 8 1 5 0 40 7 1 {n} {n}")).await;
        assert_eq!(stuck, Err(FileSystemHung { path: "/busy".into() }));
    }

    #[test]
    fn the_statistics_of_a_device_are_found_by_its_number() {
        let number = rustix::fs::makedev(259, 3);
        assert_eq!(statistics_of(number), Path::new("/sys/dev/block/259:3/stat"));
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
