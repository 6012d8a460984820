//! Cluster data as stored: types, their JSON form, defaults, validation and patches. What to do with them is left to
//! `plan` and to the programs; where they are kept, to `store`.

mod check;
mod cluster;
mod created;
mod db;
mod duration;
mod former;
mod hba;
mod ids;
mod info;
mod json;
mod keeper;
mod limits;
mod lsn;
mod parameters;
mod patch;
mod problem;
mod proxy;
mod spec;
mod support;
mod texts;
mod timestamp;
mod validate;

pub use check::{Checked, Unusable};
pub use cluster::{Cluster, ClusterData, ClusterStatus, FORMAT_VERSION, Phase};
pub use created::Created;
pub use db::{Db, DbInitMode, DbSpec, DbStatus, FollowConfig, FollowType, TimelineHistory};
pub use duration::{DurationError, GoDuration};
pub use former::{FormerKeepers, LOST_DATA_REMEDY, UNREADABLE_DATA_REMEDY};
pub use hba::{HbaField, HbaStrictness, hba_fault, hba_fields, hba_reason, hba_start, hba_strictness};
pub use ids::{BootUuid, ClusterUid, DbUid, InfoUid, KeeperUid, ProxyUid, SentinelUid, short_uid, stolon_name};
pub use info::{KeeperInfo, PostgresState, ProxyInfo, RestartState, SentinelInfo, SettingsInfo, Stopped};
pub use json::{Json, JsonError, from_slice, to_compact, to_pretty};
pub use keeper::{Keeper, KeeperSpec, KeeperStatus, PostgresBinaryVersion};
pub use limits::Clamped;
pub use lsn::Lsn;
pub use parameters::{ParameterFault, is_never_reported, parameter_fault, repeated_names};
pub use patch::{PatchError, patch_spec, unknown_names};
pub use problem::Problem;
pub use proxy::{ProxySection, ProxySpec, ProxyStatus};
pub use spec::{
    AccessMode, ArchiveRecoverySettings, ClusterSpec, DEFAULT_MAX_STANDBY_LAG, ExistingConfig, InitMode, NewConfig,
    PitrConfig, RecoveryTargetSettings, Role, Shown, Spec, StandbyConfig, StandbySettings,
};
pub use support::{NotSupported, not_supported};
pub use texts::InvalidTexts;
pub use timestamp::{Timestamp, TimestampError};
pub use validate::{InvalidSpec, SpecChange, replace_spec};

/// Whether a value is the one that class-Z fields leave out when written (data-model J-5).
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A text field with a few known values, kept as it is when it holds another one.
macro_rules! known_texts {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
            /// Absent (the empty text), or a value that this version does not know, kept as read.
            Other(String),
        }

        impl $name {
            /// The text as stored.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::Other(String::new())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self::from(String::deserialize(deserializer)?.as_str()))
            }
        }
    };
}
pub(crate) use known_texts;

#[cfg(test)]
mod tests;
