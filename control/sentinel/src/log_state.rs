//! What the loop has logged already, so that it logs changes, not rounds.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::decode::DecodedSnapshot;
use crate::missing_data::keepers_with_data;
use base::Chain;
use base::clock::Boottime;
use model::{
    CheckedClusterData, Clamped, KeepersWithData, LOST_DATA_REMEDY, Stored, UNREADABLE_DATA_REMEDY,
    UNUSABLE_DATA_REMEDY, Undecidable, Unusable,
};
use plan::{Note, PlanError};
use store::{Keys, StoreError};

/// Repetition interval of errors that only an operator can resolve.
const REPEAT_INTERVAL: Duration = Duration::from_secs(300);

/// What has been logged already.
#[derive(Debug, Default)]
pub(super) struct LogState {
    notes: BTreeSet<Note>,
    last_error: Option<String>,
    logged_at: Option<Boottime>,
    undecodable: BTreeSet<String>,
    clamped: Vec<Clamped>,
    unusable_requests: BTreeSet<String>,
}

impl LogState {
    /// Logs the notes that were not logged in the last round.
    pub(super) fn log_notes(&mut self, notes: &[Note]) {
        let current: BTreeSet<Note> = notes.iter().map(Note::without_positions).collect();
        for note in notes
            .iter()
            .filter(|note| !self.notes.contains(&note.without_positions()))
        {
            note.log();
        }
        self.notes = current;
    }

    /// Clears the notes, so that all of them are logged again when this sentinel leads next.
    pub(super) fn clear_notes(&mut self) {
        self.notes.clear();
    }

    /// Clears the last error, so that the same error is logged again when it recurs.
    pub(super) fn clear_error(&mut self) {
        self.last_error = None;
    }

    /// Returns whether this error differs from the last one, and records it.
    fn is_new(&mut self, error_text: String) -> bool {
        let new = self.last_error.as_ref() != Some(&error_text);
        self.last_error = Some(error_text);
        new
    }

    /// Returns whether an error that only an operator can resolve is to be logged: it is new, or was last logged some
    /// minutes ago.
    fn is_due(&mut self, error_text: String, now: Boottime) -> bool {
        let is_old = self.logged_at.is_some_and(|at| now.since(at) >= REPEAT_INTERVAL);
        let due = self.is_new(error_text) || is_old;
        if due {
            self.logged_at = Some(now);
        }
        due
    }

    pub(super) fn log_store_error(&mut self, error: &StoreError, message: &str) {
        let text = Chain(error).to_string();
        if self.is_new(format!("{message}: {text}")) {
            error!(error = %text, "{message}");
        }
    }

    pub(super) fn log_unusable_data(&mut self, decoded: &DecodedSnapshot, key: &str, now: Boottime) {
        let (message, text) = match &decoded.data {
            Stored::Usable(_) | Stored::Absent => return,
            Stored::Unusable {
                why: Unusable::FormatVersion(version),
                ..
            } => {
                let message = "unsupported clusterdata format version";
                if self.is_due(format!("{message} {version}"), now) {
                    error!(version, remedy = UNUSABLE_DATA_REMEDY, "{message}");
                }
                return;
            }
            Stored::Unusable { why, .. } => {
                // The message already names the validation, so only its cause follows.
                let cause = match why {
                    Unusable::InvalidSpec(cause) => Chain(cause).to_string(),
                    Unusable::NoSpec | Unusable::FormatVersion(_) => Chain(why).to_string(),
                };
                (
                    "clusterdata validation failed",
                    format!("{cause}: {UNUSABLE_DATA_REMEDY}"),
                )
            }
            Stored::Undecodable(why) => {
                let keepers = keepers_with_data(decoded).clause();
                (
                    "error retrieving cluster data",
                    format!("{key} holds no cluster data: {why}: {UNREADABLE_DATA_REMEDY}{keepers}"),
                )
            }
        };
        if self.is_due(format!("{message}: {text}"), now) {
            error!(error = %text, "{message}");
        }
    }

    /// Logs that there is no cluster data, and no initial spec to create it from.
    pub(super) fn log_no_data(&mut self) {
        let message = "no cluster data available, waiting for it to appear";
        if self.is_new(message.to_owned()) {
            info!("{message}");
        }
    }

    pub(super) fn log_waiting_for_keepers(&mut self) {
        let message = "no cluster data available, waiting for keepers before creating a cluster";
        if self.is_new(message.to_owned()) {
            info!("{message}");
        }
    }

    /// Logs that the cluster data is lost although keepers of a cluster exist.
    pub(super) fn log_lost_data(&mut self, known: &KeepersWithData, now: Boottime) {
        let message = "the cluster data are missing, but keepers of a cluster exist: creating no cluster";
        let keepers = known.to_string();
        if self.is_due(format!("{message}: {keepers}"), now) {
            error!(keepers, remedy = LOST_DATA_REMEDY, "{message}");
        }
    }

    pub(super) fn log_plan_error(&mut self, error: &PlanError) {
        let text = error.to_string();
        if self.is_new(text.clone()) {
            match error {
                PlanError::Undecidable(Undecidable::NotSupported(_)) => {
                    error!(error = %text, "leaving the cluster as it is")
                }
                PlanError::Undecidable(_) => {
                    error!(error = %text, remedy = UNUSABLE_DATA_REMEDY, "failed to update cluster data");
                }
                _ => error!(error = %text, "failed to update cluster data"),
            }
        }
    }

    /// Warns about stored durations that are out of range, when they change.
    pub(super) fn warn_of_clamped_durations(&mut self, data: &CheckedClusterData) {
        let clamped = data.cluster().spec.as_ref().map(|spec| spec.clamped());
        let clamped = clamped.unwrap_or_default();
        for stored in clamped.iter().filter(|stored| !self.clamped.contains(stored)) {
            warn!(
                field = stored.field,
                "the cluster spec cannot be used as it is, change it with `stolonctl update`: {stored}"
            );
        }
        self.clamped = clamped;
    }

    /// Warns once about each undecodable info, until it is decodable again (store S-12).
    pub(super) fn warn_of_undecodable_infos(&mut self, decoded: &DecodedSnapshot, keys: &Keys) {
        let proxies = keys.proxy_infos();
        let undecodable = decoded.undecodable.iter();
        for (key, why) in undecodable.filter(|(key, _)| !self.undecodable.contains(*key)) {
            let error = Chain(why);
            match key.starts_with(&proxies) {
                true => warn!(%key, %error, "cannot decode a proxy info, its proxy counts as one that may forward"),
                false => warn!(%key, %error, "cannot decode a keeper info, its keeper counts as not reporting"),
            }
        }
        self.undecodable = decoded.undecodable.keys().cloned().collect();
    }

    /// Warns once about each request of an operator that counts for nothing (synchronous SY-20, extensions X-2).
    pub(super) fn warn_of_unusable_requests(&mut self, decoded: &DecodedSnapshot) {
        let unusable = decoded.unusable_requests.iter();
        for (key, why) in unusable.filter(|(key, _)| !self.unusable_requests.contains(*key)) {
            warn!(%key, why = %Chain(why), "ignoring the request of an operator");
        }
        self.unusable_requests = decoded.unusable_requests.keys().cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_for_the_operator_are_repeated_every_five_minutes() {
        let at = |seconds: u64| Boottime::from_nanos(seconds * 1_000_000_000);
        let mut log_state = LogState::default();
        let lost = || "lost".to_owned();
        let logged: Vec<u64> = (10..1000).filter(|now| log_state.is_due(lost(), at(*now))).collect();
        assert_eq!(logged, [10, 310, 610, 910]);
        assert!(log_state.is_due("lost, with another keeper".to_owned(), at(1000)));
        assert!(!log_state.is_due("lost, with another keeper".to_owned(), at(1200)));
    }
}
