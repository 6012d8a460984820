//! Checks that a cluster data document may be used. Every reader does this once, after parsing.

use crate::{
    Cluster, ClusterData, ClusterSpec, DbUid, FORMAT_VERSION, InvalidSpec, NotSupported, Phase, Spec, support,
};

/// Why checked data have a spec.
const HAS_SPEC: &str = "ClusterData::check refuses data without a spec";

/// Cluster data with a supported format version and a valid spec (store C-7).
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedClusterData {
    /// The document as read.
    pub data: ClusterData,
    /// The effective spec: validated, defaults filled in.
    pub spec: Spec,
}

/// Why a document may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Written by a program of another version.
    #[error("unsupported clusterdata format version {0}: this program works with version 1")]
    FormatVersion(u64),
    /// The document has no cluster or no spec.
    #[error("no cluster spec available")]
    NoSpec,
    /// The stored spec breaks a rule.
    #[error("clusterdata validation failed")]
    InvalidSpec(#[source] InvalidSpec),
}

/// Why no sentinel decides anything from a document, although its format and its spec may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecidable {
    /// The document does not hold the db that the cluster's status names as master (sentinel N-3).
    #[error("master db {db:?} not available: the cluster data do not hold it", db = db.as_str())]
    MissingMaster {
        /// The db that `status.master` names.
        db: DbUid,
    },
    /// The phase is not one of the known phases (sentinel I-8).
    #[error("unknown cluster phase {phase:?}")]
    UnknownPhase {
        /// As stored.
        phase: String,
    },
    /// It asks for a feature that this version does not support.
    #[error(transparent)]
    NotSupported(NotSupported),
}

impl CheckedClusterData {
    /// Checks that a sentinel of this version can decide from the document.
    ///
    /// # Errors
    /// The first that applies of: an unknown phase, a master db that is missing, an unsupported spec or db.
    pub fn check_decidable(&self) -> Result<(), Undecidable> {
        let status = &self.cluster().status;
        let is_complete = self.data.dbs().contains_key(&status.master);
        match &status.phase {
            Phase::Other(phase) => return Err(Undecidable::UnknownPhase { phase: phase.clone() }),
            Phase::Initializing if status.master.is_empty() => {}
            Phase::Initializing | Phase::Normal if is_complete => {}
            Phase::Initializing | Phase::Normal => {
                let db = status.master.clone();
                return Err(Undecidable::MissingMaster { db });
            }
        }
        support::spec(&self.spec).map_err(Undecidable::NotSupported)
    }

    /// Returns the cluster, which checked data always has.
    pub fn cluster(&self) -> &Cluster {
        self.data
            .cluster
            .as_ref()
            .expect("ClusterData::check refuses data without a cluster")
    }

    /// Returns the spec as it is stored, without defaults.
    pub fn stored_spec(&self) -> &ClusterSpec {
        let spec = self.cluster().spec.as_ref();
        spec.expect(HAS_SPEC)
    }

    /// Returns the spec as it is stored, to be changed in the document. The effective `spec` stays as it was.
    pub fn stored_spec_mut(&mut self) -> &mut ClusterSpec {
        let cluster = self.data.cluster.as_mut();
        cluster.and_then(|cluster| cluster.spec.as_mut()).expect(HAS_SPEC)
    }
}

impl ClusterData {
    /// Checks that the document may be used (cli 6.2, keeper R3 and R4, sentinel L-10.2).
    ///
    /// # Errors
    /// Returns the first that applies of: another format version, no spec, an invalid spec.
    pub fn check(self) -> Result<CheckedClusterData, Unusable> {
        let spec = self.effective_spec()?;
        Ok(CheckedClusterData { data: self, spec })
    }

    /// Returns the effective spec of a document that may be used.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn effective_spec(&self) -> Result<Spec, Unusable> {
        if self.format_version != FORMAT_VERSION {
            return Err(Unusable::FormatVersion(self.format_version));
        }
        let stored = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.spec.as_ref())
            .ok_or(Unusable::NoSpec)?;
        stored.resolve().map_err(Unusable::InvalidSpec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(status: &str, dbs: &str) -> Result<(), String> {
        let text =
            format!(r#"{{"formatVersion":1,"cluster":{{"spec":{{"initMode":"new"}},"status":{status}}},"dbs":{dbs}}}"#);
        let data = ClusterData::parse(text.as_bytes()).unwrap().unwrap().check().unwrap();
        data.check_decidable().map_err(|why| why.to_string())
    }

    #[test]
    fn a_document_is_decidable_with_a_known_phase_and_the_master_that_it_names() {
        let (none, one) = ("{}", r#"{"d1":{"uid":"d1","spec":{"keeperUID":"k1"}}}"#);
        assert_eq!(checked(r#"{"phase":"initializing"}"#, none), Ok(()));
        assert_eq!(checked(r#"{"phase":"initializing","master":"d1"}"#, one), Ok(()));
        assert_eq!(checked(r#"{"phase":"normal","master":"d1"}"#, one), Ok(()));
        for (status, dbs, words) in [
            (
                r#"{"phase":"normal","master":"d2"}"#,
                one,
                "master db \"d2\" not available",
            ),
            (r#"{"phase":"normal"}"#, one, "master db \"\" not available"),
            (r#"{"phase":"initializing","master":"d1"}"#, none, "master db \"d1\""),
            ("{}", one, "unknown cluster phase \"\""),
        ] {
            let why = checked(status, dbs).unwrap_err();
            assert!(why.contains(words), "{status}: {why}");
        }
    }
}
