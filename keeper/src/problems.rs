//! Problems for an operator: logged when they begin and end, published in the info for `stolonctl status`, and counted
//! in a metric. Finding them and their remedies is left to the callers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base::redact::redacted;
use metrics::Gauge;
use model::Problem;
use tracing::{error, info, warn};

use crate::metrics::PROBLEMS;
use crate::publish::{Due, Publisher};

/// Kind of a problem (keeper 3.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeeperProblemKind {
    /// The server refuses the keeper's logins or its database, or answers no new connection; or a password file cannot be
    /// read.
    Login,
    /// A part of the configuration is refused, waits for a restart, cannot be carried out (slots, durations of the spec), or
    /// weakens synchronous replication.
    Configuration,
    /// Nothing to fix: the server does not accept connections yet, or a long step is under way.
    Recovery,
    /// Data are lost, unusable, cannot be created or removed, or do not answer; or the cluster data ask for what cannot be
    /// done with them.
    Data,
    /// A standby receives no WAL, or client logins of a started master stay blocked.
    Replication,
    /// The server could not be started, stopped, promoted, reloaded or restarted.
    Server,
}

impl KeeperProblemKind {
    /// All kinds, in the order of the metric's series.
    pub const ALL: [Self; 6] = [
        Self::Login,
        Self::Configuration,
        Self::Recovery,
        Self::Data,
        Self::Replication,
        Self::Server,
    ];

    /// Returns the published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Configuration => "configuration",
            Self::Recovery => "recovery",
            Self::Data => "data",
            Self::Replication => "replication",
            Self::Server => "server",
        }
    }

    /// Returns a problem of this kind, with secrets removed from its text.
    pub fn problem(self, text: &str, remedy: &str) -> Problem {
        Problem::new(self.as_str(), &redacted(text), remedy)
    }
}

/// The current problems.
#[derive(Debug)]
pub struct Problems {
    publisher: Arc<Publisher>,
    found: Mutex<FoundProblems>,
    gauges: Vec<(KeeperProblemKind, Gauge)>,
}

type FoundProblems = BTreeMap<(KeeperProblemKind, &'static str), Vec<Problem>>;

impl Problems {
    pub fn new(publisher: Arc<Publisher>) -> Self {
        let series = |kind: KeeperProblemKind| (kind, PROBLEMS.gauge_of(&[kind.as_str()]));
        Self {
            publisher,
            found: Mutex::default(),
            gauges: KeeperProblemKind::ALL.into_iter().map(series).collect(),
        }
    }

    /// Replaces the problems of this kind that `source` has reported; an empty list resolves them. Each new problem is
    /// logged as an error, its end once.
    pub fn set(&self, kind: KeeperProblemKind, source: &'static str, now: Vec<Problem>) {
        let before = self.replace(kind, source, now.clone());
        for problem in now.iter().filter(|problem| !before.contains(problem)) {
            error!(kind = %problem.kind, problem = %problem.text, remedy = %problem.remedy, "problem found");
        }
        log_resolved(&before, &now);
    }

    /// Like `set`, for problems that the caller has logged as errors, with the remedy: only their end is logged here.
    pub fn set_logged(&self, kind: KeeperProblemKind, source: &'static str, now: Vec<Problem>) {
        let before = self.replace(kind, source, now.clone());
        log_resolved(&before, &now);
    }

    /// Like `set`, without logging: for problems whose text changes all the time, such as a progress.
    pub fn set_quietly(&self, kind: KeeperProblemKind, source: &'static str, now: Vec<Problem>) {
        self.replace(kind, source, now);
    }

    /// Returns the previous problems.
    fn replace(&self, kind: KeeperProblemKind, source: &'static str, mut now: Vec<Problem>) -> Vec<Problem> {
        now.truncate(Problem::COUNT_MAX);
        let mut found = self.found.lock().expect("no thread panics while holding the problems");
        let before = match now.is_empty() {
            true => found.remove(&(kind, source)),
            false => found.insert((kind, source), now.clone()),
        };
        let before = before.unwrap_or_default();
        if before != now {
            self.publish(&found);
        }
        before
    }

    fn publish(&self, found: &FoundProblems) {
        for (kind, gauge) in &self.gauges {
            let of_kind = found.iter().filter(|((of, _), _)| of == kind);
            let count: usize = of_kind.map(|(_, problems)| problems.len()).sum();
            if count > Problem::COUNT_MAX {
                warn!(
                    kind = kind.as_str(),
                    count, "too many problems, publishing only the first ones"
                );
            }
            gauge.set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
        let mut all: Vec<Problem> = found.values().flatten().cloned().collect();
        all.truncate(Problem::COUNT_MAX);
        self.publisher.change(Due::Now, |report| report.problems = all);
    }
}

fn log_resolved(before: &[Problem], now: &[Problem]) {
    for problem in before.iter().filter(|problem| !now.contains(problem)) {
        info!(kind = %problem.kind, problem = %problem.text, "problem resolved");
    }
}
