//! What a program says outside of its log, for whoever typed the command. A reader that goes away is no error of the
//! program's: it has read what it wanted.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes a line to standard error.
pub fn complain(line: impl Display) {
    let text = format!("{line}\n");
    // when nobody takes it, nobody is left to tell
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes a text to standard output and ends it with exactly one newline (cli O-24).
///
/// # Errors
/// Standard output takes nothing, as on a full disk. A reader that has gone is none: `| head -1` is a way to read.
pub fn say(text: &str) -> io::Result<()> {
    let line = [text.strip_suffix('\n').unwrap_or(text), "\n"].concat();
    let mut out = io::stdout().lock();
    reader_gone_is_fine(out.write_all(line.as_bytes()).and_then(|()| out.flush()))
}

/// For output that something else has written.
pub fn reader_gone_is_fine(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
