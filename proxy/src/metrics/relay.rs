//! What the relay threads forwarded. Each thread counts for itself; the counters are summed at each scrape, so counting
//! costs nothing where bytes are forwarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

use super::table;
use crate::relay::ByteCounters;

/// The handles of the metrics about forwarded bytes.
pub struct RelayMetrics {
    summed: [SummedCounter; 5],
    copied: (Counter, AtomicU64),
    /// Those of each relay thread.
    byte_counters: Vec<Arc<ByteCounters>>,
}

/// Bytes forwarded since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayedBytes {
    /// To clients.
    pub to_client: u64,
    /// To servers.
    pub to_server: u64,
    /// The part of both that was spliced.
    pub spliced: u64,
}

impl RelayMetrics {
    /// Every series exists from the first scrape on.
    pub(super) fn register(relay_threads: usize) -> Self {
        Self {
            summed: [
                SummedCounter::of(table::RELAYED.counter_of(&["client"]), |counters| &counters.to_client),
                SummedCounter::of(table::RELAYED.counter_of(&["master"]), |counters| &counters.to_server),
                SummedCounter::of(table::BY_PATH.counter_of(&["splice"]), |counters| &counters.spliced),
                SummedCounter::of(table::SPLICE_REFUSED.counter_of(&[]), |counters| {
                    &counters.splice_refused
                }),
                SummedCounter::of(table::BATCHES.counter_of(&[]), |counters| &counters.batches),
            ],
            copied: (table::BY_PATH.counter_of(&["copy"]), AtomicU64::new(0)),
            byte_counters: (0..relay_threads).map(|_| Arc::default()).collect(),
        }
    }

    /// Returns the byte counters of one relay thread.
    pub fn thread_counters(&self, thread: usize) -> Arc<ByteCounters> {
        Arc::clone(&self.byte_counters[thread])
    }

    /// Updates the counters that sum over the relay threads. Called at each scrape.
    pub fn update_sums(&self) {
        for summed in &self.summed {
            summed.update(&self.byte_counters);
        }
        let sum = self.relayed_bytes();
        let copied = (sum.to_client + sum.to_server).saturating_sub(sum.spliced);
        let before = self.copied.1.fetch_max(copied, Ordering::Relaxed);
        self.copied.0.increment(copied.saturating_sub(before));
    }

    /// Returns what all relay threads have forwarded.
    pub fn relayed_bytes(&self) -> RelayedBytes {
        let sum = |of: fn(&ByteCounters) -> &AtomicU64| {
            self.byte_counters
                .iter()
                .map(|counters| of(counters).load(Ordering::Relaxed))
                .sum()
        };
        RelayedBytes {
            to_client: sum(|counters| &counters.to_client),
            to_server: sum(|counters| &counters.to_server),
            spliced: sum(|counters| &counters.spliced),
        }
    }
}

/// The sum of a counter that each relay thread has for itself.
struct SummedCounter {
    counter: Counter,
    of: fn(&ByteCounters) -> &AtomicU64,
    /// The part of the sum that `counter` already contains.
    reported: AtomicU64,
}

impl SummedCounter {
    fn of(counter: Counter, of: fn(&ByteCounters) -> &AtomicU64) -> Self {
        let reported = AtomicU64::new(0);
        Self { counter, of, reported }
    }

    /// Brings `counter` up to date. Concurrent calls add everything once (checked in `relay/gate/exhaustive.rs`).
    fn update(&self, byte_counters: &[Arc<ByteCounters>]) {
        let sum = byte_counters
            .iter()
            .map(|counters| (self.of)(counters).load(Ordering::Relaxed))
            .sum();
        let before = self.reported.fetch_max(sum, Ordering::Relaxed);
        self.counter.increment(sum.saturating_sub(before));
    }
}
