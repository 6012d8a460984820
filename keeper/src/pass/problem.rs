//! Why the data of a standby are not made, as an operator reads it.

use control::model::Problem;

use crate::converge::{CopyPause, Unchanged};
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
            format!("no copy is made, for it would empty {}: {why}", directory.display()),
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
