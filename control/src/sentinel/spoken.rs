//! What the loop has said already: changes are logged, not rounds. What there is to say comes from the judgement and from
//! the reading.

use std::collections::BTreeSet;

use tracing::{error, info, warn};

use crate::model::{Checked, Clamped, Unusable};
use crate::plan::{Note, Refusal};
use crate::sentinel::absence::{self, Former};
use crate::sentinel::reading::{Found, Reading};
use crate::store::StoreError;
use crate::telemetry::Chain;

/// What has been said already: changes are logged, not rounds.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    notes: BTreeSet<Note>,
    complaint: Option<String>,
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

    pub(super) fn complain_of(&mut self, error: &StoreError, message: &str) {
        let text = Chain(error).to_string();
        if self.is_new(format!("{message}: {text}")) {
            error!(error = %text, "{message}");
        }
    }

    pub(super) fn complain_of_data(&mut self, found: &Found, key: &str) {
        let (message, text) = match found {
            Found::Usable(_) | Found::Nothing => return,
            Found::Unusable(Unusable::FormatVersion(version)) => {
                let message = "unsupported clusterdata format version";
                if self.is_new(format!("{message} {version}")) {
                    error!(version, "{message}");
                }
                return;
            }
            Found::Unusable(Unusable::InvalidSpec(why)) => ("clusterdata validation failed", Chain(why).to_string()),
            Found::Unusable(why @ Unusable::NoSpec) => ("clusterdata validation failed", Chain(why).to_string()),
            Found::Garbage(why) => {
                let remedy = "repair or delete the key with etcdctl";
                (
                    "error retrieving cluster data",
                    format!("{key} holds no cluster data: {why}: {remedy}"),
                )
            }
        };
        if self.is_new(format!("{message}: {text}")) {
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
    pub(super) fn complain_of_lost_data(&mut self, former: &Former) {
        let (message, keepers) = (
            "the cluster data are missing, but keepers of a cluster exist: creating no cluster",
            absence::names(former),
        );
        if self.is_new(format!("{message}: {keepers}")) {
            error!(
                keepers,
                remedy = "restore a backup with `stolonctl clusterdata write`, or discard the databases with `stolonctl init`; \
                          check --store-endpoints, --store-prefix and --cluster-name",
                "{message}"
            );
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
