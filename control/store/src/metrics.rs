//! Measurements of requests and watches, through the facade of the crate `metrics`, as logging goes through `tracing`:
//! without a recorder they cost nothing. Help texts and labels are in the table of the programs.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

use crate::error::StoreError;

/// Duration of requests, by operation.
pub const REQUEST_SECONDS: &str = "stolon_store_request_seconds";
/// Failed requests, by operation and kind.
pub const ERRORS: &str = "stolon_store_errors_total";
/// Streams of watches that ended and were opened again.
pub const WATCH_RESTARTS: &str = "stolon_store_watch_restarts_total";
/// Values of the label `operation`.
pub const OPERATIONS: [&str; 4] = ["read", "put", "txn", "lease"];
/// Values of the label `kind` of errors.
pub const ERROR_KINDS: [&str; 3] = ["unreachable", "unanswered", "refused"];

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Reads keys.
    Read,
    /// Puts a key.
    Put,
    /// Writes on conditions.
    Txn,
    /// Grants, renews, revokes or queries a lease.
    Lease,
}

/// The handles of one store.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    requests: [Histogram; OPERATIONS.len()],
    errors: [[Counter; ERROR_KINDS.len()]; OPERATIONS.len()],
    pub(crate) watch_restarts: Counter,
}

impl StoreMetrics {
    /// A recorder that is installed later gets nothing.
    pub(crate) fn register() -> Self {
        let errors = |operation| ERROR_KINDS.map(|kind| counter!(ERRORS, "operation" => operation, "kind" => kind));
        Self {
            requests: OPERATIONS.map(|operation| histogram!(REQUEST_SECONDS, "operation" => operation)),
            errors: OPERATIONS.map(errors),
            watch_restarts: counter!(WATCH_RESTARTS),
        }
    }

    /// Records the end of a request, which took this long with all its attempts.
    pub(crate) fn record<T>(&self, operation: Operation, took: Duration, outcome: &Result<T, StoreError>) {
        self.requests[operation as usize].record(took.as_secs_f64());
        if let Err(failed) = outcome {
            self.errors[operation as usize][error_kind(failed)].increment(1);
        }
    }
}

fn error_kind(failed: &StoreError) -> usize {
    match failed {
        StoreError::Unreachable { .. } => 0,
        StoreError::Unanswered { .. } => 1,
        StoreError::Refused { .. } => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_its_own_series() {
        let all = [Operation::Read, Operation::Put, Operation::Txn, Operation::Lease];
        let names = all.map(|operation| format!("{operation:?}").to_lowercase());
        assert_eq!(names.each_ref().map(String::as_str), OPERATIONS);
        assert_eq!(all.map(|operation| operation as usize), [0, 1, 2, 3]);
    }
}
