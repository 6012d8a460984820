//! What the server shows of replication: its WAL senders, and as a standby its WAL receiver. Sending the queries is left
//! to `sql`, what follows from the results to `monitor`, `streaming` and `synchronous`.

use model::Lsn;
use tokio_postgres::SimpleQueryRow;

use crate::postgres::client::rows::field;

/// The query for [`WalSender`], a row for each; without the view pg_stat_replication, whose role names wait for a lock
/// on pg_authid.
pub(super) const SENDERS: &str = "select a.application_name, w.sync_state = 'sync', w.state, \
    pg_wal_lsn_diff(p.own, w.flush_lsn), pg_wal_lsn_diff(p.own, w.replay_lsn), \
    extract(epoch from w.replay_lag), w.flush_lsn \
    from pg_stat_get_wal_senders() w join pg_stat_get_activity(null) a using (pid), \
    (select case when pg_is_in_recovery() \
    then greatest(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn()) \
    else pg_current_wal_flush_lsn() end as own) p order by 1";

/// The query for [`StandbyStatus`], one row, because pg_stat_wal_receiver has at most one. From 14 on replay may also be
/// paused by the server.
pub(super) const STANDBY: &str = "select pg_is_in_recovery(), pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn(), \
    case when pg_is_in_recovery() then pg_is_wal_replay_paused() end, r.status, r.sender_host, \
    r.sender_port, r.received_tli, r.slot_name, r.pid, r.latest_end_lsn, \
    extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) \
    from (select 1) one left join pg_stat_get_wal_receiver() r on r.pid is not null";

/// A WAL sender, and how far its receiver is behind.
#[derive(Debug, Clone, PartialEq)]
pub struct WalSender {
    pub application_name: String,
    /// Its sync_state is exactly `sync`.
    pub is_sync: bool,
    /// It has caught up and streams.
    pub is_streaming: bool,
    /// It sends a base backup.
    pub is_backup: bool,
    /// Position up to which the receiver has flushed; `None` if it has reported none.
    pub flushed: Option<Lsn>,
    /// Bytes that the receiver has not flushed; `None` if it has reported none.
    pub flush_lag: Option<u64>,
    /// Bytes that it has not replayed.
    pub replay_lag: Option<u64>,
    /// Time until recent WAL was replayed, in seconds; 0 when idle.
    pub replay_seconds: f64,
}

/// Replication status of a standby.
#[derive(Debug, Clone, PartialEq)]
pub struct StandbyStatus {
    /// Replayed position.
    pub replayed: Option<Lsn>,
    /// Position received and flushed since its start; `None` if nothing was streamed.
    pub received: Option<Lsn>,
    /// Replay is paused or being paused. If not by an operator, its parameters are too low, and it cannot be promoted
    /// before a restart (keeper 8.7).
    pub is_paused: bool,
    /// End of the upstream's WAL as last reported; `None` without a WAL receiver.
    pub upstream_end: Option<Lsn>,
    /// Age of the last replayed transaction in seconds; `None` before the first.
    pub replayed_age: Option<f64>,
    /// Its WAL receiver; `None` when none is running.
    pub receiver: Option<WalReceiver>,
}

/// WAL receiver of a standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReceiver {
    pub pid: i32,
    /// It is streaming.
    pub is_streaming: bool,
    pub host: String,
    pub port: String,
    pub timeline: Option<u64>,
    /// Slot that it uses; may be empty.
    pub slot: String,
}

impl WalSender {
    /// Returns the sender from a row of [`SENDERS`].
    pub(super) fn of(row: &SimpleQueryRow) -> Self {
        // A sender may be ahead of a position that was read before its own.
        let bytes = |index| Some(row.get(index)?.parse::<i64>().ok()?.max(0).unsigned_abs());
        Self {
            application_name: field(row, 0),
            is_sync: field(row, 1) == "t",
            is_streaming: field(row, 2) == "streaming",
            is_backup: field(row, 2) == "backup",
            flush_lag: bytes(3),
            replay_lag: bytes(4),
            replay_seconds: field(row, 5).parse().unwrap_or_default(),
            flushed: row.get(6).and_then(Lsn::parse),
        }
    }
}

impl StandbyStatus {
    /// Returns the position up to which it has the WAL: what was received, or was there at its start.
    pub fn flushed(&self) -> Option<Lsn> {
        self.received.max(self.replayed)
    }

    /// Returns the status from the row of [`STANDBY`]; `None` for a master's.
    pub(super) fn of(row: &SimpleQueryRow) -> Option<Self> {
        if field(row, 0) != "t" {
            return None;
        }
        let position = |index| row.get(index).and_then(Lsn::parse);
        Some(Self {
            replayed: position(1),
            received: position(2),
            is_paused: field(row, 3) == "t",
            upstream_end: position(10),
            replayed_age: row.get(11).and_then(|text| text.parse().ok()),
            receiver: row.get(4).map(|status| WalReceiver {
                is_streaming: status == "streaming",
                host: field(row, 5),
                port: field(row, 6),
                timeline: row.get(7).and_then(|text| text.parse().ok()),
                slot: field(row, 8),
                pid: field(row, 9).parse().unwrap_or_default(),
            }),
        })
    }
}
