//! Identifiers: opaque strings, each with its own type so that they cannot be mixed up.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! uid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Returns the uid as stored.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns whether the uid is empty, which is how an absent field reads.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

uid!(
    /// A cluster, new at each initialisation.
    ClusterUid
);
uid!(
    /// A keeper, stable over its restarts.
    KeeperUid
);

impl KeeperUid {
    /// Longest uid that a keeper may be given, in bytes: the limit of a file name. It stands in keys, labels and logs.
    pub const BYTES_MAX: usize = 255;

    /// Returns whether a uid consists of one or more of `a`-`z`, `0`-`9` and `_` (keeper 1.5, T4). Its length is not
    /// checked.
    pub fn has_valid_characters(uid: &str) -> bool {
        !uid.is_empty() && uid.chars().all(is_name_char)
    }
}

uid!(
    /// One incarnation of a PostgreSQL instance on one keeper; never used again (sentinel 1.1).
    DbUid
);
uid!(
    /// A proxy process.
    ProxyUid
);
uid!(
    /// A sentinel process.
    SentinelUid
);
uid!(
    /// One publication of an info, new each time (store S-22).
    InfoUid
);
uid!(
    /// One keeper process: a random UUID of version 4, never saved (keeper 0).
    BootUuid
);

/// Whether uids of keepers and names of replication slots may contain a character.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// Returns a uid of eight lower-case hex digits from four random bytes (data-model 2.3).
pub fn short_uid(random: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(random))
}

/// Returns the name of an object in PostgreSQL (slot, `application_name`): `stolon_` and the given name (data-model
/// 2.3).
pub fn stolon_name(name: &str) -> String {
    format!("{STOLON_PREFIX}{name}")
}

const STOLON_PREFIX: &str = "stolon_";

/// Returns the name within a [`stolon_name`]; `None` for other names.
pub fn strip_stolon_name(name: &str) -> Option<&str> {
    name.strip_prefix(STOLON_PREFIX)
}

/// The name of a standby that does not exist: commits that wait for it wait until the names change.
pub const FAKE_STANDBY: &str = "stolonfakestandby";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_uids_of_keepers() {
        // Table: keeper T4.
        for good in ["aaaaaaaa", "a12345aa", "_a1_2345aa_"] {
            assert!(KeeperUid::has_valid_characters(good), "{good}");
        }
        for bad in ["", "a-aaaaaaa", "_a1_-2345aa_", "ABC123", "$123", "a\n", "ä"] {
            assert!(!KeeperUid::has_valid_characters(bad), "{bad}");
        }
    }
}
