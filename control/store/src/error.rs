//! The errors of store requests, as callers distinguish them: nothing was sent, the outcome is unknown, or the store
//! refused it.

use std::{error::Error, fmt, time::Duration};

use crate::etcd_fault::EtcdFault;

/// A hint for users whose store is unreachable from the start.
pub const UNREACHABLE_HINT: &str = "is etcd running there? see --store-endpoints";

/// The error of a request. Its text names the request; the cause is its source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No endpoint was reachable within the timeout. Nothing was sent, so nothing was changed.
    #[error("{request}: the store cannot be reached (waited {limit:?})")]
    Unreachable {
        /// The request, as in `read stolon/cluster/main/clusterdata`.
        request: String,
        /// The time waited.
        limit: Duration,
        /// The last errors of the endpoints, if any.
        #[source]
        source: Option<Cause>,
    },
    /// Sent, but no response arrived within the timeout or before the connection broke. A write may or may not have
    /// been applied (store S-32): read again.
    #[error("{request}: no response from the store (limit {limit:?})")]
    Unanswered {
        /// The request.
        request: String,
        /// The timeout of the request.
        limit: Duration,
        /// The error of the connection, if it broke.
        #[source]
        source: Option<Cause>,
    },
    /// The store responded with an error; nothing was changed.
    #[error("{request}: refused by the store")]
    Refused {
        /// The request.
        request: String,
        /// The store's message.
        #[source]
        source: Cause,
    },
}

impl StoreError {
    /// Returns whether a write with this error may have been applied (store S-32).
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unanswered { .. })
    }

    /// Returns the state of etcd that the error reveals, if any.
    pub fn etcd_fault(&self) -> Option<EtcdFault> {
        let source = match self {
            Self::Unreachable { source, .. } | Self::Unanswered { source, .. } => source.as_ref()?,
            Self::Refused { source, .. } => source,
        };
        EtcdFault::from_message(&source.0)
    }
}

/// Why a request failed: the server's message with its remedy, or the innermost cause of a client error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the server's message, with a remedy for operators if there is one.
    pub(super) fn from_server(message: &str) -> Self {
        match EtcdFault::from_message(message) {
            Some(fault) => Self(format!("{message} ({})", fault.remedy())),
            None => Self(message.to_owned()),
        }
    }

    /// Returns the innermost error of a chain: the outer ones of the client library only add that something failed.
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
