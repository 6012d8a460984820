//! Why no plan was made. What is logged and retried then is left to the loop.

use std::fmt;

use model::{DbUid, NotSupported};

/// Why no plan was made; then nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The cluster data uses a feature that this version does not support.
    #[error(transparent)]
    NotSupported(NotSupported),
    /// There is no keeper to initialise the cluster on (sentinel I-1).
    #[error("cannot choose initial master: no keepers registered")]
    NoKeepers,
    /// The master db is not in the cluster data (sentinel N-3).
    #[error("master db {db} not available: repair or initialise the cluster data")]
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
    /// The plan breaks invariants: a bug in this program. Such a plan must not reach the store.
    #[error("the plan breaks invariants: {}", list(.0))]
    BrokenInvariants(Vec<Violation>),
}

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number in sentinel 17.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

fn list(violations: &[Violation]) -> String {
    let violations: Vec<String> = violations.iter().map(Violation::to_string).collect();
    violations.join("; ")
}
