//! Runs a program (initdb, pg_basebackup, pg_controldata) to its end: with bounded output and a time limit, and without
//! leaving processes behind when the future is dropped. The postmaster is run by `postmaster`.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base::redact::{PieceStart, Redactor};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;
use tracing::warn;

use crate::postgres::programs::{oom_score, parent_death};
use crate::postgres::transfer::TransferProgress;

/// Number of output lines kept to explain a failure.
pub const TAIL_LINES: usize = 8;
/// Maximum bytes of a line; the rest is skipped.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Maximum bytes of output that [`output`] returns.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// How long the output of an exited program may stay open without a warning.
const OUTPUT_WARNING_AFTER: Duration = Duration::from_secs(2);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("run {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It exited with a failure.
    #[error("{} failed ({status}){}", program.display(), explain(tail))]
    Failed {
        /// The program.
        program: PathBuf,
        status: ExitStatus,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// It exceeded the time limit and was killed.
    #[error("{} did not end within {limit:?}", program.display())]
    Timeout {
        /// The program.
        program: PathBuf,
        limit: Duration,
    },
    /// Its output could not be read.
    #[error("read the output of {}", program.display())]
    Read {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Joins the last lines for an error message.
pub(crate) fn explain(tail: &[String]) -> String {
    if tail.is_empty() {
        String::new()
    } else {
        format!(": {}", tail.join(" | "))
    }
}

/// Runs `command` to its end and returns its standard output, which must be short: a command that prints more than 1
/// MiB is killed at the time limit.
pub async fn output(command: Command, limit: Duration) -> Result<String, CommandError> {
    Ok(output_and_messages(command, limit).await?.0)
}

/// As [`output`], and returns also the last lines of the standard error.
pub async fn output_and_messages(command: Command, limit: Duration) -> Result<(String, Vec<String>), CommandError> {
    let program = program_of(&command);
    let (mut running, stdout, stderr) = RunningCommand::spawn(command, &program)?;
    let (mut tail, mut redactor) = (OutputTail::default(), Redactor::default());
    let work = async {
        let mut printed = Vec::new();
        let mut stdout = stdout.take(OUTPUT_BYTES_MAX);
        let (read, ()) = tokio::join!(
            stdout.read_to_end(&mut printed),
            read_lines(stderr, |line, begins| tail.push(&redactor.line(line, begins)))
        );
        read.map(|_| printed)
    };
    let (printed, status) = match timeout(limit, async { (work.await, running.child.wait().await) }).await {
        Ok(ended) => ended,
        Err(_) => return Err(CommandError::Timeout { program, limit }),
    };
    let printed = printed.map_err(|source| CommandError::Read {
        program: program.clone(),
        source,
    })?;
    let messages = running.end(program, status, tail)?;
    Ok((String::from_utf8_lossy(&printed).into_owned(), messages))
}

/// Runs `command` to its end and passes each line of its output, on either stream, to `line`. Without a time limit:
/// dropping the future kills the program and its process group. Lines of progress do not explain a failure:
/// pg_basebackup of 13 ends only with the data when it cannot receive the WAL, long after the line with the reason.
pub async fn run(command: Command, mut line: impl FnMut(&str)) -> Result<(), CommandError> {
    let program = program_of(&command);
    let (mut running, stdout, stderr) = RunningCommand::spawn(command, &program)?;
    let tail = std::cell::RefCell::new((OutputTail::default(), &mut line));
    let on_line = || {
        let (tail, mut redactor) = (&tail, Redactor::default());
        move |text: &str, begins: PieceStart| {
            let text = redactor.line(text, begins);
            let (tail, line) = &mut *tail.borrow_mut();
            if TransferProgress::parse(&text).is_none() {
                tail.push(&text);
            }
            line(&text);
        }
    };
    let status = {
        let read = async { tokio::join!(read_lines(stdout, on_line()), read_lines(stderr, on_line())) };
        let read = std::pin::pin!(read);
        wait_with_output(&mut running.child, &program, read).await
    };
    let (tail, _) = tail.into_inner();
    running.end(program, status, tail).map(drop)
}

/// Waits for the end of a program and of `output`, the reading of its output. Background processes may hold that open; they
/// may still be writing what the program is to make, so only the caller's time limit ends the wait for them.
async fn wait_with_output<T>(
    child: &mut Child,
    program: &Path,
    mut output: Pin<&mut impl Future<Output = T>>,
) -> io::Result<ExitStatus> {
    tokio::select! {
        _ = &mut output => child.wait().await,
        status = child.wait() => {
            if timeout(OUTPUT_WARNING_AFTER, &mut output).await.is_err() {
                warn!(
                    program = %program.display(),
                    "program exited, waiting for background processes that hold its output open"
                );
                output.await;
            }
            status
        }
    }
}

fn program_of(command: &Command) -> PathBuf {
    PathBuf::from(command.as_std().get_program())
}

/// Time for an abandoned program to exit after SIGTERM, so that it leaves nothing behind (such as shared memory).
const GRACE: Duration = Duration::from_millis(300);

/// A running program; killed with its process group when dropped before its end.
struct RunningCommand {
    child: Child,
    group: Option<Pid>,
}

impl RunningCommand {
    /// Starts the command with piped output, and returns it with its standard output and standard error.
    fn spawn(mut command: Command, program: &Path) -> Result<(Self, ChildStdout, ChildStderr), CommandError> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        parent_death::kill_with_parent(&mut command);
        let mut child = command.spawn().map_err(|source| CommandError::Spawn {
            program: program.to_path_buf(),
            source,
        })?;
        if let Some(pid) = child.id() {
            oom_score::adjust(pid);
        }
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stdout = child.stdout.take().expect("standard output is piped, see above");
        let stderr = child.stderr.take().expect("standard error is piped, see above");
        Ok((Self { child, group }, stdout, stderr))
    }

    /// Returns how the program ended, once `status` is known: with the last lines of its output if it failed.
    fn end(
        &mut self,
        program: PathBuf,
        status: io::Result<ExitStatus>,
        tail: OutputTail,
    ) -> Result<Vec<String>, CommandError> {
        let status = match status {
            Ok(status) => status,
            Err(source) => return Err(CommandError::Read { program, source }),
        };
        // The child was reaped: the id of its group may be reused.
        self.group = None;
        let tail = tail.into_lines();
        if status.success() {
            Ok(tail)
        } else {
            Err(CommandError::Failed { program, status, tail })
        }
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        if let Some(group) = self.group.take()
            && self.child.id().is_some()
        {
            // It may have ended just now: then there is no process to signal, here and below.
            let _ = kill_process_group(group, Signal::TERM);
            let end = move || {
                std::thread::sleep(GRACE);
                let _ = kill_process_group(group, Signal::KILL);
            };
            if std::thread::Builder::new().spawn(end).is_err() {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }
}

/// The last lines of an output.
#[derive(Debug, Default, Clone)]
pub(crate) struct OutputTail(VecDeque<String>);

impl OutputTail {
    pub(crate) fn push(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.0.into()
    }
}

/// Reads lines until the end of the stream, each up to a maximum. A carriage return also ends a line: pg_basebackup
/// overwrites its progress with it. A read error counts as the end.
pub(crate) async fn read_lines(stream: impl AsyncRead + Unpin, mut line: impl FnMut(&str, PieceStart)) {
    let mut stream = BufReader::new(stream);
    let mut text = Vec::new();
    let mut begins = PieceStart::Line;
    while let Some(next) = next_line(&mut stream, &mut text).await {
        line(String::from_utf8_lossy(&text).trim_end(), begins);
        begins = next;
        text.clear();
    }
}

/// Reads one line and returns where the next one begins; `None` at the end.
async fn next_line(stream: &mut (impl AsyncBufRead + Unpin), text: &mut Vec<u8>) -> Option<PieceStart> {
    loop {
        let chunk = match stream.fill_buf().await {
            Ok([]) | Err(_) => return Some(PieceStart::Line).filter(|_| !text.is_empty()),
            Ok(chunk) => chunk,
        };
        let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let piece = &chunk[..end.unwrap_or(chunk.len())];
        let room = LINE_BYTES_MAX.saturating_sub(text.len());
        text.extend_from_slice(&piece[..piece.len().min(room)]);
        let next = end.map(|end| match chunk[end] {
            b'\r' => PieceStart::Continuation,
            _ => PieceStart::Line,
        });
        let used = end.map_or(chunk.len(), |end| end + 1);
        stream.consume(used);
        if next.is_some() {
            return next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::programs::environment;

    fn shell(script: &str) -> Command {
        let mut command = environment::command(Path::new("/bin/sh"));
        command.arg("-c").arg(script);
        command
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_failure_includes_the_last_lines() {
        let failed = output(shell("echo out; echo why >&2; exit 3"), LONG).await.unwrap_err();
        assert!(failed.to_string().contains("exit status: 3"), "{failed}");
        assert!(failed.to_string().ends_with(": why"), "{failed}");
    }

    #[tokio::test]
    async fn a_failure_includes_the_reason_from_before_lines_of_progress() {
        let progress = "for n in 1 2 3 4 5 6 7 8 9; do printf ' 1/9 kB (11%%), 0/1 tablespace\\r'; done";
        let failed = run(shell(&format!("echo why; {progress}; exit 3")), |_| {})
            .await
            .unwrap_err();
        assert!(failed.to_string().ends_with(": why"), "{failed}");
    }

    #[tokio::test]
    async fn what_holds_the_output_of_an_exited_program_open_is_waited_for() {
        let seconds = OUTPUT_WARNING_AFTER.as_secs() + 1;
        let mut lines = Vec::new();
        let script = format!("(sleep {seconds}; echo late) & echo early");
        run(shell(&script), |line| lines.push(line.to_owned())).await.unwrap();
        assert_eq!(lines, ["early", "late"]);
    }

    #[tokio::test]
    async fn a_carriage_return_ends_a_line() {
        let mut lines = Vec::new();
        run(shell("printf 'one\\rtwo\\nthree'"), |line| lines.push(line.to_owned()))
            .await
            .unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
        let over = output(shell(&script), Duration::from_secs(3)).await.unwrap_err();
        assert!(matches!(over, CommandError::Timeout { .. }), "{over}");
        let pid: u32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, gone).await.unwrap();
    }

    #[tokio::test]
    async fn an_endless_line_is_cut() {
        let printed = "x".repeat(3 * LINE_BYTES_MAX) + "\nnext";
        let mut lines = Vec::new();
        read_lines(printed.as_bytes(), |line, _| lines.push(line.to_owned())).await;
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES_MAX, 4]);
    }
}
