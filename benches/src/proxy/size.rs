//! The size of the loads: full, or small to see that they work.

use std::time::Duration;

/// The size of the loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// Rounds of a load.
    pub rounds: usize,
    /// Rounds of the loads in which the peers are close.
    pub close_rounds: usize,
    /// The duration of one pgbench run.
    pub span: Duration,
    /// pgbench's scale factor: 100,000 accounts each.
    pub scale: u32,
    /// Rows of 1,000 bytes in a COPY.
    pub copied_rows: u64,
    /// Bytes of one bulk run, over all its streams.
    pub bulk_bytes: u64,
    /// Short connections per run.
    pub connections: usize,
    /// Idle connections.
    pub idle: usize,
    /// Changes of the master per run.
    pub changes: usize,
    /// How long a stalled reader does not read.
    pub stall: Duration,
}

impl Size {
    /// The size for published figures.
    pub fn full() -> Self {
        Self {
            rounds: 8, // even: half of them have the reverse order
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

    /// All loads in five minutes.
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
