//! The atomic that every forward reads: the end of the lease, or 0 once closed. It has no clock and wakes no task. Its
//! atomics come from `super::atomic`, so that the tests can run the same code under every interleaving.

use super::atomic::{AtomicU64, Ordering};

/// End of the lease in nanoseconds of the boottime clock; 0 once closed, for good.
#[derive(Debug)]
pub(super) struct LeaseEnd(AtomicU64);

impl LeaseEnd {
    pub(super) fn new(nanos: u64) -> Self {
        Self(AtomicU64::new(nanos))
    }

    /// Returns the end of the lease; 0 once closed.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Whether it is open and the lease has not ended at `now`.
    pub(super) fn is_open(&self, now: u64) -> bool {
        now < self.get()
    }

    /// Moves the end of the lease, unless it has ended at `now`. Returns whether it was moved.
    pub(super) fn renew(&self, until: u64, now: u64) -> bool {
        let moved = |old: u64| (now < old).then_some(until);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, moved).is_ok()
    }

    pub(super) fn close(&self) {
        self.0.swap(0, Ordering::SeqCst); // not a store: ordered after every renewal that it races with
    }

    /// Closes it if the lease has ended at `now`. Returns true for the one call that has closed it.
    pub(super) fn expire(&self, now: u64) -> bool {
        let over = |old: u64| (old != 0 && now >= old).then_some(0);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, over).is_ok()
    }
}
