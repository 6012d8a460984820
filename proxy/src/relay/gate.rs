//! The forwarding gate: whether bytes that were read from one socket may still be written to the other. Why a route
//! opens or closes is left to others.

#[cfg(any(debug_assertions, feature = "test-hooks"))]
mod hook;
mod lease_end;

use std::fmt;
use std::sync::OnceLock;

use base::clock::Boottime;
use tokio_util::sync::CancellationToken;

use self::lease_end::LeaseEnd;

mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

/// The permission to forward bytes to one server: one opening of the route together with its lease.
///
/// Every opening of a route creates a new gate, and a closed gate stays closed, so a connection needs no generation
/// number beside it. Each successful check-in renews the lease, and every forward compares it with the clock. Both are
/// one atomic, the end of the lease or 0: two atomics could be read on either side of a pause and both be valid
/// although they never were at the same moment.
#[derive(Debug)]
pub struct Gate {
    lease_end: LeaseEnd,
    close_event: OnceLock<CloseEvent>,
    closed: CancellationToken,
    #[cfg(any(debug_assertions, feature = "test-hooks"))]
    hook: hook::Hook,
}

/// When and why a gate closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseEvent {
    /// Why forwarding stopped.
    pub reason: CloseReason,
    /// When forwarding stopped.
    pub at: Boottime,
}

/// Why all connections to a server are ended at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The cluster data name another master or none, or do not enable this proxy.
    RouteChange,
    /// The store did not answer for longer than the lease (fencing F-4).
    Lease,
    /// The wall clock moved further than the boottime clock: the machine may have been paused (fencing section 1).
    ClockJump,
    /// The proxy is shutting down.
    Stopping,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RouteChange => "route change",
            Self::Lease => "lease ended",
            Self::ClockJump => "clock jumped",
            Self::Stopping => "stopping",
        })
    }
}

impl Gate {
    /// Returns an open gate whose lease ends at `until`.
    pub fn new(until: Boottime) -> Self {
        Self {
            lease_end: LeaseEnd::new(until.as_nanos()),
            close_event: OnceLock::new(),
            closed: CancellationToken::new(),
            #[cfg(any(debug_assertions, feature = "test-hooks"))]
            hook: hook::Hook::from_env(),
        }
    }

    /// Runs `hook` at every forward, after the bytes were read and before the gate is checked.
    #[cfg(test)]
    #[must_use]
    pub(super) fn with_hook(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.hook = hook::Hook::new(hook);
        self
    }

    /// Whether bytes that have been read from one socket may be written to the other (fencing F-3).
    ///
    /// Must be called after the read and before the write. True then proves that the lease was valid at a moment after
    /// the read, so the bytes were sent before any other master could be published. A check before the read would prove
    /// nothing if the process is paused in between. Costs one clock read through the vDSO and one comparison.
    #[expect(clippy::disallowed_methods, reason = "the relay reads the clock at every forward")]
    pub fn admits(&self) -> bool {
        #[cfg(any(debug_assertions, feature = "test-hooks"))]
        self.hook.run();
        self.is_open(Boottime::now())
    }

    /// Whether the gate is open and its lease has not ended at `now`.
    pub fn is_open(&self, now: Boottime) -> bool {
        self.lease_end.is_open(now.as_nanos())
    }

    /// Whether the gate has closed for good. A lease that has ended counts only after `expire` has been called.
    pub fn is_closed(&self) -> bool {
        self.lease_end.get() == 0
    }

    /// Returns the end of the lease, or `None` once closed.
    pub fn lease_end(&self) -> Option<Boottime> {
        match self.lease_end.get() {
            0 => None,
            nanos => Some(Boottime::from_nanos(nanos)),
        }
    }

    /// Returns when and why the gate closed.
    pub fn close_event(&self) -> Option<CloseEvent> {
        self.close_event.get().copied()
    }

    /// Moves the end of the lease to `until`, in either direction.
    ///
    /// Returns false, and changes nothing, if the gate is closed or its lease has already ended at `now`: then the next
    /// opening needs a new gate.
    pub fn renew(&self, until: Boottime, now: Boottime) -> bool {
        self.lease_end.renew(until.as_nanos(), now.as_nanos())
    }

    /// Stops all forwarding and wakes every connection, so that it ends. The first reason is kept.
    ///
    /// Once this has returned, no byte read later will be written; only then may the new proxy generation be published
    /// (fencing F-1).
    pub fn close(&self, reason: CloseReason, now: Boottime) {
        self.close_with(reason, now, || {});
    }

    /// Like `close`, and runs `before_wake` after forwarding has stopped and before thousands of connections are woken,
    /// which takes a while. It runs once, for the first reason.
    pub fn close_with(&self, reason: CloseReason, now: Boottime, before_wake: impl FnOnce()) {
        let first = self.close_event.set(CloseEvent { reason, at: now }).is_ok();
        self.lease_end.close();
        if first {
            before_wake();
        }
        self.closed.cancel();
    }

    /// Closes the gate if its lease has ended at `now`. Returns true if this call has closed it.
    pub fn expire(&self, now: Boottime) -> bool {
        self.expire_with(now, || {})
    }

    /// Like `expire`; `before_wake` as in `close_with`.
    pub fn expire_with(&self, now: Boottime, before_wake: impl FnOnce()) -> bool {
        let expired = self.lease_end.expire(now.as_nanos());
        if expired {
            self.close_with(CloseReason::Lease, now, before_wake);
        }
        expired
    }

    /// Waits until the gate is closed.
    pub fn closed(&self) -> impl Future<Output = ()> + Send {
        self.closed.cancelled()
    }
}

#[cfg(test)]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Boottime {
        Boottime::from_nanos(nanos)
    }

    #[test]
    fn is_open_strictly_before_the_end_of_the_lease() {
        let gate = Gate::new(at(100));
        assert!(gate.is_open(at(99)));
        assert!(!gate.is_open(at(100)));
    }

    #[test]
    fn a_renewal_moves_the_end_both_ways() {
        let gate = Gate::new(at(100));
        assert!(gate.renew(at(200), at(50)));
        assert!(gate.is_open(at(150)));
        assert!(gate.renew(at(120), at(60)));
        assert!(!gate.is_open(at(150)));
    }

    #[test]
    fn what_has_ended_is_not_renewed() {
        let gate = Gate::new(at(100));
        assert!(!gate.renew(at(200), at(100)), "the lease ended at 100");
        gate.close(CloseReason::RouteChange, at(50));
        assert!(!gate.renew(at(200), at(60)));
        assert!(!gate.is_open(at(60)));
    }

    #[test]
    fn expires_once_and_only_when_the_lease_has_ended() {
        let gate = Gate::new(at(100));
        assert!(!gate.expire(at(99)));
        assert!(!gate.is_closed());
        assert!(gate.expire(at(100)));
        assert!(!gate.expire(at(101)));
        assert_eq!(
            gate.close_event(),
            Some(CloseEvent {
                reason: CloseReason::Lease,
                at: at(100)
            })
        );
    }

    #[test]
    fn the_first_reason_stays_and_is_measured_alone() {
        let (gate, mut done) = (Gate::new(at(100)), Vec::new());
        gate.close_with(CloseReason::RouteChange, at(10), || done.push(CloseReason::RouteChange));
        gate.close_with(CloseReason::Stopping, at(20), || done.push(CloseReason::Stopping));
        assert!(!gate.expire_with(at(100), || done.push(CloseReason::Lease)));
        assert_eq!(done, [CloseReason::RouteChange]);
        assert_eq!(
            gate.close_event(),
            Some(CloseEvent {
                reason: CloseReason::RouteChange,
                at: at(10)
            })
        );
    }
}
