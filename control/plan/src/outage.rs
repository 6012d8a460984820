//! How much of the time between two reads the store may not have answered. Which times are shifted by it is left to
//! `history` and `memory`.

use std::time::Duration;

/// Returns the longest normal latency; a longer one may include the wait for the end of an outage.
pub(crate) fn longest_normal_latency(usual_latency: Duration) -> Duration {
    usual_latency.saturating_mul(2).max(Duration::from_secs(1))
}

/// Returns the part of the time since the last read in which the store may not have answered.
///
/// A slow store still answers, and publishers reach it as late as readers do: a read that took as long as the previous
/// ones counts in full. A read that took much longer may have waited for the end of an outage, so what exceeds twice
/// the usual latency does not count. If reads are missing before it, the whole time does not count.
pub(crate) fn outage_since(
    elapsed: Duration,
    latency: Duration,
    usual_latency: Duration,
    sleep_interval: Duration,
) -> Duration {
    // Reads follow each other within a sleepInterval; half of one more, at least a second, allows for a late one.
    let longest_delay = sleep_interval.saturating_add((sleep_interval / 2).max(Duration::from_secs(1)));
    if elapsed.saturating_sub(latency) > longest_delay {
        // It is unknown how much of a read after an outage was spent waiting for the store.
        return elapsed;
    }
    latency
        .min(elapsed)
        .saturating_sub(longest_normal_latency(usual_latency))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_reads_count_and_outages_do_not() {
        let outage = |delay: u64, took: u64, usually: u64| {
            let millis = Duration::from_millis;
            super::outage_since(millis(delay + took), millis(took), millis(usually), millis(5000)).as_millis()
        };
        assert_eq!(outage(5000, 10, 10), 0);
        assert_eq!(outage(5000, 3000, 3000), 0, "as slow as before");
        assert_eq!(outage(7500, 4900, 3000), 0);
        assert_eq!(outage(5000, 900, 10), 0, "within the tolerance");
        assert_eq!(
            outage(5000, 4000, 10),
            3000,
            "it may have waited for the end of an outage"
        );
        assert_eq!(outage(7501, 3000, 3000), 10_501, "readings in between failed");
        assert_eq!(outage(60_000, 10, 10), 60_010);
    }
}
