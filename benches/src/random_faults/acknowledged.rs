//! Which server acknowledged which rows, and which one was announced meanwhile: two masters that were written to through
//! proxies at the same time are found, and lost rows have their master.

use std::fmt;
use std::time::Duration;

use base::clock::Boottime;

/// One server as master from a promotion until the next one, or from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MasterTimeline {
    /// PostgreSQL's timeline: each promotion begins a higher one.
    pub(super) timeline: u32,
    /// The TCP port of the server.
    pub(super) server: u16,
}

impl fmt::Display for MasterTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server on port {} on timeline {}", self.server, self.timeline)
    }
}

/// Rows of one client with consecutive ids that one master acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AcknowledgedRows {
    pub(super) first: i64,
    pub(super) last: i64,
    /// Who acknowledged them.
    pub(super) master: MasterTimeline,
    /// When the last one was acknowledged.
    pub(super) until: Boottime,
}

/// What one client had acknowledged, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct AcknowledgedLog(Vec<AcknowledgedRows>);

impl AcknowledgedLog {
    /// Adds a row.
    pub(super) fn add(&mut self, id: i64, master: MasterTimeline, now: Boottime) {
        match self.0.last_mut() {
            Some(rows) if rows.last + 1 == id && rows.master == master => (rows.last, rows.until) = (id, now),
            _ => self.0.push(AcknowledgedRows {
                first: id,
                last: id,
                master,
                until: now,
            }),
        }
    }

    /// Returns all of it.
    pub(super) fn rows(&self) -> &[AcknowledgedRows] {
        &self.0
    }

    /// Returns the number of rows.
    pub(super) fn count(&self) -> i64 {
        self.0.iter().map(|rows| rows.last - rows.first + 1).sum()
    }
}

/// An announcement arrives here at most so much later than at a proxy, also when etcd was away meanwhile.
pub(super) const ANNOUNCEMENT_DELAY: Duration = Duration::from_secs(5);

/// Which server was announced to the proxies, and when that arrived here: oldest first, by the ports of the servers.
#[derive(Debug, Clone, Default)]
pub(super) struct Announcements(Vec<(Boottime, Option<u16>)>);

impl Announcements {
    /// Adds an announcement that arrives now, unless it repeats the last one.
    pub(super) fn add(&mut self, server: Option<u16>, now: Boottime) {
        if self.0.last().is_none_or(|(_, last)| *last != server) {
            self.0.push((now, server));
        }
    }

    /// Returns the announced server if a row that was sent to another one at `sent`, and acknowledged at `acknowledged`,
    /// shows that a proxy forwarded to it, too: it was not announced from the sending of the row until
    /// [`ANNOUNCEMENT_DELAY`] after the acknowledgement. To be called after this time.
    pub(super) fn contradiction(&self, server: u16, sent: Boottime, acknowledged: Boottime) -> Option<u16> {
        let later = self.0.partition_point(|(arrived, _)| *arrived <= sent);
        let at_sending = self.0[..later].last()?.1?;
        let until = acknowledged + ANNOUNCEMENT_DELAY;
        let meanwhile = self.0[later..].iter().take_while(|(arrived, _)| *arrived <= until);
        let is_announced = at_sending == server || meanwhile.into_iter().any(|(_, other)| *other == Some(server));
        (!is_announced).then_some(at_sending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: MasterTimeline = MasterTimeline {
        timeline: 1,
        server: 5001,
    };
    const NEW: MasterTimeline = MasterTimeline {
        timeline: 2,
        server: 5002,
    };

    fn at(millis: u64) -> Boottime {
        Boottime::from_nanos(0) + Duration::from_millis(millis)
    }

    #[test]
    fn a_row_of_a_server_that_is_not_announced_is_a_contradiction() {
        let mut announced = Announcements::default();
        assert_eq!(announced.contradiction(5001, at(0), at(1)), None, "nothing is known");
        for (millis, server) in [
            (10, Some(5001)),
            (20_000, None),
            (30_000, Some(5002)),
            (60_000, Some(5001)),
        ] {
            announced.add(server, at(millis));
        }
        for (server, sent, acknowledged, wanted) in [
            (5001, 15, 16, None),
            (5001, 25_000, 25_001, None), // no other server is announced
            (5001, 29_999, 31_000, None), // sent before
            (5001, 30_001, 30_002, Some(5002)),
            (5002, 30_001, 30_002, None),
            (5001, 59_000, 59_001, None), // the announcement may arrive late
            (5001, 54_000, 54_500, Some(5002)),
            (5002, 60_001, 60_002, Some(5001)),
        ] {
            let found = announced.contradiction(server, at(sent), at(acknowledged));
            assert_eq!(found, wanted, "{server} {sent} {acknowledged}");
        }
    }

    #[test]
    fn rows_are_kept_as_ranges() {
        let mut log = AcknowledgedLog::default();
        for id in [1, 2, 3, 5] {
            log.add(id, OLD, at(1));
        }
        log.add(6, NEW, at(2));
        let ranges: Vec<(i64, i64)> = log.rows().iter().map(|rows| (rows.first, rows.last)).collect();
        assert_eq!(ranges, [(1, 3), (5, 5), (6, 6)]);
        assert_eq!(log.count(), 5);
    }
}
