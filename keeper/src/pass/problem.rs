//! Why the data of a standby are not made, as an operator reads it.

use control::model::Problem;
use control::telemetry::Chain;

use crate::converge::{CopyPause, Step, Unchanged};
use crate::pass::steps::{StepError, failure};
use crate::postgres::aside::ClearError;
use crate::postgres::instance::InstanceError;
use crate::postgres::owned::Owned;
use crate::problems::Kind;

/// The problem of a pass that was held; `None` where nothing is to be fixed, or the log says it in the reference's
/// words.
pub(super) fn problem(why: &Unchanged) -> Option<Problem> {
    let (text, remedy) = match why {
        Unchanged::WrongSource(from, why) => (
            format!(
                "another instance answers at {}:{}, the address of the followed db: {why}",
                from.host, from.port
            ),
            why.remedy(),
        ),
        Unchanged::Obstacle(directory, why) => (
            format!("no new data are made, because of {}: {why}", directory.display()),
            why.remedy(),
        ),
        Unchanged::CopyFailed(CopyPause { failures, pause }) => (
            format!("copying the followed db failed, attempt {failures}; pausing {pause:?} before the next one"),
            "see the keeper's log for the cause",
        ),
        _ => return None,
    };
    Some(Kind::Data.problem(&text, remedy))
}

/// The problem of a step that makes or clears data and has failed.
pub(super) fn failed(step: &Step, failed: &StepError, owned: &Owned) -> Problem {
    if let StepError::Instance(InstanceError::Clear(ClearError::Obstacle { path, obstacle })) = failed {
        let text = format!("no new data are made, because of {}: {obstacle}", path.display());
        return Kind::Data.problem(&text, obstacle.remedy());
    }
    let remedy = match owned.record().old {
        Some(old) => format!(
            "mend what is named; the old data are kept in {} until new ones are complete",
            old.directory.display()
        ),
        None => "mend what is named; the next attempt is made by itself".to_owned(),
    };
    Kind::Data.problem(&format!("{}: {}", failure(step), Chain(failed)), &remedy)
}
