//! How much is measured: all of it, or enough to see that it works.

use std::time::Duration;

/// How large the loads are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// Runs of a load with every peer.
    pub rounds: usize,
    /// The same of the loads in which the peers are close.
    pub close_rounds: usize,
    /// How long one run of pgbench goes on.
    pub span: Duration,
    /// pgbench's scale: 100,000 accounts each.
    pub scale: u32,
    /// Rows of 1,000 bytes that COPY carries.
    pub copied_rows: u64,
    /// Bytes of one run of bulk, over all its streams.
    pub bulk_bytes: u64,
    /// Short connections of one run.
    pub connections: usize,
    /// Connections that stand idle.
    pub idle: usize,
    /// Changes of master a run.
    pub changes: usize,
    /// How long a reader stands still.
    pub stall: Duration,
}

impl Size {
    /// What the published figures are of.
    pub fn full() -> Self {
        Self {
            rounds: 8, // even, as half of them are in the reversed order
            close_rounds: 14,
            span: Duration::from_secs(2),
            scale: 10,
            copied_rows: 1_000_000,
            bulk_bytes: 2_000_000_000,
            connections: 8_000,
            idle: 5_000,
            changes: 15,
            stall: Duration::from_secs(2),
        }
    }

    /// All loads within five minutes.
    pub fn quick() -> Self {
        Self {
            rounds: 2,
            close_rounds: 2,
            span: Duration::from_secs(1),
            scale: 2,
            copied_rows: 200_000,
            bulk_bytes: 1_000_000_000,
            connections: 2_000,
            idle: 1_000,
            changes: 5,
            stall: Duration::from_secs(1),
        }
    }
}
