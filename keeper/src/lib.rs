//! stolon-keeper as a library, for its program and its tests.
#![allow(
    missing_docs,
    reason = "used by the program and the tests of this crate only; names are explained where they do not explain themselves"
)]

pub mod args;
pub mod cluster_data;
pub mod configuration;
pub mod connections;
pub mod context;
pub mod copy_backoff;
pub mod executor;
pub mod external_dirs;
pub mod health;
pub mod keeper;
pub mod liveness;
pub mod liveness_claim;
pub mod local;
pub mod metrics;
pub mod monitor;
pub mod postgres;
pub mod problems;
pub mod publish;
pub mod reconcile;
pub mod reconciler;
pub mod round_log;
pub mod rounds;
pub mod schedule;
pub mod settings;
pub mod shutdown;
pub mod start;
pub mod status;
pub mod step_progress;
pub mod streaming;
pub mod sync_marker;
pub mod sync_release;
pub mod synchronous;
pub mod wal_segment;
