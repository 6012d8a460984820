//! An alarm clock on the boottime clock, for leases: a timer of the runtime would sleep on through a suspension of the
//! machine and ring late.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use control::clock::Boottime;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use super::{Gate, sys};

/// One timer descriptor, bound to the runtime that made it.
#[derive(Debug)]
pub struct BoottimeTimer {
    timer: AsyncFd<OwnedFd>,
    /// What the timer is set to, so that waiting for the same time again costs no system call; 0: not set.
    set_to: AtomicU64,
}

impl BoottimeTimer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Self {
            timer: sys::readable(timer)?,
            set_to: AtomicU64::new(0),
        })
    }

    /// Waits until the boottime clock has reached `when`. Dropping the future and waiting for another time is fine.
    pub async fn wait_until(&self, when: Boottime) -> io::Result<()> {
        // 0 would disarm the timer (timerfd_settime(2)), and 1 ns after the start of the machine is as past as that.
        let nanos = when.as_nanos().max(1);
        if self.set_to.swap(nanos, Ordering::Relaxed) != nanos {
            self.set(nanos)?;
        }
        loop {
            let mut ready = self.timer.readable().await?;
            // Setting the timer took back what had rung before, so a ring that is read here is this one's.
            let fired = ready.try_io(|timer| {
                let mut expirations = [0; 8];
                Ok(rustix::io::read(timer, &mut expirations)?)
            });
            match fired {
                Ok(fired) => {
                    self.set_to.store(0, Ordering::Relaxed);
                    return fired.map(|_| ());
                }
                Err(_stale) => continue,
            }
        }
    }

    fn set(&self, nanos: u64) -> io::Result<()> {
        const SECOND: u64 = 1_000_000_000;
        let it_value = Timespec {
            tv_sec: i64::try_from(nanos / SECOND).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % SECOND).unwrap_or(0),
        };
        let it_interval = Timespec::default(); // once
        let time = Itimerspec { it_interval, it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &time)?;
        Ok(())
    }

    /// Waits until the lease of `gate` has ended, and closes the gate, or until the gate is closed for another reason.
    /// Gives true when the lease ended (fencing F-4).
    ///
    /// A renewal is noticed when the old end has come; after one that moved the end forward, call it anew.
    #[expect(clippy::disallowed_methods, reason = "the end of a lease is told by the clock")]
    pub async fn lease_end(&self, gate: &Gate) -> io::Result<bool> {
        while let Some(lease_end) = gate.lease_end() {
            tokio::select! {
                fired = self.wait_until(lease_end) => fired?,
                () = gate.closed() => return Ok(false),
            }
            if gate.expire(Boottime::now()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
