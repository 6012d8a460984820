//! Pipes for splicing, one pool a thread: borrowed while bytes are in them, and only empty ones come back. It knows
//! nothing of what flows through.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::PipeFlags;

/// Pipes of one thread at most, in use and waiting: two descriptors each, which `args` keeps free. A direction that
/// gets none copies.
pub(crate) const PIPES_MAX: usize = 32;
/// Empty pipes that wait for use.
const IDLE_PIPES_MAX: usize = 8;
/// What is asked for, in this order: 1 MiB is what anybody may have at the most (pipe(7), `pipe-max-size`). Pipes of
/// 64 KiB limit splicing, and what a larger one saves are rounds.
const PIPE_BYTES: [usize; 2] = [1024 * 1024, 256 * 1024];
/// The least that is worth it. A user who has too much in pipes gets less (pipe(7), `pipe-user-pages-soft`).
const PIPE_BYTES_MIN: usize = 64 * 1024;

thread_local! {
    static POOL: RefCell<PipePool> = RefCell::default();
}

#[derive(Debug, Default)]
struct PipePool {
    idle: Vec<Pipe>,
    /// Pipes of this thread; shared, because a runtime of many threads may drop one elsewhere.
    open_count: Arc<AtomicUsize>,
}

/// An empty pipe, or one whose borrower knows how much it holds.
#[derive(Debug)]
pub(super) struct Pipe {
    take: OwnedFd,
    give: OwnedFd,
    /// How many bytes it can hold; fewer when they come in many small segments, as it fills by slots.
    pub(super) bytes_max: usize,
    _count: PipeCount,
}

#[derive(Debug)]
struct PipeCount(Arc<AtomicUsize>);

impl Drop for PipeCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    /// An empty pipe; `None` when this thread has as many as it may, or the kernel gives none that is large enough.
    pub(super) fn acquire() -> Option<Self> {
        POOL.with_borrow_mut(|pool| pool.idle.pop().or_else(|| pool.open()))
    }

    /// Gives an empty pipe back. One that still holds bytes is dropped instead, which closes it.
    pub(super) fn release(self) {
        POOL.with_borrow_mut(|pool| {
            if pool.idle.len() < IDLE_PIPES_MAX {
                pool.idle.push(self);
            }
        });
    }

    /// The end that bytes come out of.
    pub(super) fn read_end(&self) -> BorrowedFd<'_> {
        self.take.as_fd()
    }

    /// The end that bytes go into.
    pub(super) fn write_end(&self) -> BorrowedFd<'_> {
        self.give.as_fd()
    }
}

impl PipePool {
    fn open(&self) -> Option<Pipe> {
        let count = PipeCount(Arc::clone(&self.open_count));
        if self.open_count.fetch_add(1, Ordering::Relaxed) >= limit() {
            return None;
        }
        let (take, give) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let bytes_max = PIPE_BYTES
            .into_iter()
            .find_map(|bytes| rustix::pipe::fcntl_setpipe_size(&give, bytes).ok())
            .or_else(|| rustix::pipe::fcntl_getpipe_size(&give).ok())?;
        (bytes_max >= PIPE_BYTES_MIN).then_some(Pipe {
            take,
            give,
            bytes_max,
            _count: count,
        })
    }
}

#[cfg(not(test))]
fn limit() -> usize {
    PIPES_MAX
}

#[cfg(test)]
pub(super) use tests::{limit, pipe_counts, set_limit};

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static LIMIT: Cell<usize> = const { Cell::new(PIPES_MAX) };
    }

    pub(in super::super) fn limit() -> usize {
        LIMIT.get()
    }

    /// Lets this thread have no more than so many pipes.
    pub(in super::super) fn set_limit(pipes: usize) {
        LIMIT.set(pipes);
    }

    /// Pipes of this thread that are borrowed, and that wait.
    pub(in super::super) fn pipe_counts() -> (usize, usize) {
        POOL.with_borrow(|pool| {
            let waiting = pool.idle.len();
            (pool.open_count.load(Ordering::Relaxed) - waiting, waiting)
        })
    }

    #[test]
    fn an_empty_pipe_is_used_again_and_a_dropped_one_is_not() {
        let pipe = Pipe::acquire().unwrap();
        assert!(pipe.bytes_max >= PIPE_BYTES_MIN);
        let number = std::os::fd::AsRawFd::as_raw_fd(&pipe.take);
        assert_eq!(pipe_counts(), (1, 0));
        pipe.release();
        assert_eq!(pipe_counts(), (0, 1));
        let again = Pipe::acquire().unwrap();
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&again.take), number);
        drop(again);
        assert_eq!(pipe_counts(), (0, 0));
    }

    #[test]
    fn there_are_no_more_than_the_limit_and_few_wait() {
        let all: Vec<Pipe> = (0..PIPES_MAX).map(|_| Pipe::acquire().unwrap()).collect();
        assert!(Pipe::acquire().is_none());
        assert_eq!(pipe_counts(), (PIPES_MAX, 0));
        all.into_iter().for_each(Pipe::release);
        assert_eq!(pipe_counts(), (0, IDLE_PIPES_MAX));
    }
}
