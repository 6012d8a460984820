//! Whether a recovery target time lies before a backup. PostgreSQL refuses such a target only if it finds a commit before the
//! end of the backup; otherwise it would end with the state of the backup, whatever the target is.

use jiff::civil::{Date, Time};
use jiff::tz::Offset;

/// Seconds by which the time zone that is farthest behind UTC is behind it.
const FARTHEST_BEHIND: i64 = 12 * 3600;

/// Returns whether a `recovery_target_time` is for sure before this time, in seconds since 1970. A time without a zone, or
/// with the name of one, is taken as the latest that it can be. What is not in the ISO form is left to the server.
pub fn is_before(target: &str, seconds: i64) -> bool {
    latest(target).is_some_and(|latest| latest < seconds)
}

/// Returns the latest second that a time can mean.
fn latest(target: &str) -> Option<i64> {
    let target = target.trim();
    let (date, rest) = target.split_at_checked(10)?;
    let date: Date = date.parse().ok()?;
    let rest = rest.strip_prefix(['T', 't']).unwrap_or(rest).trim_start();
    let is_zone = |c: char| !c.is_ascii_digit() && !matches!(c, ':' | '.' | ',');
    let (time, zone) = rest.split_at(rest.find(is_zone).unwrap_or(rest.len()));
    let time: Time = match time {
        "" => Time::midnight(),
        time => time.parse().ok()?,
    };
    let zone = zone.trim();
    let has_half_of_the_day = ["am", "pm"]
        .iter()
        .any(|half| zone.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(half)));
    if has_half_of_the_day {
        return None;
    }
    let behind = behind_utc(zone).unwrap_or(FARTHEST_BEHIND);
    Some(Offset::UTC.to_timestamp(date.to_datetime(time)).ok()?.as_second() + behind)
}

/// Returns the seconds by which this zone is behind UTC; `None` if it is not given as a number.
fn behind_utc(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") || zone.eq_ignore_ascii_case("utc") {
        return Some(0);
    }
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (-1, digits),
        ("-", digits) => (1, digits),
        _ => return None,
    };
    let digits = digits.replace(':', "");
    let part = |range: std::ops::Range<usize>| match digits.get(range) {
        Some(two) => two.parse::<i64>().ok(),
        None => Some(0),
    };
    let is_number = matches!(digits.len(), 2 | 4 | 6) && digits.chars().all(|c| c.is_ascii_digit());
    is_number.then_some(())?;
    Some(sign * (part(0..2)? * 3600 + part(2..4)? * 60 + part(4..6)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-12-01 07:08:09 UTC.
    const BACKUP: i64 = 1_796_108_889;

    #[test]
    fn targets_that_are_for_sure_before_a_backup() {
        for before in [
            "2001-01-01 00:00:00+00",
            "2001-01-01",
            "2026-12-01 07:08:08Z",
            "2026-12-01T07:08:08.999999 UTC",
            "2026-12-01 08:08:08+01",
            "2026-12-01 08:08:08 +0100",
            "2026-12-01 12:38:08+05:30",
            "2026-12-01 02:08:08 -05:00:00",
            "2026-11-30 19:08:08",
            "2026-11-30 19:08:08 Europe/Berlin",
            "2026-11-30",
        ] {
            assert!(is_before(before, BACKUP), "{before}");
        }
    }

    #[test]
    fn targets_that_may_be_later_or_are_left_to_the_server() {
        for other in [
            "2026-12-01 07:08:09Z",
            "2026-12-01 08:08:09+01",
            "2026-12-01 02:08:09-05",
            "2026-11-30 19:08:09",
            "2026-12-01 07:00:00 IST",
            "2999-01-01",
            "2026-11-30 12:00:00 PM",
            "2026-11-30 12:00:00pm+00",
            "2026-11-30 24:00:00 Pacific/Kwajalein",
            "01.12.2001 10:00",
            "20010101T000000Z",
            "2001-01-01 25:00:00",
            "2026-99-99",
            "2001-01-0é",
            "now",
            "",
        ] {
            assert!(!is_before(other, BACKUP), "{other}");
        }
    }
}
