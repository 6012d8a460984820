//! What operators see of synchronous replication: why ordinary clients are kept out, and settings with which commits do
//! not wait. Finding them is left to the callers.

use std::sync::Arc;
use std::time::Duration;

use model::{DbUid, Problem, commits_wait};

use crate::metrics::Metrics;
use crate::postgres::client::sql::WalSender;
use crate::problems::{KeeperProblemKind, Problems};
use crate::synchronous::in_sync::InSync;

/// Ordinary clients are kept out for a moment after each start of a master; after this time it is a problem.
const GATE_PROBLEM_DELAY: Duration = Duration::from_secs(10);

/// A setting of `synchronous_commit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitLevel {
    /// Whose sessions have it.
    pub of: String,
    pub value: String,
}

impl CommitLevel {
    /// Returns the setting of the cluster spec.
    pub fn of_spec(value: String) -> Self {
        Self {
            of: "pgParameters".to_owned(),
            value,
        }
    }
}

/// Sets problems and metrics.
#[derive(Debug)]
pub(super) struct SyncReporter {
    problems: Arc<Problems>,
    metrics: Arc<Metrics>,
}

impl SyncReporter {
    pub(super) fn new(problems: Arc<Problems>, metrics: Arc<Metrics>) -> Self {
        Self { problems, metrics }
    }

    pub(super) fn set_gate_metric(&self, is_closed: bool) {
        self.metrics.set_gate_closed(is_closed);
    }

    /// Reports for how long ordinary clients have been kept out, and for which standbys; `None`: they may log in.
    pub(super) fn report_gate(&self, closed: Option<(Duration, Vec<String>)>) {
        let problem = closed
            .filter(|(closed_for, _)| *closed_for >= GATE_PROBLEM_DELAY)
            .map(|(_, missing)| gate_problem(&missing));
        self.problems
            .set(KeeperProblemKind::Replication, "gate", problem.into_iter().collect());
    }

    /// Reports those settings with which commits do not wait.
    pub(super) fn report_commit_levels(&self, found: impl Iterator<Item = CommitLevel>) {
        let low: Vec<String> = found
            .filter(|level| !commits_wait(&level.value))
            .map(|level| format!("{} ({})", level.value, level.of))
            .collect();
        let problem = (!low.is_empty()).then(|| {
            let text = format!(
                "synchronous_commit is weaker than on: commits are acknowledged before the standbys have flushed them, and \
                 a failover can lose them: {}",
                low.join(", ")
            );
            KeeperProblemKind::Configuration.problem(&text, "set it to on, or remove it, in the places listed")
        });
        self.problems.set(
            KeeperProblemKind::Configuration,
            "synchronous_commit",
            problem.into_iter().collect(),
        );
    }
}

/// Describes a standby that is not in sync.
pub(super) fn missing_standby(db: &DbUid, keeper: Option<String>, in_sync: &InSync, senders: &[WalSender]) -> String {
    let why = in_sync.why_not(db, senders);
    match keeper {
        Some(keeper) => format!("db {db} of keeper {keeper} ({why})"),
        None => format!("db {db} ({why})"),
    }
}

fn gate_problem(missing: &[String]) -> Problem {
    let text = format!(
        "client logins are blocked until each synchronous standby has flushed all WAL written before the master's start; not \
         yet: {}",
        missing.join(", ")
    );
    KeeperProblemKind::Replication.problem(
        &text,
        "bring the standby back, add a keeper, or lower minSynchronousStandbys with stolonctl update",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_problem_of_a_closed_gate_names_the_standby_and_both_remedies() {
        let missing = missing_standby(&"b".into(), Some("keeper1".to_owned()), &InSync::Unmarked, &[]);
        assert_eq!(missing, "db b of keeper keeper1 (not connected)");
        let problem = gate_problem(&[missing]);
        assert!(problem.text.contains("db b of keeper keeper1"), "{problem:?}");
        for remedy in ["add a keeper", "lower minSynchronousStandbys"] {
            assert!(problem.remedy.contains(remedy), "{problem:?}");
        }
    }
}
