//! The two clocks: one that counts suspended time, for timeouts that safety depends on, and the wall clock for records
//! that people read. Decisions never read a clock; the loops have a `Clock`, read it and pass the value in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A point on `CLOCK_BOOTTIME`, which is monotonic and continues while the machine is suspended (clock_gettime(2)).
///
/// Only differences are meaningful, and only on one machine within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Boottime(u64);

impl Boottime {
    /// Reads the clock, without a system call where the kernel offers a vDSO function for it.
    pub fn now() -> Self {
        Self(nanos(clock_gettime(ClockId::Boottime)))
    }

    /// Returns the point this many nanoseconds after the clock's start; used by tests and atomics.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to `self`; zero when `self` is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the point `duration` earlier, at least the clock's start.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(saturating_nanos(duration)))
    }
}

impl std::ops::Add<Duration> for Boottime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(duration)))
    }
}

/// A source of time for a loop: the system's clocks, or whatever a test or a simulation returns.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Custom(Arc<dyn Fn() -> Boottime + Send + Sync>),
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that returns what `read` returns. Its wall clock counts from 1970.
    pub fn custom(read: impl Fn() -> Boottime + Send + Sync + 'static) -> Self {
        Self(Source::Custom(Arc::new(read)))
    }

    /// Returns the time that safety depends on.
    #[expect(clippy::disallowed_methods, reason = "the one source of time that loops read")]
    pub fn now(&self) -> Boottime {
        match &self.0 {
            Source::System => Boottime::now(),
            Source::Custom(read) => read(),
        }
    }

    /// Returns nanoseconds since 1970, for records that people read.
    #[expect(clippy::disallowed_methods, reason = "the one source of time that loops read")]
    pub fn wall(&self) -> i128 {
        match &self.0 {
            Source::System => wall_clock(),
            Source::Custom(read) => i128::from(read().as_nanos()),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock(system)",
            Source::Custom(_) => "Clock(custom)",
        })
    }
}

/// Returns nanoseconds since 1970 on the wall clock. It may jump, so no timeout that safety depends on may use it.
pub fn wall_clock() -> i128 {
    let now = clock_gettime(ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

fn nanos(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let fraction = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + fraction
}

fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the clock itself is under test")]
    fn boottime_never_goes_back() {
        let first = Boottime::now();
        assert!(Boottime::now() >= first);
    }

    #[test]
    fn a_custom_clock_has_one_time_for_both_clocks() {
        let clock = Clock::custom(|| Boottime::from_nanos(9));
        assert_eq!((clock.now(), clock.wall()), (Boottime::from_nanos(9), 9));
    }

    #[test]
    fn differences_never_wrap() {
        let (early, late) = (Boottime::from_nanos(5), Boottime::from_nanos(8));
        assert_eq!(late.since(early), Duration::from_nanos(3));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.before(Duration::from_secs(1)), Boottime::from_nanos(0));
    }
}
