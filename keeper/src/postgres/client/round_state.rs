//! What each round asks a server, in one query. Sending it is left to `sql`, what follows from it to `reconcile`.

use std::collections::BTreeSet;

use tokio_postgres::SimpleQueryRow;

/// State of a server that a round depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundSqlState {
    /// Its replication slots without temporary ones (keeper Q3).
    pub slots: BTreeSet<String>,
    /// Those of them that the server has invalidated: nothing can be received by them any more.
    pub invalidated_slots: BTreeSet<String>,
    /// The parameters that are pending restart (keeper Q7).
    pub pending_restart: Vec<String>,
    /// It is a standby whose replay is paused or being paused (`StandbyStatus::is_paused`).
    pub is_replay_paused: bool,
}

/// The query: rows of a kind and a value. A slot that is not invalidated is shown as lost, too, if WAL after its position was
/// removed. Invalidation removes the position, except where only the column of 17 and later gives the reason.
pub(super) const STATEMENT: &str = "select 'slot', slot_name::text from pg_replication_slots where not temporary \
                                    union all select 'invalidated', slot_name::text from pg_replication_slots \
                                    where not temporary and not active and wal_status = 'lost' \
                                    and (restart_lsn is null \
                                    or to_jsonb(pg_replication_slots) ->> 'invalidation_reason' is not null) \
                                    union all select 'pending', name from pg_settings where pending_restart \
                                    union all select 'paused', \
                                    case when pg_is_in_recovery() then pg_is_wal_replay_paused()::text end";

impl RoundSqlState {
    /// Returns the state from the rows of [`STATEMENT`].
    pub(super) fn of(rows: &[SimpleQueryRow]) -> Self {
        let values = |kind| {
            let rows = rows.iter().filter(move |row| row.get(0) == Some(kind));
            rows.filter_map(|row| row.get(1).map(str::to_owned))
        };
        Self {
            slots: values("slot").collect(),
            invalidated_slots: values("invalidated").collect(),
            pending_restart: values("pending").collect(),
            is_replay_paused: values("paused").any(|paused| paused == "true"),
        }
    }
}
