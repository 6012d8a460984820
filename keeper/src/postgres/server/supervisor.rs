//! Supervises the server of one PGDATA: launches, signals and stops it, detects its end, and ends other
//! processes that use the data. Its configuration, and when to do what, are left to `instance`.

use std::process::ExitStatus;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use base::Chain;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::postgres::data::access::DataAccess;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::lock_files::{self, PidFile};
use crate::postgres::data::walker::Walker;
use crate::postgres::server::error::InstanceError;
use crate::postgres::server::pgdata_holders::{self, EndError};
use crate::postgres::server::postmaster::{ChildStatus, PostmasterChild};
use crate::postgres::server::process::{self, LockHolder, Process};

/// Time limits of a stop before it is escalated (keeper W6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopLimits {
    /// Of a fast shutdown, which ends sessions and writes a checkpoint; then an immediate one follows.
    pub fast: Duration,
    /// Of an immediate shutdown, after which the next start recovers; then all processes are killed.
    pub immediate: Duration,
}

impl Default for StopLimits {
    fn default() -> Self {
        Self {
            fast: Duration::from_secs(60),
            immediate: Duration::from_secs(5),
        }
    }
}

/// How a server was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// It was not running.
    NotRunning,
    /// By a fast shutdown. The control file shows whether it was clean.
    Fast,
    /// By an immediate shutdown, after the limit of the fast one.
    Immediate,
    /// By SIGKILL.
    Killed,
}

/// The server that runs on PGDATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningServer {
    /// Its process id.
    pub pid: i32,
    /// It is a child of this process rather than left by an earlier keeper.
    pub is_child: bool,
}

/// Time limit for a start until the sockets are open (keeper section 0).
const START_LIMIT: Duration = Duration::from_secs(60);
/// Time limit of the end of a killed server.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Interval of checking files while waiting.
const POLL: Duration = Duration::from_millis(20);

/// The server of one PGDATA, a child of this process or left by an earlier keeper.
///
/// Calls that change something must not overlap. Dropping a call's future cancels it.
#[derive(Debug)]
pub struct Supervisor {
    /// PGDATA.
    access: DataAccess,
    child_status: watch::Sender<ChildStatus>,
    child: Mutex<Option<PostmasterChild>>,
    /// Process id of the child that its lock file has named as the postmaster: it is no wrapper script. 0 before.
    proven_postmaster: AtomicI32,
    /// Reads other processes.
    walker: Walker,
}

impl Supervisor {
    /// Creates the supervisor of a PGDATA, without any access to it.
    pub(crate) fn new(access: DataAccess) -> Self {
        Self {
            access,
            child_status: watch::Sender::new(ChildStatus::NotStarted),
            child: Mutex::new(None),
            proven_postmaster: AtomicI32::new(0),
            walker: Walker::default(),
        }
    }

    /// Returns the status of the last started server; it changes as soon as the server ends (keeper W2).
    pub(crate) fn child_status(&self) -> watch::Receiver<ChildStatus> {
        self.child_status.subscribe()
    }

    /// Returns the last output of the last started server, which explains why it ended.
    pub(crate) async fn final_output(&self) -> Vec<String> {
        match &mut *self.child.lock().await {
            Some(server) => server.final_output().await,
            None => Vec::new(),
        }
    }

    /// Returns the recent output of the server; empty while it is being started or stopped.
    pub(crate) fn recent_output(&self) -> Vec<String> {
        let server = self.child.try_lock().ok();
        let printed = server
            .as_ref()
            .and_then(|server| Some(server.as_ref()?.recent_output()));
        printed.unwrap_or_default()
    }

    /// Returns the server that runs on PGDATA, if any.
    pub(crate) async fn running(&self) -> Result<Option<RunningServer>, FileError> {
        if let ChildStatus::Running { pid } = *self.child_status.borrow() {
            return Ok(Some(RunningServer { pid, is_child: true }));
        }
        let leftover = self.access.read(process::postmaster).await?;
        Ok(leftover.map(|process| RunningServer {
            pid: process.pid(),
            is_child: false,
        }))
    }

    /// Makes sure that a server can be launched: none runs, no other process uses the data, and no stale lock file
    /// prevents it.
    pub(crate) async fn prepare_launch(&self) -> Result<(), InstanceError> {
        self.ensure_nothing_runs().await?;
        self.remove_stale_lock().await
    }

    /// Launches the server if `permitted` still returns true, and returns its process id once its sockets are open. If
    /// it ends before, `explain` may return why.
    pub(crate) async fn launch(
        &self,
        command: Command,
        permitted: impl Fn() -> bool,
        explain: impl AsyncFn() -> Result<(), InstanceError>,
    ) -> Result<i32, InstanceError> {
        const ACTION: &str = "start PostgreSQL";
        let mut child_status = self.child_status.subscribe();
        let pid = {
            // Locked before the launch, so that a cancelled start never loses a server.
            let mut slot = self.child.lock().await;
            if !permitted() {
                return Err(InstanceError::PermitExpired { action: ACTION });
            }
            info!("starting database");
            let launched = PostmasterChild::launch(command, &self.child_status);
            let server = slot.insert(launched.map_err(|source| InstanceError::Process { action: ACTION, source })?);
            server.process().pid()
        };
        let opened = async {
            // Line 8 of the lock file is written after the sockets are open: a port conflict shows before.
            loop {
                let lock = self.access.read(lock_files::pid_file).await?;
                self.record_proof(lock.as_ref(), pid);
                if lock.is_some_and(|lock| is_or_descends(lock.pid, pid) && lock.status.is_some()) {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        };
        tokio::select! {
            status = wait_ended(&mut child_status) => {
                explain().await?;
                Err(self.ended_error(ACTION, status).await)
            }
            opened = timeout(START_LIMIT, opened) => match opened {
                Ok(Ok(())) => Ok(pid),
                Ok(Err(failed)) => Err(failed),
                Err(_) => Err(InstanceError::Timeout { action: ACTION, limit: START_LIMIT }),
            },
        }
    }

    /// Stops the server, including one left by an earlier keeper: fast, then escalating at the limits. All its
    /// processes have ended afterwards.
    pub(crate) async fn stop(&self, limits: StopLimits) -> Result<StopOutcome, InstanceError> {
        const ACTION: &str = "stop PostgreSQL";
        let child = self.child.lock().await;
        let process = match self.postmaster(child.as_ref()).await {
            Ok(Some(process)) => process,
            Ok(None) => return Ok(StopOutcome::NotRunning),
            Err(failed) => match self.proven_child(child.as_ref()) {
                Some(process) if failed.unanswered().is_some() => {
                    warn!(error = %Chain(&failed), "cannot read postmaster.pid, stopping the server that was started");
                    PostmasterProcess::Child(process)
                }
                _ => return Err(failed.into()),
            },
        };
        let process = process.as_ref();
        info!("stopping database");
        let signal = |signal| {
            process
                .signal(signal)
                .map_err(|source| InstanceError::Process { action: ACTION, source })
        };
        // PostgreSQL manual 19.5: SIGINT is a fast shutdown, SIGQUIT an immediate one.
        signal(Signal::INT)?;
        if timeout(limits.fast, self.wait_gone(process)).await.is_ok() {
            return Ok(StopOutcome::Fast);
        }
        warn!(limit = ?limits.fast, "fast stop takes too long, stopping at once");
        signal(Signal::QUIT)?;
        if timeout(limits.immediate, self.wait_gone(process)).await.is_ok() {
            self.end_other_processes().await?;
            return Ok(StopOutcome::Immediate);
        }
        warn!(limit = ?limits.immediate, "immediate stop takes too long, killing");
        signal(Signal::KILL)?;
        // A process that waits for a file system that hangs ends when that answers.
        let killed = timeout(KILL_LIMIT, self.wait_gone(process)).await;
        killed.map_err(|_| InstanceError::Timeout {
            action: ACTION,
            limit: KILL_LIMIT,
        })?;
        self.end_other_processes().await?;
        Ok(StopOutcome::Killed)
    }

    /// Returns the postmaster: the child, or the server started by a wrapper script that is the child; without a child
    /// the one left by an earlier keeper.
    async fn postmaster<'a>(
        &self,
        server: Option<&'a PostmasterChild>,
    ) -> Result<Option<PostmasterProcess<'a>>, FileError> {
        let child_status = *self.child_status.borrow();
        let (Some(server), ChildStatus::Running { pid }) = (server, child_status) else {
            let leftover = self.access.read(process::postmaster).await?;
            return Ok(leftover.map(PostmasterProcess::Other));
        };
        let lock = self.access.read(lock_files::pid_file).await?;
        self.record_proof(lock.as_ref(), pid);
        let below = lock.filter(|lock| lock.pid != pid && is_or_descends(lock.pid, pid));
        // It may have ended meanwhile; then its wrapper ends too.
        let below = below.and_then(|lock| Process::open(lock.pid).ok().flatten());
        Ok(Some(below.map_or(
            PostmasterProcess::Child(server.process()),
            PostmasterProcess::Other,
        )))
    }

    /// Records that the running child is the postmaster if its lock file names it.
    fn record_proof(&self, lock: Option<&PidFile>, child: i32) {
        if lock.is_some_and(|lock| lock.pid == child) {
            self.proven_postmaster.store(child, Ordering::Relaxed);
        }
    }

    /// Returns the running child if it is known to be the postmaster, for a time when its lock file cannot be read. Another
    /// process than the postmaster, such as a wrapper script, must not be signalled: the server would go on without it.
    fn proven_child<'a>(&self, server: Option<&'a PostmasterChild>) -> Option<&'a Process> {
        let ChildStatus::Running { pid } = *self.child_status.borrow() else {
            return None;
        };
        let is_proven = self.proven_postmaster.load(Ordering::Relaxed) == pid;
        server.filter(|_| is_proven).map(PostmasterChild::process)
    }

    /// Waits for the end of a server; a child is also reaped.
    async fn wait_gone(&self, process: &Process) {
        // The sender is a field of this instance and outlives the wait.
        let mut child_status = self.child_status.subscribe();
        let _ = child_status.wait_for(|child_status| !child_status.is_running()).await;
        process.ended().await;
    }

    /// Lets the server read its configuration files again.
    pub(crate) async fn reload(&self) -> Result<(), InstanceError> {
        const ACTION: &str = "reload the configuration";
        let child = self.child.lock().await;
        let not_running = || InstanceError::NotRunning {
            data: self.access.data().to_owned(),
        };
        let process = self.postmaster(child.as_ref()).await?.ok_or_else(not_running)?;
        process
            .as_ref()
            .signal(Signal::HUP)
            .map_err(|source| InstanceError::Process { action: ACTION, source })
    }

    /// Runs `work` unless the server ends first.
    pub(crate) async fn unless_ended(
        &self,
        action: &'static str,
        limit: Option<Duration>,
        work: impl Future<Output = Result<(), InstanceError>>,
    ) -> Result<(), InstanceError> {
        let mut child_status = self.child_status.subscribe();
        let limited = async {
            match limit {
                Some(limit) => timeout(limit, work)
                    .await
                    .unwrap_or(Err(InstanceError::Timeout { action, limit })),
                None => work.await,
            }
        };
        tokio::select! {
            status = wait_ended(&mut child_status) => Err(self.ended_error(action, status).await),
            done = limited => done,
        }
    }

    async fn ended_error(&self, action: &'static str, status: Option<ExitStatus>) -> InstanceError {
        InstanceError::Ended {
            action,
            status,
            tail: self.final_output().await,
        }
    }

    /// Fails while a server runs, and ends all other processes that use the data.
    pub(crate) async fn ensure_nothing_runs(&self) -> Result<(), InstanceError> {
        if let Some(running) = self.running().await? {
            return Err(InstanceError::ServerRunning {
                pid: running.pid,
                data: self.access.data().to_owned(),
            });
        }
        self.end_other_processes().await
    }

    /// Ends all other processes that use the data: leftovers of a killed server or keeper.
    pub(crate) async fn end_other_processes(&self) -> Result<(), InstanceError> {
        let ended =
            pgdata_holders::end_holders(self.access.data(), pgdata_holders::EndLimits::default(), &self.walker).await;
        ended.map_err(|failed| match failed {
            EndError::Remains(holder) => InstanceError::PgDataInUse {
                pid: holder.process.pid(),
                program: holder.program,
                data: self.access.data().to_owned(),
            },
            EndError::FileSystemHung(hung) => hung.into(),
        })
    }

    /// Removes a lock file whose process id belongs to an unrelated program, for example after a restart of a
    /// container, or to a zombie: the server would refuse to start. A lock file without a process is left to the
    /// server, which also checks for shared memory in use; one whose process uses PGDATA stays.
    async fn remove_stale_lock(&self) -> Result<(), InstanceError> {
        let data = || self.access.data().to_owned();
        match self.access.read(process::lock_holder).await? {
            LockHolder::NoProcess => Ok(()),
            LockHolder::Postmaster(process) => Err(InstanceError::ServerRunning {
                pid: process.pid(),
                data: data(),
            }),
            LockHolder::UsesPgData(process) => Err(InstanceError::Locked {
                pid: process.pid(),
                data: data(),
            }),
            LockHolder::Unrelated => {
                warn!("removing postmaster.pid, which names a process other than PostgreSQL");
                Ok(self.access.write(lock_files::remove_lock).await?)
            }
        }
    }
}

/// A postmaster, borrowed or owned.
enum PostmasterProcess<'a> {
    /// The child.
    Child(&'a Process),
    /// Another process.
    Other(Process),
}

impl AsRef<Process> for PostmasterProcess<'_> {
    fn as_ref(&self) -> &Process {
        match self {
            Self::Child(process) => process,
            Self::Other(process) => process,
        }
    }
}

/// Whether a process is `ancestor` or its descendant.
fn is_or_descends(pid: i32, ancestor: i32) -> bool {
    pid == ancestor || process::ancestors(pid).contains(&ancestor)
}

/// Waits for the end of the server; returns its exit status.
async fn wait_ended(child_status: &mut watch::Receiver<ChildStatus>) -> Option<ExitStatus> {
    match child_status
        .wait_for(|child_status| matches!(child_status, ChildStatus::Ended { .. }))
        .await
        .as_deref()
    {
        Ok(ChildStatus::Ended { status, .. }) => *status,
        // The sender belongs to the instance, which is borrowed meanwhile.
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Sender};

    use super::*;
    use crate::postgres::data::changes::DataChanges;

    /// A supervisor whose child is this shell script, run in PGDATA, where it writes `postmaster.pid`.
    async fn launched(dir: &std::path::Path, script: &str) -> Supervisor {
        let access = DataAccess::with_limit(dir, DataChanges::default(), Duration::from_millis(200));
        let supervisor = Supervisor::new(access);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).current_dir(dir).process_group(0);
        let launched = async || {
            supervisor.launch(command, || true, async || Ok(())).await.unwrap();
        };
        timeout(Duration::from_secs(60), launched()).await.unwrap();
        supervisor
    }

    /// Makes reads of PGDATA hang until the sender is dropped.
    async fn hang(supervisor: &Supervisor) -> Sender<()> {
        let (answer, waits) = mpsc::channel::<()>();
        let hung = supervisor.access.read(move |_| {
            let _ = waits.recv(); // it hangs until the test ends
            Ok::<_, FileError>(())
        });
        assert!(hung.await.is_err());
        answer
    }

    const LOCK: &str = "/data\n1\n1\n\n\n\nready\n' > pid && mv pid postmaster.pid";

    #[tokio::test]
    async fn the_own_server_is_stopped_while_its_data_hang() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("printf \"$$\"'\n{LOCK} && exec env --default-signal=INT sleep 1000");
        let supervisor = launched(dir.path(), &script).await;
        let _hung = hang(&supervisor).await;
        let stopped = supervisor.stop(StopLimits::default()).await;
        assert_eq!(stopped.unwrap(), StopOutcome::Fast);
        assert!(matches!(*supervisor.child_status.borrow(), ChildStatus::Ended { .. }));
    }

    #[tokio::test]
    async fn a_wrapper_script_is_not_signalled_in_place_of_its_server_while_the_data_hang() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("sleep 1000 & printf \"$!\"'\n{LOCK}; wait");
        let supervisor = launched(dir.path(), &script).await;
        let hung = hang(&supervisor).await;
        let failed = supervisor.stop(StopLimits::default()).await.unwrap_err();
        assert!(failed.is_unanswered(), "{failed}");
        assert!(supervisor.child_status.borrow().is_running());
        drop(hung);
        let server = lock_files::pid_file(dir.path()).unwrap().unwrap().pid;
        Process::open(server).unwrap().unwrap().signal(Signal::KILL).unwrap();
        let mut child_status = supervisor.child_status();
        timeout(Duration::from_secs(60), wait_ended(&mut child_status))
            .await
            .unwrap();
    }
}
