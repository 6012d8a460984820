//! A position in the write-ahead log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log, in bytes since its beginning (PostgreSQL manual 30.6, `pg_lsn`).
///
/// Stored as a plain number, with all digits (data-model 12.24); printed as PostgreSQL prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Returns by how many bytes `self` is behind `ahead`; negative when it is ahead of it (sentinel C-10).
    pub fn bytes_behind(self, ahead: Self) -> i128 {
        i128::from(ahead.0) - i128::from(self.0)
    }

    /// Parses PostgreSQL's form: two hexadecimal numbers separated by a slash.
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let high = u32::from_str_radix(high, 16).ok()?;
        let low = u32::from_str_radix(low, 16).ok()?;
        Some(Self((u64::from(high) << 32) | u64::from(low)))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}
