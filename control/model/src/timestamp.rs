//! Timestamps in cluster data: RFC 3339 with nanoseconds, in the time zone in which they were written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::DateTime;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A wall-clock time with the offset it was written with (data-model 2.2).
///
/// All are informative, except `lastHealthyTime` (T-4). The default is the zero time, `0001-01-01T00:00:00Z` (T-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timestamp {
    /// Nanoseconds since 1970 in UTC.
    unix_nanos: i128,
    /// Kept when written back (T-3), in seconds east of UTC.
    offset_seconds: i32,
}

/// The text is not an RFC 3339 time in the strict form of data-model T-3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid time {0:?}: expected the form 2024-05-06T07:08:30.25Z")]
pub struct TimestampError(String);

/// The zero time in seconds since 1970.
const ZERO_UNIX_SECONDS: i128 = -62_135_596_800;
const NANOS: i128 = 1_000_000_000;

impl Timestamp {
    /// The zero time, `0001-01-01T00:00:00Z` (T-2).
    pub const ZERO: Self = Self {
        unix_nanos: ZERO_UNIX_SECONDS * NANOS,
        offset_seconds: 0,
    };

    /// Returns the time this many nanoseconds after 1970, in UTC.
    pub const fn from_unix_nanos(unix_nanos: i128) -> Self {
        Self {
            unix_nanos,
            offset_seconds: 0,
        }
    }

    /// Returns nanoseconds since 1970.
    pub const fn as_unix_nanos(self) -> i128 {
        self.unix_nanos
    }

    /// Returns whether this is the zero time.
    pub const fn is_zero(self) -> bool {
        self.unix_nanos == Self::ZERO.unix_nanos
    }

    /// Returns the time from `earlier` to `self`; zero when `self` is not later.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = (self.unix_nanos - earlier.unix_nanos).max(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Parses the strict RFC 3339 form (data-model T-3).
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        parse(text).ok_or_else(|| TimestampError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = bytes.get(range)?;
        digits.iter().all(u8::is_ascii_digit).then_some(())?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    for (at, mark) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        (*bytes.get(at)? == mark).then_some(())?;
    }
    let small = |range| number(range).and_then(|n| i8::try_from(n).ok());
    let year = i16::try_from(number(0..4)?).ok()?;
    let civil = DateTime::new(
        year,
        small(5..7)?,
        small(8..10)?,
        small(11..13)?,
        small(14..16)?,
        small(17..19)?,
        0,
    )
    .ok()?;
    let mut rest = &bytes[19..];
    let mut nanos = 0i128;
    if let Some(b'.' | b',') = rest.first() {
        let digits = rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
        (digits > 0).then_some(())?;
        let kept = std::str::from_utf8(&rest[1..=digits.min(9)]).ok()?;
        nanos = format!("{kept:0<9}").parse().ok()?;
        rest = &rest[1 + digits..];
    }
    let offset_seconds = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) => {
            let two = |a: u8, b: u8| i32::from(a - b'0') * 10 + i32::from(b - b'0');
            let (hours, minutes) = (two(*h1, *h2), two(*m1, *m2));
            (hours < 24 && minutes < 60).then_some(())?;
            let seconds = hours * 3_600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let days = civil.date().since(jiff::civil::date(1970, 1, 1)).ok()?.get_days();
    let of_day = i64::from(civil.hour()) * 3_600 + i64::from(civil.minute()) * 60 + i64::from(civil.second());
    let seconds = i128::from(days) * 86_400 + i128::from(of_day) - i128::from(offset_seconds);
    Some(Timestamp {
        unix_nanos: seconds * NANOS + nanos,
        offset_seconds,
    })
}

impl fmt::Display for Timestamp {
    // Writes Go's form `RFC3339Nano` (data-model T-1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.unix_nanos + i128::from(self.offset_seconds) * NANOS;
        let (seconds, nanos) = (local.div_euclid(NANOS), local.rem_euclid(NANOS));
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years of four digits are all that the reader accepts; the clocks that write stay well inside.
        let days = i32::try_from(days).unwrap_or(i32::MAX).clamp(-719_528, 2_932_896);
        let date = jiff::civil::date(1970, 1, 1)
            .checked_add(jiff::Span::new().days(days))
            .unwrap_or(jiff::civil::Date::MAX);
        write!(f, "{:04}-{:02}-{:02}", date.year(), date.month(), date.day())?;
        write!(f, "T{:02}:{:02}:{:02}", of_day / 3_600, of_day / 60 % 60, of_day % 60)?;
        if nanos > 0 {
            let digits = format!("{nanos:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        match self.offset_seconds {
            0 => f.write_str("Z"),
            offset => {
                let sign = if offset < 0 { '-' } else { '+' };
                let minutes = offset.unsigned_abs() / 60;
                write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"2024-05-06T07:08:30.25Z\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Timestamp, E> {
                Ok(Timestamp::ZERO)
            }
        }
        deserializer.deserialize_any(Text)
    }
}
