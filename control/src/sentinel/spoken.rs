//! What the loop has said already: changes are logged, not rounds. What there is to say comes from the judgement and from
//! the reading.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::clock::Boottime;
use crate::model::{Checked, Clamped, FormerKeepers, LOST_DATA_REMEDY, UNREADABLE_DATA_REMEDY, Unusable};
use crate::plan::{Note, Refusal};
use crate::sentinel::absence::former;
use crate::sentinel::reading::{Found, Reading};
use crate::store::StoreError;
use crate::telemetry::Chain;

/// That nothing can go on without an operator is logged again after this time.
const REPEATED_AFTER: Duration = Duration::from_secs(300);

/// What has been said already: changes are logged, not rounds.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    notes: BTreeSet<Note>,
    complaint: Option<String>,
    complained_at: Option<Boottime>,
    garbage: BTreeSet<String>,
    clamped: Vec<Clamped>,
}

impl Spoken {
    /// Says what was not said in the last round.
    pub(super) fn say(&mut self, notes: &[Note]) {
        let matters: BTreeSet<Note> = notes.iter().map(Note::matter).collect();
        for note in notes.iter().filter(|note| !self.notes.contains(&note.matter())) {
            note.say();
        }
        self.notes = matters;
    }

    pub(super) fn forget_notes(&mut self) {
        self.notes.clear();
    }

    /// All is well: the next trouble is said even when it is the last one again.
    pub(super) fn content(&mut self) {
        self.complaint = None;
    }

    /// Whether this has still to be said.
    fn is_new(&mut self, complaint: String) -> bool {
        let new = self.complaint.as_ref() != Some(&complaint);
        self.complaint = Some(complaint);
        new
    }

    /// The same for what only an operator can end: also when it was last logged some minutes ago.
    fn is_due(&mut self, complaint: String, now: Boottime) -> bool {
        let is_old = self.complained_at.is_some_and(|at| now.since(at) >= REPEATED_AFTER);
        let due = self.is_new(complaint) || is_old;
        if due {
            self.complained_at = Some(now);
        }
        due
    }

    pub(super) fn complain_of(&mut self, error: &StoreError, message: &str) {
        let text = Chain(error).to_string();
        if self.is_new(format!("{message}: {text}")) {
            error!(error = %text, "{message}");
        }
    }

    pub(super) fn complain_of_data(&mut self, reading: &Reading, key: &str, now: Boottime) {
        let (message, text) = match &reading.data {
            Found::Usable(_) | Found::Nothing => return,
            Found::Unusable(Unusable::FormatVersion(version)) => {
                let message = "unsupported clusterdata format version";
                if self.is_due(format!("{message} {version}"), now) {
                    error!(version, "{message}");
                }
                return;
            }
            Found::Unusable(Unusable::InvalidSpec(why)) => ("clusterdata validation failed", Chain(why).to_string()),
            Found::Unusable(why @ Unusable::NoSpec) => ("clusterdata validation failed", Chain(why).to_string()),
            Found::Garbage(why) => {
                let keepers = former(reading).clause();
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

    /// Nothing is there, and nobody asked to create anything.
    pub(super) fn complain_of_no_data(&mut self) {
        let message = "no cluster data available, waiting for it to appear";
        if self.is_new(message.to_owned()) {
            info!("{message}");
        }
    }

    pub(super) fn say_waiting_for_keepers(&mut self) {
        let message = "no cluster data available, waiting for keepers before creating a cluster";
        if self.is_new(message.to_owned()) {
            info!("{message}");
        }
    }

    /// The cluster data were lost: its keepers are here.
    pub(super) fn complain_of_lost_data(&mut self, former: &FormerKeepers, now: Boottime) {
        let message = "the cluster data are missing, but keepers of a cluster exist: creating no cluster";
        let keepers = former.to_string();
        if self.is_due(format!("{message}: {keepers}"), now) {
            error!(keepers, remedy = LOST_DATA_REMEDY, "{message}");
        }
    }

    pub(super) fn complain_of_refusal(&mut self, refusal: &Refusal) {
        let text = refusal.to_string();
        if self.is_new(text.clone()) {
            match refusal {
                Refusal::NotSupported(_) => error!(error = %text, "leaving the cluster as it is"),
                _ => error!(error = %text, "failed to update cluster data"),
            }
        }
    }

    /// Names each stored duration that counts as another one, when that changes.
    pub(super) fn warn_of_limits(&mut self, data: &Checked) {
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

    /// Names each garbled info once, until it is readable again (store S-12).
    pub(super) fn name_garbage(&mut self, reading: &Reading) {
        for (key, why) in reading.garbage.iter().filter(|(key, _)| !self.garbage.contains(*key)) {
            warn!(key = %key, error = %Chain(why), "cannot read an info, treating its writer as silent");
        }
        self.garbage = reading.garbage.keys().cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_an_operator_can_end_is_logged_again_after_five_minutes() {
        let at = |seconds: u64| Boottime::from_nanos(seconds * 1_000_000_000);
        let mut spoken = Spoken::default();
        let lost = || "lost".to_owned();
        let logged: Vec<u64> = (10..1000).filter(|now| spoken.is_due(lost(), at(*now))).collect();
        assert_eq!(logged, [10, 310, 610, 910]);
        assert!(spoken.is_due("lost, with another keeper".to_owned(), at(1000)));
        assert!(!spoken.is_due("lost, with another keeper".to_owned(), at(1200)));
    }
}
