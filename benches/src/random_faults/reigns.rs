//! Which server acknowledged which rows: finds two masters that were written to at the same time, and says of lost rows
//! who acknowledged them.

use std::collections::BTreeMap;
use std::fmt;

use base::clock::Boottime;

/// One server as master from a promotion until the next one, or from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reign {
    /// PostgreSQL's timeline: each promotion begins a higher one.
    pub(super) timeline: u32,
    /// The TCP port of the server.
    pub(super) server: u16,
}

impl fmt::Display for Reign {
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
    pub(super) reign: Reign,
    /// When the last one was acknowledged.
    pub(super) until: Boottime,
}

/// What one client had acknowledged, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct AcknowledgedLog(Vec<AcknowledgedRows>);

impl AcknowledgedLog {
    /// Adds a row.
    pub(super) fn add(&mut self, id: i64, reign: Reign, now: Boottime) {
        match self.0.last_mut() {
            Some(rows) if rows.last + 1 == id && rows.reign == reign => (rows.last, rows.until) = (id, now),
            _ => self.0.push(AcknowledgedRows {
                first: id,
                last: id,
                reign,
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

/// When each master first acknowledged a row.
#[derive(Debug, Clone, Default)]
pub(super) struct Reigns(BTreeMap<Reign, Boottime>);

impl Reigns {
    /// Records a row that was sent at `sent` and is acknowledged now by this master. Returns the master that began after
    /// this one and had acknowledged a row before this one was sent: then two masters were written to.
    pub(super) fn record(&mut self, reign: Reign, sent: Boottime, now: Boottime) -> Option<Reign> {
        let began = *self.0.entry(reign).or_insert(now);
        let mut later = self.0.iter().filter(|(other, _)| **other != reign);
        later
            .find(|(_, first)| began < **first && **first < sent)
            .map(|(other, _)| *other)
    }

    /// Returns how many there were.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OLD: Reign = Reign {
        timeline: 1,
        server: 5001,
    };
    const NEW: Reign = Reign {
        timeline: 2,
        server: 5002,
    };

    fn at(millis: u64) -> Boottime {
        Boottime::from_nanos(0) + Duration::from_millis(millis)
    }

    #[test]
    fn a_row_sent_to_an_old_master_after_the_new_one_has_served_is_found() {
        let mut reigns = Reigns::default();
        assert_eq!(reigns.record(OLD, at(0), at(1)), None);
        assert_eq!(reigns.record(NEW, at(10), at(12)), None);
        assert_eq!(reigns.record(OLD, at(11), at(13)), None, "it was sent before");
        assert_eq!(reigns.record(OLD, at(13), at(14)), Some(NEW));
        assert_eq!(reigns.record(NEW, at(20), at(21)), None);
    }

    #[test]
    fn two_servers_on_one_timeline_are_found() {
        let mut reigns = Reigns::default();
        let other = Reign { server: 5003, ..NEW };
        assert_eq!(reigns.record(NEW, at(0), at(1)), None);
        assert_eq!(
            reigns.record(other, at(2), at(3)),
            None,
            "the other one may have failed"
        );
        assert_eq!(reigns.record(NEW, at(4), at(5)), Some(other));
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
