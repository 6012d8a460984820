//! Asks for confirmation before something that cannot be undone (cli 6.3).

use std::io::{BufRead, Read as _, Write};

use anyhow::{Context as _, bail};

/// Longest accepted line; more is treated as the end of the input.
const LINE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// Continue.
    Yes,
    /// Stop. This is not a failure; `exiting` has been printed.
    No,
}

/// Prints the question on `out` and reads lines from `answers` until one is exactly `yes` or `no`.
///
/// # Errors
///
/// The input ends before a newline, or cannot be read.
pub(super) fn ask_to_confirm(mut answers: impl BufRead, mut out: impl Write) -> anyhow::Result<Confirmation> {
    loop {
        write!(out, "Are you sure you want to continue? [yes/no] ").context("write to standard output")?;
        out.flush().context("write to standard output")?;
        let mut line = Vec::new();
        let mut bounded = answers.by_ref().take(LINE_BYTES_MAX);
        bounded.read_until(b'\n', &mut line).context("error reading input")?;
        match line.as_slice() {
            b"yes\n" => return Ok(Confirmation::Yes),
            b"no\n" => {
                writeln!(out, "exiting").context("write to standard output")?;
                return Ok(Confirmation::No);
            }
            _ if !line.ends_with(b"\n") => bail!("error reading input: EOF (without a terminal, give --yes)"),
            _ => writeln!(out, "Please enter 'yes' or 'no'").context("write to standard output")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &str = "Are you sure you want to continue? [yes/no] ";
    const AGAIN: &str = "Please enter 'yes' or 'no'\n";

    fn answered(input: &str) -> (Option<Confirmation>, String) {
        let mut out = Vec::new();
        let answer = ask_to_confirm(input.as_bytes(), &mut out);
        (answer.ok(), String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_the_exact_words_are_accepted() {
        // cli 6.3, cli 18.10
        assert_eq!(answered("yes\n"), (Some(Confirmation::Yes), QUESTION.to_owned()));
        assert_eq!(
            answered("no\n"),
            (Some(Confirmation::No), format!("{QUESTION}exiting\n"))
        );
        for other in ["maybe", "YES", "y", "yes\r", " yes", ""] {
            let asked_again = format!("{QUESTION}{AGAIN}{QUESTION}");
            assert_eq!(
                answered(&format!("{other}\nyes\n")),
                (Some(Confirmation::Yes), asked_again),
                "{other:?}"
            );
        }
    }

    #[test]
    fn input_that_ends_is_an_error() {
        // cli 6.3.4
        assert_eq!(answered(""), (None, QUESTION.to_owned()));
        assert_eq!(answered("yes"), (None, QUESTION.to_owned()));
        assert_eq!(answered("maybe\n"), (None, format!("{QUESTION}{AGAIN}{QUESTION}")));
    }
}
