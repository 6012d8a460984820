//! Steps that bring diverged data back with pg_rewind: crash recovery, the check, the rewind, and the wait for the
//! rewound server. Running the programs is left to `postgres::rewind`.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use model::DbUid;
use tokio::time::sleep;

use crate::args::Config;
use crate::configuration::address;
use crate::context::KeeperContext;
use crate::executor::StepError;
use crate::executor::data::slot_of;
use crate::postgres::client::upstream::UpstreamClient;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::walker::Walker;
use crate::postgres::instance::Instance;
use crate::postgres::rewind::{self, RewindSource};
use crate::postgres::server::recovery;
use crate::reconcile::{MemberUpstream, ProcessState, SourceFacts, TargetDb, has_segment_of};
use crate::step_progress::StepProgress;

/// Time limit of a checkpoint on the source, which writes all that is in its memory.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(600);
/// Interval of examining the recovery of a rewound server.
const RECOVERY_POLL: Duration = Duration::from_secs(1);
/// How long a rewound server may replay nothing new before its data are given up, at least.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Rewinds the data of one instance.
#[derive(Debug)]
pub(super) struct RewindSteps {
    config: Arc<Config>,
    instance: Arc<Instance>,
    owned: Arc<OwnedDirs>,
    changes: DataChanges,
    /// Reads the progress of a recovery.
    walker: Walker,
    clock: Clock,
    progress: StepProgress,
}

impl RewindSteps {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            config: Arc::clone(&context.config),
            instance: Arc::clone(&context.instance),
            owned: Arc::clone(&context.owned),
            changes: context.changes.clone(),
            walker: Walker::default(),
            clock: context.clock.clone(),
            progress: StepProgress::new(Arc::clone(&context.problems), context.clock.clone()),
        }
    }

    /// Runs the crash recovery of a master's data.
    pub(super) async fn recover(&self, db: &DbUid, process: &mut ProcessState) -> Result<(), StepError> {
        let recovery = rewind::recover(&self.instance);
        let recovered = self
            .progress
            .show("crash recovery before pg_rewind", || None, recovery)
            .await;
        note_failure(db, process, recovered.map_err(StepError::from))
    }

    /// Checks whether the data can be rewound.
    pub(super) async fn check(
        &self,
        from: &MemberUpstream,
        source: &SourceFacts,
        target: &TargetDb,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        let check = self.check_source(from, source, target);
        let checked = self
            .progress
            .show("checking the local data with pg_rewind", || None, check)
            .await;
        note_failure(&target.db, process, checked)
    }

    async fn check_source(
        &self,
        from: &MemberUpstream,
        source: &SourceFacts,
        target: &TargetDb,
    ) -> Result<(), StepError> {
        self.ensure_source_checkpoint(from, source).await?;
        let redo = rewind::check(&self.instance, &rewind_source(from, target)).await?;
        // pg_rewind brings the WAL that the source has, and removes other WAL up to 16.
        match &source.oldest_segment {
            Some(oldest) if has_segment_of(oldest, redo) => Ok(()),
            _ => Err(StepError::WalGone(redo)),
        }
    }

    /// Makes a checkpoint on the source if its control file does not have its timeline yet, which it gets with the first
    /// checkpoint after a promotion. Before, pg_rewind up to 15 takes the timelines for equal, and does nothing.
    async fn ensure_source_checkpoint(&self, from: &MemberUpstream, source: &SourceFacts) -> Result<(), StepError> {
        let client = self.client(from, self.instance.config().request_timeout)?;
        if client.checkpoint_timeline().await? >= source.timeline {
            return Ok(());
        }
        client.checkpoint(CHECKPOINT_LIMIT).await?;
        match client.checkpoint_timeline().await? {
            timeline if timeline >= source.timeline => Ok(()),
            timeline => Err(StepError::SourceBehind {
                timeline,
                expected: source.timeline,
            }),
        }
    }

    /// Rewinds the data. If that fails they are incomplete, as `dbstate` records.
    pub(super) async fn run(
        &self,
        from: &MemberUpstream,
        target: &TargetDb,
        process: &mut ProcessState,
    ) -> Result<(), StepError> {
        process.rewound = None;
        let source = rewind_source(from, target);
        let transferred = Cell::new(None);
        let run = rewind::run(&self.instance, &source, &self.owned, &self.changes, |now| {
            transferred.set(Some(now));
        });
        let shown = self
            .progress
            .show("rewinding the local data with pg_rewind", || transferred.get(), run);
        shown.await?;
        process.rewound = Some(target.db.clone());
        Ok(())
    }

    /// Watches the recovery of a rewound server. Returns why it will not end: nothing new has been replayed for so long, or
    /// WAL that it needs is gone.
    pub(super) async fn stalled(&self, ready_timeout: Duration) -> StepError {
        let limit = ready_timeout.max(STALL_LIMIT);
        let config = self.instance.config();
        let (mut last, mut since) = (None, self.clock.now());
        loop {
            sleep(RECOVERY_POLL).await;
            let output = self.instance.recent_output();
            // libpqwalreceiver.c passes on the source's error.
            if output.iter().any(|line| line.contains("has already been removed")) {
                return StepError::NeededWalGone;
            }
            let programs = self.instance.programs();
            let now = recovery::progress(programs, &config.data, config.request_timeout, &self.walker).await;
            if now != last {
                (last, since) = (now, self.clock.now());
            } else if self.clock.now().since(since) >= limit {
                return StepError::RecoveryStalled(limit);
            }
        }
    }

    fn client(&self, from: &MemberUpstream, limit: Duration) -> Result<UpstreamClient, StepError> {
        let (superuser, replication) = (&self.config.superuser, &self.config.replication);
        let clock = self.instance.clock().clone();
        let client = UpstreamClient::new(&address(from), superuser, replication, limit, clock)?;
        Ok(client.for_programs(self.instance.programs()))
    }
}

fn rewind_source(from: &MemberUpstream, target: &TargetDb) -> RewindSource {
    RewindSource {
        address: address(from),
        application_name: slot_of(target),
    }
}

/// Records that the data of this db are not to be rewound after such a failure. A file system that does not answer proves
/// nothing about them.
fn note_failure(db: &DbUid, process: &mut ProcessState, done: Result<(), StepError>) -> Result<(), StepError> {
    if done.as_ref().is_err_and(|failed| !failed.is_unanswered()) {
        process.rewind_failed = Some(db.clone());
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::data::walker::FileSystemHung;

    #[test]
    fn a_failure_counts_unless_a_file_system_did_not_answer() {
        let mut process = ProcessState::default();
        let hung = StepError::FileSystemHung(FileSystemHung { path: "/data".into() });
        assert!(note_failure(&"db".into(), &mut process, Err(hung)).is_err());
        assert_eq!(process.rewind_failed, None);
        assert!(note_failure(&"db".into(), &mut process, Err(StepError::NeededWalGone)).is_err());
        assert_eq!(process.rewind_failed, Some("db".into()));
    }
}
