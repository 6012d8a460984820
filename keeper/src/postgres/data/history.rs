//! Timeline history files: where each ancestor of a timeline ended, and why (PostgreSQL manual 26.3.5; keeper 13.1).

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use model::Lsn;

use crate::postgres::data::file_error::FileError;

/// One ancestor of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// The ancestor's number.
    pub timeline: u64,
    /// Where its successor branched off.
    pub switch_point: Lsn,
    /// Reason recorded by the server.
    pub reason: String,
}

/// A line of a history file whose numbers are out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("timeline history has an unreadable line {line:?}")]
pub struct HistoryError {
    /// The line.
    pub line: String,
}

/// Parses a history file: lines of timeline, whitespace, position, whitespace, reason. Lines of another form (comments,
/// empty ones, the rest of a reason) are skipped.
pub fn parse(content: &str) -> Result<Vec<Ancestor>, HistoryError> {
    let mut history = Vec::new();
    for line in content.lines() {
        let Some((timeline, rest)) = line.trim_start().split_once([' ', '\t']) else {
            continue;
        };
        let (position, reason) = rest.trim_start().split_once([' ', '\t']).unwrap_or((rest.trim(), ""));
        if !is_number(timeline) || !is_position(position) {
            continue;
        }
        let unreadable = || HistoryError { line: line.to_owned() };
        history.push(Ancestor {
            timeline: timeline.parse().map_err(|_| unreadable())?,
            switch_point: Lsn::parse(position).ok_or_else(unreadable)?,
            reason: reason.trim().to_owned(),
        });
    }
    Ok(history)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_position(text: &str) -> bool {
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split_once('/')
        .is_some_and(|(high, low)| is_hex(high) && is_hex(low))
}

/// Returns the last `count` entries.
pub fn last(history: &[Ancestor], count: usize) -> &[Ancestor] {
    &history[history.len().saturating_sub(count)..]
}

/// Returns the ancestors of `timeline` from the history file in a PGDATA: empty for the first timeline, `None`
/// if the file does not exist.
pub fn read_history(data: &Path, timeline: u64) -> Result<Option<Vec<Ancestor>>, HistoryFileError> {
    if timeline <= 1 {
        return Ok(Some(Vec::new()));
    }
    let path = data.join("pg_wal").join(format!("{timeline:08X}.history"));
    match fs::read_to_string(&path) {
        Ok(content) => Ok(Some(parse(&content)?)),
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::new("read", path)(source).into()),
    }
}

/// Why the history in a PGDATA is unknown.
#[derive(Debug, thiserror::Error)]
pub enum HistoryFileError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be parsed.
    #[error(transparent)]
    Content(#[from] HistoryError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(timeline: u64, switch_point: u64, reason: &str) -> Ancestor {
        Ancestor {
            timeline,
            switch_point: Lsn(switch_point),
            reason: reason.into(),
        }
    }

    #[test]
    fn history_files_are_parsed() {
        // Table: keeper T4.
        assert_eq!(parse("").unwrap(), []);
        let one = parse("1\t0/5000090\tno recovery target specified").unwrap();
        assert_eq!(one, [entry(1, 83_886_224, "no recovery target specified")]);
    }

    #[test]
    fn lines_of_another_form_are_skipped() {
        let content = "# a comment\n1\t0/5000090\tbefore 2000-01-01 00:00:00+00\n\n2 \t 1/A0 \t after\nx y z\n";
        let wanted = [
            entry(1, 83_886_224, "before 2000-01-01 00:00:00+00"),
            entry(2, (1 << 32) + 160, "after"),
        ];
        assert_eq!(parse(content).unwrap(), wanted);
        assert_eq!(parse("3\t0/10").unwrap(), [entry(3, 16, "")]);
    }

    #[test]
    fn numbers_that_do_not_fit_are_an_error() {
        assert!(parse("1\t123456789/0\tx").is_err());
        assert!(parse("99999999999999999999\t0/0\tx").is_err());
    }

    #[test]
    fn the_last_entries_are_published() {
        // Table: keeper T4.
        let all = [entry(1, 1, ""), entry(2, 2, ""), entry(3, 3, ""), entry(4, 4, "")];
        assert_eq!(last(&all, 2), &all[2..]);
        assert_eq!(last(&all[..2], 3), &all[..2]);
    }
}
