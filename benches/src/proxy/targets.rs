//! The targets of the proxy, each with a required and a wanted bound: compared with the median of a value, or of the
//! ratios of all rounds.

use super::figures::{
    CONNECTIONS_PER_SECOND, CPU_PER_GB, CPU_PER_TRANSACTION, DESCRIPTORS_PER_CONNECTION, FIRST_BYTE,
    FORWARDING_STOPPED, Figure, GB_PER_SECOND, HOST_GROWTH, LAST_CLOSE, MEMORY_PER_CONNECTION, P50, PROXY_GROWTH, Row,
    TPS,
};
use super::peers::Peer;

/// How a measurement compares with its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The required bound is missed.
    Missed,
    /// The required bound is missed, but lies within the confidence interval.
    Undecided,
    /// The required bound is met.
    Required,
    /// The wanted bound is met, too, or there is none.
    Wanted,
}

/// A target and its measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetResult {
    /// The load.
    pub load: &'static str,
    /// The quantity.
    pub what: String,
    /// The measured value or ratio.
    pub measured: f64,
    /// Of a ratio: its confidence interval.
    pub interval: Option<(f64, f64)>,
    /// The unit, `×` for a ratio.
    pub unit: &'static str,
    /// The required bound.
    pub must: Bound,
    /// The wanted bound.
    pub want: Option<Bound>,
}

impl TargetResult {
    /// Compares the measurement with the bounds.
    pub fn level(&self) -> Level {
        if !self.must.holds(self.measured) {
            match self.interval {
                Some((min, max)) if self.must.holds(min) || self.must.holds(max) => Level::Undecided,
                _ => Level::Missed,
            }
        } else if self.want.is_none_or(|want| want.holds(self.measured)) {
            Level::Wanted
        } else {
            Level::Required
        }
    }
}

/// A bound of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(max) => value <= max,
            Self::AtLeast(min) => value >= min,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(max) => write!(f, "≤ {max}"),
            Self::AtLeast(min) => write!(f, "≥ {min}"),
        }
    }
}

/// By how much memory that does not grow may differ, in KiB: page tables, buffers, and other work of the host.
const FLAT_KIB: f64 = 1024.0;

/// Evaluates all targets that these rows have figures for: those of proxy 6, the cost of scrapes, and the latency.
pub fn evaluate(rows: &[Row]) -> Vec<TargetResult> {
    use Bound::{AtLeast, AtMost};

    const HAPROXIES: &[Peer] = &[Peer::Haproxy, Peer::HaproxyTuned];
    const BEST: Baseline = Baseline("HAProxy's best", HAPROXIES);
    const DEFAULT: Baseline = Baseline("HAProxy's default", &[Peer::Haproxy]);
    const DIRECT: Baseline = Baseline("direct", &[Peer::Direct]);
    const FASTEST: Baseline = Baseline(
        "the fastest proxy's",
        &[Peer::Haproxy, Peer::HaproxyTuned, Peer::Nginx, Peer::Pgbouncer],
    );
    const SHUTDOWN: Baseline = Baseline("HAProxy's `shutdown sessions server`", HAPROXIES);
    const UNSCRAPED: Baseline = Baseline("no scrapes", &[Peer::Stolon]);
    const BEFORE: Baseline = Baseline("the build before", &[Peer::StolonBefore]);
    let mut evaluation = Evaluation {
        rows,
        results: Vec::new(),
    };
    for load in ["select-16", "prepared-16"] {
        evaluation.ratio(load, CPU_PER_TRANSACTION, BEST, AtMost(0.95), Some(AtMost(0.75)));
        evaluation.ratio(load, TPS, FASTEST, AtLeast(1.0), None);
    }
    for load in ["select-16", "prepared-16"] {
        evaluation.ratio(load, CPU_PER_TRANSACTION, BEFORE, AtMost(1.03), None);
        evaluation.ratio(load, TPS, BEFORE, AtLeast(0.97), None);
    }
    evaluation.ratio("bulk-1", CPU_PER_GB, BEFORE, AtMost(1.03), None);
    evaluation.ratio("connect", CONNECTIONS_PER_SECOND, BEFORE, AtLeast(0.97), None);
    for load in ["bulk-1", "bulk-4"] {
        evaluation.ratio(load, CPU_PER_GB, DEFAULT, AtMost(0.3), None);
        evaluation.ratio(load, CPU_PER_GB, BEST, AtMost(1.05), Some(AtMost(1.0)));
    }
    evaluation.ratio("copy-out", CPU_PER_GB, DEFAULT, AtMost(0.6), Some(AtMost(0.4)));
    evaluation.ratio("copy-out", GB_PER_SECOND, DIRECT, AtLeast(0.95), None);
    evaluation.ratio("reconnect", TPS, BEST, AtLeast(0.97), Some(AtLeast(1.0)));
    evaluation.ratio(
        "connect",
        CONNECTIONS_PER_SECOND,
        BEST,
        AtLeast(0.97),
        Some(AtLeast(1.0)),
    );
    evaluation.value("idle", MEMORY_PER_CONNECTION, "KiB", AtMost(2.0), Some(AtMost(1.0)));
    evaluation.value("idle", DESCRIPTORS_PER_CONNECTION, "", AtMost(2.0), None);
    evaluation.value("idle", FORWARDING_STOPPED, "ms", AtMost(5.0), Some(AtMost(2.0)));
    evaluation.ratio("idle", LAST_CLOSE, SHUTDOWN, AtMost(1.0), None);
    evaluation.value("stalled-reader", PROXY_GROWTH, "KiB", AtMost(FLAT_KIB), None);
    evaluation.value("stalled-reader", HOST_GROWTH, "KiB", AtMost(FLAT_KIB), None);
    evaluation.value("change", FIRST_BYTE, "ms", AtMost(20.0), Some(AtMost(5.0)));
    evaluation.ratio_of(
        Peer::StolonScraped,
        "scrape",
        CPU_PER_TRANSACTION,
        UNSCRAPED,
        AtMost(1.05),
        None,
    );
    evaluation.ratio("latency", P50, BEST, AtMost(1.05), Some(AtMost(1.0)));
    evaluation.ratio("latency-beside-copy", P50, BEST, AtMost(1.05), Some(AtMost(1.0)));
    evaluation.results
}

/// The peers that are compared with, and their common name.
#[derive(Clone, Copy)]
struct Baseline(&'static str, &'static [Peer]);

struct Evaluation<'a> {
    rows: &'a [Row],
    results: Vec<TargetResult>,
}

impl Evaluation<'_> {
    fn row(&self, load: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.load == load)
    }

    /// Adds the ratio of our default configuration to each peer of the baseline, round by round; the least favourable
    /// counts.
    fn ratio(&mut self, load: &'static str, figure: Figure, baseline: Baseline, must: Bound, want: Option<Bound>) {
        self.ratio_of(Peer::Stolon, load, figure, baseline, must, want);
    }

    /// The same for this configuration of ours.
    fn ratio_of(
        &mut self,
        ours: Peer,
        load: &'static str,
        figure: Figure,
        Baseline(name, theirs): Baseline,
        must: Bound,
        want: Option<Bound>,
    ) {
        let Some(row) = self.row(load) else { return };
        let Some(ours) = row.series(ours, figure) else { return };
        let beside = |theirs: &Peer| {
            let ratios = ours.ratios_to(row.series(*theirs, figure)?);
            Some(TargetResult {
                load,
                what: format!("{} beside {name}", figure.title),
                measured: ratios.median(),
                interval: Some(ratios.confidence_interval()),
                unit: "×",
                must,
                want,
            })
        };
        // Without one of the peers it would not be a ratio to `name`.
        let results: Option<Vec<TargetResult>> = theirs.iter().map(beside).collect();
        let by_favour = |one: &TargetResult, other: &TargetResult| {
            let by_value = one.measured.total_cmp(&other.measured);
            one.level().cmp(&other.level()).then(match must {
                Bound::AtMost(_) => by_value.reverse(),
                Bound::AtLeast(_) => by_value,
            })
        };
        self.results
            .extend(results.and_then(|results| results.into_iter().min_by(by_favour)));
    }

    /// Adds a value of our default configuration.
    fn value(&mut self, load: &'static str, figure: Figure, unit: &'static str, must: Bound, want: Option<Bound>) {
        let Some(ours) = self.row(load).and_then(|row| row.median(Peer::Stolon, figure)) else {
            return;
        };
        self.results.push(TargetResult {
            load,
            what: figure.title.to_owned(),
            measured: ours,
            interval: None,
            unit,
            must,
            want,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(load: &'static str, figure: Figure, values: &[(Peer, f64)]) -> Row {
        let mut row = Row::new(load, load.to_owned());
        for (peer, value) in values {
            row.add(*peer, vec![(figure, *value)]);
        }
        row
    }

    #[track_caller]
    fn check(row: Row, what: &str, measured: f64, level: Level) {
        let results = evaluate(&[row]);
        let result = results
            .iter()
            .find(|result| result.what.contains(what))
            .expect("it is evaluation");
        assert!((result.measured - measured).abs() < 1e-9, "{result:?}");
        assert_eq!(result.level(), level, "{result:?}");
    }

    #[test]
    fn the_better_of_two_configurations_counts() {
        let cost = |ours| {
            row(
                "select-16",
                CPU_PER_TRANSACTION,
                &[(Peer::Haproxy, 20.0), (Peer::HaproxyTuned, 10.0), (Peer::Stolon, ours)],
            )
        };
        check(cost(9.6), "HAProxy's best", 0.96, Level::Missed);
        check(cost(9.5), "HAProxy's best", 0.95, Level::Required);
        check(cost(7.0), "HAProxy's best", 0.7, Level::Wanted);
    }

    #[test]
    fn a_rate_is_compared_with_the_fastest() {
        let rate = |ours| {
            row(
                "reconnect",
                TPS,
                &[(Peer::Haproxy, 90.0), (Peer::HaproxyTuned, 100.0), (Peer::Stolon, ours)],
            )
        };
        check(rate(96.0), "HAProxy's best", 0.96, Level::Missed);
        check(rate(98.0), "HAProxy's best", 0.98, Level::Required);
        check(rate(101.0), "HAProxy's best", 1.01, Level::Wanted);
    }

    #[test]
    fn a_bound_within_the_confidence_interval_is_undecided() {
        let rate = |ours: [f64; 3]| {
            let mut row = Row::new("reconnect", String::new());
            for (ours, theirs) in ours.into_iter().zip([100.0, 50.0, 100.0]) {
                row.add(Peer::Haproxy, vec![(TPS, theirs)]);
                row.add(Peer::HaproxyTuned, vec![(TPS, theirs / 2.0)]);
                row.add(Peer::Stolon, vec![(TPS, ours)]);
            }
            row
        };
        check(rate([96.0, 49.0, 90.0]), "HAProxy's best", 0.96, Level::Undecided);
        check(rate([96.0, 48.0, 90.0]), "HAProxy's best", 0.96, Level::Missed);
        check(rate([97.0, 51.0, 10.0]), "HAProxy's best", 0.97, Level::Required);
    }

    // The first peer has the higher median, but the less favourable ratio is the other one's.
    #[test]
    fn the_peer_with_the_least_favourable_ratio_counts() {
        let mut row = Row::new("reconnect", String::new());
        for (ours, one, other) in [(90.0, 100.0, 90.0), (50.0, 49.0, 60.0), (95.0, 94.0, 96.0)] {
            row.add(Peer::Haproxy, vec![(TPS, one)]);
            row.add(Peer::HaproxyTuned, vec![(TPS, other)]);
            row.add(Peer::Stolon, vec![(TPS, ours)]);
        }
        check(row, "HAProxy's best", 95.0 / 96.0, Level::Required);
    }

    #[test]
    fn without_all_peers_of_a_baseline_nothing_is_evaluated() {
        let alone = [(Peer::Haproxy, 90.0), (Peer::Stolon, 10.0)];
        assert_eq!(evaluate(&[row("reconnect", TPS, &alone)]), []);
    }

    #[test]
    fn what_was_not_measured_is_not_evaluated() {
        assert_eq!(evaluate(&[]), []);
        assert_eq!(
            evaluate(&[row("idle", MEMORY_PER_CONNECTION, &[(Peer::Nginx, 1.0)])]),
            []
        );
        check(
            row("idle", MEMORY_PER_CONNECTION, &[(Peer::Stolon, 1.5)]),
            "memory",
            1.5,
            Level::Required,
        );
    }
}
