//! Detects that a leader's writes are never sent because what was read is too old each time (fencing F-7). Then nothing
//! fails over, which is logged once for the operator.

use std::time::Duration;

use base::clock::Boottime;

/// Since when no write of this leadership was sent.
#[derive(Debug, Default)]
pub(super) struct StaleReads {
    since: Option<Boottime>,
    is_reported: bool,
}

impl StaleReads {
    /// Records a write that was not sent. Returns true once, when none was sent for `limit`.
    pub(super) fn record_unsent_write(&mut self, now: Boottime, limit: Duration) -> bool {
        let since = *self.since.get_or_insert(now);
        let is_due = !self.is_reported && now.since(since) >= limit;
        self.is_reported |= is_due;
        is_due
    }

    /// Resets the state after a write that was sent, or the end of a leadership.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_are_not_sent_for_long_are_reported_once() {
        let at = |seconds: u64| Boottime::from_nanos(seconds * 1_000_000_000);
        let limit = Duration::from_secs(20);
        let mut stale_reads = StaleReads::default();
        let reported = |stale_reads: &mut StaleReads, from, to| {
            (from..to)
                .filter(|n| stale_reads.record_unsent_write(at(*n), limit))
                .count()
        };
        assert_eq!(reported(&mut stale_reads, 1, 21), 0);
        assert_eq!(reported(&mut stale_reads, 21, 60), 1);
        stale_reads.reset();
        assert_eq!(
            reported(&mut stale_reads, 60, 80),
            0,
            "restarted after one that was sent"
        );
        assert_eq!(reported(&mut stale_reads, 80, 99), 1);
    }
}
