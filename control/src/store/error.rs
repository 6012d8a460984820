//! How a request to the store can fail, as its callers tell the cases apart: nothing happened, nobody knows, or
//! the store said no.

use std::{error::Error, fmt, time::Duration};

use super::etcd_fault::EtcdFault;

/// What whoever looks for the store in the wrong place, or too early, can do about it.
pub const UNREACHABLE_HINT: &str = "is etcd running there? see --store-endpoints";

/// A request that brought no result. Its text says what was attempted; the cause is its source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No endpoint could be reached within the limit. Nothing was sent, so nothing was changed.
    #[error("{attempt}: the store cannot be reached (waited {limit:?})")]
    Unreachable {
        /// What was attempted, as `read stolon/cluster/main/clusterdata`.
        attempt: String,
        /// How long was waited.
        limit: Duration,
        /// What the endpoints answered last, if anything.
        #[source]
        source: Option<Cause>,
    },
    /// Sent, but no answer came within the limit or before the connection broke. A write may or may not have been
    /// applied (store S-32): read again, assume neither.
    #[error("{attempt}: no answer from the store (limit {limit:?})")]
    Unanswered {
        /// What was attempted.
        attempt: String,
        /// The limit of the request.
        limit: Duration,
        /// How the connection ended, if it did.
        #[source]
        source: Option<Cause>,
    },
    /// The store answered with an error; nothing was changed.
    #[error("{attempt}: refused by the store")]
    Refused {
        /// What was attempted.
        attempt: String,
        /// The store's words.
        #[source]
        source: Cause,
    },
}

impl StoreError {
    /// Whether a write that failed so may have been applied all the same (store S-32).
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unanswered { .. })
    }

    /// What the store's answer says beyond this request, if it does.
    pub fn etcd_fault(&self) -> Option<EtcdFault> {
        let source = match self {
            Self::Unreachable { source, .. } | Self::Unanswered { source, .. } => source.as_ref()?,
            Self::Refused { source, .. } => source,
        };
        EtcdFault::from_message(&source.0)
    }
}

/// The words of a peer or a library about what went wrong, with all that lies below flattened into them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The words of the server, with what an operator can do about them.
    pub(super) fn from_server(message: &str) -> Self {
        match EtcdFault::from_message(message) {
            Some(trouble) => Self(format!("{message} ({})", trouble.remedy())),
            None => Self(message.to_owned()),
        }
    }

    /// The deepest words of a chain: libraries above only say that a lower one failed.
    pub(super) fn deepest(error: &(dyn Error + 'static)) -> Self {
        let mut deepest = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        Self(deepest.to_string())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}
