//! The mark (synchronous SY-4): the position in the WAL up to which commits may have been acknowledged under an earlier
//! value of `synchronous_standby_names`. It has nothing to do with replication slots or `.signal` files.
//! Pure; the queries are in `sync_marker`.

use model::Lsn;

use crate::postgres::client::sql::NamesShown;

/// The value of `synchronous_standby_names` of one server (here: the names), how far it is in force, and the mark.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkState {
    /// The names in the server's files; empty for none, and while no server runs.
    names: String,
    /// Increases when the names or the server change: what was found before counts no more.
    epoch: u64,
    /// A new connection has shown the names since they were written, so all processes have been signalled.
    in_force: bool,
    /// The checkpointer has read a list that is not empty since the server's start. Before that no commit waits,
    /// whatever the names are.
    waiting_enabled: bool,
    /// The names are in force on a server in recovery, which has no mark.
    is_in_recovery: bool,
    mark: Option<Lsn>,
}

/// Why files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenFor {
    /// A server is started with them.
    Start,
    /// A running server reads them.
    Reload,
}

/// A mark, and what it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    epoch: u64,
    pub position: Lsn,
}

/// What is to be found out next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkTask {
    epoch: u64,
    /// The names that a new connection has to show.
    pub names: String,
    /// A checkpoint has to begin and end after that.
    pub needs_checkpoint: bool,
}

impl MarkState {
    /// Invalidates the mark if files with other names are about to be written. Called before: the mark of other names must not be
    /// used once a process may have read these.
    pub fn begin_change(&mut self, names: &str, written_for: WrittenFor) {
        let is_start = written_for == WrittenFor::Start;
        if is_start || self.names != names {
            self.invalidate();
            self.in_force = false;
            self.waiting_enabled &= !is_start && !names.is_empty();
            names.clone_into(&mut self.names);
        }
    }

    /// Records a promotion: the server has a mark from now on.
    pub fn record_promotion(&mut self) {
        self.invalidate();
    }

    /// Records that the server is being stopped.
    pub fn record_stop(&mut self) {
        let epoch = self.epoch + 1;
        *self = Self {
            epoch,
            ..Self::default()
        };
    }

    fn invalidate(&mut self) {
        self.epoch += 1;
        self.mark = None;
        self.is_in_recovery = false;
    }

    /// Returns what is to be found out; `None` if nothing is.
    pub fn task(&self) -> Option<MarkTask> {
        let is_complete = self.in_force && self.waiting_enabled && (self.is_in_recovery || self.mark.is_some());
        (!self.names.is_empty() && !is_complete).then(|| MarkTask {
            epoch: self.epoch,
            names: self.names.clone(),
            needs_checkpoint: !self.waiting_enabled,
        })
    }

    /// Records what was found for a task.
    pub fn record(&mut self, task: &MarkTask, found: &NamesShown) {
        if task.epoch != self.epoch || matches!(found, NamesShown::Others(_)) {
            return;
        }
        self.in_force = true;
        self.waiting_enabled = true;
        match found {
            NamesShown::Master { flushed } => self.mark = Some(*flushed),
            NamesShown::InRecovery | NamesShown::Others(_) => self.is_in_recovery = true,
        }
    }

    /// Whether a task was made for the present names and server.
    pub fn is_current(&self, task: &MarkTask) -> bool {
        self.epoch == task.epoch
    }

    /// Whether every commit from now on waits for exactly these names.
    pub fn confirms(&self, names: &str) -> bool {
        self.names == names && (names.is_empty() || (self.in_force && self.waiting_enabled))
    }

    /// Returns the mark; `None` while it is not known.
    pub fn mark(&self) -> Option<Mark> {
        let epoch = self.epoch;
        self.mark.map(|position| Mark { epoch, position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(names: &str) -> MarkState {
        let mut state = MarkState::default();
        state.begin_change(names, WrittenFor::Start);
        state
    }

    /// Performs the task that is due.
    fn found(state: &mut MarkState, found: NamesShown) {
        let task = state.task().expect("a task is due");
        state.record(&task, &found);
    }

    fn at(state: &MarkState) -> Option<u64> {
        state.mark().map(|mark| mark.position.0)
    }

    #[test]
    fn a_mark_is_taken_after_a_start_a_checkpoint_and_a_look_at_the_names() {
        let mut state = started("a");
        assert!(
            state.task().unwrap().needs_checkpoint,
            "the checkpointer may not have run"
        );
        found(&mut state, NamesShown::Others(String::new()));
        assert_eq!((at(&state), state.confirms("a")), (None, false));
        found(&mut state, NamesShown::Master { flushed: Lsn(7) });
        assert_eq!((at(&state), state.confirms("a"), state.task()), (Some(7), true, None));
    }

    #[test]
    fn other_names_lose_the_mark_before_they_are_written_and_the_same_ones_keep_it() {
        let mut state = started("a");
        found(&mut state, NamesShown::Master { flushed: Lsn(7) });
        state.begin_change("a", WrittenFor::Reload);
        assert_eq!(at(&state), Some(7));
        state.begin_change("2 (a,b)", WrittenFor::Reload);
        assert_eq!((at(&state), state.confirms("2 (a,b)")), (None, false));
        assert!(!state.task().unwrap().needs_checkpoint, "commits wait already");
        found(&mut state, NamesShown::Master { flushed: Lsn(9) });
        assert_eq!(at(&state), Some(9));
    }

    #[test]
    fn after_an_empty_list_a_checkpoint_is_needed_again() {
        let mut state = started("a");
        found(&mut state, NamesShown::Master { flushed: Lsn(7) });
        state.begin_change("", WrittenFor::Reload);
        assert_eq!((at(&state), state.task(), state.confirms("")), (None, None, true));
        state.begin_change("a", WrittenFor::Reload);
        assert!(state.task().unwrap().needs_checkpoint);
    }

    #[test]
    fn what_was_found_for_earlier_names_or_an_earlier_server_counts_no_more() {
        let changes: [fn(&mut MarkState); 4] = [
            |state| state.begin_change("b", WrittenFor::Reload),
            |state| state.begin_change("a", WrittenFor::Start),
            MarkState::record_stop,
            MarkState::record_promotion,
        ];
        for change in changes {
            let mut state = started("a");
            let task = state.task().unwrap();
            change(&mut state);
            state.record(&task, &NamesShown::Master { flushed: Lsn(7) });
            assert_eq!(at(&state), None, "{state:?}");
            assert!(!state.confirms("a") && !state.is_current(&task), "{state:?}");
        }
    }

    #[test]
    fn a_standby_confirms_its_names_and_gets_its_mark_after_the_promotion() {
        let mut state = started("nobody");
        found(&mut state, NamesShown::InRecovery);
        assert_eq!((at(&state), state.task()), (None, None));
        state.begin_change("b", WrittenFor::Reload);
        assert!(!state.confirms("b"));
        assert!(
            !state.task().unwrap().needs_checkpoint,
            "commits wait for nobody already"
        );
        found(&mut state, NamesShown::InRecovery);
        assert!(state.confirms("b"));
        state.record_promotion();
        assert!(state.confirms("b"), "the names are still in force");
        found(&mut state, NamesShown::Master { flushed: Lsn(7) });
        assert_eq!(at(&state), Some(7));
    }

    #[test]
    fn marks_of_two_servers_differ_even_at_the_same_position() {
        let mark = |state: &mut MarkState| {
            found(state, NamesShown::Master { flushed: Lsn(7) });
            state.mark().unwrap()
        };
        let mut state = started("a");
        let first = mark(&mut state);
        state.begin_change("a", WrittenFor::Start);
        assert_ne!(first, mark(&mut state));
    }
}
