//! A pool of pipes for splicing, one for each thread. Pipes are in use while they hold bytes; only empty ones are
//! reused. What flows through them is left to `splice`.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::PipeFlags;

/// Limit of pipes of one thread, in use and idle: two descriptors each, which `args` reserves. A direction that gets
/// none copies.
pub(crate) const PIPES_MAX: usize = 32;
/// Limit of idle pipes.
const IDLE_PIPES_MAX: usize = 8;
/// Requested sizes, in this order: 1 MiB is the limit for unprivileged users (pipe(7), `pipe-max-size`). Pipes of 64
/// KiB would limit the throughput; larger ones save transfers.
const PIPE_BYTES: [usize; 2] = [1024 * 1024, 256 * 1024];
/// Smallest useful size. A user with too many pages in pipes gets less (pipe(7), `pipe-user-pages-soft`).
const PIPE_BYTES_MIN: usize = 64 * 1024;

thread_local! {
    static POOL: RefCell<PipePool> = RefCell::default();
}

#[derive(Debug, Default)]
struct PipePool {
    idle: Vec<Pipe>,
    /// Pipes of this thread. Shared, because a multi-threaded runtime may drop one on another thread.
    open_count: Arc<AtomicUsize>,
}

/// A pipe that is empty, or whose user counts how much it holds.
#[derive(Debug)]
pub(super) struct Pipe {
    read_end: OwnedFd,
    write_end: OwnedFd,
    /// How many bytes it can hold. Fewer if they come in many small segments, since each takes a slot.
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
    /// Returns an empty pipe. `None` if this thread has reached the limit, or the kernel grants none that is large
    /// enough.
    pub(super) fn acquire() -> Option<Self> {
        POOL.with_borrow_mut(|pool| pool.idle.pop().or_else(|| pool.open()))
    }

    /// Returns an empty pipe to the pool. One that still holds bytes must be dropped instead, which closes it.
    pub(super) fn release(self) {
        POOL.with_borrow_mut(|pool| {
            if pool.idle.len() < IDLE_PIPES_MAX {
                pool.idle.push(self);
            }
        });
    }

    /// The end that bytes are read from.
    pub(super) fn read_end(&self) -> BorrowedFd<'_> {
        self.read_end.as_fd()
    }

    /// The end that bytes are written to.
    pub(super) fn write_end(&self) -> BorrowedFd<'_> {
        self.write_end.as_fd()
    }
}

impl PipePool {
    fn open(&self) -> Option<Pipe> {
        let count = PipeCount(Arc::clone(&self.open_count));
        if self.open_count.fetch_add(1, Ordering::Relaxed) >= limit() {
            return None;
        }
        let (read_end, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let bytes_max = PIPE_BYTES
            .into_iter()
            .find_map(|bytes| rustix::pipe::fcntl_setpipe_size(&write_end, bytes).ok())
            .or_else(|| rustix::pipe::fcntl_getpipe_size(&write_end).ok())?;
        (bytes_max >= PIPE_BYTES_MIN).then_some(Pipe {
            read_end,
            write_end,
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

    /// Sets the limit of pipes of this thread.
    pub(in super::super) fn set_limit(pipes: usize) {
        LIMIT.set(pipes);
    }

    /// Returns the number of pipes of this thread in use, and idle.
    pub(in super::super) fn pipe_counts() -> (usize, usize) {
        POOL.with_borrow(|pool| {
            let idle = pool.idle.len();
            (pool.open_count.load(Ordering::Relaxed) - idle, idle)
        })
    }

    #[test]
    fn an_empty_pipe_is_used_again_and_a_dropped_one_is_not() {
        let pipe = Pipe::acquire().unwrap();
        assert!(pipe.bytes_max >= PIPE_BYTES_MIN);
        let number = std::os::fd::AsRawFd::as_raw_fd(&pipe.read_end);
        assert_eq!(pipe_counts(), (1, 0));
        pipe.release();
        assert_eq!(pipe_counts(), (0, 1));
        let again = Pipe::acquire().unwrap();
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&again.read_end), number);
        drop(again);
        assert_eq!(pipe_counts(), (0, 0));
    }

    #[test]
    fn there_are_no_more_than_the_limit_and_few_stay_idle() {
        let all: Vec<Pipe> = (0..PIPES_MAX).map(|_| Pipe::acquire().unwrap()).collect();
        assert!(Pipe::acquire().is_none());
        assert_eq!(pipe_counts(), (PIPES_MAX, 0));
        all.into_iter().for_each(Pipe::release);
        assert_eq!(pipe_counts(), (0, IDLE_PIPES_MAX));
    }
}
