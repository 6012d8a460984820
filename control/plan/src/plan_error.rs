//! Why no plan was made. What is logged and retried then is left to the loop.

use std::fmt;

use model::{KeeperUid, Undecidable};

/// Why no plan was made; then nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The cluster data asks for what this version does not support, or contradicts itself.
    #[error(transparent)]
    Undecidable(#[from] Undecidable),
    /// There is no keeper to initialise the cluster on (sentinel I-1).
    #[error("cannot choose initial master: no keepers registered: start a keeper")]
    NoKeepers,
    /// The keeper that has the existing data is not registered (sentinel I-2).
    #[error(
        "keeper {keeper:?} state not available: start the keeper that existingConfig.keeperUID names",
        keeper = keeper.as_str()
    )]
    ExistingKeeperMissing {
        /// The keeper that the spec names.
        keeper: KeeperUid,
    },
    /// The plan breaks invariants: a bug in this program. Such a plan must not reach the store.
    #[error("the plan breaks invariants: {}", list(.0))]
    BrokenInvariants(Vec<Violation>),
}

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number in sentinel 17, or that of a rule named there (fencing F-10, extensions, synchronous SY-6, SY-8,
    /// SY-20).
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
