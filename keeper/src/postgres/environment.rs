//! The environment of the keeper's children: its own, less what would change how they connect or tell secrets.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// What of the keeper's own environment its children get: all but `PG*` and `STKEEPER_*`.
///
/// libpq reads `PG*`, and a `PGPASSWORD` there beats the password file (keeper W40); `STKEEPER_*` holds the
/// passwords of the options (keeper W26). `LANG`, `LC_*`, `TZ`, `PATH`, `HOME` stay: without them initdb would
/// choose `SQL_ASCII`.
pub fn for_children(own: impl IntoIterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (OsString, OsString)> {
    own.into_iter().filter(|(name, _)| !is_kept_back(name))
}

fn is_kept_back(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"PG") || name.starts_with(b"STKEEPER_")
}

/// A command that runs `program` with the environment of [`for_children`], in a process group of its own, its
/// standard input closed.
///
/// Its own group, so that a Ctrl-C at the terminal reaches the keeper alone, which then stops its children in
/// order (keeper 3.8), and so that a helper is ended together with the processes that it started.
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
    fn children_do_not_see_libpq_variables_or_our_secrets() {
        let own = [
            "PGPASSWORD",
            "PGHOST",
            "STKEEPER_PG_SU_PASSWORD",
            "LANG",
            "LC_ALL",
            "PATH",
            "HOME",
            "TZ",
        ]
        .map(|name| (OsString::from(name), OsString::from("x")));
        let names: Vec<_> = for_children(own).map(|(name, _)| name).collect();
        assert_eq!(names, ["LANG", "LC_ALL", "PATH", "HOME", "TZ"]);
    }
}
