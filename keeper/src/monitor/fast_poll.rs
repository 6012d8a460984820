//! Fast polling of a standby's position until it does not change any more (extensions ). Observing is left to `monitor`.

use std::time::Duration;

use base::clock::Boottime;
use model::Lsn;

use crate::monitor::receiver::ObservedReceiver;

/// Interval of observations meanwhile.
pub(super) const DELAY: Duration = Duration::from_millis(25);
/// Time limit.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// It ends after this number of observations with the same position and without a WAL receiver.
const UNCHANGED_MAX: u32 = 4;

/// What the observations since a request have shown.
#[derive(Debug)]
pub(super) struct FastPoll {
    /// The end of its time limit, by which a later request differs.
    until: Boottime,
    /// The process id of the WAL receiver at the first observation; `None` without one.
    first_receiver: Option<i32>,
    position: Option<Lsn>,
    /// Consecutive observations with that position and without a WAL receiver.
    unchanged: u32,
}

impl FastPoll {
    /// Returns what is known at the first observation of a request.
    fn begin(until: Boottime, receiver: Option<ObservedReceiver>) -> Self {
        Self {
            until,
            first_receiver: receiver.map(|receiver| receiver.pid),
            position: None,
            unchanged: 0,
        }
    }

    /// Records an observation into `poll`. Returns whether fast polling continues: not without a position, not if nothing
    /// receives WAL any more, and not if a receiver that was started since then streams: the server that sends to it does
    /// not shut down.
    pub(super) fn record(
        poll: &mut Option<Self>,
        until: Boottime,
        position: Option<Lsn>,
        receiver: Option<ObservedReceiver>,
        now: Boottime,
    ) -> bool {
        let same = poll.take().filter(|poll| poll.until == until);
        let mut this = same.unwrap_or_else(|| Self::begin(until, receiver));
        let is_unchanged = position == this.position && receiver.is_none();
        this.unchanged = if is_unchanged { this.unchanged + 1 } else { 0 };
        this.position = position;
        let is_new_and_streaming =
            receiver.is_some_and(|receiver| receiver.is_streaming && Some(receiver.pid) != this.first_receiver);
        let continues = position.is_some() && this.unchanged < UNCHANGED_MAX && !is_new_and_streaming && now < until;
        *poll = continues.then_some(this);
        continues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Boottime = Boottime::from_nanos(0);

    /// Observations of the last request.
    struct Observed {
        poll: Option<FastPoll>,
        until: Boottime,
    }

    impl Observed {
        fn new() -> Self {
            Self {
                poll: None,
                until: START + LIMIT,
            }
        }

        fn record(&mut self, position: u64, receiver: Option<(i32, bool)>) -> bool {
            let receiver = receiver.map(|(pid, is_streaming)| ObservedReceiver { pid, is_streaming });
            FastPoll::record(&mut self.poll, self.until, Some(Lsn(position)), receiver, START)
        }
    }

    #[test]
    fn it_ends_when_the_position_stays_the_same_without_a_receiver() {
        let mut poll = Observed::new();
        assert!((0..100).all(|_| poll.record(1, Some((7, true)))));
        assert!((1..UNCHANGED_MAX).all(|_| poll.record(1, None)));
        assert!(poll.record(2, None), "replay goes on");
        assert!((1..UNCHANGED_MAX).all(|_| poll.record(2, None)));
        assert!(!poll.record(2, None));
        assert!(poll.record(2, None), "a poll begins anew");
    }

    #[test]
    fn it_ends_when_a_new_receiver_streams() {
        let mut poll = Observed::new();
        assert!(poll.record(1, Some((7, true))), "the rest of a master that stops");
        assert!(poll.record(1, None));
        assert!(poll.record(1, Some((8, false))), "it connects");
        assert!(!poll.record(1, Some((8, true))));
        let mut without = Observed::new();
        assert!(without.record(1, None) && !without.record(1, Some((8, true))));
    }

    #[test]
    fn another_request_begins_anew() {
        let mut poll = Observed::new();
        assert!(poll.record(1, None));
        poll.until = poll.until + Duration::from_millis(1);
        assert!(poll.record(1, Some((8, true))), "its sender may shut down, too");
        assert!(!poll.record(1, Some((9, true))));
    }

    #[test]
    fn it_ends_at_the_limit_and_without_a_position() {
        let ends = |position, now| {
            let receiver = Some(ObservedReceiver {
                pid: 7,
                is_streaming: true,
            });
            !FastPoll::record(&mut None, START + LIMIT, position, receiver, now)
        };
        assert!(!ends(Some(Lsn(1)), START) && ends(Some(Lsn(1)), START + LIMIT) && ends(None, START));
    }
}
