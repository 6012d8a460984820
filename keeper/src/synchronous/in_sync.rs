//! Who counts as in sync (synchronous SY-3). Pure; querying the WAL senders is left to `postgres::observe`.

use std::collections::BTreeSet;

use model::{DbUid, stolon_name, strip_stolon_name};

use crate::postgres::client::replication_state::WalSender;
use crate::synchronous::mark::Mark;

/// The standbys in sync, as they are reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InSync {
    /// The instance is no master whose commits wait: what the server shows is reported.
    Unchecked,
    /// There is no mark, so that nobody counts as in sync (synchronous SY-4).
    Unmarked,
    /// Those that are in sync and have flushed up to the mark.
    Marked(BTreeSet<DbUid>),
}

impl InSync {
    /// Returns the keepers' standbys that are shown as in sync and have flushed up to the mark. PostgreSQL shows a
    /// standby as in sync as soon as it streams, even if it lacks what was acknowledged under earlier names.
    pub fn marked(mark: Mark, senders: &[WalSender]) -> Self {
        let has_mark = |sender: &&WalSender| sender.is_sync && sender.flushed.is_some_and(|at| at >= mark.position);
        let uid = |sender: &WalSender| strip_stolon_name(&sender.application_name).map(DbUid::from);
        Self::Marked(senders.iter().filter(has_mark).filter_map(uid).collect())
    }

    /// Returns those of the listed standbys that do not count as in sync.
    pub fn missing<'a>(&self, wanted: &'a BTreeSet<DbUid>) -> BTreeSet<&'a DbUid> {
        match self {
            Self::Marked(in_sync) => wanted.iter().filter(|uid| !in_sync.contains(*uid)).collect(),
            Self::Unchecked | Self::Unmarked => wanted.iter().collect(),
        }
    }

    /// Returns why this standby does not count as in sync.
    pub fn reason_not_in_sync(&self, db: &DbUid, senders: &[WalSender]) -> &'static str {
        let name = stolon_name(db.as_str());
        let sender = senders.iter().find(|sender| sender.application_name == name);
        match sender {
            None => "not connected",
            Some(sender) if !sender.is_streaming => "catching up",
            Some(_) if *self == Self::Unmarked => {
                "connected, synchronous_standby_names not confirmed on the master yet"
            }
            Some(_) => "connected, has not flushed everything yet",
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Lsn;

    use super::*;
    use crate::postgres::client::sql::NamesShown;
    use crate::synchronous::mark::{MarkState, WrittenFor};

    fn sender(application_name: &str, is_sync: bool, flushed: Option<u64>) -> WalSender {
        WalSender {
            is_backup: false,
            application_name: application_name.to_owned(),
            is_sync,
            is_streaming: true,
            flushed: flushed.map(Lsn),
            flush_lag: None,
            replay_lag: None,
            replay_seconds: 0.0,
        }
    }

    /// Fact: synchronous PG1. PostgreSQL shows such a standby as in sync.
    #[test]
    fn a_standby_behind_the_mark_is_not_in_sync() {
        let mut state = MarkState::default();
        state.begin_change("x", WrittenFor::Start);
        let task = state.task().unwrap();
        state.record(&task, &NamesShown::Master { flushed: Lsn(100) });
        let senders = [
            sender("stolon_a", true, Some(100)),
            sender("stolon_behind", true, Some(99)),
            sender("stolon_unknown", true, None),
            sender("stolon_async", false, Some(200)),
            sender("other", true, Some(200)),
        ];
        let found = InSync::marked(state.mark().unwrap(), &senders);
        assert_eq!(found, InSync::Marked(["a".into()].into()));
        assert_eq!(found.reason_not_in_sync(&"gone".into(), &senders), "not connected");
        assert_eq!(
            found.reason_not_in_sync(&"behind".into(), &senders),
            "connected, has not flushed everything yet"
        );
    }
}
