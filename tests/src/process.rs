//! A program that a test started: its log file, its signals, and its exit.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

use crate::test_dir::User;
use crate::wait::eventually;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` as `user`, with both its outputs appended to `log`.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start(name: &str, command: Command, user: Option<&User>, log: &Path) -> Self {
        Self::spawn(Stdio::null(), name, command, user, log)
    }

    /// The same, for a program whose standard input is [`Self::input`].
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn start_with_input(name: &str, command: Command, user: Option<&User>, log: &Path) -> Self {
        Self::spawn(Stdio::piped(), name, command, user, log)
    }

    fn spawn(input: Stdio, name: &str, mut command: Command, user: Option<&User>, log: &Path) -> Self {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log directory is ours");
        let err = out.try_clone().expect("a descriptor can be duplicated");
        if let Some(user) = user {
            command
                .uid(user.uid)
                .gid(user.gid)
                .env("USER", &user.name)
                .env("HOME", "/");
        }
        let child = command
            .stdin(input)
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("start {name} ({:?}): {error}", command.get_program()));
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            exit: None,
        }
    }

    /// Returns its name, as messages have it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the writing end of its standard input.
    ///
    /// # Panics
    ///
    /// It was started without one.
    pub fn input(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("it was started with an input")
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless it has exited.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_wait().is_none() {
            send_signal(self.pid(), signal);
        }
    }

    /// Sends SIGSTOP, and waits until all its threads have stopped: kill(2) returns earlier, much earlier on a busy
    /// machine.
    pub async fn freeze(&mut self, limit: Duration) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually(format!("{} to stop", self.name), limit, async || {
            let mut stats = fs::read_dir(&tasks)?.map(|task| fs::read_to_string(task?.path().join("stat")));
            // proc_pid_stat(5): the state follows the name in its parentheses
            let running = stats.find(|stat| !stat.as_ref().is_ok_and(|stat| stat.contains(") T ")));
            running.map_or(Ok(()), |_| Err(io::Error::other("a thread still runs")))
        })
        .await;
    }

    /// Returns its exit status, `None` while it runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().expect("our own child can be waited for");
        }
        self.exit
    }

    /// Sends SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        if self.try_wait().is_none() {
            self.child.kill().expect("our own child can be killed");
            self.exit = Some(self.child.wait().expect("our own child can be waited for"));
        }
    }

    /// Waits for its end and returns its exit code; 128 + n when signal n ended it, like a shell.
    pub async fn exit_status(&mut self, limit: Duration) -> i32 {
        let what = format!("the end of {}", self.name);
        let status = eventually(what, limit, async || self.try_wait().ok_or("it still runs")).await;
        status
            .code()
            .or(status.signal().map(|signal| 128 + signal))
            .expect("a status is a code or a signal")
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until its log contains `text`.
    pub async fn wait_for_log(&self, text: &str, limit: Duration) {
        self.wait_for_log_after(0, text, limit).await;
    }

    /// Waits until its log contains `text` after the first `skip` bytes (an earlier length of [`Self::log`]).
    pub async fn wait_for_log_after(&self, skip: usize, text: &str, limit: Duration) {
        eventually(format!("{} to log {text:?}", self.name), limit, async || {
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
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("──── end of the log of {} ────\n{}", self.name, self.tail(40));
        }
    }
}

/// Sends a signal to a process; does nothing when it does not exist any more.
pub fn send_signal(pid: u32, signal: Signal) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("send {signal:?} to {pid:?}: {error}"),
    }
}

/// Returns whether a process exists and is not a zombie.
pub fn is_running(pid: u32) -> bool {
    state_and_parent(pid).is_ok_and(|(state, _)| state != 'Z')
}

/// Returns the processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    all()
        .into_iter()
        .filter(|candidate| state_and_parent(*candidate).is_ok_and(|(_, parent)| parent == pid))
        .collect()
}

/// Returns the processes whose working directory is below `dir`, or that have a path below it in their arguments.
pub fn using_directory(dir: &Path) -> Vec<u32> {
    let text = dir.as_os_str().as_encoded_bytes();
    all()
        .into_iter()
        .filter(|pid| is_running(*pid))
        .filter(|pid| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
                || fs::read(proc.join("cmdline"))
                    .is_ok_and(|line| line.windows(text.len().max(1)).any(|part| part == text))
        })
        .collect()
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Returns the state letter and the parent of a process (proc_pid_stat(5)); the name before them may contain anything.
fn state_and_parent(pid: u32) -> io::Result<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/PID/stat");
    let mut fields = stat.rsplit_once(')').ok_or_else(malformed)?.1.split_whitespace();
    let state = fields
        .next()
        .and_then(|field| field.chars().next())
        .ok_or_else(malformed)?;
    let parent = fields
        .next()
        .and_then(|field| field.parse().ok())
        .ok_or_else(malformed)?;
    Ok((state, parent))
}
