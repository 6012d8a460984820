//! A program that was started here: its log file, its signals, and its exit.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::error::{Attempt, Error};
use crate::processes::{poll, send_signal};
use crate::unix_user::UnixUser;

/// Limit for the end of a process after SIGKILL, which takes milliseconds unless the machine is very busy.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// A child process whose outputs go to a log file. Dropping it kills it.
#[derive(Debug)]
pub struct LoggedProcess {
    name: String,
    child: Child,
    log: PathBuf,
    exit: Option<ExitStatus>,
}

impl LoggedProcess {
    /// Starts `command` as `user`, or as our own, with both its outputs appended to `log`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(name: &str, command: Command, user: Option<&UnixUser>, log: &Path) -> Result<Self, Error> {
        Self::spawn(Stdio::null(), name, command, user, log)
    }

    /// The same, for a program whose standard input is [`Self::input`].
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start_with_input(name: &str, command: Command, user: Option<&UnixUser>, log: &Path) -> Result<Self, Error> {
        Self::spawn(Stdio::piped(), name, command, user, log)
    }

    fn spawn(
        input: Stdio,
        name: &str,
        mut command: Command,
        user: Option<&UnixUser>,
        log: &Path,
    ) -> Result<Self, Error> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .attempt(|| format!("open {}", log.display()))?;
        let err = out.try_clone().attempt(|| "duplicate a descriptor".to_owned())?;
        if let Some(user) = user {
            user.run(&mut command);
        }
        let child = command
            .stdin(input)
            .stdout(out)
            .stderr(err)
            .spawn()
            .attempt(|| format!("start {}", command.get_program().to_string_lossy()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            exit: None,
        })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the writing end of its standard input, if it was started with one.
    pub fn input(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// Returns its exit status, `None` while it runs.
    ///
    /// # Errors
    ///
    /// The status cannot be read: somebody else has waited for it.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait()?;
        }
        Ok(self.exit)
    }

    /// Waits for its exit; returns whether it has exited within `limit`. Blocks the thread.
    pub fn wait_exited(&mut self, limit: Duration) -> bool {
        // A child whose status cannot be read counts as exited.
        poll(limit, || !matches!(self.try_wait(), Ok(None)))
    }

    /// Sends a signal, unless it has exited.
    ///
    /// # Errors
    ///
    /// Its status cannot be read.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        match self.try_wait()? {
            Some(_) => Ok(()),
            None => send_signal(self.pid(), signal),
        }
    }

    /// Sends SIGKILL and waits for its end.
    ///
    /// # Errors
    ///
    /// Its status cannot be read, or it has not ended after some seconds.
    pub fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        if self.wait_exited(KILL_TIMEOUT) {
            Ok(())
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    /// Returns its log so far; empty when it cannot be read.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns the last `lines` lines of its log.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        let last = &all[all.len().saturating_sub(lines)..];
        last.iter().map(|line| (*line).to_owned()).collect()
    }
}

impl Drop for LoggedProcess {
    fn drop(&mut self) {
        // Drop returns nothing: the errors mean that it has ended, or that it does not end at all.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_are_logged_and_a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exec sleep 60"]);
        let process = LoggedProcess::start("shell", command, None, &dir.path().join("log")).unwrap();
        assert!(poll(Duration::from_secs(60), || process.log() == "out\nerr\n"));
        assert_eq!(process.tail(1), ["err"]);
        let pid = process.pid();
        drop(process);
        assert!(!crate::processes::is_running(pid));
    }
}
