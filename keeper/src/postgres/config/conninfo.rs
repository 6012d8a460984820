//! Connection strings and password files for libpq (keeper 7.2, 7.3). The keeper's own connections in `sql` and
//! `replication` do not use them.

use std::path::Path;

use crate::postgres::config::credentials::Login;
use crate::postgres::data::atomic_files;
use crate::postgres::data::file_error::FileError;

/// Address of an instance, as it is advertised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host name or address.
    pub host: String,
    /// Port, as it is published: text.
    pub port: String,
}

/// Returns a connection string: sorted `key=value` pairs separated by spaces, without empty values. Spaces, single
/// quotes and backslashes in values are escaped with a backslash.
pub fn text(pairs: &[(&str, &str)]) -> String {
    let mut pieces: Vec<_> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", escape(value)))
        .collect();
    pieces.sort();
    pieces.join(" ")
}

fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        // libpq ends an unquoted value at any whitespace, not only at a space (fe-connect.c, conninfo_parse).
        if matches!(c, ' ' | '\'' | '\\' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Returns the `primary_conninfo` of a standby that follows the instance at `source`. The password is in the file
/// `passfile` (see [`write_passfile`]), because the server logs the setting whenever it changes.
pub fn primary_conninfo(
    application_name: &str,
    source: &Address,
    login: &Login,
    database: Option<&str>,
    passfile: &Path,
) -> String {
    let passfile = login.password().map(|_| passfile.to_string_lossy());
    text(&[
        ("application_name", application_name),
        ("dbname", database.unwrap_or("")),
        ("host", &source.host),
        ("passfile", passfile.as_deref().unwrap_or("")),
        ("port", &source.port),
        ("sslmode", "prefer"),
        ("user", &login.user),
    ])
}

/// Writes the password file of `primary_conninfo`, mode 0600, unless it is up to date; nothing for a login without a
/// password. It applies to any host: the connection string names the host.
pub fn write_passfile(path: &Path, login: &Login) -> Result<(), FileError> {
    match own_passfile(login) {
        Some(line) => atomic_files::write_if_changed(path, line.as_bytes()),
        None => Ok(()),
    }
}

/// Whether [`write_passfile`] would write nothing.
pub fn is_passfile_current(path: &Path, login: &Login) -> bool {
    own_passfile(login).is_none_or(|line| atomic_files::is_current(path, line.as_bytes()))
}

fn own_passfile(login: &Login) -> Option<String> {
    let password = login.password()?;
    Some(passfile_line("*", "*", &login.user, &password))
}

/// Returns the connection string of a program that copies from `source`; its password is in the file of
/// [`copy_passfile`].
///
/// `options` are the settings of its sessions (`session_settings`); users' settings, such as a timeout, could end the
/// copy.
pub fn copy_conninfo(application_name: &str, source: &Address, login: &Login, options: &str) -> String {
    text(&[
        ("application_name", application_name),
        ("host", &source.host),
        ("options", options),
        ("port", &source.port),
        ("sslmode", "prefer"),
        ("user", &login.user),
    ])
}

/// Returns the connection string of pg_rewind to its source, as the superuser; otherwise as [`copy_conninfo`]. A source
/// that disappears from the network ends the connection within minutes.
pub fn rewind_conninfo(
    application_name: &str,
    database: &str,
    source: &Address,
    login: &Login,
    options: &str,
) -> String {
    text(&[
        ("application_name", application_name),
        ("connect_timeout", "30"),
        ("dbname", database),
        ("host", &source.host),
        ("keepalives_count", "6"),
        ("keepalives_idle", "30"),
        ("keepalives_interval", "10"),
        ("options", options),
        ("port", &source.port),
        ("sslmode", "prefer"),
        ("tcp_user_timeout", "120000"),
        ("user", &login.user),
    ])
}

/// Returns the content of the password file of a program that copies from `source`; `None` when the login needs no
/// password.
pub fn copy_passfile(source: &Address, login: &Login) -> Option<String> {
    let password = login.password()?;
    let (host, port) = (escape_field(&source.host), escape_field(&source.port));
    Some(passfile_line(&host, &port, &login.user, &password))
}

/// Returns a line of a password file: fields separated by colons (keeper W15; PostgreSQL manual 34.16), for any
/// database. Host and port are already escaped, or `*` for any.
fn passfile_line(host: &str, port: &str, user: &str, password: &str) -> String {
    format!("{host}:{port}:*:{}:{}\n", escape_field(user), escape_field(password))
}

/// Escapes `:` and `\` in a field.
fn escape_field(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::postgres::config::credentials::{AuthMethod, Secret};

    fn login(password: Option<&str>) -> Login {
        let method = if password.is_some() {
            AuthMethod::Md5
        } else {
            AuthMethod::Trust
        };
        Login {
            user: "repluser".into(),
            method,
            password: password.map(Secret::new),
        }
    }

    fn source() -> Address {
        Address {
            host: "10.0.0.1".into(),
            port: "5432".into(),
        }
    }

    const PASSFILE: &str = "/k/replication.pgpass";

    #[test]
    fn the_pieces_stand_in_the_reference_s_order_and_the_password_is_in_a_file() {
        let made =
            |login, database| primary_conninfo("stolon_2a87ea79", &source(), &login, database, Path::new(PASSFILE));
        assert_eq!(
            made(login(Some("pw")), None),
            "application_name=stolon_2a87ea79 host=10.0.0.1 passfile=/k/replication.pgpass port=5432 sslmode=prefer \
             user=repluser"
        );
        assert_eq!(
            made(login(None), Some("postgres")),
            "application_name=stolon_2a87ea79 dbname=postgres host=10.0.0.1 port=5432 sslmode=prefer user=repluser"
        );
    }

    #[test]
    fn characters_that_would_end_a_value_are_escaped() {
        let path = Path::new("/a b'c\\d:e\u{1f600}");
        let text_form = primary_conninfo("a", &source(), &login(Some("pw")), None, path);
        assert!(
            text_form.contains("passfile=/a\\ b\\'c\\\\d:e\u{1f600} port="),
            "{text_form}"
        );
    }

    #[test]
    fn the_password_file_is_private_and_follows_the_password() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replication.pgpass");
        let inode = || fs::metadata(&path).unwrap().ino();
        let is_current = |password| is_passfile_current(&path, &login(password));
        write_passfile(&path, &login(None)).unwrap();
        assert!(!path.exists());
        assert!(is_current(None) && !is_current(Some("a:b\\c")));
        write_passfile(&path, &login(Some("a:b\\c"))).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "*:*:*:repluser:a\\:b\\\\c\n");
        let first = inode();
        write_passfile(&path, &login(Some("a:b\\c"))).unwrap();
        assert_eq!(inode(), first, "what is there already is not written again");
        assert!(is_current(Some("a:b\\c")) && !is_current(Some("new")));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!is_current(Some("a:b\\c")), "others can read it");
        write_passfile(&path, &login(Some("a:b\\c"))).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        write_passfile(&path, &login(Some("new"))).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "*:*:*:repluser:new\n");
    }

    #[test]
    fn a_copy_s_connection_has_no_password_in_it() {
        let text_form = copy_conninfo("a", &source(), &login(Some("pw")), "-c synchronous_commit=off");
        assert_eq!(
            text_form,
            "application_name=a host=10.0.0.1 options=-c\\ synchronous_commit=off port=5432 sslmode=prefer user=repluser"
        );
    }

    #[test]
    fn a_rewind_s_connection_has_a_database_and_no_password_in_it() {
        let text_form = rewind_conninfo("a", "postgres", &source(), &login(Some("pw")), "-c role=none");
        assert_eq!(
            text_form,
            "application_name=a connect_timeout=30 dbname=postgres host=10.0.0.1 keepalives_count=6 keepalives_idle=30 \
             keepalives_interval=10 options=-c\\ role=none port=5432 sslmode=prefer tcp_user_timeout=120000 user=repluser"
        );
    }

    #[test]
    fn fields_of_the_password_file_are_escaped() {
        let source = Address {
            host: "fd00::1".into(),
            port: "5432".into(),
        };
        assert_eq!(
            passfile_line(&escape_field(&source.host), &source.port, "r:u", "a\\b:c'"),
            "fd00\\:\\:1:5432:*:r\\:u:a\\\\b\\:c'\n"
        );
        assert_eq!(copy_passfile(&source, &login(None)), None);
        assert_eq!(
            copy_passfile(&source, &login(Some("pw"))).as_deref(),
            Some("fd00\\:\\:1:5432:*:repluser:pw\n")
        );
    }
}
