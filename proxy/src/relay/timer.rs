//! A timer on the boottime clock, for leases. The runtime's timers use the monotonic clock, which stops while the
//! machine is suspended, so they would fire late.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use base::clock::Boottime;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use super::sys;

/// A timer descriptor, registered with the runtime that created it.
#[derive(Debug)]
pub struct BoottimeTimer {
    timer: AsyncFd<OwnedFd>,
    /// The time that the timer is set to, so that waiting for the same time again needs no system call; 0 if it is not
    /// set.
    set_to: AtomicU64,
}

impl BoottimeTimer {
    /// Returns a timer that is not set.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Self {
            timer: sys::readable(timer)?,
            set_to: AtomicU64::new(0),
        })
    }

    /// Waits until the boottime clock has reached `when`. The future may be dropped, and the timer used for another
    /// time.
    pub async fn wait_until(&self, when: Boottime) -> io::Result<()> {
        // 0 would disarm the timer (timerfd_settime(2)); 1 ns after boot is in the past as well.
        let nanos = when.as_nanos().max(1);
        if self.set_to.swap(nanos, Ordering::Relaxed) != nanos {
            self.set(nanos)?;
        }
        loop {
            let mut ready = self.timer.readable().await?;
            // Setting the timer discarded earlier expirations, so one that is read here belongs to this time.
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
        let it_interval = Timespec::default(); // not periodic
        let time = Itimerspec { it_interval, it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &time)?;
        Ok(())
    }
}
