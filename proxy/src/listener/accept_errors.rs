//! What follows from an accept that failed (proxy P-14). Accepting itself is left to `accept`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Clock;
use rustix::io::Errno;
use tracing::{debug, warn};

use super::rate_limited::RateLimited;
use crate::metrics::{Metrics, RefusalReason};

/// Delay after an accept for which the kernel had no memory, or no descriptor even with the spare one.
const ACCEPT_DELAY: Duration = Duration::from_millis(50);

/// Handles failed accepts, with a spare descriptor for when no other is left.
#[derive(Debug)]
pub(super) struct AcceptErrors {
    /// Closed for a moment when no descriptor is left, so that a client can be accepted and closed.
    spare_descriptor: Mutex<Option<OwnedFd>>,
    no_descriptors: RateLimited,
    no_memory: RateLimited,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl AcceptErrors {
    /// Opens the spare descriptor.
    pub(super) fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self {
            spare_descriptor: Mutex::new(open_spare_descriptor()),
            no_descriptors: RateLimited::default(),
            no_memory: RateLimited::default(),
            metrics,
            clock,
        }
    }

    /// Handles a failed accept; `accept_and_close` tries it once more, with the spare descriptor. Returns how long to
    /// delay before the next accept, if at all.
    pub(super) fn handle(&self, err: &io::Error, accept_and_close: impl FnOnce() -> bool) -> Option<Duration> {
        match err.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE) => {
                self.no_descriptors.log(
                    self.clock.now(),
                    || warn!(error = %err, "no descriptor for a client, closing it"),
                );
                let mut spare_fd = self.spare_descriptor.lock().unwrap_or_else(PoisonError::into_inner);
                drop(spare_fd.take());
                let closed = accept_and_close();
                *spare_fd = open_spare_descriptor();
                if closed {
                    self.metrics.connections.accepted.increment(1);
                    self.metrics.connections.count_refused(RefusalReason::Descriptors);
                }
                (!closed).then_some(ACCEPT_DELAY)
            }
            Some(Errno::NOBUFS | Errno::NOMEM) => {
                self.no_memory.log(
                    self.clock.now(),
                    || warn!(error = %err, "no memory for a client, waiting"),
                );
                Some(ACCEPT_DELAY)
            }
            // An error of the connection that was to be accepted (accept(2)). It is gone; the next one may be good.
            _ => {
                debug!(error = %err, "could not accept a client");
                None
            }
        }
    }
}

/// Opens a descriptor whose only use is to be closed when a client needs one.
fn open_spare_descriptor() -> Option<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).ok()
}
