//! Whether a recovery target time lies before a backup. PostgreSQL refuses such a target only if it finds a commit before the
//! end of the backup. Otherwise it ends with the state of the backup, even if that has commits after the target.

use jiff::civil::{Date, Time};
use jiff::tz::Offset;

/// Seconds by which a time zone may be behind UTC: real ones are by 12 hours at most, PostgreSQL takes any number.
const FARTHEST_BEHIND: i64 = 24 * 3600;
/// Seconds by which the clocks of the hosts that were master may differ.
const CLOCKS_DIFFER: i64 = 60;

/// Returns whether a `recovery_target_time` is certainly before this time, in seconds since 1970. A time without a zone, or
/// with the name of one, is taken as the latest that it can be. Only the form `2026-12-01 07:08:09+01` is compared, of which
/// time and zone may be missing; PostgreSQL takes many others.
pub fn is_before(target: &str, seconds: i64) -> bool {
    latest(target).is_some_and(|latest| latest + CLOCKS_DIFFER < seconds)
}

/// Returns the latest second that a time can mean; `None` for other forms.
fn latest(target: &str) -> Option<i64> {
    let (date, rest) = target.trim().split_at_checked(10)?;
    let date: Date = date.parse().ok()?;
    let rest = match rest.chars().next() {
        Some(' ' | 'T' | 't') => &rest[1..],
        Some(_) => return None,
        None => rest,
    };
    let is_of_zone = |c: char| !c.is_ascii_digit() && !matches!(c, ':' | '.');
    let (time, zone) = rest.split_at(rest.find(is_of_zone).unwrap_or(rest.len()));
    let (time, behind): (Time, i64) = match (time, zone) {
        ("", "") => (Time::midnight(), FARTHEST_BEHIND),
        (time, zone) => (time.parse().ok()?, behind_utc(zone.strip_prefix(' ').unwrap_or(zone))?),
    };
    Some(Offset::UTC.to_timestamp(date.to_datetime(time)).ok()?.as_second() + behind)
}

/// Returns the seconds by which this zone may be behind UTC; `None` for what is no zone.
fn behind_utc(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") || zone.eq_ignore_ascii_case("utc") {
        return Some(0);
    }
    let (sign, numbers) = match zone.chars().next() {
        Some('+') => (-1, &zone[1..]),
        Some('-') => (1, &zone[1..]),
        _ => {
            let is_am_or_pm = zone.eq_ignore_ascii_case("am") || zone.eq_ignore_ascii_case("pm");
            let is_name = zone.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
            return (is_name && !is_am_or_pm).then_some(FARTHEST_BEHIND);
        }
    };
    let pairs: Vec<&str> = match numbers.contains(':') {
        true => numbers.split(':').collect(),
        false => {
            let at = |from| numbers.get(from..from + 2);
            (0..numbers.len()).step_by(2).map(at).collect::<Option<_>>()?
        }
    };
    let mut seconds = 0;
    for (pair, unit) in pairs.iter().zip([3600, 60, 1]) {
        let is_pair = pair.len() == 2 && pair.chars().all(|c| c.is_ascii_digit());
        seconds += is_pair.then(|| pair.parse::<i64>().ok()).flatten()? * unit;
    }
    (matches!(pairs.len(), 1..=3) && seconds <= 16 * 3600).then_some(sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-12-01 07:08:09 UTC.
    const BACKUP: i64 = 1_796_108_889;

    #[test]
    fn targets_that_are_certainly_before_a_backup() {
        for before in [
            "2001-01-01 00:00:00+00",
            "2001-01-01",
            "2026-12-01 07:07:08Z",
            "2026-12-01T07:07:08.999999 UTC",
            "2026-12-01 08:07:08+01",
            "2026-12-01 08:07 +0100",
            "2026-12-01 12:37:08+05:30",
            "2026-12-01 02:07:08 -05:00:00",
            "2026-11-30 07:07:08",
            "2026-11-30 07:07:08 Europe/Berlin",
            "2026-11-30 07:07:08 America/New_York",
            "2026-11-30",
        ] {
            assert!(is_before(before, BACKUP), "{before}");
        }
    }

    #[test]
    fn targets_that_may_be_later_or_are_left_to_the_server() {
        for other in [
            "2026-12-01 07:07:09Z",
            "2026-12-01 08:07:09+01",
            "2026-12-01 02:07:09-05",
            "2026-11-30 07:07:09",
            "2026-12-01 07:00:00 IST",
            "2999-01-01",
            // of another form, which PostgreSQL may read as later
            "01.12.2001 10:00",
            "20010101T000000Z",
            "2001-01-01 25:00:00",
            "2001-01-01 24:00:00",
            "2001-01-01 12:00:00 PM",
            "2001-01-01 12:00:00pm",
            "2001-01-01 12:00:00 PST PM",
            "2001-01-01 12:00:00 UTC+15",
            "2001-01-01 12:00:00+5:5",
            "2001-01-01 12:00:00+5",
            "2001-01-01 12:00:00+99",
            "2001-01-01 12:00:00+",
            "2001-01-01 T23:08:00+00",
            "2001-01-01 Tue 23:00:00",
            "2001-01-01Z23:00",
            "2001-01-01 +00 23:00",
            "2001-01-01 at 23:00",
            "2001-01-01 PST",
            "2026-99-99",
            "2001-01-0é",
            "2001-01-01é",
            "now",
            "",
        ] {
            assert!(!is_before(other, BACKUP), "{other}");
        }
    }
}
