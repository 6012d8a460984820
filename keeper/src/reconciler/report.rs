//! What a round reports to operators and to the sentinel: metrics, problems with their remedies, lost data. Logging is
//! left to `round_log`.

use std::path::Path;
use std::sync::Arc;

use base::{Chain, Clock};
use daemon::telemetry::unix_seconds;
use model::{CheckedClusterData, Clamped, ClusterUid, DbUid, Problem};

use crate::context::KeeperContext;
use crate::executor::{StepError, failure_message};
use crate::external_dirs::Obstacle;
use crate::local::state::LocalState;
use crate::metrics::{MetricRole, Metrics};
use crate::postgres::config::credentials::Secret;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::previous_data::ClearError;
use crate::postgres::data::walker::FileSystemHung;
use crate::postgres::instance::Instance;
use crate::postgres::server::error::InstanceError;
use crate::problems::{KeeperProblemKind, Problems};
use crate::publish::{Due, Publisher};
use crate::reconcile::{
    CopyDelay, DataRole, DataState, Desired, Goal, HoldReason, NextAction, ReconcilePlan, Step, TargetRole, WrongSource,
};
use crate::round_log::is_logged_as_error;

/// Reports what rounds find.
#[derive(Debug)]
pub(super) struct RoundReporter {
    instance: Arc<Instance>,
    local: Arc<LocalState>,
    owned: Arc<OwnedDirs>,
    publisher: Arc<Publisher>,
    problems: Arc<Problems>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl RoundReporter {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            instance: Arc::clone(&context.instance),
            local: Arc::clone(&context.local),
            owned: Arc::clone(&context.owned),
            publisher: Arc::clone(&context.publisher),
            problems: Arc::clone(&context.problems),
            metrics: Arc::clone(&context.metrics),
            clock: context.clock.clone(),
        }
    }

    /// Reports usable cluster data, and what cannot be used of them.
    pub(super) fn report_cluster_data(&self, checked: &CheckedClusterData) {
        self.report_clamped(checked);
        self.metrics.cluster_data_valid.set(unix_seconds(self.clock.wall()));
    }

    /// Reports password files that can no longer be read.
    pub(super) fn report_password_files(&self) {
        let failing = self.instance.config().passwords().filter_map(Secret::failure);
        let problem = |text: String| {
            KeeperProblemKind::Login.problem(&text, "make the file readable with a password in it, and send SIGHUP")
        };
        self.problems.set(
            KeeperProblemKind::Login,
            "password files",
            failing.map(problem).collect(),
        );
    }

    /// Sets the metric of the desired role.
    pub(super) fn set_target_role(&self, role: &TargetRole) {
        self.metrics.set_target_role(match role {
            TargetRole::Master => MetricRole::Master,
            TargetRole::Standby(_) | TargetRole::NoUpstream | TargetRole::UndefinedUpstream(_) => MetricRole::Standby,
            TargetRole::Other(_) => MetricRole::Undefined,
        });
    }

    /// Sets the metric of the role that the data define.
    pub(super) fn set_local_role(&self, data: DataState) {
        self.metrics.set_local_role(match data {
            DataState::Absent => MetricRole::Undefined,
            DataState::Present(DataRole::Master) => MetricRole::Master,
            DataState::Present(DataRole::Standby) => MetricRole::Standby,
        });
    }

    /// Publishes whether the data of the assigned db are missing, so that the sentinel assigns another db.
    pub(super) fn publish_data_lost(&self, desired: &Desired, plan: &ReconcilePlan) {
        let lost = match (&plan.next, &desired.goal) {
            (NextAction::Hold(HoldReason::DataLost | HoldReason::NoUsableData), Goal::Run(target)) => target.db.clone(),
            _ => DbUid::default(),
        };
        if self.publisher.report().data_lost != lost {
            self.publisher.change(Due::Now, |report| report.data_lost = lost);
        }
    }

    /// Reports that nothing else is done because a started change of the data makes no progress.
    pub(super) fn report_hung_change(&self, hung: Option<&FileSystemHung>) {
        let problem = hung.map(hung_change);
        self.problems
            .set(KeeperProblemKind::Data, "change", problem.into_iter().collect());
    }

    /// Reports a failed step that is retried.
    pub(super) fn report_failed_step(&self, step: &Step, failed: &StepError) {
        self.metrics.count_failed_step(step.label());
        if let Some((kind, problem)) = failed_step(step, failed, &self.owned) {
            self.problems.set(kind, "step", vec![problem]);
        }
    }

    /// Withdraws the problems of failed steps.
    pub(super) fn withdraw_failed_steps(&self) {
        for kind in [KeeperProblemKind::Data, KeeperProblemKind::Server] {
            self.problems.set(kind, "step", Vec::new());
        }
    }

    /// Reports why the round ends on hold; `None` withdraws it.
    pub(super) fn report_hold(&self, why: Option<&HoldReason>) {
        let data = &self.instance.config().data;
        let problem = why.and_then(|why| hold_problem(why, data, &self.local.cluster()));
        let problem = problem.into_iter().collect();
        match why.is_some_and(is_logged_as_error) {
            true => self.problems.set_logged(KeeperProblemKind::Data, "hold", problem),
            false => self.problems.set(KeeperProblemKind::Data, "hold", problem),
        }
    }

    /// Sets the metric of the last complete round.
    pub(super) fn set_complete(&self) {
        self.metrics.sync_success.set(unix_seconds(self.clock.wall()));
    }

    /// Reports each stored duration that is clamped to another value.
    fn report_clamped(&self, checked: &CheckedClusterData) {
        let clamped = checked.cluster().spec.as_ref().map(|spec| spec.clamped());
        let clamped = clamped.unwrap_or_default();
        let problem = |stored: &Clamped| {
            let text = format!("{} of the cluster spec cannot be used as it is: {stored}", stored.field);
            KeeperProblemKind::Configuration.problem(&text, "set another duration with stolonctl update")
        };
        let problems = clamped.iter().map(problem).collect();
        self.problems.set(KeeperProblemKind::Configuration, "limits", problems);
    }
}

/// Returns the problem of a round on hold; `None` if there is nothing to fix. `data` is PGDATA, `own` the cluster of
/// the local database, empty for none.
fn hold_problem(why: &HoldReason, data: &Path, own: &ClusterUid) -> Option<Problem> {
    let text = match why {
        HoldReason::StoreUnavailable | HoldReason::Unusable(_) | HoldReason::NotListed | HoldReason::Ordered => {
            return None;
        }
        HoldReason::NoClusterData if own.as_str().is_empty() => return None,
        HoldReason::NoClusterData => format!(
            "the cluster data are gone, and this keeper has a database of cluster {own}: it is left as it is, and is not \
             started before they are back"
        ),
        HoldReason::DataLost | HoldReason::NoUsableData => {
            format!("the data of the keeper's db are not in {}", data.display())
        }
        HoldReason::OtherCluster { own, other } => {
            format!("the cluster data belong to another cluster ({other}) than this keeper's database ({own})")
        }
        HoldReason::NotSupported(what) => format!("the cluster spec cannot be carried out: {what}"),
        HoldReason::UnsupportedFormat(version) => {
            format!("the cluster data have formatVersion {version}, which this version does not support")
        }
        HoldReason::UnknownInitMode(mode) => {
            format!("the keeper's db has the initMode {mode:?}, which this version does not support")
        }
        HoldReason::UnknownRole(role) => {
            format!("the keeper's db has the role {role:?}, which this version does not support")
        }
        HoldReason::InvalidSpec(why) => format!("the spec of the keeper's db cannot be carried out: {why}"),
        HoldReason::FollowedDbMissing => "the db that the keeper's db follows is not in the cluster data".to_owned(),
        HoldReason::MasterCannotFollow => format!(
            "the keeper's db is a standby, and the data in {} are a master's: they are left as they are",
            data.display()
        ),
        HoldReason::WrongSource(_, WrongSource::NotRecorded) => {
            "waiting for the system identifier of the followed db, which the cluster data do not have yet".to_owned()
        }
        HoldReason::WrongSource(from, why) => format!(
            "another instance answers at {}:{}, the address of the followed db: {why}",
            from.host, from.port
        ),
        HoldReason::RestoreFailed(CopyDelay { failures, delay }) => {
            format!(
                "restoring or recovering the backup failed, attempt {failures}; waiting {delay:?} before the next one"
            )
        }
        HoldReason::CannotAdopt(why) => {
            let data = data.display();
            format!("the data in {data} are not taken over, and are left as they are: {why}")
        }
        HoldReason::ForeignServer { pid } => format!(
            "process {pid} runs PostgreSQL on {}, and no keeper has started it: nothing is done",
            data.display()
        ),
        HoldReason::Obstacle(directory, why) => {
            format!("no new data are created, because of {}: {why}", directory.display())
        }
        HoldReason::CopyFailed(CopyDelay { failures, delay }) => {
            format!("copying the followed db failed, attempt {failures}; waiting {delay:?} before the next one")
        }
    };
    Some(KeeperProblemKind::Data.problem(&text, why.remedy()?))
}

/// Returns the problem of a started change of the data that makes no progress.
fn hung_change(hung: &FileSystemHung) -> Problem {
    let text = format!("a started change of the data makes no progress: {hung}; nothing else is done before it ends");
    KeeperProblemKind::Data.problem(&text, Obstacle::FileSystemHung.remedy())
}

/// Returns the problem of a failed step that will be retried; `None` for a failure that ends without an operator.
fn failed_step(step: &Step, failed: &StepError, owned: &OwnedDirs) -> Option<(KeeperProblemKind, Problem)> {
    if let StepError::Instance(failed @ InstanceError::Port(_)) = failed {
        return Some(failed_server(&Chain(failed).to_string(), failed.remedy()));
    }
    match step {
        Step::ClearData(_) | Step::BaseBackup(..) | Step::Initdb(_) | Step::KeepOriginalFiles | Step::RestoreBackup => {
            Some((KeeperProblemKind::Data, failed_data(step, failed, owned)))
        }
        // Any other failure of theirs ends in a copy.
        Step::Recover | Step::CheckRewind(..) | Step::Rewind(_) if failed.is_unanswered() => {
            Some((KeeperProblemKind::Data, failed_data(step, failed, owned)))
        }
        Step::StartTemporarily(_)
        | Step::StartRecovery(_)
        | Step::WaitRecovered
        | Step::Start(..)
        | Step::WaitReady
        | Step::Stop
        | Step::ConfirmStandbyNames(_)
        | Step::Promote(_)
        | Step::Reload(_)
        | Step::Restart(..) => {
            let text = format!("{}: {}", failure_message(step, failed), Chain(failed));
            let remedy = match failed {
                StepError::Instance(failed) => failed.remedy(),
                _ => None,
            };
            Some(failed_server(&text, remedy))
        }
        _ => None,
    }
}

fn failed_server(text: &str, remedy: Option<&str>) -> (KeeperProblemKind, Problem) {
    const REMEDY: &str =
        "fix the error above, see the keeper's and PostgreSQL's log for more; the keeper retries automatically";
    let kind = KeeperProblemKind::Server;
    (kind, kind.problem(text, remedy.unwrap_or(REMEDY)))
}

fn failed_data(step: &Step, failed: &StepError, owned: &OwnedDirs) -> Problem {
    if let StepError::Instance(InstanceError::Clear(ClearError::Obstacle { path, obstacle })) = failed {
        let text = format!("no new data are created, because of {}: {obstacle}", path.display());
        return KeeperProblemKind::Data.problem(&text, obstacle.remedy());
    }
    if let StepError::FileSystemHung(_) | StepError::Instance(InstanceError::FileSystemHung(_)) = failed {
        let text = format!("{}: {}", failure_message(step, failed), Chain(failed));
        return KeeperProblemKind::Data.problem(&text, Obstacle::FileSystemHung.remedy());
    }
    let remedy = match owned.record().old {
        Some(old) => format!(
            "fix the error above; the old data are kept in {} until new ones are complete",
            old.directory.display()
        ),
        None => "fix the error above; the keeper retries automatically".to_owned(),
    };
    KeeperProblemKind::Data.problem(
        &format!("{}: {}", failure_message(step, failed), Chain(failed)),
        &remedy,
    )
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use base::RandomBytes;

    use super::*;
    use crate::postgres::server::port::ListenError;
    use crate::reconcile::{AdoptionRefusal, InvalidDbSpec};

    fn problem(why: &HoldReason) -> Option<Problem> {
        hold_problem(why, Path::new("/data/postgres"), &"c1".into())
    }

    #[test]
    fn each_error_that_holds_a_round_is_a_problem_with_the_remedy_that_is_logged() {
        for why in [
            HoldReason::UnsupportedFormat(2),
            HoldReason::OtherCluster {
                own: "c1".into(),
                other: "c2".into(),
            },
            HoldReason::NotSupported("role standby without an upstream"),
            HoldReason::DataLost,
            HoldReason::NoUsableData,
            HoldReason::UnknownInitMode("later".into()),
            HoldReason::UnknownRole("witness".into()),
            HoldReason::FollowedDbMissing,
            HoldReason::MasterCannotFollow,
        ] {
            assert!(is_logged_as_error(&why), "{why:?}");
            let found = problem(&why).unwrap();
            assert_eq!(Some(found.remedy.as_str()), why.remedy(), "{why:?}");
        }
        // The problem itself is logged.
        for why in [
            HoldReason::NoClusterData,
            HoldReason::InvalidSpec(InvalidDbSpec::NoFollowConfig),
            HoldReason::CannotAdopt(AdoptionRefusal::NoDatabase),
            HoldReason::ForeignServer { pid: 7 },
        ] {
            assert!(!is_logged_as_error(&why) && problem(&why).is_some(), "{why:?}");
        }
    }

    #[test]
    fn a_spec_that_contradicts_itself_is_reported_as_such() {
        let wrong = InvalidDbSpec::WrongRole {
            init_mode: "resync",
            role: "a master",
        };
        for (why, text) in [
            (wrong, "initMode resync of a master"),
            (
                InvalidDbSpec::NoRestoreCommand,
                "initMode pitr without pitrConfig.dataRestoreCommand",
            ),
            (
                InvalidDbSpec::UnknownFollowType("far".into()),
                "unknown type of followConfig \"far\"",
            ),
        ] {
            let found = problem(&HoldReason::InvalidSpec(why)).unwrap();
            assert!(found.text.ends_with(text), "{}", found.text);
        }
    }

    #[test]
    fn a_port_in_use_and_a_paused_recovery_have_remedies_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let owned = OwnedDirs::load(dir.path(), RandomBytes::system()).unwrap();
        let remedy = |step: &Step, failed| {
            failed_step(step, &StepError::Instance(failed), &owned)
                .unwrap()
                .1
                .remedy
        };
        let taken = ListenError::Taken {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 5432,
        };
        let found = remedy(&Step::Initdb(model::NewConfig::default()), taken.into());
        assert!(found.contains("--pg-port"), "{found}");
        let found = remedy(&Step::WaitRecovered, InstanceError::RecoveryPaused);
        assert!(found.contains("stolonctl update"), "{found}");
    }
}
