//! Background work after complete rounds: records the tablespaces of the instance as this keeper's, and removes the
//! previous data once the new server answers. Problems are reported to the operator.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::Chain;
use base::clock::Boottime;
use model::Problem;
use tokio::task::{JoinHandle, spawn_local};
use tracing::warn;

use crate::context::KeeperContext;
use crate::external_dirs::Obstacle;
use crate::postgres::data::access::DataAccess;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::previous_data::{self, ClearError};
use crate::postgres::data::survey::{self, SharedLocation, SurveyFailure, TablespaceSurvey};
use crate::postgres::data::walker::{FileSystemHung, Walker};
use crate::problems::{KeeperProblemKind, Problems};

/// Interval of surveying unchanged tablespaces: another keeper may have started to use them.
const SURVEY_INTERVAL: Duration = Duration::from_secs(60);

/// What housekeeping works with.
#[derive(Debug, Clone)]
struct HousekeepingContext {
    access: DataAccess,
    owned: Arc<OwnedDirs>,
    problems: Arc<Problems>,
    walker: Walker,
    changes: DataChanges,
}

/// What housekeeping depends on. A change triggers another survey.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HousekeepingInput {
    /// Locations of the tablespaces, from the links in PGDATA.
    locations: Vec<PathBuf>,
    /// Another keeper of the cluster advertises the same address.
    shares_address: bool,
    /// The server answers, so that the previous data are no longer needed.
    answers: bool,
}

/// Running tasks, and the last survey.
#[derive(Debug)]
pub(super) struct Housekeeping {
    context: HousekeepingContext,
    removal: Option<JoinHandle<()>>,
    survey: Option<JoinHandle<()>>,
    last_survey: Option<(HousekeepingInput, Boottime)>,
    /// Old data without a record, as last logged.
    unrecorded: Arc<Mutex<Vec<PathBuf>>>,
}

impl Housekeeping {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            context: HousekeepingContext {
                access: context.instance.access().clone(),
                owned: Arc::clone(&context.owned),
                problems: Arc::clone(&context.problems),
                walker: context.walker.clone(),
                changes: context.changes.clone(),
            },
            removal: None,
            survey: None,
            last_survey: None,
            unrecorded: Arc::default(),
        }
    }

    /// Starts what is due and not running. `locations` are those of the tablespaces, none if they cannot be read: the
    /// survey itself reports why. `shares_address`: another keeper of the cluster advertises the same address; `answers`: so
    /// does the server.
    pub(super) fn begin(&mut self, now: Boottime, locations: Vec<PathBuf>, shares_address: bool, answers: bool) {
        let context = &self.context;
        let input = &HousekeepingInput {
            locations,
            shares_address,
            answers,
        };
        // Independent of the survey: a location that cannot be marked is no reason to keep old data.
        if input.answers && is_over(self.removal.as_ref()) && context.owned.record().old.is_some() {
            self.removal = Some(spawn_local(remove_old(context.clone())));
        }
        if is_due(self.last_survey.as_ref(), now, input) && is_over(self.survey.as_ref()) {
            self.last_survey = Some((input.clone(), now));
            let survey_task = survey_tablespaces(context.clone(), input.shares_address, Arc::clone(&self.unrecorded));
            self.survey = Some(spawn_local(survey_task));
        }
    }
}

fn is_over(task: Option<&JoinHandle<()>>) -> bool {
    task.is_none_or(JoinHandle::is_finished)
}

fn is_due(last_survey: Option<&(HousekeepingInput, Boottime)>, now: Boottime, input: &HousekeepingInput) -> bool {
    last_survey.is_none_or(|(before, at)| before != input || now.since(*at) >= SURVEY_INTERVAL)
}

async fn remove_old(context: HousekeepingContext) {
    let owned = Arc::clone(&context.owned);
    let removed = context.changes.remove(move || previous_data::remove_old(&owned)).await;
    let problem = match removed {
        Ok(removed) => removed.err().map(|failed| not_removed(&failed)),
        Err(hung) => Some(not_removed_in_time(&hung)),
    };
    context
        .problems
        .set(KeeperProblemKind::Data, "old data", problem.into_iter().collect());
}

fn not_removed_in_time(hung: &FileSystemHung) -> Problem {
    let text = format!("could not remove old data: {hung}");
    KeeperProblemKind::Data.problem(&text, Obstacle::FileSystemHung.remedy())
}

fn not_removed(failed: &ClearError) -> Problem {
    let (why, remedy) = match failed {
        ClearError::Obstacle { path, obstacle } => (format!("{}: {obstacle}", path.display()), obstacle.remedy()),
        ClearError::File(error) => (
            Chain(error).to_string(),
            "fix the error above; the keeper retries automatically",
        ),
    };
    KeeperProblemKind::Data.problem(&format!("could not remove old data: {why}"), remedy)
}

async fn survey_tablespaces(context: HousekeepingContext, shares_address: bool, logged: Arc<Mutex<Vec<PathBuf>>>) {
    let (data, owned) = (context.access.data().to_owned(), Arc::clone(&context.owned));
    let found = context.walker.run(move || survey::survey_instance(&data, &owned)).await;
    if let Ok(survey) = &found {
        let mut logged = logged.lock().unwrap_or_else(PoisonError::into_inner);
        for directory in survey.unrecorded.iter().filter(|directory| !logged.contains(directory)) {
            warn!(
                directory = %directory.display(),
                "old data without a record: remove them if they are not needed; keepers do not remove them"
            );
        }
        logged.clone_from(&survey.unrecorded);
    }
    context
        .problems
        .set(KeeperProblemKind::Data, "tablespaces", problems(&found, shares_address));
}

/// Returns the problems of a survey.
fn problems(found: &Result<TablespaceSurvey, FileSystemHung>, shares_address: bool) -> Vec<Problem> {
    let survey = match found {
        Ok(survey) => survey,
        Err(hung) => {
            let text = format!("could not look at the tablespaces: {hung}");
            return vec![KeeperProblemKind::Data.problem(&text, "fix its file system, or the server that exports it")];
        }
    };
    let shared = survey.shared.iter().map(|SharedLocation { location, with }| {
        let text = format!(
            "the tablespace location {} is also used by {with}, and will not be emptied for a copy",
            location.display()
        );
        KeeperProblemKind::Data.problem(
            &text,
            "run one of the two on another host, or drop the tablespace; if the other keeper is gone for good, remove its \
             stolon-*.owner file there",
        )
    });
    let failed = survey.failed.iter().map(|SurveyFailure { path, why }| {
        let text = format!("could not record {} as this keeper's: {why}", path.display());
        KeeperProblemKind::Data.problem(&text, "fix the error above; the keeper retries automatically")
    });
    let mut problems: Vec<Problem> = shared.chain(failed).collect();
    if shares_address && survey.shared.is_empty() && !survey.locations.is_empty() {
        let locations: Vec<String> = survey.locations.iter().map(|path| path.display().to_string()).collect();
        let text = format!(
            "another keeper of the cluster on this host would use the same tablespace locations: {}",
            locations.join(", ")
        );
        problems.push(
            KeeperProblemKind::Data.problem(&text, "run one of the two on another host, or drop the tablespaces"),
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    fn input() -> HousekeepingInput {
        HousekeepingInput {
            locations: vec!["/ts".into()],
            shares_address: false,
            answers: true,
        }
    }

    #[test]
    fn tablespaces_are_surveyed_after_a_change_and_otherwise_once_a_minute() {
        let last_survey = Some((input(), at(100)));
        assert!(is_due(None, at(0), &input()));
        assert!(!is_due(last_survey.as_ref(), at(159), &input()));
        assert!(is_due(last_survey.as_ref(), at(160), &input()));
        let changes: [fn(&mut HousekeepingInput); 3] = [
            |input| input.locations.push("/other".into()),
            |input| input.shares_address = true,
            |input| input.answers = false,
        ];
        for change in changes {
            let mut now = input();
            change(&mut now);
            assert!(is_due(last_survey.as_ref(), at(101), &now), "{now:?}");
        }
    }

    fn texts(found: &Result<TablespaceSurvey, FileSystemHung>, shares_address: bool) -> Vec<String> {
        let problems = problems(found, shares_address).into_iter();
        problems
            .map(|problem| format!("{}; {}", problem.text, problem.remedy))
            .collect()
    }

    #[test]
    fn each_location_that_needs_an_operator_is_a_problem_with_a_remedy() {
        let mut survey = TablespaceSurvey {
            locations: vec!["/ts".into(), "/dead".into()],
            ..TablespaceSurvey::default()
        };
        assert_eq!(texts(&Ok(survey.clone()), false), [""; 0]);
        let same_address = texts(&Ok(survey.clone()), true);
        assert!(same_address[0].contains("/ts, /dead") && same_address[0].contains("on another host"));
        survey.shared.push(SharedLocation {
            location: "/ts".into(),
            with: "the keeper of /k2".into(),
        });
        survey.failed.push(SurveyFailure {
            path: "/dead".into(),
            why: "list /dead: Input/output error".into(),
        });
        let found = texts(&Ok(survey), true);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("/ts is also used by the keeper of /k2"), "{found:?}");
        assert!(found[1].contains("/dead: Input/output error"), "{found:?}");
        let hung = texts(&Err(FileSystemHung { path: "/dead".into() }), false);
        assert!(hung[0].contains("/dead does not answer"), "{hung:?}");
    }
}
