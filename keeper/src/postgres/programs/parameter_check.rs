//! Checks parameters with `postgres -C`, without a server and its files: it reads a configuration file like a start
//! does, and exits. Libraries are not loaded, and memory, files and dependencies on other parameters are not checked;
//! those errors show at a start.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use crate::postgres::config::conf::{self, Parameters, Recovery};
use crate::postgres::config::pinned;
use crate::postgres::data::access::DataAccess;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::scratch_file::ScratchFile;
use crate::postgres::programs::command::{self, CommandError};
use crate::postgres::programs::environment;
use crate::postgres::programs::installation::Programs;

/// Name of the scratch file; a killed keeper leaves one behind.
const SCRATCH: &str = "conftrial";
/// The server reports all unknown parameters first, then all invalid values.
const ROUNDS_MAX: usize = 4;
/// Maximum number of output lines.
const LINES_MAX: usize = 4000;

/// Why the check failed.
#[derive(Debug, thiserror::Error)]
pub enum ParameterCheckError {
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The program did not run to its end.
    #[error("check the parameters with postgres -C")]
    Run(#[source] CommandError),
    /// It took too long.
    #[error("check the parameters with postgres -C: not finished within {0:?}")]
    Timeout(Duration),
    /// It refuses the parameters without naming one.
    #[error("postgres -C refuses the parameters without naming one: {0}")]
    Unclear(String),
}

/// Returns the parameters that `postgres` refuses, with reasons. `dir` is the keeper's directory, for the scratch file.
pub async fn refused_parameters(
    programs: &Programs,
    access: &DataAccess,
    dir: &Path,
    parameters: &Parameters,
    limit: Duration,
) -> Result<BTreeMap<String, String>, ParameterCheckError> {
    let mut left = parameters.clone();
    let mut refused = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        let Some(output) = run(programs, access, dir, &left, limit).await? else {
            return Ok(refused);
        };
        let named = named(&left, &output);
        if named.is_empty() {
            return Err(ParameterCheckError::Unclear(output.join(" | ")));
        }
        left.retain(|name, _| !named.contains_key(name));
        refused.extend(named);
    }
    Ok(refused)
}

/// Returns the output if the program refused the parameters.
async fn run(
    programs: &Programs,
    access: &DataAccess,
    dir: &Path,
    parameters: &Parameters,
    limit: Duration,
) -> Result<Option<Vec<String>>, ParameterCheckError> {
    let text = conf::render(parameters, &Recovery::default());
    let file = ScratchFile::write(access, dir, SCRATCH, text).await?;
    let mut command = environment::command(&programs.path("postgres"));
    command.arg("-C").arg("port").arg("-D").arg(dir);
    let config_file = ("config_file", file.path().display().to_string());
    let fixed = pinned::fixed(dir).into_iter().chain([config_file]);
    // Override logging and language, because the messages are parsed.
    let overrides = [
        ("lc_messages", "C"),
        ("log_destination", "stderr"),
        ("log_line_prefix", ""),
        ("log_min_messages", "log"),
        ("log_error_verbosity", "default"),
    ];
    for (name, value) in fixed.chain(overrides.map(|(name, value)| (name, value.to_owned()))) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.env("LC_ALL", "C");
    let mut output = Vec::new();
    let on_line = |line: &str| {
        if output.len() < LINES_MAX {
            output.push(line.to_owned());
        }
    };
    let ended = timeout(limit, command::run(command, on_line)).await;
    file.remove().await;
    match ended {
        Err(_) => Err(ParameterCheckError::Timeout(limit)),
        Ok(Ok(())) => Ok(None),
        Ok(Err(CommandError::Failed { status, .. })) if status.code().is_some() => Ok(Some(output)),
        Ok(Err(failed)) => Err(ParameterCheckError::Run(failed)),
    }
}

/// Returns the parameters that the output names, by name or by line number, with the messages.
fn named(parameters: &Parameters, output: &[String]) -> BTreeMap<String, String> {
    let mut named = BTreeMap::new();
    for line in output {
        let Some(message) = message(line) else { continue };
        let lower = message.to_ascii_lowercase();
        let by_name = quoted_after(&lower, "parameter \"");
        let by_line = lower
            .rsplit_once(" line ")
            .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok())
            .and_then(|number| parameters.keys().nth(number.checked_sub(1)?));
        let by_name = by_name
            .and_then(|name| parameters.get_key_value(name))
            .map(|(name, _)| name);
        if let Some(name) = by_name.or(by_line) {
            named
                .entry(name.clone())
                .or_insert_with(|| without_location(message).to_owned());
        }
    }
    named
}

/// Returns the message of a line that reports an error; lines about missing files do not.
fn message(line: &str) -> Option<&str> {
    let (_, message) = ["LOG:", "FATAL:", "ERROR:"]
        .iter()
        .find_map(|level| line.split_once(level))?;
    let message = message.trim();
    let ends = message.starts_with("configuration file ") && message.ends_with(" contains errors");
    (!ends && !message.starts_with("skipping missing")).then_some(message)
}

/// Returns the message without ` in file "…" line 7`: the file no longer exists when the message is read.
fn without_location(message: &str) -> &str {
    let location = message.rfind(" in file \"").filter(|at| {
        let rest = message[*at..].rsplit_once(" line ");
        rest.is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    location.map_or(message, |at| &message[..at])
}

fn quoted_after<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::data::changes::DataChanges;

    fn parameters(list: &[(&str, &str)]) -> Parameters {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn parameters_are_found_by_name_and_by_line() {
        let parameters = parameters(&[
            ("max_connections", "abc"),
            ("timezone", "x"),
            ("wal_keep_segments", "8"),
            ("z", "'"),
        ]);
        let output = [
            "2026-11-29 GMT [1] LOG:  skipping missing configuration file \"/x/postgresql.auto.conf\"",
            "2026-11-29 GMT [1] LOG:  unrecognized configuration parameter \"wal_keep_segments\" in file \"/x/c\" line 3",
            "LOG:  invalid value for parameter \"max_connections\": \"abc\"",
            "HINT:  Value exceeds integer range.",
            "LOG:  invalid value for parameter \"TimeZone\": \"x\"",
            "LOG:  syntax error in file \"/x/c\" line 4, near token \"'\"",
            "FATAL:  configuration file \"/x/c\" contains errors",
        ]
        .map(str::to_owned);
        let named = named(&parameters, &output);
        assert_eq!(
            named.keys().collect::<Vec<_>>(),
            ["max_connections", "timezone", "wal_keep_segments", "z"]
        );
        assert_eq!(
            named["max_connections"],
            "invalid value for parameter \"max_connections\": \"abc\""
        );
    }

    #[tokio::test]
    async fn postgres_itself_names_what_it_refuses_and_takes_the_rest() {
        let programs = Programs::find(None, std::env::var_os("PATH").as_deref(), None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(60);
        let access = DataAccess::new(dir.path(), DataChanges::default());
        let good = parameters(&[
            ("work_mem", "8MB"),
            ("no.such", "x"),
            ("data_directory", "/nonexistent"),
        ]);
        assert_eq!(
            refused_parameters(&programs, &access, dir.path(), &good, limit)
                .await
                .unwrap(),
            BTreeMap::new()
        );
        let mut bad = good.clone();
        bad.extend(parameters(&[
            ("max_connections", "abc"),
            ("shared_buffers", "1000TB"),
            ("wal_keep_segments", "8"),
            ("no_such_parameter", "on"),
            ("timezone", "Nowhere/x"),
            ("log_destination", "syslog"),
            ("server_version", "3"),
            ("log_line_prefix", "%d"),
        ]));
        let refused = refused_parameters(&programs, &access, dir.path(), &bad, limit)
            .await
            .unwrap();
        assert_eq!(
            refused.keys().collect::<Vec<_>>(),
            [
                "max_connections",
                "no_such_parameter",
                "server_version",
                "shared_buffers",
                "timezone",
                "wal_keep_segments"
            ]
        );
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );
    }
}
