//! The programs of one cluster: their command lines, their processes, and the end of all of them. Its etcd is left to
//! the caller, which may stop and restart it.

use std::borrow::BorrowMut;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use crate::dir::ClusterDir;
use crate::error::{Attempt, Error};
use crate::leftovers::{PgLeftovers, postmaster, server_processes, stop_servers};
use crate::options::{remove_option_variables, store_options};
use crate::port::Port;
use crate::process::LoggedProcess;
use crate::processes::{kill_users, poll, send_signal};

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// stolon-sentinel.
    Sentinel,
    /// stolon-keeper; its name in the cluster is its uid.
    Keeper,
    /// stolon-proxy.
    Proxy,
}

impl ProgramKind {
    /// Returns the name of the executable.
    pub fn executable(self) -> &'static str {
        match self {
            Self::Sentinel => "stolon-sentinel",
            Self::Keeper => "stolon-keeper",
            Self::Proxy => "stolon-proxy",
        }
    }
}

/// A program of the cluster, which can be stopped and started again with the same options.
#[derive(Debug)]
pub struct LocalProgram<P = LoggedProcess> {
    kind: ProgramKind,
    /// Its options, without those of the store.
    pub options: Vec<String>,
    /// A command with arguments that runs the program; empty: it is run directly.
    pub wrapper: Vec<String>,
    /// Variables that are added to its environment.
    pub environment: Vec<(String, String)>,
    /// The value of its `--store-endpoints`.
    pub store_endpoint: String,
    /// The reserved port of its server.
    pub port: Option<Port>,
    process: Option<P>,
}

impl<P> LocalProgram<P> {
    /// Describes a program that has not been started yet.
    pub fn new(kind: ProgramKind, store_endpoint: String, options: Vec<String>) -> Self {
        Self {
            kind,
            options,
            wrapper: Vec::new(),
            environment: Vec::new(),
            store_endpoint,
            port: None,
            process: None,
        }
    }

    /// Returns which program it is.
    pub fn kind(&self) -> ProgramKind {
        self.kind
    }

    /// Returns the process that was started last.
    pub fn process(&self) -> Option<&P> {
        self.process.as_ref()
    }

    /// Returns the process that was started last.
    pub fn process_mut(&mut self) -> Option<&mut P> {
        self.process.as_mut()
    }

    /// Takes the process out, so that the program counts as not started.
    pub fn take_process(&mut self) -> Option<P> {
        self.process.take()
    }
}

/// The programs of a cluster on this machine, without its etcd. `P` is the type of their processes, which may add to
/// [`LoggedProcess`].
#[derive(Debug)]
pub struct LocalCluster<P = LoggedProcess> {
    name: String,
    programs: BTreeMap<String, LocalProgram<P>>,
    leftovers: PgLeftovers,
    // after the programs: they end before their files are removed
    dir: ClusterDir,
}

impl<P: From<LoggedProcess> + BorrowMut<LoggedProcess>> LocalCluster<P> {
    /// Returns a cluster of this name without programs.
    pub fn new(name: &str, dir: ClusterDir) -> Self {
        Self {
            name: name.to_owned(),
            programs: BTreeMap::new(),
            leftovers: PgLeftovers::default(),
            dir,
        }
    }

    /// Returns its directory.
    pub fn dir(&self) -> &ClusterDir {
        &self.dir
    }

    /// Returns its directory.
    pub fn dir_mut(&mut self) -> &mut ClusterDir {
        &mut self.dir
    }

    // ---- programs

    /// Adds a program, without starting it.
    pub fn add(&mut self, name: &str, program: LocalProgram<P>) {
        self.programs.insert(name.to_owned(), program);
    }

    /// Returns all programs by name.
    pub fn programs(&self) -> &BTreeMap<String, LocalProgram<P>> {
        &self.programs
    }

    /// Returns a program by its name.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn program(&mut self, name: &str) -> Result<&mut LocalProgram<P>, Error> {
        self.programs
            .get_mut(name)
            .ok_or_else(|| Error::new(format!("no {name} in this cluster")))
    }

    /// Returns the command that starts a program in the cluster's directory.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn command(&self, name: &str) -> Result<Command, Error> {
        let program = self.programs.get(name);
        let program = program.ok_or_else(|| Error::new(format!("no {name} in this cluster")))?;
        let executable = self.dir.program(program.kind.executable());
        let mut words = program.wrapper.iter().map(OsString::from).chain([executable.into()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .args(store_options(&self.name, &program.store_endpoint))
            .args(&program.options)
            .current_dir(self.dir.path());
        remove_option_variables(&mut command);
        let variables = program.environment.iter();
        command.envs(variables.map(|(name, value)| (name.as_str(), value.as_str())));
        Ok(command)
    }

    /// Starts a program with this command, for the first time or again, as the user that PostgreSQL runs as.
    ///
    /// # Errors
    ///
    /// There is none of this name, it is running, or it cannot be started.
    pub fn start(&mut self, name: &str, command: Command) -> Result<(), Error> {
        let (user, log) = (self.dir.user().cloned(), self.dir.log(name));
        let program = self.program(name)?;
        if let Some(process) = &mut program.process {
            let exit = process.borrow_mut().try_wait();
            if exit.attempt(|| format!("read the status of {name}"))?.is_none() {
                return Err(Error::new(format!("{name} is running")));
            }
        }
        program.process = Some(LoggedProcess::start(name, command, user.as_ref(), &log)?.into());
        Ok(())
    }

    /// Returns a process that has exited, with its status.
    ///
    /// # Errors
    ///
    /// The status of one cannot be read.
    pub fn first_exited(&mut self) -> Result<Option<(&P, ExitStatus)>, Error> {
        for (name, program) in &mut self.programs {
            let Some(process) = &mut program.process else { continue };
            let exit = process.borrow_mut().try_wait();
            if let Some(status) = exit.attempt(|| format!("read the status of {name}"))? {
                return Ok(Some((process, status)));
            }
        }
        Ok(None)
    }

    /// Returns a command that runs stolonctl on this cluster.
    pub fn stolonctl(&self, store_endpoint: &str) -> Command {
        let mut command = Command::new(self.dir.program("stolonctl"));
        command.args(store_options(&self.name, store_endpoint));
        remove_option_variables(&mut command);
        command
    }

    // ---- keepers and their PostgreSQL

    /// Returns PGDATA of a keeper.
    pub fn pgdata(&self, keeper: &str) -> PathBuf {
        self.dir.data_dir(keeper).join("postgres")
    }

    /// Returns the process id of a keeper's postmaster while it runs.
    pub fn postmaster(&self, keeper: &str) -> Option<u32> {
        postmaster(&self.pgdata(keeper))
    }

    /// Records what a keeper's server uses outside its PGDATA, so that [`Self::end_everything`] removes it. To
    /// be called before the server is killed.
    pub fn record_leftovers(&mut self, keeper: &str) {
        let pgdata = self.pgdata(keeper);
        self.leftovers.record(&pgdata);
    }

    /// Sends SIGKILL to a keeper and to every process of its PostgreSQL, as a power failure would end them, and waits
    /// for the keeper's end. Returns the processes of PostgreSQL.
    ///
    /// # Errors
    ///
    /// The keeper does not run.
    pub fn kill_keeper_and_postgres(&mut self, keeper: &str) -> Result<Vec<u32>, Error> {
        self.record_leftovers(keeper);
        let pgdata = self.pgdata(keeper);
        let program = self.program(keeper)?;
        let process = program.process.as_mut();
        let process = process.ok_or_else(|| Error::new(format!("keeper {keeper} does not run")))?;
        let process = process.borrow_mut();
        process
            .signal(Signal::KILL)
            .attempt(|| format!("kill the keeper {keeper}"))?;
        let servers = server_processes(&pgdata);
        for pid in &servers {
            send_signal(*pid, Signal::KILL).attempt(|| format!("kill PostgreSQL of {keeper}"))?;
        }
        process
            .kill()
            .attempt(|| format!("wait for the killed keeper {keeper}"))?;
        Ok(servers)
    }

    // ---- the end

    /// Sends SIGTERM to all programs and waits for their exit, at most `limit`. Blocks the thread.
    pub fn terminate(&mut self, limit: Duration) {
        self.record_all_leftovers();
        self.signal_all(Signal::TERM);
        poll(limit, || {
            let mut processes = self.programs.values_mut().filter_map(LocalProgram::process_mut);
            // A child whose status cannot be read counts as exited.
            processes.all(|process| !matches!(process.borrow_mut().try_wait(), Ok(None)))
        });
    }

    /// Sends SIGKILL to all programs that still run, an immediate shutdown to the servers that they leave, and SIGKILL to
    /// whatever then works in the cluster's directory, each within `limit`; removes what servers left outside of it.
    /// Returns the processes that have not ended. Blocks the thread.
    pub fn end_everything(&mut self, limit: Duration) -> Vec<u32> {
        self.record_all_leftovers();
        self.signal_all(Signal::KILL);
        let pgdatas: Vec<PathBuf> = self.keepers().iter().map(|uid| self.pgdata(uid)).collect();
        stop_servers(&pgdatas, limit);
        self.programs.values_mut().for_each(|program| program.process = None);
        let left = kill_users(self.dir.path(), limit);
        self.leftovers.remove();
        left
    }

    /// Removes the cluster's directory.
    ///
    /// # Errors
    ///
    /// A file in it cannot be removed.
    pub fn remove_dir(self) -> Result<(), Error> {
        drop(self.programs);
        self.dir.remove()
    }

    fn keepers(&self) -> Vec<String> {
        let keepers = self.programs.iter();
        keepers
            .filter(|(_, program)| program.kind == ProgramKind::Keeper)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn record_all_leftovers(&mut self) {
        for keeper in self.keepers() {
            self.record_leftovers(&keeper);
        }
    }

    fn signal_all(&mut self, signal: Signal) {
        for process in self.programs.values_mut().filter_map(LocalProgram::process_mut) {
            // One that cannot be signalled is found again by its directory.
            let _ = process.borrow_mut().signal(signal);
        }
    }
}
