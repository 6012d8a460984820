//! Problems of rounds for operators: reasons for a hold, and failed steps.

use std::path::Path;

use base::Chain;
use model::{ClusterUid, Problem};

use crate::external_dirs::Obstacle;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::previous_data::ClearError;
use crate::postgres::data::walker::FileSystemHung;
use crate::postgres::server::error::InstanceError;
use crate::problems::KeeperProblemKind;
use crate::reconcile::{CopyPause, HoldReason, Step};
use crate::reconciler::executor::{StepError, failure_message};

/// Returns the problem of a round on hold; `None` if there is nothing to fix. `data` is PGDATA, `own` the cluster of
/// the local database, empty for none.
pub(super) fn problem(why: &HoldReason, data: &Path, own: &ClusterUid) -> Option<Problem> {
    let (text, remedy) = match why {
        HoldReason::DataLost | HoldReason::NoUsableData => (
            format!("the data of the keeper's db are not in {}", data.display()),
            "give this keeper back the --data-dir (or the volume) that holds them; if they are lost, wait for the sentinel, \
             which gives a standby, or a master with a standby to take over, another db",
        ),
        HoldReason::NoClusterData if !own.as_str().is_empty() => (
            format!(
                "the cluster data are gone, and this keeper has a database of cluster {own}: it is left as it is, and is \
                 not started before they are back"
            ),
            "put them back from a backup with `stolonctl clusterdata write --yes -f FILE`; `stolonctl init` gives the \
             databases up",
        ),
        HoldReason::OtherCluster { own, other } => (
            format!("the cluster data belong to another cluster ({other}) than this keeper's database ({own})"),
            "put the right cluster data back with `stolonctl clusterdata write --yes -f FILE`, or discard the database by \
             removing the keeper's data directory",
        ),
        HoldReason::NotSupported(what) => (
            format!("the cluster asks for something that is not supported yet: {what}"),
            "change the cluster spec with stolonctl update",
        ),
        HoldReason::UnsupportedFormat(version) => (
            format!("the cluster data have formatVersion {version}, which this version does not support"),
            "run the same version of all programs",
        ),
        HoldReason::WrongSource(from, why) => (
            format!(
                "another instance answers at {}:{}, the address of the followed db: {why}",
                from.host, from.port
            ),
            why.remedy(),
        ),
        HoldReason::Obstacle(directory, why) => (
            format!("no new data are created, because of {}: {why}", directory.display()),
            why.remedy(),
        ),
        HoldReason::CopyFailed(CopyPause { failures, pause }) => (
            format!("copying the followed db failed, attempt {failures}; pausing {pause:?} before the next one"),
            "see the keeper's log for the cause",
        ),
        _ => return None,
    };
    Some(KeeperProblemKind::Data.problem(&text, remedy))
}

/// Returns the problem of a started change of the data that makes no progress.
pub(super) fn hung_change(hung: &FileSystemHung) -> Problem {
    let text = format!("a started change of the data makes no progress: {hung}; nothing else is done before it ends");
    KeeperProblemKind::Data.problem(&text, Obstacle::NoAnswer.remedy())
}

/// Returns the problem of a failed step that will be retried; `None` for a failure that ends without an operator.
pub(super) fn failed_step(step: &Step, failed: &StepError, owned: &OwnedDirs) -> Option<(KeeperProblemKind, Problem)> {
    if let StepError::Instance(InstanceError::Port(_)) = failed {
        let text = Chain(failed).to_string();
        return Some((
            KeeperProblemKind::Server,
            KeeperProblemKind::Server.problem(&text, "the keeper retries automatically"),
        ));
    }
    match step {
        Step::ClearData(_) | Step::BaseBackup(..) | Step::Initdb(_) => {
            Some((KeeperProblemKind::Data, failed_data(step, failed, owned)))
        }
        Step::StartTemporarily(_)
        | Step::Start(..)
        | Step::WaitReady
        | Step::Stop
        | Step::Promote
        | Step::Reload(_)
        | Step::Restart(..) => {
            let text = format!("{}: {}", failure_message(step, failed), Chain(failed));
            let remedy =
                "fix what is named, see the keeper's and PostgreSQL's log for more; the keeper retries automatically";
            Some((
                KeeperProblemKind::Server,
                KeeperProblemKind::Server.problem(&text, remedy),
            ))
        }
        _ => None,
    }
}

fn failed_data(step: &Step, failed: &StepError, owned: &OwnedDirs) -> Problem {
    if let StepError::Instance(InstanceError::Clear(ClearError::Obstacle { path, obstacle })) = failed {
        let text = format!("no new data are created, because of {}: {obstacle}", path.display());
        return KeeperProblemKind::Data.problem(&text, obstacle.remedy());
    }
    if let StepError::NoAnswer(_) | StepError::Instance(InstanceError::NoAnswer(_)) = failed {
        let text = format!("{}: {}", failure_message(step, failed), Chain(failed));
        return KeeperProblemKind::Data.problem(&text, Obstacle::NoAnswer.remedy());
    }
    let remedy = match owned.record().old {
        Some(old) => format!(
            "fix what is named; the old data are kept in {} until new ones are complete",
            old.directory.display()
        ),
        None => "fix what is named; the keeper retries automatically".to_owned(),
    };
    KeeperProblemKind::Data.problem(
        &format!("{}: {}", failure_message(step, failed), Chain(failed)),
        &remedy,
    )
}
