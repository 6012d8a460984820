//! The stored documents: their types, JSON form, defaults, validation and patches. Where they are stored is left to
//! `store`, what follows from them to `plan` and the programs.

#![forbid(unsafe_code)]
// These panic when the reader of the output is gone.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod cluster;
mod cluster_view;
mod created;
mod db;
mod duration;
mod failover_request;
mod hba;
mod ids;
mod info;
mod init_check;
mod init_config;
mod json;
mod keeper;
mod keepers_with_data;
mod limits;
mod liveness;
mod lsn;
mod parameters;
mod patch;
mod problem;
mod proxy;
mod server_settings;
mod spec;
mod spec_names;
mod stored;
pub mod support;
mod switchover;
mod timestamp;
mod unfit_data;
mod validate;

pub use check::{CheckedClusterData, Undecidable, Unusable};
pub use cluster::{Cluster, ClusterData, ClusterStatus, FORMAT_VERSION, Phase};
pub use cluster_view::{ClusterView, DbView, KeeperView};
pub use created::CreationRecord;
pub use db::{Db, DbInitMode, DbSpec, DbStatus, FollowConfig, FollowType, TimelineHistory};
pub use duration::{DurationError, GoDuration};
pub use failover_request::FailoverRequest;
pub use hba::{HbaField, HbaStrictness, check_hba_line, hba_excerpt, hba_fields, hba_strictness, redacted_hba_reason};
pub use ids::{
    BootUuid, ClusterUid, DbUid, FAKE_STANDBY, InfoUid, KeeperUid, ProxyUid, SentinelUid, short_uid, stolon_name,
    strip_stolon_name,
};
pub use info::{KeeperInfo, PostgresState, ProxyInfo, RestartState, SentinelInfo, SettingsInfo, Stopped};
pub use init_config::{
    ArchiveRecoverySettings, ExistingConfig, NewConfig, PitrConfig, RecoveryTargetSettings, StandbyConfig,
    StandbySettings,
};
pub use json::{Json, JsonError, from_slice, to_compact, to_pretty};
pub use keeper::{Keeper, KeeperSpec, KeeperStatus, PostgresBinaryVersion};
pub use keepers_with_data::{KeepersWithData, LOST_DATA_REMEDY, UNREADABLE_DATA_REMEDY, UNUSABLE_DATA_REMEDY};
pub use limits::Clamped;
pub use liveness::{LIVENESS_PERIOD, LIVENESS_TTL};
pub use lsn::Lsn;
pub use parameters::{
    SYNCHRONOUS_COMMIT, UnusableParameter, check_parameter, is_never_reported, repeated_names, waits_for_flush,
};
pub use patch::{PatchError, patch_spec};
pub use problem::Problem;
pub use proxy::{ProxySection, ProxySpec, ProxyStatus};
pub use server_settings::InvalidServerSettings;
pub use spec::{AccessMode, ClusterSpec, DEFAULT_MAX_STANDBY_LAG, InitMode, Role, Spec, SpecFields};
pub use spec_names::{SpecInput, repeated_members_warning, spec_text_warnings};
pub use stored::Stored;
pub use support::NotSupported;
pub use switchover::{KeeperOrder, OrderKind, SwitchoverReport, SwitchoverRequest, SwitchoverState};
pub use timestamp::{Timestamp, TimestampError};
pub use unfit_data::{UnfitData, check_requested_data};
pub use validate::{InvalidSpec, SpecChangeError, replace_spec};

/// Returns whether a value is its type's default, which class-Z fields omit when written (data-model J-5).
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares an enum for a string field with known values. Any other value is kept as read and written back unchanged.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
            /// Absent (the empty string), or a value unknown to this version, kept as read.
            Other(String),
        }

        impl $name {
            /// Returns the value as stored.
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
pub(crate) use string_enum;

#[cfg(test)]
mod tests;
