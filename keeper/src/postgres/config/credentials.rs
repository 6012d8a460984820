//! Names, passwords and authentication methods of the keeper's roles. Which options may be combined is checked in
//! `args`.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base::user_file::{ReadLimits, read_user_file};
use tracing::{info, warn};

/// A password. Its `Debug` output is masked.
#[derive(Clone)]
pub struct Secret(SecretSource);

#[derive(Clone)]
enum SecretSource {
    Text(String),
    /// A file, read whenever the password is needed.
    File(Arc<SecretFile>),
}

struct SecretFile {
    path: PathBuf,
    last: Mutex<LastRead>,
}

/// Last read contents.
struct LastRead {
    password: String,
    /// Why the file could not be read the last time; the password is an older one then.
    failure: Option<String>,
}

impl Secret {
    /// Wraps a password.
    pub fn new(password: impl Into<String>) -> Self {
        Self(SecretSource::Text(password.into()))
    }

    /// Wraps a password from a file that was just read. The file is read again at each use, because it may change.
    pub fn from_file(path: &Path, password: impl Into<String>) -> Self {
        let last = LastRead {
            password: password.into(),
            failure: None,
        };
        Self(SecretSource::File(Arc::new(SecretFile {
            path: path.to_owned(),
            last: Mutex::new(last),
        })))
    }

    /// Returns the password for sending it; never for a log, an argument or the store. That of a file is the current
    /// one, or the last one while the file cannot be read.
    pub fn reveal(&self) -> String {
        match &self.0 {
            SecretSource::Text(password) => password.clone(),
            SecretSource::File(file) => file.read(false),
        }
    }

    /// Reads the file again on an operator's request, and logs a failure even if it is the same as before.
    pub fn read_again(&self) {
        if let SecretSource::File(file) = &self.0 {
            file.read(true);
        }
    }

    /// Returns why the file could not be read the last time.
    pub fn failure(&self) -> Option<String> {
        let SecretSource::File(file) = &self.0 else { return None };
        let last = file.lock();
        let why = last.failure.as_ref()?;
        Some(format!(
            "cannot read the password file {}, using what was last in it: {why}",
            file.path.display()
        ))
    }
}

impl SecretFile {
    fn lock(&self) -> MutexGuard<'_, LastRead> {
        self.last.lock().expect("no thread panics while holding the password")
    }

    /// Reads the file; with `on_request` a repeated failure is logged again.
    fn read(&self, on_request: bool) -> String {
        let mut last = self.lock();
        let file = self.path.display();
        // A pipe, such as a shell's `<(…)`, was read at the start; opening it again might block forever.
        if std::fs::metadata(&self.path).is_ok_and(|metadata| !metadata.is_file()) {
            return last.password.clone();
        }
        match read_password(&self.path) {
            Ok(password) => {
                if password != last.password {
                    info!(%file, "read a changed password file");
                } else if last.failure.is_some() {
                    info!(%file, "the password file can be read again");
                }
                *last = LastRead {
                    password,
                    failure: None,
                };
            }
            Err(error) => {
                let error = error.to_string();
                if on_request || last.failure.as_ref() != Some(&error) {
                    warn!(%file, %error, "cannot read the password file, using what was last in it");
                }
                last.failure = Some(error);
            }
        }
        last.password.clone()
    }
}

/// Returns text and mode of a password file; a link is followed.
///
/// # Errors
/// It cannot be read, is not UTF-8, or exceeds 64 KiB.
pub fn read_password_file(path: &Path) -> io::Result<(String, u32)> {
    let (text, metadata) = read_user_file(path, ReadLimits::SECRET)?;
    let text = String::from_utf8(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok((text, metadata.permissions().mode() & 0o7777))
}

/// Returns the password in a file without trailing line breaks.
fn read_password(path: &Path) -> io::Result<String> {
    let (text, _) = read_password_file(path)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
    }
    Ok(password.to_owned())
}

impl From<String> for Secret {
    fn from(password: String) -> Self {
        Self::new(password)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.reveal() == other.reveal()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

/// Authentication method of a role in `pg_hba.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// `md5`, which also accepts roles with a SCRAM verifier (keeper 9.8).
    Md5,
    /// `scram-sha-256`.
    ScramSha256,
    /// `trust`: no authentication.
    Trust,
}

impl AuthMethod {
    /// Returns its name in `pg_hba.conf` and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::ScramSha256 => "scram-sha-256",
            Self::Trust => "trust",
        }
    }

    /// Parses its name on the command line.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Md5, Self::ScramSha256, Self::Trust]
            .into_iter()
            .find(|method| method.as_str() == word)
    }
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A role that logs in: the superuser or the replication user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Name of the role.
    pub user: String,
    /// Its authentication method in the generated `pg_hba.conf`.
    pub method: AuthMethod,
    /// Its password; `None` if and only if the method is `trust` (keeper C3, C4).
    pub password: Option<Secret>,
}

impl Login {
    /// Returns the current password if the method requires one.
    pub fn password(&self) -> Option<String> {
        match self.method {
            AuthMethod::Trust => None,
            AuthMethod::Md5 | AuthMethod::ScramSha256 => self.password.as_ref().map(Secret::reveal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_does_not_print() {
        let login = Login {
            user: "repl".into(),
            method: AuthMethod::Md5,
            password: Some(Secret::new("geheim")),
        };
        assert!(!format!("{login:?}").contains("geheim"));
        assert_eq!(login.password().as_deref(), Some("geheim"));
    }

    #[test]
    fn a_password_file_is_read_again_at_each_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "first\n").unwrap();
        let secret = Secret::from_file(&path, "first");
        assert_eq!(secret.reveal(), "first");
        std::fs::write(&path, "second\r\n").unwrap();
        assert_eq!(secret.clone().reveal(), "second");
        // An empty, invalid or far too large file does not replace the last password.
        let large = vec![b'x'; 65_537];
        for spoilt in [&b"\n"[..], b"\xff\xfe", &large] {
            std::fs::write(&path, spoilt).unwrap();
            assert_eq!(secret.reveal(), "second");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(secret.reveal(), "second");
        assert!(!format!("{secret:?}").contains("second"));
    }

    #[test]
    fn methods_read_back_what_they_print() {
        for method in [AuthMethod::Md5, AuthMethod::ScramSha256, AuthMethod::Trust] {
            assert_eq!(AuthMethod::parse(&method.to_string()), Some(method));
        }
        assert_eq!(
            AuthMethod::parse("password"),
            None,
            "cleartext passwords are not supported (keeper C1)"
        );
    }
}
