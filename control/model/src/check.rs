//! Checks that a cluster data document may be used. Every reader does this once, after parsing.

use crate::{Cluster, ClusterData, FORMAT_VERSION, InvalidSpec, Spec};

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

impl CheckedClusterData {
    /// Returns the cluster, which checked data always has.
    pub fn cluster(&self) -> &Cluster {
        self.data
            .cluster
            .as_ref()
            .expect("ClusterData::check refuses data without a cluster")
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
