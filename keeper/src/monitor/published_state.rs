//! The published state of the instance, made from an observation, and which of its changes are published immediately.
//! Publishing is left to `publish`.

use model::{DbUid, Lsn, PostgresState, TimelineHistory, strip_stolon_name};

use crate::postgres::client::replication_state::WalSender;
use crate::postgres::config::conninfo::Address;
use crate::postgres::data::history::Ancestor;
use crate::postgres::observe::Observation;
use crate::publish::without_positions;
use crate::reconcile::LocalDb;
use crate::synchronous::InSync;

/// Builds the published state (keeper 3.4).
pub(super) fn state(
    db: &LocalDb,
    advertised: &Address,
    observation: Observation,
    healthy: bool,
    in_sync: &InSync,
) -> PostgresState {
    let entry = |ancestor: Ancestor| TimelineHistory {
        timeline_id: ancestor.timeline,
        switch_point: ancestor.switch_point,
        reason: ancestor.reason,
    };
    let synchronous_standbys = observation.senders.map(|senders| match in_sync {
        InSync::Unchecked => shown_in_sync(&senders),
        InSync::Unmarked => Vec::new(),
        InSync::Marked(standbys) => standbys.iter().cloned().collect(),
    });
    PostgresState {
        uid: db.uid.clone(),
        generation: db.generation,
        listen_address: advertised.host.clone(),
        port: advertised.port.clone(),
        healthy,
        system_id: observation.system_id.map(|id| id.to_string()).unwrap_or_default(),
        timeline_id: observation.timeline.unwrap_or_default(),
        xlog_pos: observation.position.unwrap_or_default(),
        timelines_history: observation.history.into_iter().map(entry).collect(),
        pg_parameters: observation.parameters.unwrap_or_default(),
        sync_marked: synchronous_standbys.is_some() && matches!(in_sync, InSync::Marked(_)),
        synchronous_standbys,
        older_wal_file: observation.oldest_wal.unwrap_or_default(),
    }
}

/// Returns the keepers' standbys that the server shows as in sync (keeper 3.5 step 4).
fn shown_in_sync(senders: &[WalSender]) -> Vec<DbUid> {
    let in_sync = senders.iter().filter(|sender| sender.is_sync);
    in_sync
        .filter_map(|sender| strip_stolon_name(&sender.application_name))
        .map(Into::into)
        .collect()
}

/// Returns whether a change is published immediately. Positions change all the time and count only during fast polling.
pub(super) fn is_urgent_change(before: &PostgresState, after: &PostgresState, is_fast_poll: bool) -> bool {
    let without_routine_changes = |state: &PostgresState| PostgresState {
        xlog_pos: if is_fast_poll { state.xlog_pos } else { Lsn::default() },
        ..without_positions(state)
    };
    without_routine_changes(before) != without_routine_changes(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_alone_are_published_immediately_only_during_fast_polling() {
        let before = PostgresState {
            healthy: true,
            xlog_pos: Lsn(1),
            ..PostgresState::default()
        };
        let moved = PostgresState {
            xlog_pos: Lsn(2),
            older_wal_file: "x".into(),
            ..before.clone()
        };
        assert!(!is_urgent_change(&before, &moved, false));
        assert!(is_urgent_change(&before, &moved, true));
        assert!(is_urgent_change(
            &before,
            &PostgresState {
                healthy: false,
                ..before.clone()
            },
            false
        ));
        assert!(is_urgent_change(
            &before,
            &PostgresState {
                generation: 2,
                ..before.clone()
            },
            false
        ));
    }

    fn sender(application_name: &str, is_sync: bool) -> WalSender {
        WalSender {
            is_backup: false,
            application_name: application_name.to_owned(),
            is_sync,
            is_streaming: true,
            flushed: None,
            flush_lag: None,
            replay_lag: None,
            replay_seconds: 0.0,
        }
    }

    fn published(in_sync: &InSync) -> (Option<Vec<DbUid>>, bool) {
        let advertised = Address {
            host: "h".into(),
            port: "1".into(),
        };
        let observation = Observation {
            senders: Some(vec![
                sender("stolon_b", true),
                sender("other", true),
                sender("stolon_c", false),
            ]),
            ..Observation::default()
        };
        let state = state(&LocalDb::default(), &advertised, observation, true, in_sync);
        (state.synchronous_standbys, state.sync_marked)
    }

    #[test]
    fn only_names_with_our_prefix_are_reported_in_sync() {
        assert_eq!(published(&InSync::Unchecked), (Some(vec!["b".into()]), false));
    }

    /// Rule: synchronous SY-3 and SY-4.
    #[test]
    fn where_commits_wait_only_standbys_with_the_mark_are_reported_and_so_marked() {
        assert_eq!(published(&InSync::Unmarked), (Some(Vec::new()), false));
        let marked = InSync::Marked(["c".into(), "d".into()].into());
        assert_eq!(published(&marked), (Some(vec!["c".into(), "d".into()]), true));
        let unasked = Observation::default();
        let advertised = Address {
            host: "h".into(),
            port: "1".into(),
        };
        let state = state(&LocalDb::default(), &advertised, unasked, true, &marked);
        assert_eq!((state.synchronous_standbys, state.sync_marked), (None, false));
    }
}
