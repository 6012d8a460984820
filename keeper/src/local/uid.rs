//! The uid of a keeper, and that of one of its processes: which one to run under.

use base::RandomBytes;
use model::{BootUuid, KeeperUid, short_uid};
use tracing::info;

use crate::local::state::LocalState;
use crate::postgres::data::file_error::FileError;

/// The uid to run under, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ChosenUid {
    /// The saved one.
    Saved(String),
    /// The given one, to be saved now.
    Given(String),
    /// A generated one, to be saved and logged.
    Generated(String),
}

/// The data directory belongs to another keeper than the given one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("saved uid {saved:?} differs from the given uid {given:?}: give the saved one, or another --data-dir")]
pub struct UidMismatch {
    /// The uid in `keeperstate`.
    pub saved: String,
    /// The given uid.
    pub given: String,
}

/// Chooses the uid to run under (keeper 1.5, rules 3 to 5); `generated` is used when there is no other.
fn choose_uid(saved: &str, given: Option<&str>, generated: String) -> Result<ChosenUid, UidMismatch> {
    match (saved, given) {
        ("", None) => Ok(ChosenUid::Generated(generated)),
        ("", Some(given)) => Ok(ChosenUid::Given(given.to_owned())),
        (saved, Some(given)) if saved != given => Err(UidMismatch {
            saved: saved.to_owned(),
            given: given.to_owned(),
        }),
        (saved, _) => Ok(ChosenUid::Saved(saved.to_owned())),
    }
}

/// Why no uid was chosen.
#[derive(Debug, thiserror::Error)]
pub enum UidError {
    #[error(transparent)]
    Mismatch(#[from] UidMismatch),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Returns the uid to run under, saved (keeper 1.5).
pub fn take_uid(local: &LocalState, given: Option<&str>, random: &RandomBytes) -> Result<KeeperUid, UidError> {
    let uid = match choose_uid(&local.keeper_uid(), given, short_uid(random.bytes()))? {
        ChosenUid::Saved(uid) => uid,
        ChosenUid::Given(uid) => {
            local.save_keeper_uid(&uid)?;
            uid
        }
        ChosenUid::Generated(uid) => {
            local.save_keeper_uid(&uid)?;
            info!(%uid, "generated a uid for this keeper");
            uid
        }
    };
    Ok(KeeperUid::from(uid))
}

/// Returns a random UUID of version 4 (keeper 0).
pub fn boot_uuid(random: &RandomBytes) -> BootUuid {
    BootUuid::from(uuid_v4(random.bytes()))
}

/// Formats random bytes as a UUID of version 4 (RFC 9562, section 5.4).
fn uuid_v4(mut bytes: [u8; 16]) -> String {
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_never_runs_under_another_uid_than_the_saved_one() {
        // keeper 1.5, I6
        let fresh = || "f00dcafe".to_owned();
        assert_eq!(choose_uid("", None, fresh()), Ok(ChosenUid::Generated(fresh())));
        assert_eq!(choose_uid("", Some("k1"), fresh()), Ok(ChosenUid::Given("k1".into())));
        assert_eq!(choose_uid("k1", None, fresh()), Ok(ChosenUid::Saved("k1".into())));
        assert_eq!(choose_uid("k1", Some("k1"), fresh()), Ok(ChosenUid::Saved("k1".into())));
        assert!(choose_uid("k1", Some("k2"), fresh()).is_err());
    }

    #[test]
    fn boot_uuids_are_of_version_4() {
        assert_eq!(uuid_v4([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let random = RandomBytes::system();
        assert_eq!(boot_uuid(&random).as_str().len(), 36);
        assert_ne!(boot_uuid(&random), boot_uuid(&random));
    }
}
