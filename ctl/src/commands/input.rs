//! Reads the text that a command works on: an argument, a file, or standard input.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base::printable;
use base::user_file::{ReadLimits, read_stdin, read_user_file};
use daemon::telemetry::print_stderr;
use model::{ClusterSpec, from_slice};

/// A program that writes into a pipe may first ask a person for something.
const LIMITS: ReadLimits = ReadLimits {
    time: Duration::from_secs(300),
    ..ReadLimits::DOCUMENT
};

/// Returns the argument of `init` and `update`, which take at most one (cli O-25).
pub(super) fn optional_argument(arguments: &[String]) -> anyhow::Result<Option<&str>> {
    ensure!(arguments.len() <= 1, "too many arguments: one is enough");
    Ok(arguments.first().map(String::as_str))
}

/// Returns the argument of `failkeeper` and `removekeeper`, which take exactly one (cli 10.1).
pub(super) fn keeper_uid(arguments: &[String]) -> anyhow::Result<&str> {
    ensure!(arguments.len() <= 1, "too many arguments: one keeper uid is enough");
    arguments
        .first()
        .map(String::as_str)
        .filter(|uid| !uid.is_empty())
        .context("keeper uid required: name a keeper as `stolonctl status` lists it")
}

/// Returns the path of `--file`; an empty one counts as absent.
pub(super) fn file_option(file: &Option<PathBuf>) -> Option<&Path> {
    file.as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// Reads the file with this name; `-` is standard input.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.as_os_str() == OsStr::new("-") {
        return read_stdin(LIMITS).context("cannot read standard input");
    }
    let read = read_user_file(path, LIMITS);
    let (text, _) = read.with_context(|| format!("cannot read file {}", path.display()))?;
    Ok(text)
}

/// Prints warnings on standard error, one a line.
pub(super) fn print_warnings(warnings: &[String]) {
    for warning in warnings {
        print_stderr(format_args!("WARNING: {}", printable(warning)));
    }
}

/// Decodes a complete cluster spec. `null` is refused (cli 7, cli 8).
pub(super) fn decode_spec(text: &[u8]) -> anyhow::Result<ClusterSpec> {
    let spec: Option<ClusterSpec> = from_slice(text).context("failed to unmarshal cluster spec")?;
    spec.context("failed to unmarshal cluster spec: null is not a cluster spec")
}

#[cfg(test)]
mod tests {
    use base::Chain;

    use super::*;

    #[test]
    fn an_invalid_spec_text_is_reported_with_its_position() {
        // cli 18.11
        let error = |text: &str| Chain(decode_spec(text.as_bytes()).unwrap_err().as_ref()).to_string();
        assert_eq!(
            error("{\n  \"initMode\": new }"),
            "failed to unmarshal cluster spec: expected ident at line 2 column 16"
        );
        assert!(
            error("").contains("failed to unmarshal cluster spec: EOF"),
            "{}",
            error("")
        );
        assert!(error("null").contains("null"));
        assert!(error("{\"maxStandbys\":\"7\"}").contains("maxStandbys"));
        assert!(error("{\"sleepInterval\":\"5\"}").contains("sleepInterval"));
        assert!(decode_spec(b"{\"INITMODE\":\"new\",\"unknown\":[1]}").is_ok());
    }

    #[test]
    fn arguments_are_counted() {
        // cli O-25, cli 18.15
        let arguments = |count: usize| vec!["k1".to_owned(); count];
        assert!(optional_argument(&arguments(0)).unwrap().is_none());
        assert_eq!(optional_argument(&arguments(1)).unwrap(), Some("k1"));
        assert!(optional_argument(&arguments(2)).is_err());
        assert!(keeper_uid(&arguments(0)).is_err() && keeper_uid(&arguments(2)).is_err());
        assert_eq!(keeper_uid(&arguments(1)).unwrap(), "k1");
    }
}
