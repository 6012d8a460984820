//! Runs pg_rewind, and before it the crash recovery that it needs (keeper 6.2). Whether data are rewound is decided by
//! `reconcile::rewind`; what it may not touch is found by `data::rewind_scope`.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use model::Lsn;
use tokio::process::Command;
use tokio::sync::Notify;
use tracing::{debug, info};

use crate::postgres::client::session_settings::{self, DATABASE, SessionUser};
use crate::postgres::config::conninfo::{Address, copy_passfile, rewind_conninfo};
use crate::postgres::config::pinned;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::cluster_files;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::rewind_scope;
use crate::postgres::data::scratch_file::ScratchFile;
use crate::postgres::instance::Instance;
use crate::postgres::programs::command::{self, CommandError};
use crate::postgres::programs::environment;
use crate::postgres::programs::pg_control::{self, ControlError, ControlState};
use crate::postgres::server::error::InstanceError;
use crate::postgres::transfer::TransferProgress;

/// Name of the program.
pub const PROGRAM: &str = "pg_rewind";

/// The instance whose history the data get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewindSource {
    pub address: Address,
    /// Name of this instance in the source's views.
    pub application_name: String,
}

/// Why data cannot be rewound.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Crash recovery has ended, and the data do not count as shut down.
    #[error("the data are {0:?} after their crash recovery")]
    NotRecovered(ControlState),
    /// pg_rewind would leave the data as they are, which are known to have left the source's history.
    #[error("pg_rewind finds nothing to do for data that have left the source's history")]
    NothingToDo,
    /// Its output does not have where it begins.
    #[error("the output of pg_rewind has no last common checkpoint")]
    NoCheckpoint,
    /// pg_waldump does not show the checkpoint.
    #[error("no checkpoint record at {0}, which pg_rewind begins from")]
    NoRecord(Lsn),
}

impl From<CommandError> for RewindError {
    fn from(failed: CommandError) -> Self {
        Self::Instance(failed.into())
    }
}

/// Runs the crash recovery of a master's data in a single-user server, which accepts no connections, and shuts it down.
/// pg_rewind does the same by itself; run here it has the pinned settings, ends together with the keeper, and can be
/// reported. Without a time limit: dropping the future ends it, and the next one begins anew.
pub async fn recover(instance: &Instance) -> Result<(), RewindError> {
    instance.prepare_offline().await?;
    let cleared = instance.access().write(cluster_files::remove_recovery_signal).await;
    cleared.map_err(InstanceError::from)?;
    let config = instance.config();
    let mut command = environment::command(&instance.programs().path("postgres"));
    // `--single` must be the first argument (main.c).
    command.arg("--single").arg("-D").arg(&config.data);
    for (name, value) in pinned::single_user(&config.data) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.arg("template1");
    command::run(command, |line| debug!(target: "postgres", "{line}")).await?;
    let control = pg_control::read(instance.programs(), &config.data, config.request_timeout).await?;
    match control.state {
        ControlState::ShutDown => Ok(()),
        state => Err(RewindError::NotRecovered(state)),
    }
}

/// Lets pg_rewind check whether it can rewind the data, and returns the position from which a rewound server replays.
/// Changes nothing but postgresql.auto.conf, which is removed.
pub async fn check(instance: &Instance, source: &RewindSource) -> Result<Lsn, RewindError> {
    instance.prepare_offline().await?;
    let unlinked = instance.access().write(rewind_scope::unlink_auto_conf).await;
    unlinked.map_err(InstanceError::from)?;
    let (begins, passed) = (Cell::new(None), Notify::new());
    let run = run_program(instance, source, &["--dry-run"], |line| {
        begins.set(begins.get().or_else(|| last_common_checkpoint(line)));
        // From here on it would transfer data, only to discard them.
        if line.contains("need to copy") {
            passed.notify_one();
        }
    });
    tokio::select! {
        ended = run => {
            ended?;
            if begins.get().is_none() {
                return Err(RewindError::NothingToDo);
            }
        }
        () = passed.notified() => {}
    }
    let (timeline, checkpoint) = begins.get().ok_or(RewindError::NoCheckpoint)?;
    redo_of(instance, timeline, checkpoint).await
}

/// Rewinds the data. From its start to its end they are recorded as half-rewound. Afterwards they are those of a standby
/// that was never started: `standby.signal` is there, and its settings are written at the first start. Without a time
/// limit: dropping the future ends pg_rewind.
pub async fn run(
    instance: &Instance,
    source: &RewindSource,
    owned: &Arc<OwnedDirs>,
    changes: &DataChanges,
    mut progress: impl FnMut(TransferProgress),
) -> Result<(), RewindError> {
    // The check may still be ending.
    instance.prepare_offline().await?;
    let data = instance.config().data.clone();
    let (begun, record) = (data.clone(), Arc::clone(owned));
    let begun = changes.run(move || rewind_scope::begin(&begun, &record)).await;
    begun.map_err(InstanceError::from)?.map_err(InstanceError::from)?;
    info!("running pg_rewind");
    // -R: from its end on nothing starts the data as a master, not even an operator.
    run_program(instance, source, &["--write-recovery-conf"], |line| {
        if let Some(now) = TransferProgress::parse(line) {
            progress(now);
        }
    })
    .await?;
    let record = Arc::clone(owned);
    let completed = changes.run(move || rewind_scope::complete(&data, &record)).await;
    completed.map_err(InstanceError::from)?.map_err(InstanceError::from)?;
    Ok(())
}

async fn run_program(
    instance: &Instance,
    source: &RewindSource,
    options: &[&str],
    mut line: impl FnMut(&str),
) -> Result<(), RewindError> {
    let (config, programs) = (instance.config(), instance.programs());
    let login = &config.superuser;
    let mut password_file = None;
    if let Some(content) = copy_passfile(&source.address, login) {
        let file = ScratchFile::write(instance.access(), config.scratch_dir(), "pgpass", content).await;
        password_file = Some(file.map_err(InstanceError::from)?);
    }
    let major = session_settings::major(Some(programs)).await;
    let settings = session_settings::options(major, SessionUser::Superuser);
    let conninfo = rewind_conninfo(&source.application_name, DATABASE, &source.address, login, &settings);
    let mut command: Command = environment::command(&programs.path(PROGRAM));
    if let Some(file) = &password_file {
        command.env("PGPASSFILE", file.path());
    }
    // Its messages are read. The recovery was done before, see `recover`.
    command
        .env("LC_ALL", "C")
        .args(["--progress", "--no-ensure-shutdown"])
        .args(options)
        .arg("-D")
        .arg(&config.data)
        .arg(format!("--source-server={conninfo}"));
    let ended = command::run(command, |text| {
        if TransferProgress::parse(text).is_none() {
            debug!(target: "pg_rewind", "{text}");
        }
        line(text);
    })
    .await;
    if let Some(file) = password_file {
        file.remove().await;
    }
    Ok(ended?)
}

/// Returns timeline and position from `rewinding from last common checkpoint at 0/2000060 on timeline 1`.
fn last_common_checkpoint(line: &str) -> Option<(u64, Lsn)> {
    let (_, rest) = line.split_once("last common checkpoint at ")?;
    let (position, timeline) = rest.split_once(" on timeline ")?;
    Some((timeline.trim().parse().ok()?, Lsn::parse(position)?))
}

/// Returns the redo position of the checkpoint whose record is at this position: replay begins there.
async fn redo_of(instance: &Instance, timeline: u64, checkpoint: Lsn) -> Result<Lsn, RewindError> {
    let mut command = environment::command(&instance.programs().path("pg_waldump"));
    command
        .env("LC_ALL", "C")
        .arg("-p")
        .arg(instance.config().data.join("pg_wal"))
        .args(["-n", "1", "-t", &timeline.to_string(), "-s", &checkpoint.to_string()]);
    let printed = command::output(command, limit(instance)).await?;
    printed.lines().find_map(redo).ok_or(RewindError::NoRecord(checkpoint))
}

/// pg_waldump waits 5 s for a missing segment before it fails.
fn limit(instance: &Instance) -> Duration {
    instance.config().request_timeout.max(Duration::from_secs(10))
}

/// Returns the redo position from a line of pg_waldump: `… desc: CHECKPOINT_ONLINE redo 0/3000028; tli 1; …`.
fn redo(line: &str) -> Option<Lsn> {
    let (_, rest) = line.split_once(" redo ")?;
    Lsn::parse(rest.split(';').next()?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_where_the_histories_part_is_read_from_the_output() {
        let line = "pg_rewind: rewinding from last common checkpoint at 0/2000060 on timeline 1";
        assert_eq!(last_common_checkpoint(line), Some((1, Lsn(0x200_0060))));
        assert_eq!(last_common_checkpoint("pg_rewind: no rewind required"), None);
        assert_eq!(
            last_common_checkpoint("last common checkpoint at x on timeline 1"),
            None
        );
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/02000060, prev 0/02000028, \
                    desc: CHECKPOINT_ONLINE redo 0/2000028; tli 1; prev tli 1; fpw true; xid 0:724; oid 16390";
        assert_eq!(redo(line), Some(Lsn(0x200_0028)));
        assert_eq!(redo("pg_waldump: error: could not find a valid record"), None);
    }
}
