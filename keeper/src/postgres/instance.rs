//! One instance: starts, stops, reloads and promotes it, and has its connections (keeper section 12). Its process is
//! held by `server::supervisor`; when to do what is decided by `reconcile`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::{Chain, Clock};
use model::Lsn;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::external_dirs::ClearRequest;
use crate::postgres::client::connect::{ConnectTarget, LocalSocket, OwnServer};
use crate::postgres::client::replication::ReplicationClient;
use crate::postgres::client::sql::SqlClient;
use crate::postgres::config::conf::{RecoveryMode, StartMode};
use crate::postgres::config::files::{self as config_files, ConfigFiles};
use crate::postgres::config::instance::InstanceConfig;
use crate::postgres::config::pinned;
use crate::postgres::data::access::DataAccess;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::cluster_files::{self, RecoverySignal};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::file_status::{self, FileStatus};
use crate::postgres::data::lock_files;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::previous_data::{self, ClearOutcome};
use crate::postgres::programs::command;
use crate::postgres::programs::environment;
use crate::postgres::programs::installation::Programs;
use crate::postgres::programs::pg_control::{self, ControlError, ControlFile, ControlState};
use crate::postgres::server::error::InstanceError;
use crate::postgres::server::port::{self, ListenError};
use crate::postgres::server::postmaster::ChildStatus;
use crate::postgres::server::supervisor::{RunningServer, StopLimits, StopOutcome, Supervisor};

/// Role according to the files (keeper R16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalRole {
    /// There is no database cluster.
    Undefined,
    /// `standby.signal` does not exist.
    Master,
    /// `standby.signal` exists.
    Standby,
}

impl LocalRole {
    /// Reads the role of the instance in a PGDATA.
    pub(crate) fn of(data: &Path) -> Result<Self, FileError> {
        if !cluster_files::is_initialised(data)? {
            return Ok(Self::Undefined);
        }
        Ok(match cluster_files::signals(data)?.standby {
            true => Self::Standby,
            false => Self::Master,
        })
    }
}

/// Interval of checking files and the server while waiting.
const POLL: Duration = Duration::from_millis(20);

/// Interval of checking a recovery, which may take days.
const RECOVERY_POLL: Duration = Duration::from_millis(200);

/// One instance: its files, its processes, its SQL.
///
/// Calls that change something must not overlap. Dropping a call's future cancels it.
#[derive(Debug)]
pub struct Instance {
    config: InstanceConfig,
    access: DataAccess,
    programs: Arc<Programs>,
    clock: Clock,
    round_sql: SqlClient,
    observer: SqlClient,
    replication: ReplicationClient,
    supervisor: Supervisor,
    /// Socket directories of the last start; `None` before the first.
    sockets: std::sync::Mutex<Option<String>>,
}

impl Instance {
    /// Creates the instance of a PGDATA, without any access to it. `changes` runs the changes of its data.
    pub fn new(config: InstanceConfig, programs: Arc<Programs>, changes: DataChanges, clock: Clock) -> Self {
        let access = DataAccess::new(&config.data, changes);
        let supervisor = Supervisor::new(access.clone());
        let target = ConnectTarget::Local(LocalSocket {
            dir: config.socket_dir.clone().into(),
            port: config.port,
            owner: rustix::process::geteuid().as_raw(),
            server: OwnServer {
                access: access.clone(),
                child_status: supervisor.child_status(),
            },
        });
        let sql = || {
            let limit = config.request_timeout;
            SqlClient::new(target.clone(), &config.superuser, limit, clock.clone()).for_programs(&programs)
        };
        let (round_sql, observer) = (sql(), sql());
        let replication = ReplicationClient::new(target, config.replication.clone(), config.request_timeout);
        let replication = replication.for_programs(&programs);
        Self {
            round_sql,
            observer,
            replication,
            config,
            access,
            programs,
            clock,
            supervisor,
            sockets: std::sync::Mutex::default(),
        }
    }

    /// Returns its configuration.
    pub fn config(&self) -> &InstanceConfig {
        &self.config
    }

    /// Returns the access to its files.
    pub fn access(&self) -> &DataAccess {
        &self.access
    }

    /// Returns the programs that it runs.
    pub fn programs(&self) -> &Arc<Programs> {
        &self.programs
    }

    /// Returns the clock of all time limits here.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the SQL connection of the rounds, and of what releases waiting commits (keeper 10.13).
    pub fn sql(&self) -> &SqlClient {
        &self.round_sql
    }

    /// Returns the SQL connection of observations; separate, so that neither waits for the other.
    pub fn observer(&self) -> &SqlClient {
        &self.observer
    }

    /// Returns the client for replication commands.
    pub fn replication(&self) -> &ReplicationClient {
        &self.replication
    }

    /// Returns the status of the last started server; it changes as soon as the server ends (keeper W2).
    pub fn child_status(&self) -> watch::Receiver<ChildStatus> {
        self.supervisor.child_status()
    }

    /// Returns the last output of the last started server, which explains why it ended.
    pub async fn final_output(&self) -> Vec<String> {
        self.supervisor.final_output().await
    }

    /// Returns the recent output of the server; empty while it is being started or stopped.
    pub fn recent_output(&self) -> Vec<String> {
        self.supervisor.recent_output()
    }

    /// Whether there is a database cluster (keeper 12.2).
    pub async fn is_initialised(&self) -> Result<bool, FileError> {
        self.access.read(cluster_files::is_initialised).await
    }

    /// Returns whether there is a database cluster and its server reports that it accepts connections, in one read.
    pub async fn file_status(&self) -> Result<FileStatus, FileError> {
        self.access.read(FileStatus::of).await
    }

    /// Returns the role according to the files.
    pub async fn local_role(&self) -> Result<LocalRole, FileError> {
        self.access.read(LocalRole::of).await
    }

    /// Returns the server that runs on PGDATA, if any.
    pub async fn running(&self) -> Result<Option<RunningServer>, FileError> {
        self.supervisor.running().await
    }

    /// Returns the process id of a server that runs on PGDATA and was not started by a keeper of this directory: its
    /// socket is elsewhere. Whether the data are this keeper's is not asked here.
    pub async fn foreign_server(&self) -> Result<Option<i32>, FileError> {
        let running = self.running().await?.filter(|running| !running.is_child);
        let Some(running) = running else { return Ok(None) };
        let lock = self.access.read(lock_files::pid_file).await?;
        let is_ours = lock.is_some_and(|lock| lock.socket_dir.as_deref() == Some(&self.config.socket_dir));
        Ok((!is_ours).then_some(running.pid))
    }

    /// Writes the files and starts the server as a child. Returns once its sockets are open, which is before it accepts
    /// connections (keeper 12.3). No server may be running.
    pub async fn start(&self, files: &ConfigFiles, mode: StartMode) -> Result<RunningServer, InstanceError> {
        self.start_while(files, mode, || true).await
    }

    /// Starts the server as [`Self::start`] does, but launches it only if `permitted` still returns true: the
    /// preparations, such as ending leftover processes, may take seconds.
    pub async fn start_while(
        &self,
        files: &ConfigFiles,
        mode: StartMode,
        permitted: impl Fn() -> bool,
    ) -> Result<RunningServer, InstanceError> {
        self.supervisor.prepare_launch().await?;
        let sockets = self.free_socket_directories().await?;
        self.sockets().replace(sockets.clone());
        self.continue_recovery(files.recovery.mode).await?;
        self.write_files(files, mode).await?;
        self.check_port().await?;
        let mut command = environment::command(&self.programs.path("postgres"));
        command.arg("-D").arg(&self.config.data);
        for (name, value) in pinned::settings(&self.config, mode, &sockets) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // Another program may have taken the port after the check.
        let explain = async || Ok(self.check_port().await?);
        let pid = self.supervisor.launch(command, permitted, explain).await?;
        Ok(RunningServer { pid, is_child: true })
    }

    /// Lets the next start go on with a recovery that has not ended, if the signal file is gone all the same. PostgreSQL
    /// removes it before the recovery is recorded as complete. Without it, a server that ended in between would replay
    /// all WAL that it finds, also beyond the target, and accept writes on the timeline that it came from.
    async fn continue_recovery(&self, mode: RecoveryMode) -> Result<(), InstanceError> {
        let signals = self.access.read(cluster_files::signals).await?;
        if signals.standby || signals.recovery {
            return Ok(());
        }
        let signal = match mode {
            RecoveryMode::Backup => RecoverySignal::Recovery,
            RecoveryMode::None | RecoveryMode::Standby => RecoverySignal::Standby,
        };
        let control = self.control().await?;
        let is_unfinished = match control.state {
            ControlState::ArchiveRecovery | ControlState::ShutDownInRecovery => true,
            // A backup's recovery ends with a checkpoint of the kind of a shutdown; the minimum is reset with its end.
            ControlState::Other => mode == RecoveryMode::Backup && control.minimum_recovery_end > Lsn(0),
            ControlState::ShutDown | ControlState::InProduction | ControlState::CrashRecovery => false,
        };
        if !is_unfinished {
            return Ok(());
        }
        warn!("the server ended before its recovery was complete: the recovery goes on");
        let write = move |data: &Path| cluster_files::continue_recovery(data, signal);
        Ok(self.access.write(write).await?)
    }

    async fn control(&self) -> Result<ControlFile, ControlError> {
        pg_control::read(&self.programs, &self.config.data, self.config.request_timeout).await
    }

    /// Whether the server's lock file reports that it accepts connections. A server that does not accept them logs
    /// every attempt.
    pub async fn reports_ready(&self) -> Result<bool, FileError> {
        self.access.read(file_status::reports_ready).await
    }

    /// Waits until the server answers a query, even with a refusal. Fails when the server ends, or when it accepts
    /// connections and does not answer within the limit (`None`: waits forever).
    ///
    /// A server that starts or recovers is waited for as long as it runs: a restart would begin the recovery again.
    pub async fn wait_ready(&self, limit: Option<Duration>) -> Result<(), InstanceError> {
        const ACTION: &str = "wait until PostgreSQL accepts connections";
        let answers = async {
            let mut silent_since = self.clock.now();
            loop {
                // The lock file is checked first: a server in recovery logs every connection attempt.
                let answer = match self.reports_ready().await? {
                    true => self.round_sql.ping().await,
                    false => {
                        silent_since = self.clock.now();
                        sleep(POLL).await;
                        continue;
                    }
                };
                match answer {
                    Ok(()) => return Ok(()),
                    Err(error) if error.refusal().is_some() => return Ok(()),
                    // It recovers from the crash of a process, which the lock file does not show.
                    Err(error) if error.is_not_accepting() => silent_since = self.clock.now(),
                    Err(_) => {}
                }
                if let Some(limit) = limit.filter(|limit| self.clock.now().since(silent_since) >= *limit) {
                    return Err(InstanceError::Timeout { action: ACTION, limit });
                }
                sleep(POLL).await;
            }
        };
        self.supervisor.unless_ended(ACTION, None, answers).await
    }

    /// Waits until the recovery of a restored backup is complete and the server answers. PostgreSQL removes
    /// `recovery.signal` shortly before: the control file shows the end. A standby's recovery has no end; it is enough
    /// that it answers. Fails when the server ends, when its replay is paused, or at the limit (`None`: waits forever).
    pub async fn wait_recovered(&self, limit: Option<Duration>) -> Result<(), InstanceError> {
        const ACTION: &str = "recover the restored data";
        let recovered = async {
            loop {
                let signals = self.access.read(cluster_files::signals).await?;
                if !signals.recovery && (signals.standby || self.is_in_production().await?) {
                    break;
                }
                let is_paused = self.reports_ready().await?
                    && matches!(self.round_sql.standby().await, Ok(Some(standby)) if standby.is_paused);
                if is_paused {
                    return Err(InstanceError::RecoveryPaused);
                }
                sleep(RECOVERY_POLL).await;
            }
            self.wait_ready(None).await
        };
        Box::pin(self.supervisor.unless_ended(ACTION, limit, recovered)).await
    }

    /// Stops the server, including one left by an earlier keeper: fast, then escalating at the limits. All its
    /// processes have ended afterwards.
    pub async fn stop(&self, limits: StopLimits) -> Result<StopOutcome, InstanceError> {
        self.supervisor.stop(limits).await
    }

    /// Writes the files and reloads the server. [`SqlClient::refused_parameters`] returns what it refused.
    pub async fn reload(&self, files: &ConfigFiles) -> Result<(), InstanceError> {
        info!("reloading database configuration");
        self.write_files(files, StartMode::Normal).await?;
        self.supervisor.reload().await
    }

    /// Ends all other processes that use the data: leftovers of a killed server or keeper.
    pub(crate) async fn end_other_processes(&self) -> Result<(), InstanceError> {
        self.supervisor.end_other_processes().await
    }

    /// Prepares for a program that opens the data as a server does: fails while a server runs, ends all other processes
    /// that use the data, and removes a stale lock file.
    pub(crate) async fn prepare_offline(&self) -> Result<(), InstanceError> {
        self.supervisor.prepare_launch().await
    }

    /// Writes `pg_hba.conf` only; the server uses it after the next reload.
    pub async fn write_hba(&self, lines: &[String]) -> Result<(), FileError> {
        let lines = lines.to_vec();
        self.access
            .write(move |data| config_files::write_hba(data, &lines))
            .await
    }

    /// Updates the password file of `primary_conninfo`: a password may change while the server runs.
    pub async fn refresh_passfile(&self) -> Result<(), FileError> {
        let config = self.config.clone();
        self.access.write(move |_| config.refresh_passfile()).await
    }

    /// Promotes a standby and waits until it accepts writes, then writes the files again, which must be those of a
    /// master (keeper 12.7). After a timeout or a cancellation a started promotion continues.
    pub async fn promote(&self, files: &ConfigFiles, limit: Duration) -> Result<(), InstanceError> {
        const ACTION: &str = "promote PostgreSQL";
        info!("promoting database");
        // pg_ctl rather than pg_promote(): it needs no connection, which a server at its connection limit would refuse.
        let mut command = environment::command(&self.programs.path("pg_ctl"));
        command.arg("promote").arg("-W").arg("-D").arg(&self.config.data);
        command::output(command, self.config.request_timeout).await?;
        let promoted = async {
            loop {
                // The query's answer counts rather than the signal file, which is removed earlier.
                match self.round_sql.is_in_recovery().await {
                    Ok(false) => return Ok(()),
                    Err(error) if error.refusal().is_some() && self.is_in_production().await.unwrap_or(false) => {
                        return Ok(());
                    }
                    Ok(true) | Err(_) => {}
                }
                sleep(POLL).await;
            }
        };
        self.supervisor.unless_ended(ACTION, Some(limit), promoted).await?;
        self.write_files(files, StartMode::Normal).await?;
        Ok(())
    }

    /// Clears space for new data: old data are set aside if there is space for both, otherwise removed. Fails while a
    /// server runs. The caller has saved that data are being created (keeper I4).
    pub async fn clear_data(
        &self,
        changes: &DataChanges,
        owned: Arc<OwnedDirs>,
        clear: ClearRequest,
    ) -> Result<ClearOutcome, InstanceError> {
        self.supervisor.ensure_nothing_runs().await?;
        let data = self.config.data.clone();
        Ok(changes
            .run(move || previous_data::clear(&data, &owned, &clear))
            .await??)
    }

    /// Whether the control file shows that the server accepts writes, for a server that cannot be queried.
    async fn is_in_production(&self) -> Result<bool, ControlError> {
        Ok(self.control().await?.state == ControlState::InProduction)
    }

    fn sockets(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.sockets
            .lock()
            .expect("no thread panics while holding the directories")
    }

    async fn write_files(&self, files: &ConfigFiles, mode: StartMode) -> Result<(), FileError> {
        let sockets = self.sockets().clone();
        let (files, config) = (files.clone(), self.config.clone());
        self.access
            .write(move |_| files.write(&config, mode, sockets.as_deref()))
            .await
    }

    /// Returns the socket directories without the public one if another server's socket is there.
    async fn free_socket_directories(&self) -> Result<String, InstanceError> {
        let Some(public) = self.config.public_socket_dir.clone() else {
            return Ok(self.config.socket_directories());
        };
        let port = self.config.port;
        let check =
            move |_: &Path| Ok::<_, FileError>(port::check_socket(&public, port).map_err(|taken| (public, taken)));
        Ok(match self.access.read(check).await? {
            Ok(()) => self.config.socket_directories(),
            Err((dir, taken)) => {
                warn!(dir, why = %Chain(&taken), "starting PostgreSQL without its second unix socket");
                self.config.socket_dir.clone()
            }
        })
    }

    /// Fails if the server could not listen on its addresses. No own server may be running.
    pub(crate) async fn check_port(&self) -> Result<(), ListenError> {
        port::check_names(&self.config.listen_addresses, port::resolves).await?;
        let config = self.config.clone();
        let check = move |_: &Path| port::check(&config.listen_addresses, config.port, &config.socket_dir);
        self.access.read(check).await
    }
}

/// For tests: an instance in this directory with complete data, of whose programs this one is a shell script. No server
/// runs.
#[cfg(test)]
pub(crate) fn test_instance(dir: &Path, program: &str, script: &str, request_timeout: Duration) -> Instance {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use crate::postgres::config::credentials::{AuthMethod, Login};
    use crate::postgres::data::cluster_files;

    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let real = Programs::find(None, std::env::var_os("PATH").as_deref(), None).unwrap();
    for entry in fs::read_dir(real.dir()).unwrap().flatten() {
        symlink(entry.path(), bin.join(entry.file_name())).unwrap();
    }
    let path = bin.join(program);
    fs::remove_file(&path).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let data = dir.join("postgres");
    fs::create_dir(&data).unwrap();
    cluster_files::make_data(&data, "content");
    let login = Login {
        user: "user".into(),
        method: AuthMethod::Trust,
        password: None,
    };
    let config = InstanceConfig {
        data,
        socket_dir: dir.display().to_string(),
        public_socket_dir: None,
        listen_addresses: "127.0.0.1".into(),
        port: 1,
        superuser: login.clone(),
        replication: login,
        request_timeout,
    };
    let programs = Programs::find(Some(&bin), None, None).unwrap();
    Instance::new(config, Arc::new(programs), DataChanges::default(), Clock::system())
}
