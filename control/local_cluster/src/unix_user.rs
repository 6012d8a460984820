//! The user that keepers and PostgreSQL run as.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;

use crate::error::{Attempt, Error};

/// A Unix user that programs are started as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixUser {
    /// The login name.
    pub name: String,
    /// The numeric user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
}

impl UnixUser {
    /// Returns `postgres` when we are root, which keepers and PostgreSQL refuse; otherwise `None`, our own user.
    ///
    /// # Errors
    ///
    /// We are root, and there is no user `postgres`.
    pub fn for_postgres() -> Result<Option<Self>, Error> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").attempt(|| "read /etc/passwd".to_owned())?;
        let user = passwd.lines().find_map(|line| parse("postgres", line));
        user.map(Some).ok_or_else(|| {
            Error::new(
                "PostgreSQL refuses root and there is no user postgres: install PostgreSQL, or run this as another user",
            )
        })
    }

    /// Makes it the owner of a file or directory.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let slash = if path.is_dir() { "/" } else { "" };
        chown(path, Some(self.uid), Some(self.gid)).attempt(|| format!("change the owner of {name}{slash}"))
    }

    /// Lets a program run as this user.
    pub(crate) fn run(&self, command: &mut Command) {
        command
            .uid(self.uid)
            .gid(self.gid)
            .env("USER", &self.name)
            .env("HOME", "/");
    }
}

/// Parses a line of /etc/passwd (passwd(5)) if it is this user's.
fn parse(name: &str, line: &str) -> Option<UnixUser> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|field| *field == name)?.to_owned();
    let mut ids = fields.skip(1).map_while(|field| field.parse().ok());
    Some(UnixUser {
        name,
        uid: ids.next()?,
        gid: ids.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_user_itself_counts() {
        assert_eq!(parse("postgres", "postgres2:x:7:8::/:/bin/sh"), None);
        assert_eq!(
            parse(
                "postgres",
                "postgres:x:102:104:PostgreSQL:/var/lib/postgresql:/bin/bash"
            ),
            Some(UnixUser {
                name: "postgres".to_owned(),
                uid: 102,
                gid: 104
            })
        );
    }
}
