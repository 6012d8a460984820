//! Environment of the keeper's child processes: the keeper's own without variables that change connections or contain
//! secrets.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;

use daemon::systemd;
use tokio::process::Command;

/// Variables with which PostgreSQL's backends set another OOM score than the postmaster's: the file, and the score
/// (PostgreSQL manual 19.4.4). The keeper's unit sets them; libpq does not read them.
pub(super) const OOM_ADJUST_FILE: &str = "PG_OOM_ADJUST_FILE";
pub(super) const OOM_ADJUST_VALUE: &str = "PG_OOM_ADJUST_VALUE";

/// Variable of a restore command and of what it starts: the directory that it restores into. It identifies those that a
/// killed keeper left, in any process group or session.
pub(crate) const RESTORE_DIRECTORY: &str = "STOLON_RESTORE_DIRECTORY";

/// Returns the variables for child processes: all but `PG*` (except `PG_OOM_ADJUST_*`), `STKEEPER_*`, `STOLON_RESTORE_DIRECTORY`
/// and those of systemd.
///
/// libpq reads `PG*`, and `PGPASSWORD` takes precedence over the password file (keeper W40); `STKEEPER_*` contains the
/// passwords of the options (keeper W26); PostgreSQL would report its own state to systemd as the keeper's. `LANG`, `LC_*`, `TZ`, `PATH`, `HOME` stay: without them initdb would choose
/// `SQL_ASCII`.
pub fn for_children(own: impl IntoIterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (OsString, OsString)> {
    own.into_iter().filter(|(name, _)| !is_excluded(name))
}

fn is_excluded(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let is_of_systemd = systemd::VARIABLES.iter().any(|variable| variable.as_bytes() == name);
    let is_oom_score = [OOM_ADJUST_FILE, OOM_ADJUST_VALUE].map(str::as_bytes).contains(&name);
    let is_of_libpq = name.starts_with(b"PG") && !is_oom_score;
    // Of a restore command that has started this keeper.
    let is_of_restore = name == RESTORE_DIRECTORY.as_bytes();
    is_of_libpq || name.starts_with(b"STKEEPER_") || is_of_systemd || is_of_restore
}

/// Returns a command that runs `program` with the environment of [`for_children`], in its own process group, with
/// standard input closed.
///
/// With its own group, a Ctrl-C at the terminal reaches only the keeper, which then stops its children in order (keeper
/// 3.8), and a program is killed together with its descendants.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(for_children(std::env::vars_os()))
        .stdin(Stdio::null())
        .process_group(0);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_do_not_see_libpq_variables_our_secrets_a_restore_or_systemd() {
        let own = [
            "PGPASSWORD",
            "PGHOST",
            "STKEEPER_PG_SU_PASSWORD",
            RESTORE_DIRECTORY,
            "LANG",
            "LC_ALL",
            "PATH",
            "HOME",
            "TZ",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
        ]
        .map(|name| (OsString::from(name), OsString::from("x")));
        let names: Vec<_> = for_children(own).map(|(name, _)| name).collect();
        assert_eq!(names, ["LANG", "LC_ALL", "PATH", "HOME", "TZ"]);
    }

    #[test]
    fn the_oom_variables_reach_the_postmaster() {
        let own = ["PG_OOM_ADJUST_FILE", "PG_OOM_ADJUST_VALUE", "PG_COLOR"]
            .map(|name| (OsString::from(name), OsString::from("x")));
        let names: Vec<_> = for_children(own).map(|(name, _)| name).collect();
        assert_eq!(names, ["PG_OOM_ADJUST_FILE", "PG_OOM_ADJUST_VALUE"]);
    }
}
