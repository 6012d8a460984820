//! Whether a document may be used at all, asked once where it is read.

use crate::model::{Cluster, ClusterData, FORMAT_VERSION, InvalidSpec, Spec};

/// Cluster data that may be used: the right format version and a valid spec (store C-7).
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The document as read.
    pub data: ClusterData,
    /// Its spec, in force.
    pub spec: Spec,
}

/// Why a document may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Written by a program of another time.
    #[error("unsupported clusterdata format version {0}: this program works with version 1")]
    FormatVersion(u64),
    /// No cluster or no spec in it.
    #[error("no cluster spec available")]
    NoSpec,
    /// The stored spec breaks a rule.
    #[error("clusterdata validation failed")]
    InvalidSpec(#[source] InvalidSpec),
}

impl Checked {
    /// The cluster, which checked data always have.
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
    /// Another format version, no spec, or an invalid one, looked at in this order.
    pub fn check(self) -> Result<Checked, Unusable> {
        if self.format_version != FORMAT_VERSION {
            return Err(Unusable::FormatVersion(self.format_version));
        }
        let stored = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.spec.as_ref())
            .ok_or(Unusable::NoSpec)?;
        let spec = stored.resolve().map_err(Unusable::InvalidSpec)?;
        Ok(Checked { data: self, spec })
    }
}
