//! What is known of one connection: bytes received, the oldest request that waits, latency, and why it ended. What
//! follows from it is left to `connection`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use base::{Clock, clock::Boottime};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::Cause;
use crate::latency::Latency;

/// Shared by a connection, its stream, and the requests on it.
pub(super) struct ConnectionMonitor {
    clock: Clock,
    received: AtomicU64,
    /// Bytes received when the oldest request that may still be pending was sent, and when that was.
    oldest_pending: Mutex<Option<(u64, Boottime)>>,
    latency: Mutex<Latency>,
    first_bytes: Notify,
    close: CancellationToken,
    closed: CancellationToken,
    reason: OnceLock<Cause>,
}

impl ConnectionMonitor {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            received: AtomicU64::new(0),
            oldest_pending: Mutex::default(),
            latency: Mutex::default(),
            first_bytes: Notify::new(),
            close: CancellationToken::new(),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
        }
    }

    /// Returns the number of bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn record_received(&self, bytes: usize) {
        if bytes > 0 && self.received.fetch_add(bytes as u64, Ordering::Relaxed) == 0 {
            self.first_bytes.notify_one();
        }
    }

    /// Waits until the server has sent anything. For one task.
    pub(super) async fn first_bytes(&self) {
        self.first_bytes.notified().await;
    }

    /// Records that a request is sent now.
    pub(super) fn note_sent(&self) {
        let (mut pending, received) = (self.lock_oldest_pending(), self.received());
        if pending.is_none_or(|(received_then, _)| received_then != received) {
            *pending = Some((received, self.clock.now()));
        }
    }

    /// Returns whether no byte has arrived since the oldest pending request was sent, at least this long ago.
    pub(super) fn is_silent_for(&self, limit: Duration) -> bool {
        let pending = *self.lock_oldest_pending();
        let now = self.clock.now();
        pending.is_some_and(|(received, since)| received == self.received() && now.since(since) >= limit)
    }

    /// Records a response that arrives now to bytes that were sent at `began`.
    pub(super) fn measure_since(&self, began: Boottime) {
        let now = self.clock.now();
        self.lock_latency().measure(now.since(began), now);
    }

    /// Starts the measurement of one request.
    pub(super) fn start_request(&self) -> RequestTimer<'_> {
        RequestTimer {
            monitor: self,
            number: self.lock_latency().sent(self.clock.now()),
        }
    }

    /// Returns the latency to expect of a request sent now.
    pub(super) fn expected(&self) -> Duration {
        self.lock_latency().expected(self.clock.now())
    }

    /// Returns the latency of past responses.
    pub(super) fn measured(&self) -> Duration {
        self.lock_latency().measured()
    }

    /// Returns whether nothing has been measured for this long.
    pub(super) fn is_unmeasured_for(&self, time: Duration) -> bool {
        self.lock_latency().is_unmeasured_for(time, self.clock.now())
    }

    /// Requests that the stream ends. The first reason counts.
    pub(super) fn close(&self, why: &str) {
        self.record_error(why);
        self.close.cancel();
    }

    /// Waits until [`Self::close`] is called.
    pub(super) fn close_requested(&self) -> WaitForCancellationFutureOwned {
        self.close.clone().cancelled_owned()
    }

    /// Records why the connection ends. The first reason counts.
    pub(super) fn record_error(&self, why: &str) {
        self.reason.get_or_init(|| Cause::new(why));
    }

    /// Returns why the connection has ended, if that is known.
    pub(super) fn reason(&self) -> Option<Cause> {
        self.reason.get().cloned()
    }

    /// Records that the stream is gone.
    pub(super) fn set_closed(&self) {
        self.closed.cancel();
    }

    /// Returns whether the connection has ended, or is about to.
    pub(super) fn is_closed(&self) -> bool {
        self.close.is_cancelled() || self.closed.is_cancelled()
    }

    /// Waits until the stream is gone.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn lock_oldest_pending(&self) -> MutexGuard<'_, Option<(u64, Boottime)>> {
        self.oldest_pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_latency(&self) -> MutexGuard<'_, Latency> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Times one request; one that is dropped without a response counts as abandoned.
pub(super) struct RequestTimer<'l> {
    monitor: &'l ConnectionMonitor,
    number: Option<u64>,
}

impl RequestTimer<'_> {
    pub(super) fn answered(mut self) {
        if let Some(number) = self.number.take() {
            let now = self.monitor.clock.now();
            self.monitor.lock_latency().answered(number, now);
        }
    }
}

impl Drop for RequestTimer<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let now = self.monitor.clock.now();
            self.monitor.lock_latency().abandoned(number, now);
        }
    }
}
