//! Starts, stops, reloads and promotes the instance of one data directory (keeper section 12). When to do what is
//! decided by `reconcile`.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use ::base::Chain;
use rustix::process::Signal;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::external_dirs::ClearRequest;
use crate::postgres::client::connect::{ConnectTarget, LocalSocket, OwnServer};
use crate::postgres::client::replication::ReplicationClient;
use crate::postgres::client::sql::SqlClient;
use crate::postgres::config::conf::{self, Parameters, Recovery, RecoveryMode};
use crate::postgres::config::conninfo::write_passfile;
use crate::postgres::config::credentials::Login;
use crate::postgres::config::credentials::Secret;
use crate::postgres::config::hba;
use crate::postgres::config::pinned;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::files;
use crate::postgres::data::layout;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::previous_data::{self, ClearError, ClearOutcome};
use crate::postgres::data::walker::{FileSystemHung, Walker};
use crate::postgres::programs::command::{self, CommandError, explain};
use crate::postgres::programs::environment;
use crate::postgres::programs::installation::Programs;
use crate::postgres::programs::pg_control;
use crate::postgres::server::data_dir_users::{self, EndError};
use crate::postgres::server::port::{self, PortError};
use crate::postgres::server::postmaster::{ChildStatus, PostmasterChild};
use crate::postgres::server::process::{self, LockHolder, Process};

/// Constant properties of an instance.
#[derive(Debug, Clone)]
pub struct InstanceConfig {
    /// Its data directory (PGDATA), as an absolute path.
    pub data: PathBuf,
    /// Directory of its unix socket, inaccessible to other users; the keeper connects there.
    pub socket_dir: String,
    /// Directory of a second socket, for users' tools; omitted when another server's socket is there.
    pub public_socket_dir: Option<String>,
    pub listen_addresses: String,
    pub port: u16,
    pub superuser: Login,
    pub replication: Login,
    /// Time limit of each query, fixed for the life of the process (keeper 3.1).
    pub request_timeout: Duration,
}

impl InstanceConfig {
    /// Returns the passwords of both users, if they have one.
    pub fn passwords(&self) -> impl Iterator<Item = &Secret> {
        [&self.superuser, &self.replication]
            .into_iter()
            .filter_map(|login| login.password.as_ref())
    }

    /// Returns the value of `unix_socket_directories`.
    pub fn socket_directories(&self) -> String {
        let dirs = [Some(&self.socket_dir), self.public_socket_dir.as_ref()];
        let dirs: Vec<&str> = dirs.into_iter().flatten().map(String::as_str).collect();
        dirs.join(",")
    }

    /// The same without the public directory if another server's socket is there.
    pub(crate) fn free_socket_directories(&self) -> String {
        let Some(public) = &self.public_socket_dir else {
            return self.socket_directories();
        };
        match port::check_socket(public, self.port) {
            Ok(()) => self.socket_directories(),
            Err(taken) => {
                warn!(dir = public, why = %Chain(&taken), "starting PostgreSQL without its second unix socket");
                self.socket_dir.clone()
            }
        }
    }
}

/// Contents of the generated files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigFiles {
    /// Parameters of `postgresql.conf`.
    pub parameters: Parameters,
    /// Lines of `pg_hba.conf`.
    pub hba: Vec<String>,
    /// Recovery settings and the signal file.
    pub recovery: Recovery,
}

/// Configuration that a server is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// The generated one only.
    Normal,
    /// During an initialisation: the one that the data directory came with, overridden by the generated one (keeper
    /// 8.5, rule 7).
    Temporary,
}

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

/// The server that runs on the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningServer {
    /// Its process id.
    pub pid: i32,
    /// It is a child of this process rather than left by an earlier keeper.
    pub is_child: bool,
}

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

/// Why an operation on the instance failed.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Its port is in use.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Old data could not be moved or removed.
    #[error(transparent)]
    Clear(#[from] ClearError),
    #[error(transparent)]
    NoAnswer(#[from] FileSystemHung),
    /// A server is running on the data directory where none may.
    #[error("a server (process {pid}) runs on {}", data.display())]
    ServerRunning {
        /// Its process id.
        pid: i32,
        /// The data directory.
        data: PathBuf,
    },
    /// A process that uses the data directory does not end.
    #[error(
        "process {pid} ({program}) uses {} and does not exit: stop it, the keeper changes nothing before",
        data.display()
    )]
    DataDirInUse {
        /// Its process id.
        pid: i32,
        /// Its program.
        program: String,
        /// The data directory.
        data: PathBuf,
    },
    /// The lock file names a process that uses the data directory and may be its server.
    #[error(
        "postmaster.pid names process {pid}, which runs in {} but was started at another time than the file records: \
         stop it, or remove the file if it is not PostgreSQL", data.display()
    )]
    Locked {
        /// Its process id.
        pid: i32,
        /// The data directory.
        data: PathBuf,
    },
    /// The permission for the start expired before the server was launched.
    #[error("{action}: the permission has run out")]
    NotPermitted { action: &'static str },
    /// No server is running where one must.
    #[error("no server runs on {}", data.display())]
    NotRunning {
        /// The data directory.
        data: PathBuf,
    },
    /// The server ended.
    #[error("{action}: the server ended{}{}", exit_status_text(*status), explain(tail))]
    Ended {
        action: &'static str,
        status: Option<ExitStatus>,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// The time limit was exceeded; a server may still be running.
    #[error("{action}: not done within {limit:?}")]
    Timeout { action: &'static str, limit: Duration },
    /// The program could not be run, or a signal could not be sent.
    #[error("{action}")]
    Process {
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A command failed.
    #[error(transparent)]
    Helper(#[from] CommandError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

fn exit_status_text(status: Option<ExitStatus>) -> String {
    status.map(|status| format!(" ({status})")).unwrap_or_default()
}

/// Time limit for a start until the sockets are open (keeper section 0).
const START_LIMIT: Duration = Duration::from_secs(60);
/// Interval of checking files and the server while waiting.
const POLL: Duration = Duration::from_millis(20);

/// Name of the password file of `primary_conninfo`.
const PASSFILE: &str = "replication.pgpass";

/// One instance: its files, its processes, its SQL.
///
/// Calls that change something must not overlap. Dropping a call's future cancels it.
#[derive(Debug)]
pub struct Instance {
    config: InstanceConfig,
    programs: Arc<Programs>,
    round_sql: SqlClient,
    observer: SqlClient,
    replication: ReplicationClient,
    child_status: watch::Sender<ChildStatus>,
    server: Mutex<Option<PostmasterChild>>,
    /// Reads other processes.
    walker: Walker,
    /// Socket directories of the last start; `None` before the first.
    sockets: std::sync::Mutex<Option<String>>,
}

impl Instance {
    /// Creates the instance of a data directory, without any access to it.
    pub fn new(config: InstanceConfig, programs: Arc<Programs>) -> Self {
        let child_status = watch::Sender::new(ChildStatus::NotStarted);
        let target = ConnectTarget::Local(LocalSocket {
            dir: config.socket_dir.clone().into(),
            port: config.port,
            owner: rustix::process::geteuid().as_raw(),
            server: OwnServer {
                data: config.data.clone(),
                child_status: child_status.subscribe(),
            },
        });
        let sql = || SqlClient::new(target.clone(), &config.superuser, config.request_timeout).for_programs(&programs);
        let (round_sql, observer) = (sql(), sql());
        let replication = ReplicationClient::new(target, config.replication.clone(), config.request_timeout);
        let replication = replication.for_programs(&programs);
        Self {
            round_sql,
            observer,
            replication,
            config,
            programs,
            child_status,
            server: Mutex::new(None),
            walker: Walker::default(),
            sockets: std::sync::Mutex::default(),
        }
    }

    /// Returns its configuration.
    pub fn config(&self) -> &InstanceConfig {
        &self.config
    }

    /// Returns the directory of temporary files with passwords: the keeper's directory, where the next start removes
    /// leftovers of a killed keeper (keeper I16).
    pub(crate) fn scratch_dir(&self) -> &std::path::Path {
        layout::keeper_dir(&self.config.data)
    }

    /// Returns the path of the password file of `primary_conninfo`. It lies beside the data directory, so that no copy
    /// of the data contains it.
    pub fn passfile(&self) -> PathBuf {
        let beside = self.scratch_dir();
        // A server setting cannot hold every path; the socket directory is chosen so that it can.
        let dir = if beside.to_str().is_some() {
            beside
        } else {
            self.config.socket_dir.as_ref()
        };
        dir.join(PASSFILE)
    }

    /// Updates the password file of `primary_conninfo`: a password may change while the server runs.
    pub fn refresh_passfile(&self) -> Result<(), FileError> {
        write_passfile(&self.passfile(), &self.config.replication)
    }

    /// Returns the programs that it runs.
    pub fn programs(&self) -> &Arc<Programs> {
        &self.programs
    }

    /// Returns the SQL connection of the rounds.
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
        self.child_status.subscribe()
    }

    /// Returns the last output of the last started server, which explains why it ended.
    pub async fn final_output(&self) -> Vec<String> {
        match &mut *self.server.lock().await {
            Some(server) => server.final_output().await,
            None => Vec::new(),
        }
    }

    /// Returns the recent output of the server; empty while it is being started or stopped.
    pub fn recent_output(&self) -> Vec<String> {
        let server = self.server.try_lock().ok();
        let printed = server
            .as_ref()
            .and_then(|server| Some(server.as_ref()?.recent_output()));
        printed.unwrap_or_default()
    }

    /// Whether there is a database cluster (keeper 12.2).
    pub fn is_initialised(&self) -> Result<bool, FileError> {
        files::is_initialised(&self.config.data)
    }

    /// Returns the role according to the files.
    pub fn local_role(&self) -> Result<LocalRole, FileError> {
        if !self.is_initialised()? {
            return Ok(LocalRole::Undefined);
        }
        Ok(if files::signals(&self.config.data)?.standby {
            LocalRole::Standby
        } else {
            LocalRole::Master
        })
    }

    /// Returns the server that runs on the data directory, if any.
    pub async fn running(&self) -> Result<Option<RunningServer>, FileError> {
        if let ChildStatus::Running { pid } = *self.child_status.borrow() {
            return Ok(Some(RunningServer { pid, is_child: true }));
        }
        let leftover = process::postmaster(&self.config.data)?;
        Ok(leftover.map(|process| RunningServer {
            pid: process.pid(),
            is_child: false,
        }))
    }

    /// Writes the files and starts the server as a child. Returns once its sockets are open, which is before it accepts
    /// connections (keeper 12.3). No server may be running.
    pub async fn start(&self, files: &ConfigFiles, kind: StartMode) -> Result<RunningServer, InstanceError> {
        self.start_while(files, kind, || true).await
    }

    /// The same, but launches the server only if `permitted` still returns true: the preparations, such as ending
    /// leftover processes, may take seconds.
    pub async fn start_while(
        &self,
        files: &ConfigFiles,
        kind: StartMode,
        permitted: impl Fn() -> bool,
    ) -> Result<RunningServer, InstanceError> {
        const ACTION: &str = "start PostgreSQL";
        if let Some(running) = self.running().await? {
            return Err(InstanceError::ServerRunning {
                pid: running.pid,
                data: self.config.data.clone(),
            });
        }
        self.end_other_processes().await?;
        self.remove_stale_lock()?;
        let sockets = self.config.free_socket_directories();
        self.sockets().replace(sockets.clone());
        self.write_files(files, kind)?;
        self.check_port()?;
        let mut command = environment::command(&self.programs.path("postgres"));
        command.arg("-D").arg(&self.config.data);
        for (name, value) in pinned::settings(&self.config, kind, &sockets) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut child_status = self.child_status.subscribe();
        let pid = {
            // Locked before the launch, so that a cancelled start never loses a server.
            let mut slot = self.server.lock().await;
            if !permitted() {
                return Err(InstanceError::NotPermitted { action: ACTION });
            }
            info!("starting database");
            let launched = PostmasterChild::launch(command, &self.child_status);
            let server = slot.insert(launched.map_err(|source| InstanceError::Process { action: ACTION, source })?);
            server.process().pid()
        };
        let opened = async {
            // Line 8 of the lock file is written after the sockets are open: a port conflict shows before.
            loop {
                let lock = files::pid_file(&self.config.data)?;
                if lock.is_some_and(|lock| is_or_descends(lock.pid, pid) && lock.status.is_some()) {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        };
        tokio::select! {
            status = wait_ended(&mut child_status) => {
                self.check_port()?; // another program may have taken the port after the check
                Err(self.ended_error(ACTION, status).await)
            }
            opened = timeout(START_LIMIT, opened) => match opened {
                Ok(Ok(())) => Ok(RunningServer { pid, is_child: true }),
                Ok(Err(failed)) => Err(failed),
                Err(_) => Err(InstanceError::Timeout { action: ACTION, limit: START_LIMIT }),
            },
        }
    }

    /// Whether the server's lock file says that it accepts connections. A server that does not accept them logs every
    /// attempt.
    pub fn reports_ready(&self) -> Result<bool, FileError> {
        let lock = files::pid_file(&self.config.data)?;
        Ok(lock.and_then(|lock| lock.status).as_deref() == Some("ready"))
    }

    /// Waits until the server answers a query, even with a rejection. Fails when the server ends, or when it accepts
    /// connections and does not answer within the limit (`None`: waits forever).
    ///
    /// A server that starts or recovers is waited for as long as it runs: a restart would begin the recovery again.
    #[expect(
        clippy::disallowed_methods,
        reason = "a limit on what happens outside is measured here"
    )]
    pub async fn wait_ready(&self, limit: Option<Duration>) -> Result<(), InstanceError> {
        const ACTION: &str = "wait until PostgreSQL takes connections";
        let answers = async {
            let mut silent_since = Instant::now();
            loop {
                // The lock file is checked first: a server in recovery logs every connection attempt.
                let answer = match self.reports_ready()? {
                    true => self.round_sql.ping().await,
                    false => {
                        silent_since = Instant::now();
                        sleep(POLL).await;
                        continue;
                    }
                };
                match answer {
                    Ok(()) => return Ok(()),
                    Err(error) if error.refusal().is_some() => return Ok(()),
                    // It recovers from the crash of a process, which the lock file does not show.
                    Err(error) if error.is_not_accepting() => silent_since = Instant::now(),
                    Err(_) => {}
                }
                if let Some(limit) = limit.filter(|limit| silent_since.elapsed() >= *limit) {
                    return Err(InstanceError::Timeout { action: ACTION, limit });
                }
                sleep(POLL).await;
            }
        };
        self.unless_ended(ACTION, None, answers).await
    }

    /// Stops the server, including one left by an earlier keeper: fast, then escalating at the limits. All its
    /// processes have ended afterwards.
    pub async fn stop(&self, limits: StopLimits) -> Result<StopOutcome, InstanceError> {
        const ACTION: &str = "stop PostgreSQL";
        let server = self.server.lock().await;
        let Some(process) = self.postmaster(server.as_ref())? else {
            return Ok(StopOutcome::NotRunning);
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
        self.wait_gone(process).await;
        self.end_other_processes().await?;
        Ok(StopOutcome::Killed)
    }

    /// Returns the postmaster: the child, or the server started by a wrapper script that is the child; without a child
    /// the one left by an earlier keeper.
    fn postmaster<'a>(&self, server: Option<&'a PostmasterChild>) -> Result<Option<PostmasterProcess<'a>>, FileError> {
        let (Some(server), ChildStatus::Running { pid }) = (server, *self.child_status.borrow()) else {
            return Ok(process::postmaster(&self.config.data)?.map(PostmasterProcess::Other));
        };
        let lock = files::pid_file(&self.config.data)?;
        let below = lock.filter(|lock| lock.pid != pid && is_or_descends(lock.pid, pid));
        // It may have ended meanwhile; then its wrapper ends too.
        let below = below.and_then(|lock| Process::open(lock.pid).ok().flatten());
        Ok(Some(below.map_or(
            PostmasterProcess::Child(server.process()),
            PostmasterProcess::Other,
        )))
    }

    /// Waits for the end of a server; a child is also reaped.
    async fn wait_gone(&self, process: &Process) {
        // The sender is a field of this instance and outlives the wait.
        let mut child_status = self.child_status.subscribe();
        let _ = child_status
            .wait_for(|child_status| !matches!(child_status, ChildStatus::Running { .. }))
            .await;
        process.ended().await;
    }

    /// Writes the files and reloads the server. [`SqlClient::refused_parameters`] returns what it rejected.
    pub async fn reload(&self, files: &ConfigFiles) -> Result<(), InstanceError> {
        const ACTION: &str = "reload the configuration";
        info!("reloading database configuration");
        self.write_files(files, StartMode::Normal)?;
        let server = self.server.lock().await;
        let process = self.postmaster(server.as_ref())?.ok_or_else(|| self.not_running())?;
        process
            .as_ref()
            .signal(Signal::HUP)
            .map_err(|source| InstanceError::Process { action: ACTION, source })
    }

    /// Writes `pg_hba.conf` only; the server uses it after the next reload.
    pub fn write_hba(&self, lines: &[String]) -> Result<(), FileError> {
        files::write_atomically(&self.config.data.join(hba::FILE), hba::render(lines).as_bytes())
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
                    Err(error) if error.refusal().is_some() && self.is_in_production().await => return Ok(()),
                    Ok(true) | Err(_) => {}
                }
                sleep(POLL).await;
            }
        };
        self.unless_ended(ACTION, Some(limit), promoted).await?;
        self.write_files(files, StartMode::Normal)?;
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
        self.ensure_nothing_runs().await?;
        let data = self.config.data.clone();
        Ok(changes
            .run(move || previous_data::clear(&data, &owned, &clear))
            .await??)
    }

    async fn ensure_nothing_runs(&self) -> Result<(), InstanceError> {
        if let Some(running) = self.running().await? {
            return Err(InstanceError::ServerRunning {
                pid: running.pid,
                data: self.config.data.clone(),
            });
        }
        self.end_other_processes().await
    }

    /// Whether the control file says that the server accepts writes, for a server that cannot be queried.
    async fn is_in_production(&self) -> bool {
        let limit = self.config.request_timeout;
        let control = pg_control::read(&self.programs, &self.config.data, limit).await;
        control.is_ok_and(|control| control.state == pg_control::ControlState::InProduction)
    }

    fn not_running(&self) -> InstanceError {
        InstanceError::NotRunning {
            data: self.config.data.clone(),
        }
    }

    /// Runs `work` unless the server ends first.
    async fn unless_ended(
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

    fn sockets(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.sockets
            .lock()
            .expect("no thread panics while holding the directories")
    }

    fn write_files(&self, files: &ConfigFiles, kind: StartMode) -> Result<(), FileError> {
        let data = &self.config.data;
        files::restrict_data_mode(data)?;
        let parameters = pinned::of_file(&files.parameters, self.sockets().as_deref());
        match kind {
            StartMode::Normal => {
                let text = conf::render(&parameters, &files.recovery);
                files::write_atomically(&data.join(conf::FILE), text.as_bytes())?;
            }
            StartMode::Temporary => {
                let has_file = data.join(conf::FILE).exists();
                let text = conf::render_temporary(has_file, &parameters, &files.recovery);
                files::write_atomically(&data.join(conf::TEMPORARY_FILE), text.as_bytes())?;
            }
        }
        files::write_atomically(&data.join(hba::FILE), hba::render(&files.hba).as_bytes())?;
        match files.recovery.mode {
            RecoveryMode::Standby => {
                self.refresh_passfile()?;
                files::signal_standby(data)?;
            }
            RecoveryMode::None => files::remove_recovery_signal(data)?,
        }
        if let Some(aside) = files::set_aside_recovery_conf(data)? {
            warn!(to = %aside.display(), "renamed a recovery.conf, with which PostgreSQL does not start");
        }
        files::link_auto_conf(data)
    }

    /// Fails if the server could not listen at its addresses. No own server may be running.
    pub(crate) fn check_port(&self) -> Result<(), PortError> {
        port::check(&self.config.listen_addresses, self.config.port, &self.config.socket_dir)
    }

    /// Ends all other processes that use the data: leftovers of a killed server or keeper.
    pub(crate) async fn end_other_processes(&self) -> Result<(), InstanceError> {
        let ended =
            data_dir_users::end_users(&self.config.data, data_dir_users::EndLimits::default(), &self.walker).await;
        ended.map_err(|failed| match failed {
            EndError::Remains(worker) => InstanceError::DataDirInUse {
                pid: worker.process.pid(),
                program: worker.program,
                data: self.config.data.clone(),
            },
            EndError::NoAnswer(hung) => hung.into(),
        })
    }

    /// Removes a lock file whose process id belongs to an unrelated program, for example after a restart of a
    /// container, or to a zombie: the server would refuse to start. A lock file without a process is left to the
    /// server, which also checks for shared memory in use; one whose process uses the data directory stays.
    fn remove_stale_lock(&self) -> Result<(), InstanceError> {
        let data = || self.config.data.clone();
        match process::lock_holder(&self.config.data)? {
            LockHolder::Nobody => Ok(()),
            LockHolder::Postmaster(process) => Err(InstanceError::ServerRunning {
                pid: process.pid(),
                data: data(),
            }),
            LockHolder::UsesDataDir(process) => Err(InstanceError::Locked {
                pid: process.pid(),
                data: data(),
            }),
            LockHolder::Unrelated => {
                warn!("removing postmaster.pid, which names a process other than PostgreSQL");
                Ok(files::remove_lock(&self.config.data)?)
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
