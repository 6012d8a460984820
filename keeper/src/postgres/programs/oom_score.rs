//! The OOM score of the keeper's programs: that of PostgreSQL's backends, so that the kernel ends one of them before the keeper
//! and the postmaster. They would inherit the keeper's score.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use tracing::debug;

use crate::postgres::programs::environment::{OOM_ADJUST_FILE, OOM_ADJUST_VALUE};

/// The score without `PG_OOM_ADJUST_VALUE`.
const SCORE_DEFAULT: &str = "0";

/// Sets the OOM score of backends on a program that was just started, if `PG_OOM_ADJUST_FILE` is set.
pub(crate) fn adjust(pid: u32) {
    if let Some(file) = file_of(std::env::var_os(OOM_ADJUST_FILE).as_deref(), pid) {
        write(&file, std::env::var_os(OOM_ADJUST_VALUE));
    }
}

fn write(file: &Path, score: Option<OsString>) {
    let score = score.unwrap_or_else(|| SCORE_DEFAULT.into());
    // It may have ended already, and lowering a score needs CAP_SYS_RESOURCE.
    if let Err(error) = fs::write(file, score.as_encoded_bytes()) {
        debug!(%error, file = %file.display(), "could not set the OOM score of a program");
    }
}

/// Returns `/proc/<pid>/x` for `/proc/self/x`; `None` for any other path.
fn file_of(variable: Option<&OsStr>, pid: u32) -> Option<PathBuf> {
    let name = Path::new(variable?).strip_prefix("/proc/self").ok()?;
    Some(Path::new("/proc").join(pid.to_string()).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_the_score_of_backends() {
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let score = (own.trim().parse::<i32>().unwrap() + 1).min(1000).to_string();
        let mut program = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let file = file_of(Some("/proc/self/oom_score_adj".as_ref()), program.id()).unwrap();
        write(&file, Some(score.clone().into()));
        let found = fs::read_to_string(&file);
        program.kill().unwrap();
        program.wait().unwrap();
        assert_eq!(found.unwrap().trim(), score);
        write(&file, None); // it has ended: nothing happens
    }

    #[test]
    fn no_other_file_is_written() {
        for variable in [
            None,
            Some(""),
            Some("/proc/1/oom_score_adj"),
            Some("/tmp/x"),
            Some("oom_score_adj"),
        ] {
            assert_eq!(file_of(variable.map(OsStr::new), 7), None, "{variable:?}");
        }
    }
}
