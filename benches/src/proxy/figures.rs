//! What is measured, and what many measurements of it come to.

use std::fmt;

use super::peers::Peer;

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Costs and waits.
    Lower,
    /// Rates.
    Higher,
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// As in the JSON.
    pub name: &'static str,
    /// In words, with the unit.
    pub title: &'static str,
    /// Which way it is better.
    pub better: Better,
    /// Digits behind the point.
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

/// CPU time of the proxy a transaction.
pub const CPU_PER_TRANSACTION: Figure = lower("cpu_us_per_transaction", "proxy CPU, µs a transaction", 1);
/// Transactions a second.
pub const TPS: Figure = higher("tps", "transactions a second", 0);
/// Mean latency as pgbench tells it.
pub const LATENCY: Figure = lower("latency_us", "latency, µs", 0);
/// Connections made and ended.
pub const CONNECTIONS_PER_SECOND: Figure = higher("connections_per_second", "connections a second", 0);
/// CPU time of the proxy a connection, from its accept to its end.
pub const CPU_PER_CONNECTION: Figure = lower("cpu_us_per_connection", "proxy CPU, µs a connection", 1);
/// CPU time of the proxy a gigabyte (10⁹ bytes).
pub const CPU_PER_GB: Figure = lower("cpu_ms_per_gb", "proxy CPU, ms a GB", 0);
/// Throughput (10⁹ bytes).
pub const GB_PER_SECOND: Figure = higher("gb_per_second", "GB/s", 2);
/// Anonymous memory of the proxy a connection.
pub const MEMORY_PER_CONNECTION: Figure = lower("kib_per_connection", "proxy memory, KiB a connection", 2);
/// Descriptors of the proxy a connection.
pub const DESCRIPTORS_PER_CONNECTION: Figure = lower("descriptors_per_connection", "descriptors a connection", 2);
/// From the command or commit to the last client's end.
pub const LAST_CLOSE: Figure = lower("last_close_ms", "command to last close, ms", 0);
/// From the proxy's learning of the change until nothing is forwarded any more, as its metrics tell.
pub const FORWARDING_STOPPED: Figure = lower("forwarding_stopped_ms", "forwarding stopped after, ms", 3);
/// From the proxy's learning of the change until its last connection is closed, as its metrics tell.
pub const ALL_DROPPED: Figure = lower("all_dropped_ms", "all closed after, ms", 0);
/// From the commit in etcd to the first byte of the new master; the median of the changes of one run.
pub const FIRST_BYTE: Figure = lower("first_byte_ms", "commit to first byte, ms (median)", 2);
/// The longest of one run.
pub const FIRST_BYTE_MAX: Figure = lower("first_byte_max_ms", "commit to first byte, ms (longest)", 2);
/// Half of the answers came faster.
pub const P50: Figure = lower("p50_us", "p50, µs", 0);
/// 99 % of the answers came faster.
pub const P99: Figure = lower("p99_us", "p99, µs", 0);
/// 99.9 % of the answers came faster.
pub const P999: Figure = lower("p999_us", "p99.9, µs", 0);
/// What the proxy's resident memory grew by while its reader stood still.
pub const PROXY_GROWTH: Figure = lower("proxy_growth_kib", "proxy memory grew by, KiB", 0);
/// What the kernel's TCP memory grew by until the reader had stood still for a moment.
pub const HOST_TAKEN: Figure = lower("host_taken_kib", "host TCP memory taken, KiB", 0);
/// What it grew by after that moment.
pub const HOST_GROWTH: Figure = lower("host_growth_kib", "and growing further by, KiB", 0);

/// What one run of a load gave.
pub type Sample = Vec<(Figure, f64)>;

/// The values of one figure over the rounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series(Vec<f64>);

impl Series {
    /// Adds the value of another round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// In the order of the rounds.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The value in the middle, the mean of the two in the middle of an even number; NaN of none.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// Of each round the value over the other one's of the same round: what slowed the whole round is not in it.
    pub fn ratios_to(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(ours, theirs)| ours / theirs)
                .collect(),
        )
    }

    /// Where the median of endlessly many rounds is, with a certainty of at least 95 %: between two of the values, found
    /// by the binomial distribution, whatever the values are distributed like. Of fewer than six it is all from the least
    /// to the most, with less certainty.
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
            Some([least, .., most]) => (*least, *most),
            Some([only]) => (*only, *only),
            _ => (f64::NAN, f64::NAN),
        }
    }

    /// The smallest and the greatest value; NaN of none.
    pub fn min_max(&self) -> (f64, f64) {
        let least = self.0.iter().copied().fold(f64::NAN, f64::min);
        let most = self.0.iter().copied().fold(f64::NAN, f64::max);
        (least, most)
    }
}

/// One figure of one peer under one load.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Whose.
    pub peer: Peer,
    /// Of what.
    pub figure: Figure,
    /// How much.
    pub series: Series,
}

/// All that one load gave.
#[derive(Debug, Clone)]
pub struct Row {
    /// The load's name, as on the command line and in the JSON.
    pub load: &'static str,
    /// In words.
    pub title: String,
    /// Every peer's figures, in the order in which they came.
    pub cells: Vec<Cell>,
}

impl Row {
    /// A row without figures.
    pub fn new(load: &'static str, title: String) -> Self {
        Self {
            load,
            title,
            cells: Vec::new(),
        }
    }

    /// Adds what one run gave.
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

    /// One figure of one peer.
    pub fn series(&self, peer: Peer, figure: Figure) -> Option<&Series> {
        let mut cells = self.cells.iter();
        let cell = cells.find(|cell| cell.peer == peer && cell.figure == figure)?;
        Some(&cell.series)
    }

    /// The median of one figure of one peer.
    pub fn median(&self, peer: Peer, figure: Figure) -> Option<f64> {
        self.series(peer, figure).map(Series::median)
    }

    /// The peers, in the order of their first figures.
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

    /// The figures, in the order in which they came.
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

/// Writes a value with the digits of its figure.
pub struct Formatted(pub Figure, pub f64);

impl fmt::Display for Formatted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.*}", self.0.digits, self.1);
        // -0 is what rounding leaves of a small loss
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

    // P(X < k) for X of a fair coin thrown n times: the largest k with at most 0.025
    #[test]
    fn the_interval_leaves_out_what_chance_would() {
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
    fn a_ratio_is_that_of_each_round() {
        assert_eq!(series(&[1.0, 8.0]).ratios_to(&series(&[2.0, 4.0])), series(&[0.5, 2.0]));
    }

    #[test]
    fn a_figure_is_kept_by_peer() {
        let mut row = Row::new("x", "x".to_owned());
        row.add(Peer::Nginx, vec![(TPS, 5.0)]);
        row.add(Peer::Direct, vec![(TPS, 7.0)]);
        row.add(Peer::Nginx, vec![(TPS, 9.0)]);
        assert_eq!(row.median(Peer::Nginx, TPS), Some(7.0));
        assert_eq!(row.median(Peer::Stolon, TPS), None);
        assert_eq!(row.peers(), [Peer::Direct, Peer::Nginx]);
    }

    #[test]
    fn nothing_is_shown_as_less_than_nothing() {
        assert_eq!(Formatted(TPS, -0.2).to_string(), "0");
        assert_eq!(Formatted(GB_PER_SECOND, -0.2).to_string(), "-0.20");
    }
}
