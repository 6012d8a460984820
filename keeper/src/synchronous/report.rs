//! What operators see of synchronous replication: why client logins are blocked, and settings with which commits do
//! not wait. Finding them is left to the callers.

use std::sync::Arc;
use std::time::Duration;

use model::{DbUid, Problem, waits_for_flush};

use crate::metrics::Metrics;
use crate::postgres::client::replication_state::WalSender;
use crate::problems::{KeeperProblemKind, Problems};
use crate::synchronous::in_sync::InSync;

/// Client logins are blocked for a moment after each start of a master; after this time it is a problem.
const PROBLEM_DELAY: Duration = Duration::from_secs(10);

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

    pub(super) fn set_logins_metric(&self, are_blocked: bool) {
        self.metrics.set_client_logins_blocked(are_blocked);
    }

    /// Reports for how long client logins have been blocked, and for which standbys; `None`: they are allowed.
    pub(super) fn report_blocked_logins(&self, blocked: Option<(Duration, Vec<String>)>) {
        let problem = blocked
            .filter(|(blocked_for, _)| *blocked_for >= PROBLEM_DELAY)
            .map(|(_, missing)| blocked_logins_problem(&missing));
        self.problems.set(
            KeeperProblemKind::Replication,
            "client logins",
            problem.into_iter().collect(),
        );
    }

    /// Reports those settings with which commits do not wait.
    pub(super) fn report_commit_levels(&self, found: impl Iterator<Item = CommitLevel>) {
        let low: Vec<String> = found
            .filter(|level| !waits_for_flush(&level.value))
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
    let why = in_sync.reason_not_in_sync(db, senders);
    match keeper {
        Some(keeper) => format!("db {db} of keeper {keeper} ({why})"),
        None => format!("db {db} ({why})"),
    }
}

fn blocked_logins_problem(missing: &[String]) -> Problem {
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
    fn the_problem_of_blocked_logins_names_the_standby_and_both_remedies() {
        let missing = missing_standby(&"b".into(), Some("keeper1".to_owned()), &InSync::Unmarked, &[]);
        assert_eq!(missing, "db b of keeper keeper1 (not connected)");
        let problem = blocked_logins_problem(&[missing]);
        assert!(problem.text.contains("db b of keeper keeper1"), "{problem:?}");
        for remedy in ["add a keeper", "lower minSynchronousStandbys"] {
            assert!(problem.remedy.contains(remedy), "{problem:?}");
        }
    }
}
