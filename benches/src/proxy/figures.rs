//! Figures that are measured, and their statistics over rounds.

use std::fmt;

use super::peers::Peer;

/// Whether lower or higher values of a figure are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Costs and waiting times.
    Lower,
    /// Rates.
    Higher,
}

/// A measured quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// The name in the JSON.
    pub name: &'static str,
    /// The title with the unit.
    pub title: &'static str,
    /// Whether lower or higher is better.
    pub better: Better,
    /// Digits after the decimal point.
    pub digits: usize,
}

const fn lower(name: &'static str, title: &'static str, digits: usize) -> Figure {
    Figure {
        name,
        title,
        better: Better::Lower,
        digits,
    }
}

const fn higher(name: &'static str, title: &'static str, digits: usize) -> Figure {
    Figure {
        name,
        title,
        better: Better::Higher,
        digits,
    }
}

/// CPU time of the proxy per transaction.
pub const CPU_PER_TRANSACTION: Figure = lower("cpu_us_per_transaction", "proxy CPU, µs per transaction", 1);
/// Transactions per second.
pub const TPS: Figure = higher("tps", "transactions per second", 0);
/// Mean latency, as printed by pgbench.
pub const LATENCY: Figure = lower("latency_us", "latency, µs", 0);
/// Connections opened and closed per second.
pub const CONNECTIONS_PER_SECOND: Figure = higher("connections_per_second", "connections per second", 0);
/// CPU time of the proxy per connection, from accept to close.
pub const CPU_PER_CONNECTION: Figure = lower("cpu_us_per_connection", "proxy CPU, µs per connection", 1);
/// CPU time of the proxy per gigabyte (10⁹ bytes).
pub const CPU_PER_GB: Figure = lower("cpu_ms_per_gb", "proxy CPU, ms per GB", 0);
/// Throughput (10⁹ bytes).
pub const GB_PER_SECOND: Figure = higher("gb_per_second", "GB/s", 2);
/// Anonymous memory of the proxy per connection.
pub const MEMORY_PER_CONNECTION: Figure = lower("kib_per_connection", "proxy memory, KiB per connection", 2);
/// Descriptors of the proxy per connection.
pub const DESCRIPTORS_PER_CONNECTION: Figure = lower("descriptors_per_connection", "descriptors per connection", 2);
/// From the command or commit to the close of the last client.
pub const LAST_CLOSE: Figure = lower("last_close_ms", "command to last close, ms", 0);
/// From the proxy's receipt of the change until all forwarding has stopped, by its metrics.
pub const FORWARDING_STOPPED: Figure = lower("forwarding_stopped_ms", "forwarding stopped after, ms", 3);
/// From the proxy's receipt of the change until its last connection is closed, by its metrics.
pub const ALL_DROPPED: Figure = lower("all_dropped_ms", "all closed after, ms", 0);
/// From the commit in etcd to the first byte of the new master; the median over the changes of one run.
pub const FIRST_BYTE: Figure = lower("first_byte_ms", "commit to first byte, ms (median)", 2);
/// The maximum over the changes of one run.
pub const FIRST_BYTE_MAX: Figure = lower("first_byte_max_ms", "commit to first byte, ms (longest)", 2);
/// The median response time.
pub const P50: Figure = lower("p50_us", "p50, µs", 0);
/// The 99th percentile of response times.
pub const P99: Figure = lower("p99_us", "p99, µs", 0);
/// The 99.9th percentile of response times.
pub const P999: Figure = lower("p999_us", "p99.9, µs", 0);
/// Growth of the proxy's anonymous memory while its reader is stalled.
pub const PROXY_GROWTH: Figure = lower("proxy_growth_kib", "proxy memory grew by, KiB", 0);
/// Growth of the kernel's TCP memory until all buffers are full.
pub const HOST_TAKEN: Figure = lower("host_taken_kib", "host TCP memory taken, KiB", 0);
/// Its growth after that.
pub const HOST_GROWTH: Figure = lower("host_growth_kib", "and growing further by, KiB", 0);

/// The figures of one run of a load.
pub type Sample = Vec<(Figure, f64)>;

/// The values of one figure over the rounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series(Vec<f64>);

impl Series {
    /// Adds the value of a round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Returns the values in the order of the rounds.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Returns the median, of an even number the mean of the two in the middle; NaN without values.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// Returns the ratio to `other` of each round. What slows down a whole round cancels out.
    pub fn ratios_to(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(ours, theirs)| ours / theirs)
                .collect(),
        )
    }

    /// Returns a confidence interval of at least 95 % for the median: two of the values, by the binomial distribution,
    /// which makes no assumption on the distribution of the values. With fewer than six rounds it is the minimum and
    /// the maximum, with less confidence.
    pub fn confidence_interval(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let rounds = sorted.len();
        let (mut skipped, mut chance, mut sum) = (0, 0.5_f64.powi(i32::try_from(rounds).unwrap_or(i32::MAX)), 0.0);
        loop {
            sum += chance;
            if sum > 0.025 {
                break;
            }
            skipped += 1;
            chance *= (rounds + 1 - skipped) as f64 / skipped as f64;
        }
        let outermost = skipped.saturating_sub(1);
        match sorted.get(outermost..rounds.saturating_sub(outermost)) {
            Some([min, .., max]) => (*min, *max),
            Some([only]) => (*only, *only),
            _ => (f64::NAN, f64::NAN),
        }
    }

    /// Returns the minimum and the maximum; NaN without values.
    pub fn min_max(&self) -> (f64, f64) {
        let min = self.0.iter().copied().fold(f64::NAN, f64::min);
        let max = self.0.iter().copied().fold(f64::NAN, f64::max);
        (min, max)
    }
}

/// One figure of one peer under one load.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The peer.
    pub peer: Peer,
    /// The figure.
    pub figure: Figure,
    /// Its values.
    pub series: Series,
}

/// All figures of one load.
#[derive(Debug, Clone)]
pub struct Row {
    /// The name of the load, on the command line and in the JSON.
    pub load: &'static str,
    /// Its description.
    pub title: String,
    /// The figures of all peers, in the order of their first values.
    pub cells: Vec<Cell>,
}

impl Row {
    /// Returns a row without figures.
    pub fn new(load: &'static str, title: String) -> Self {
        Self {
            load,
            title,
            cells: Vec::new(),
        }
    }

    /// Adds the figures of one run.
    pub fn add(&mut self, peer: Peer, sample: Sample) {
        for (figure, value) in sample {
            let found = self
                .cells
                .iter()
                .position(|cell| cell.peer == peer && cell.figure == figure);
            let index = found.unwrap_or_else(|| {
                self.cells.push(Cell {
                    peer,
                    figure,
                    series: Series::default(),
                });
                self.cells.len() - 1
            });
            self.cells[index].series.push(value);
        }
    }

    /// Returns the values of one figure of one peer.
    pub fn series(&self, peer: Peer, figure: Figure) -> Option<&Series> {
        let mut cells = self.cells.iter();
        let cell = cells.find(|cell| cell.peer == peer && cell.figure == figure)?;
        Some(&cell.series)
    }

    /// Returns the median of one figure of one peer.
    pub fn median(&self, peer: Peer, figure: Figure) -> Option<f64> {
        self.series(peer, figure).map(Series::median)
    }

    /// Returns the peers that have figures.
    pub fn peers(&self) -> Vec<Peer> {
        let mut peers: Vec<Peer> = Vec::new();
        for cell in &self.cells {
            if !peers.contains(&cell.peer) {
                peers.push(cell.peer);
            }
        }
        peers.sort_unstable();
        peers
    }

    /// Returns the figures, in the order of their first values.
    pub fn figures(&self) -> Vec<Figure> {
        let mut figures: Vec<Figure> = Vec::new();
        for cell in &self.cells {
            if !figures.contains(&cell.figure) {
                figures.push(cell.figure);
            }
        }
        figures
    }
}

/// A value that is displayed with the digits of its figure.
pub struct Formatted(pub Figure, pub f64);

impl fmt::Display for Formatted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.*}", self.0.digits, self.1);
        // A small negative value is rounded to -0.
        let text = if text.trim_matches(['-', '0', '.']).is_empty() {
            text.trim_start_matches('-').to_owned()
        } else {
            text
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        Series(values.to_vec())
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(series(&[3.0, 1.0, 2.0]).median().to_string(), "2");
        assert_eq!(series(&[4.0, 1.0, 2.0, 3.0]).median().to_string(), "2.5");
        assert!(series(&[]).median().is_nan());
    }

    // The largest k with P(X < k) <= 0.025, for X the heads of n tosses of a fair coin.
    #[test]
    fn the_confidence_interval_leaves_out_2_5_percent_at_each_end() {
        let of = |rounds: u32| series(&(1..=rounds).rev().map(f64::from).collect::<Vec<_>>()).confidence_interval();
        assert_eq!(of(1), (1.0, 1.0));
        assert_eq!(of(2), (1.0, 2.0));
        assert_eq!(of(5), (1.0, 5.0));
        assert_eq!(of(7), (1.0, 7.0));
        assert_eq!(of(9), (2.0, 8.0));
        assert_eq!(of(14), (3.0, 12.0));
        assert_eq!(of(30), (10.0, 21.0));
        assert!(series(&[]).confidence_interval().0.is_nan());
    }

    #[test]
    fn ratios_are_computed_per_round() {
        assert_eq!(series(&[1.0, 8.0]).ratios_to(&series(&[2.0, 4.0])), series(&[0.5, 2.0]));
    }

    #[test]
    fn figures_are_stored_by_peer() {
        let mut row = Row::new("x", "x".to_owned());
        row.add(Peer::Nginx, vec![(TPS, 5.0)]);
        row.add(Peer::Direct, vec![(TPS, 7.0)]);
        row.add(Peer::Nginx, vec![(TPS, 9.0)]);
        assert_eq!(row.median(Peer::Nginx, TPS), Some(7.0));
        assert_eq!(row.median(Peer::Stolon, TPS), None);
        assert_eq!(row.peers(), [Peer::Direct, Peer::Nginx]);
    }

    #[test]
    fn a_value_that_rounds_to_zero_has_no_sign() {
        assert_eq!(Formatted(TPS, -0.2).to_string(), "0");
        assert_eq!(Formatted(GB_PER_SECOND, -0.2).to_string(), "-0.20");
    }
}
