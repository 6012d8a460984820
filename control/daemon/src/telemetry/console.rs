//! Output outside of the log, for whoever runs a command. A reader that closes the pipe is not an error: it has read
//! what it wanted.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes a line to standard error.
pub fn print_stderr(line: impl Display) {
    let text = format!("{line}\n");
    // there is no place left to report an error
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes a text to standard output and ends it with exactly one newline (cli O-24).
///
/// # Errors
/// Standard output cannot be written, as on a full disk. A closed pipe is not an error: `| head -1` is a normal use.
pub fn print_stdout(text: &str) -> io::Result<()> {
    let line = [text.strip_suffix('\n').unwrap_or(text), "\n"].concat();
    let mut out = io::stdout().lock();
    ignore_broken_pipe(out.write_all(line.as_bytes()).and_then(|()| out.flush()))
}

/// Turns the result of a write to a closed pipe into success.
pub fn ignore_broken_pipe(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
