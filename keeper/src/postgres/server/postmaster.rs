//! The postmaster as a child of the keeper: launching it, reading its output, detecting its end. When to launch and how
//! to stop it is left to `supervisor`.
//!
//! It has its own process group, so that a Ctrl-C at the terminal reaches only the keeper. Dropping it does not kill
//! it: a keeper that is killed leaves it running. Its output is read through pipes: a blocked reader of the keeper's
//! log does not block the server, the last lines explain a failure, and a server that outlives the keeper may write
//! into a closed pipe (it ignores SIGPIPE, postmaster.c).

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::redact::{PieceStart, Redactor};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::metrics::{POSTGRES_ENDS, POSTGRES_STARTS};
use crate::postgres::programs::command::{OutputTail, read_lines};
use crate::postgres::server::process::Process;

/// Time limit for the output that is in transit when the server has ended, of each stream.
const FINAL_OUTPUT_LIMIT: Duration = Duration::from_millis(200);

/// Status of the server that this keeper started last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildStatus {
    /// No server was started yet.
    NotStarted,
    /// It is running.
    Running {
        /// Its process id.
        pid: i32,
    },
    /// It has ended and was reaped.
    Ended {
        /// Its process id.
        pid: i32,
        /// Exit status; `None` if unknown.
        status: Option<ExitStatus>,
    },
}

impl ChildStatus {
    /// Whether it is running.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// A launched server.
#[derive(Debug)]
pub(crate) struct PostmasterChild {
    process: Process,
    tail: Arc<Mutex<OutputTail>>,
    readers: Vec<JoinHandle<()>>,
}

impl PostmasterChild {
    /// Runs the command and sends its start and end to `child_status`, the end as soon as SIGCHLD is delivered.
    pub(crate) fn launch(mut command: Command, child_status: &watch::Sender<ChildStatus>) -> io::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .expect("a child that was not awaited has its id");
        let process = match Process::open(pid) {
            Ok(process) => process.expect("a child that was not reaped exists"),
            Err(source) => {
                // It cannot be signalled safely: do not leave it running.
                child.start_kill()?;
                return Err(source);
            }
        };
        let tail = Arc::new(Mutex::new(OutputTail::default()));
        let stdout = child.stdout.take().expect("standard output is piped, see above");
        let stderr = child.stderr.take().expect("standard error is piped, see above");
        let on_line = |tail: &Arc<Mutex<OutputTail>>| {
            let tail = Arc::clone(tail);
            let mut redactor = Redactor::default();
            move |line: &str, begins: PieceStart| {
                let line = redactor.line(line, begins);
                tracing::info!(target: "postgres", "{line}");
                tail.lock()
                    .expect("no thread panics while holding the tail")
                    .push(&line);
            }
        };
        let readers = vec![
            tokio::spawn(read_lines(stdout, on_line(&tail))),
            tokio::spawn(read_lines(stderr, on_line(&tail))),
        ];
        POSTGRES_STARTS.counter_of(&[]).increment(1);
        child_status.send_replace(ChildStatus::Running { pid });
        let child_status = child_status.clone();
        tokio::spawn(async move {
            let status = child.wait().await.ok();
            POSTGRES_ENDS.counter_of(&[]).increment(1);
            child_status.send_replace(ChildStatus::Ended { pid, status });
        });
        Ok(Self { process, tail, readers })
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Returns its last output; waits briefly for lines in transit. For a server that has ended.
    pub(crate) async fn final_output(&mut self) -> Vec<String> {
        for reader in &mut self.readers {
            // Children of a killed server may keep the pipe open: return what has arrived.
            if !reader.is_finished() {
                let _ = timeout(FINAL_OUTPUT_LIMIT, reader).await;
            }
        }
        self.recent_output()
    }

    /// Returns its recent output.
    pub(crate) fn recent_output(&self) -> Vec<String> {
        self.tail
            .lock()
            .expect("no thread panics while holding the tail")
            .clone()
            .into_lines()
    }
}
