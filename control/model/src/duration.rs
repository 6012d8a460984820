//! Durations in the text form of specs and options, which is Go's.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A signed span of time in nanoseconds, about ±292 years, read and written as `1h2m3.5s` (data-model 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GoDuration(i64);

/// The error of parsing a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text does not match the grammar (data-model D-1).
    #[error("invalid duration {0:?}: use a number with a unit, such as 500ms, 5s or 1m30s")]
    Syntax(String),
    /// A number has no unit.
    #[error(
        "missing unit in duration {0:?}: add one of ns, us, ms, s, m, h, such as {example}s",
        example = .0.trim_start_matches('-')
    )]
    MissingUnit(String),
    /// More than about 292 years.
    #[error("duration {0:?} is out of range")]
    Overflow(String),
}

impl GoDuration {
    /// The zero duration.
    pub const ZERO: Self = Self(0);

    /// Returns a duration of this many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Returns a duration of this many whole seconds.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// Returns the number of nanoseconds, which may be negative.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Converts to the standard library's type; a negative duration becomes zero.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Returns whether the duration is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl From<Duration> for GoDuration {
    /// A duration longer than this type holds becomes the longest that it holds.
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    // Parses the grammar of Go's `time.ParseDuration` (data-model D-1, D-2).
    fn from_str(text: &str) -> Result<Self, DurationError> {
        let syntax = || DurationError::Syntax(text.to_owned());
        let overflow = || DurationError::Overflow(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(syntax());
        }
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let (number, after) = rest.split_at(
                rest.find(|c: char| c != '.' && !c.is_ascii_digit())
                    .unwrap_or(rest.len()),
            );
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(syntax());
            }
            let unit_end = after
                .find(|c: char| c == '.' || c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_end);
            let nanos: u128 = match unit {
                "" => return Err(DurationError::MissingUnit(text.to_owned())),
                "ns" => 1,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err(syntax()),
            };
            let mut part = 0u128;
            if !whole.is_empty() {
                let count: u64 = whole.parse().map_err(|_| overflow())?;
                part = u128::from(count) * nanos;
            }
            // Digits below a nanosecond are dropped (D-2). Fifteen digits are more than a fraction of an hour needs.
            let digits = &fraction[..fraction.len().min(15)];
            if !digits.is_empty() {
                let value: u64 = digits.parse().map_err(|_| syntax())?;
                part += u128::from(value) * nanos / 10u128.pow(u32::try_from(digits.len()).unwrap_or(15));
            }
            total += part;
            if total > (1 << 63) {
                return Err(overflow());
            }
            rest = next;
        }
        let total = i128::try_from(total).map_err(|_| overflow())?;
        i64::try_from(if negative { -total } else { total })
            .map(Self)
            .map_err(|_| overflow())
    }
}

impl fmt::Display for GoDuration {
    // Writes the form of Go's `Duration.String` (data-model D-5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}\u{b5}s", Fraction(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", Fraction(nanos, 1_000_000)),
            _ => {
                const MINUTE: u64 = 60_000_000_000;
                let (hours, minutes) = (nanos / (60 * MINUTE), nanos / MINUTE % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                write!(f, "{}s", Fraction(nanos % MINUTE, 1_000_000_000))
            }
        }
    }
}

/// A count of nanoseconds in a larger unit, without trailing zeros.
struct Fraction(u64, u64);

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / self.1, self.0 % self.1);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let width = usize::try_from(self.1.ilog10()).unwrap_or(9);
        let digits = format!("{rest:0width$}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration text such as \"5s\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }

            // The number 0 is accepted without a unit (data-model D-3).
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<GoDuration, E> {
                match number {
                    0 => Ok(GoDuration::ZERO),
                    _ => Err(E::invalid_type(Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Text).map_err(D::Error::custom)
    }
}
