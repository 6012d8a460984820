//! When a standby's position has come to rest (extensions ). Observing it is left to `monitor`.

use model::Lsn;

/// Fast polling ends after this number of observations with the same position and without a WAL receiver.
const UNCHANGED_POLLS_MAX: u32 = 4;

/// What the observations of one fast polling have shown.
#[derive(Debug, Default)]
pub(super) struct FastPoll {
    /// The process id of the WAL receiver at the first one.
    first_receiver: Option<Option<i32>>,
    position: Option<Lsn>,
    /// Consecutive observations with that position and without a WAL receiver.
    unchanged: u32,
}

/// The WAL receiver of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeenReceiver {
    pub(super) pid: i32,
    pub(super) is_streaming: bool,
}

impl FastPoll {
    /// Records an observation. Returns whether the position may still change: not if nothing receives WAL any more, and
    /// not if a receiver that was started meanwhile streams, from a server that goes on.
    pub(super) fn record(&mut self, position: Option<Lsn>, receiver: Option<SeenReceiver>) -> bool {
        let pid = receiver.map(|receiver| receiver.pid);
        let first = *self.first_receiver.get_or_insert(pid);
        let is_unchanged = position == self.position && receiver.is_none();
        self.unchanged = if is_unchanged { self.unchanged + 1 } else { 0 };
        self.position = position;
        let streams_anew = receiver.is_some_and(|receiver| receiver.is_streaming) && pid != first;
        self.unchanged < UNCHANGED_POLLS_MAX && !streams_anew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver(pid: i32, is_streaming: bool) -> Option<SeenReceiver> {
        Some(SeenReceiver { pid, is_streaming })
    }

    #[test]
    fn it_ends_when_the_position_rests_without_a_receiver() {
        let at = |lsn: u64| Some(Lsn(lsn));
        let mut poll = FastPoll::default();
        assert!(poll.record(at(1), receiver(7, true)) && poll.record(at(1), receiver(7, true)));
        let unchanged = UNCHANGED_POLLS_MAX - 1;
        assert!((0..unchanged).all(|_| poll.record(at(1), None)));
        assert!((0..=unchanged).all(|_| poll.record(at(2), None)), "replay goes on");
        assert!(!poll.record(at(2), None));
    }

    #[test]
    fn it_ends_when_a_new_receiver_streams() {
        let mut poll = FastPoll::default();
        assert!(poll.record(None, receiver(7, true)), "the rest of a master that stops");
        assert!(poll.record(None, None));
        assert!(poll.record(None, receiver(8, false)), "it connects");
        assert!(!poll.record(None, receiver(8, true)));
        let mut ended = FastPoll::default();
        assert!(ended.record(None, None) && !ended.record(None, receiver(8, true)));
    }
}
