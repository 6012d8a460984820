//! Names, passwords and methods with which the keeper and other instances log in. It leaves the rules for
//! options (which may be given with which) to the program's arguments.

use std::fmt;

/// A password: it prints as dots, whatever prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password itself, for the few places that must hand it on: never for a log, an argument or the store.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

/// How a role proves who it is, as it stands in `pg_hba.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// `md5`, which also takes roles whose password is stored as a SCRAM verifier (keeper 9.8).
    Md5,
    /// `scram-sha-256` (design D-9).
    ScramSha256,
    /// `trust`: anybody who reaches the server is believed.
    Trust,
}

impl AuthMethod {
    /// The word of `pg_hba.conf` and of the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::ScramSha256 => "scram-sha-256",
            Self::Trust => "trust",
        }
    }

    /// Reads the word of the command line.
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
    /// Its method in the generated `pg_hba.conf`.
    pub method: AuthMethod,
    /// Its password; `None` exactly when the method is `trust` (keeper C3, C4).
    pub password: Option<Secret>,
}

impl Login {
    /// The password to log in with, if the method asks for one.
    pub fn password(&self) -> Option<&str> {
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
        assert_eq!(login.password(), Some("geheim"));
    }

    #[test]
    fn methods_read_back_what_they_print() {
        for method in [AuthMethod::Md5, AuthMethod::ScramSha256, AuthMethod::Trust] {
            assert_eq!(AuthMethod::parse(&method.to_string()), Some(method));
        }
        assert_eq!(AuthMethod::parse("password"), None, "keeper C1");
    }
}
