//! The postmaster as the keeper's child (design D-5): launched, its output heard, its end known at once. When to
//! launch and how to stop is `instance`'s to say.
//!
//! Its process group is its own, so a Ctrl-C at the terminal reaches the keeper alone. It is never killed for being
//! forgotten: a keeper that is killed leaves it running. Its output comes through pipes: a reader of the keeper's
//! log that stalls does not stall the server, the last lines explain a failure, and a server that outlives the
//! keeper writes into a closed pipe, which it ignores (it sets SIGPIPE aside, postmaster.c).

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::redact::{Begins, Redactor};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::postgres::command::{OutputTail, read_lines};
use crate::postgres::process::Process;

/// What is known of the server that this keeper started last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildStatus {
    /// None was started yet.
    NotStarted,
    /// It runs.
    Running {
        /// Its process id.
        pid: i32,
    },
    /// It has ended, and was reaped.
    Ended {
        /// The process id that it had.
        pid: i32,
        /// How; `None` when the system did not say.
        status: Option<ExitStatus>,
    },
}

/// A launched server.
#[derive(Debug)]
pub(crate) struct PostmasterChild {
    process: Process,
    tail: Arc<Mutex<OutputTail>>,
    readers: Vec<JoinHandle<()>>,
}

impl PostmasterChild {
    /// Runs the command and tells `life` of its start and its end, the latter within the time that the system takes
    /// to deliver SIGCHLD.
    pub(crate) fn launch(mut command: Command, life: &watch::Sender<ChildStatus>) -> io::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .expect("a child that was not awaited has its id");
        let process = match Process::open(pid) {
            Ok(process) => process.expect("a child that was not reaped exists"),
            Err(source) => {
                // It cannot be held, so it cannot be stopped in order: do not leave it behind.
                child.start_kill()?;
                return Err(source);
            }
        };
        let tail = Arc::new(Mutex::new(OutputTail::default()));
        let stdout = child.stdout.take().expect("standard output is piped, see above");
        let stderr = child.stderr.take().expect("standard error is piped, see above");
        let hear = |tail: &Arc<Mutex<OutputTail>>| {
            let tail = Arc::clone(tail);
            let mut redactor = Redactor::default();
            move |line: &str, begins: Begins| {
                let line = redactor.line(line, begins);
                tracing::info!(target: "postgres", "{line}");
                tail.lock().expect("nobody panics while holding the tail").push(&line);
            }
        };
        let hearing = vec![
            tokio::spawn(read_lines(stdout, hear(&tail))),
            tokio::spawn(read_lines(stderr, hear(&tail))),
        ];
        life.send_replace(ChildStatus::Running { pid });
        let life = life.clone();
        tokio::spawn(async move {
            let status = child.wait().await.ok();
            life.send_replace(ChildStatus::Ended { pid, status });
        });
        Ok(Self {
            process,
            tail,
            readers: hearing,
        })
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The last lines that it printed; waits a moment for those under way, which is for a server that has ended.
    pub(crate) async fn final_output(&mut self) -> Vec<String> {
        for hearing in &mut self.readers {
            // Children of a killed server may hold the pipe open: then what came so far has to do.
            if !hearing.is_finished() {
                let _ = timeout(FINAL_OUTPUT_LIMIT, hearing).await;
            }
        }
        self.recent_output()
    }

    /// The last lines that it has printed until now.
    pub(crate) fn recent_output(&self) -> Vec<String> {
        self.tail
            .lock()
            .expect("nobody panics while holding the tail")
            .clone()
            .into_lines()
    }
}

const FINAL_OUTPUT_LIMIT: Duration = Duration::from_millis(200);
