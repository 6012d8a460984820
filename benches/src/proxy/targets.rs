//! Where the proxy must stand, and where it wants to: each standard, judged by the median of a value or
//! of the ratios of every round.

use super::figures::{
    CONNECTIONS_PER_SECOND, CPU_PER_GB, CPU_PER_TRANSACTION, DESCRIPTORS_PER_CONNECTION, FIRST_BYTE,
    FORWARDING_STOPPED, Figure, GB_PER_SECOND, HOST_GROWTH, LAST_CLOSE, MEMORY_PER_CONNECTION, P50, PROXY_GROWTH, Row,
    TPS,
};
use super::peers::Peer;

/// How far a measurement comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Not as far as it must.
    Missed,
    /// Not as far as it must, but that lies within the interval.
    Undecided,
    /// As far as it must, and there is no further.
    Required,
    /// As far as it wants to, or there is nothing to want.
    Wanted,
}

/// One standard, and what was measured of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetResult {
    /// The load.
    pub load: &'static str,
    /// What of it.
    pub what: String,
    /// What was measured, in the terms of the two bounds.
    pub measured: f64,
    /// Of a ratio: where it may as well be, see [`super::figures::Series::interval`].
    pub interval: Option<(f64, f64)>,
    /// Its unit: `×` for a ratio.
    pub unit: &'static str,
    /// What must be reached.
    pub must: Bound,
    /// What is wanted.
    pub want: Option<Bound>,
}

impl TargetResult {
    /// How far it comes.
    pub fn level(&self) -> Level {
        if !self.must.holds(self.measured) {
            match self.interval {
                Some((least, most)) if self.must.holds(least) || self.must.holds(most) => Level::Undecided,
                _ => Level::Missed,
            }
        } else if self.want.is_none_or(|want| want.holds(self.measured)) {
            Level::Wanted
        } else {
            Level::Required
        }
    }
}

/// A bound of a figure.
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
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

/// What flat memory may differ by, in KiB: a page table here, a buffer there, on a host that does other things too.
const FLAT_KIB: f64 = 1024.0;

/// Judges all standards that these rows tell of: those of proxy 6, and that neither a scrape nor the way through costs what
/// can be seen.
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
    let mut judged = Evaluation {
        rows,
        results: Vec::new(),
    };
    for load in ["select-16", "prepared-16"] {
        judged.ratio(load, CPU_PER_TRANSACTION, BEST, AtMost(0.95), Some(AtMost(0.75)));
        judged.ratio(load, TPS, FASTEST, AtLeast(1.0), None);
    }
    for load in ["bulk-1", "bulk-4"] {
        judged.ratio(load, CPU_PER_GB, DEFAULT, AtMost(0.3), None);
        judged.ratio(load, CPU_PER_GB, BEST, AtMost(1.05), Some(AtMost(1.0)));
    }
    judged.ratio("copy-out", CPU_PER_GB, DEFAULT, AtMost(0.6), Some(AtMost(0.4)));
    judged.ratio("copy-out", GB_PER_SECOND, DIRECT, AtLeast(0.95), None);
    judged.ratio("reconnect", TPS, BEST, AtLeast(0.97), Some(AtLeast(1.0)));
    judged.ratio(
        "connect",
        CONNECTIONS_PER_SECOND,
        BEST,
        AtLeast(0.97),
        Some(AtLeast(1.0)),
    );
    judged.value("idle", MEMORY_PER_CONNECTION, "KiB", AtMost(2.0), Some(AtMost(1.0)));
    judged.value("idle", DESCRIPTORS_PER_CONNECTION, "", AtMost(2.0), None);
    judged.value("idle", FORWARDING_STOPPED, "ms", AtMost(5.0), Some(AtMost(2.0)));
    judged.ratio("idle", LAST_CLOSE, SHUTDOWN, AtMost(1.0), None);
    judged.value("stalled-reader", PROXY_GROWTH, "KiB", AtMost(FLAT_KIB), None);
    judged.value("stalled-reader", HOST_GROWTH, "KiB", AtMost(FLAT_KIB), None);
    judged.value("change", FIRST_BYTE, "ms", AtMost(20.0), Some(AtMost(5.0)));
    judged.ratio_of(
        Peer::StolonScraped,
        "scrape",
        CPU_PER_TRANSACTION,
        UNSCRAPED,
        AtMost(1.05),
        None,
    );
    judged.ratio("latency", P50, BEST, AtMost(1.05), Some(AtMost(1.0)));
    judged.ratio("latency-beside-copy", P50, BEST, AtMost(1.05), Some(AtMost(1.0)));
    judged.results
}

/// Who is compared with, in words, and which of the peers that are.
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

    /// Ours as it comes over each of theirs, round by round; the rival that is hardest to reach counts.
    fn ratio(&mut self, load: &'static str, figure: Figure, rivals: Baseline, must: Bound, want: Option<Bound>) {
        self.ratio_of(Peer::Stolon, load, figure, rivals, must, want);
    }

    /// The same of this peer.
    fn ratio_of(
        &mut self,
        ours: Peer,
        load: &'static str,
        figure: Figure,
        Baseline(whose, theirs): Baseline,
        must: Bound,
        want: Option<Bound>,
    ) {
        let Some(row) = self.row(load) else { return };
        let Some(ours) = row.series(ours, figure) else { return };
        let beside = |theirs: &Peer| {
            let ratios = ours.ratios_to(row.series(*theirs, figure)?);
            Some(TargetResult {
                load,
                what: format!("{} beside {whose}", figure.title),
                measured: ratios.median(),
                interval: Some(ratios.confidence_interval()),
                unit: "×",
                must,
                want,
            })
        };
        // without one of them it would not be what `whose` says
        let verdicts: Option<Vec<TargetResult>> = theirs.iter().map(beside).collect();
        let reach = |one: &TargetResult, other: &TargetResult| {
            let farther = one.measured.total_cmp(&other.measured);
            one.level().cmp(&other.level()).then(match must {
                Bound::AtMost(_) => farther.reverse(),
                Bound::AtLeast(_) => farther,
            })
        };
        self.results
            .extend(verdicts.and_then(|verdicts| verdicts.into_iter().min_by(reach)));
    }

    /// Ours alone.
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
    fn check(row: Row, what: &str, measured: f64, reach: Level) {
        let verdicts = evaluate(&[row]);
        let verdict = verdicts
            .iter()
            .find(|verdict| verdict.what.contains(what))
            .expect("it is judged");
        assert!((verdict.measured - measured).abs() < 1e-9, "{verdict:?}");
        assert_eq!(verdict.level(), reach, "{verdict:?}");
    }

    #[test]
    fn the_better_of_two_configurations_is_the_bar() {
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
    fn a_rate_must_reach_the_fastest() {
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
    fn what_the_rounds_do_not_tell_apart_is_level() {
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

    // its own median is the lower one
    #[test]
    fn the_rival_counts_that_is_hardest_to_reach_round_by_round() {
        let mut row = Row::new("reconnect", String::new());
        for (ours, one, other) in [(90.0, 100.0, 90.0), (50.0, 49.0, 60.0), (95.0, 94.0, 96.0)] {
            row.add(Peer::Haproxy, vec![(TPS, one)]);
            row.add(Peer::HaproxyTuned, vec![(TPS, other)]);
            row.add(Peer::Stolon, vec![(TPS, ours)]);
        }
        check(row, "HAProxy's best", 95.0 / 96.0, Level::Required);
    }

    #[test]
    fn beside_half_of_the_rivals_nothing_is_judged() {
        let alone = [(Peer::Haproxy, 90.0), (Peer::Stolon, 10.0)];
        assert_eq!(evaluate(&[row("reconnect", TPS, &alone)]), []);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
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
