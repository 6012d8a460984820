//! A program that a test started: its log file, its signals, and its exit. What fails here fails the test.

use std::borrow::{Borrow, BorrowMut};
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus};
use std::time::Duration;

use local_cluster::{LoggedProcess, UnixUser};

pub use local_cluster::Signal;
pub use local_cluster::processes::{children, is_running, using_directory};

use crate::wait::eventually;

/// A running program. Dropping it kills it, and prints the end of its log when the test has failed.
#[derive(Debug)]
pub struct Process(LoggedProcess);

impl Process {
    /// Starts `command` as `user`, with both its outputs appended to `log`.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start(name: &str, command: Command, user: Option<&UnixUser>, log: &Path) -> Self {
        let started = LoggedProcess::start(name, command, user, log);
        Self(started.unwrap_or_else(|error| panic!("{name}: {error:?}")))
    }

    /// The same, for a program whose standard input is [`Self::input`].
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start_with_input(name: &str, command: Command, user: Option<&UnixUser>, log: &Path) -> Self {
        let started = LoggedProcess::start_with_input(name, command, user, log);
        Self(started.unwrap_or_else(|error| panic!("{name}: {error:?}")))
    }

    /// Returns its name, as messages have it.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Returns the writing end of its standard input.
    ///
    /// # Panics
    ///
    /// It was started without one.
    pub fn input(&mut self) -> &mut ChildStdin {
        self.0.input().expect("it was started with an input")
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Sends a signal, unless it has exited.
    pub fn signal(&mut self, signal: Signal) {
        self.0.signal(signal).expect("our own child can be signalled");
    }

    /// Sends SIGSTOP, and waits until all its threads have stopped: kill(2) returns earlier, much earlier on a busy
    /// machine.
    pub async fn freeze(&mut self, limit: Duration) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually(format!("{} to stop", self.name()), limit, async || {
            let mut stats = fs::read_dir(&tasks)?.map(|task| fs::read_to_string(task?.path().join("stat")));
            // proc_pid_stat(5): the state follows the name in its parentheses
            let running = stats.find(|stat| !stat.as_ref().is_ok_and(|stat| stat.contains(") T ")));
            running.map_or(Ok(()), |_| Err(io::Error::other("a thread still runs")))
        })
        .await;
    }

    /// Returns its exit status, `None` while it runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("our own child can be waited for")
    }

    /// Sends SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        self.0.kill().expect("our own child can be killed");
    }

    /// Waits for its end and returns its exit code; 128 + n when signal n ended it, like a shell.
    pub async fn exit_status(&mut self, limit: Duration) -> i32 {
        let what = format!("the end of {}", self.name());
        let status = eventually(what, limit, async || self.try_wait().ok_or("it still runs")).await;
        status
            .code()
            .or(status.signal().map(|signal| 128 + signal))
            .expect("a status is a code or a signal")
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Waits until its log contains `text`.
    pub async fn wait_for_log(&self, text: &str, limit: Duration) {
        self.wait_for_log_after(0, text, limit).await;
    }

    /// Waits until its log contains `text` after the first `skip` bytes (an earlier length of [`Self::log`]).
    pub async fn wait_for_log_after(&self, skip: usize, text: &str, limit: Duration) {
        eventually(format!("{} to log {text:?}", self.name()), limit, async || {
            let log = self.log();
            log.get(skip..)
                .is_some_and(|added| added.contains(text))
                .then_some(())
                .ok_or("not logged")
        })
        .await;
    }

    /// Returns the last `lines` lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        self.0.tail(lines).join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What it logs until its end belongs to the log; that it has ended already is no error.
            let _ = self.0.kill();
            eprintln!("──── end of the log of {} ────\n{}", self.name(), self.tail(40));
        }
    }
}

impl From<LoggedProcess> for Process {
    fn from(process: LoggedProcess) -> Self {
        Self(process)
    }
}

impl Borrow<LoggedProcess> for Process {
    fn borrow(&self) -> &LoggedProcess {
        &self.0
    }
}

impl BorrowMut<LoggedProcess> for Process {
    fn borrow_mut(&mut self) -> &mut LoggedProcess {
        &mut self.0
    }
}

/// Sends a signal to a process; does nothing when it does not exist any more.
///
/// # Panics
///
/// It is another user's.
pub fn send_signal(pid: u32, signal: Signal) {
    local_cluster::processes::send_signal(pid, signal)
        .unwrap_or_else(|error| panic!("send {signal:?} to {pid}: {error}"));
}
