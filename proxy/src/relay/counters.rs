//! What a relay thread counts. Summing over the threads is left to `metrics`.

use std::sync::atomic::AtomicU64;

/// Counters of forwarded bytes. Each relay thread has its own, on separate cache lines, so that counting causes no
/// contention.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ByteCounters {
    /// Bytes written to clients.
    pub to_client: AtomicU64,
    /// Bytes written to servers.
    pub to_server: AtomicU64,
    /// The part of both that was spliced; the rest was copied.
    pub spliced: AtomicU64,
    /// How often splicing was chosen but not possible.
    pub splice_refused: AtomicU64,
    /// How often batching of a stream was started.
    pub batches: AtomicU64,
}
