//! Checks of the options about superuser and replication user, and their passwords (keeper 1.3, 1.4). Logging in is
//! left to `postgres::client`.

use std::path::PathBuf;

use daemon::args::{ArgsWarning, Faults};

use crate::postgres::config::credentials::{AuthMethod, Login, Secret, read_password_file};

/// Longest name of a role (`NAMEDATALEN` less one); PostgreSQL would cut a longer one.
const ROLE_BYTES_MAX: usize = 63;

/// Options of one of the two roles.
pub(super) struct LoginArgs<'a> {
    /// The role in messages.
    pub(super) who: &'static str,
    /// The part of the options' names that differs: `--pg-su-password`, `--pg-repl-password`.
    pub(super) option: &'static str,
    pub(super) user: &'a str,
    pub(super) method: &'a str,
    pub(super) password: Option<String>,
    pub(super) file: Option<PathBuf>,
}

/// Checks both users and reads their passwords, in the order of keeper 1.3; `None` if a method is unknown.
pub(super) fn check(
    superuser: &LoginArgs<'_>,
    replication: &LoginArgs<'_>,
    faults: &mut Faults,
    warnings: &mut Vec<ArgsWarning>,
) -> Option<(Login, Login)> {
    let repl_method = replication.check_method(faults);
    replication.check_name(faults);
    superuser.check_name(faults);
    replication.check_trust(repl_method, faults);
    superuser.check_trust(AuthMethod::parse(superuser.method), faults);
    replication.check_password_source(repl_method, faults);
    let su_method = superuser.check_method(faults);
    superuser.check_password_source(su_method, faults);
    for (typed, method) in [(replication, repl_method), (superuser, su_method)] {
        if method == Some(AuthMethod::Trust) {
            warnings.push(ArgsWarning::from(format!(
                "{} method is trust: any client that reaches the server may log in as {:?}",
                typed.flag("auth-method"),
                typed.user
            )));
        }
    }
    let read_repl = replication.read_password(repl_method, faults, warnings);
    let read_su = superuser.read_password(su_method, faults, warnings);
    let su_password = read_su.map(|text| superuser.trim_newlines(text, faults, warnings));
    let repl_password = read_repl.map(|text| replication.trim_newlines(text, faults, warnings));
    // One role has one method and one password (keeper C11, C12).
    if !superuser.user.is_empty() && superuser.user == replication.user {
        warnings.push(ArgsWarning::from(format!(
            "superuser and replication user are both {:?}: different users are better",
            superuser.user
        )));
        if su_method != repl_method {
            faults.push("superuser and replication user are the same, but their auth methods are different");
        } else if su_password.is_some() && repl_password.is_some() && su_password != repl_password {
            faults.push(
                "provided superuser name and replication user name are the same but provided passwords are different",
            );
        }
    }
    Some((
        superuser.login(su_method, su_password)?,
        replication.login(repl_method, repl_password)?,
    ))
}

impl LoginArgs<'_> {
    fn flag(&self, name: &str) -> String {
        format!("--pg-{}-{name}", self.option)
    }

    /// Returns the method; an unknown one is an error (keeper C1).
    fn check_method(&self, faults: &mut Faults) -> Option<AuthMethod> {
        let method = AuthMethod::parse(self.method);
        if method.is_none() {
            let flag = self.flag("auth-method");
            faults.push(format!(
                "{flag} {:?} is unknown: use md5, scram-sha-256 or trust",
                self.method
            ));
        }
        method
    }

    fn check_name(&self, faults: &mut Faults) {
        if self.user.is_empty() {
            faults.push(format!("{} is required", self.flag("username")));
        } else if self.user.len() > ROLE_BYTES_MAX || self.user.contains(char::is_control) {
            let start: String = self.user.chars().take(20).collect();
            faults.push(format!(
                "{} {start:?}… is not valid: a role's name has at most {ROLE_BYTES_MAX} bytes and no control character",
                self.flag("username")
            ));
        }
    }

    /// With the method trust no password is needed, so a given one is an error (keeper C3).
    fn check_trust(&self, method: Option<AuthMethod>, faults: &mut Faults) {
        if method == Some(AuthMethod::Trust) && (self.password.is_some() || self.file.is_some()) {
            faults.push(format!(
                "{} is trust, which asks for no password: leave out {} and {}",
                self.flag("auth-method"),
                self.flag("password"),
                self.flag("passwordfile")
            ));
        }
    }

    /// Every other method needs a password from one source, the option or a file: none (keeper C4) and both (keeper C5)
    /// are errors.
    fn check_password_source(&self, method: Option<AuthMethod>, faults: &mut Faults) {
        if method.is_none_or(|method| method == AuthMethod::Trust) {
            return;
        }
        let (password, file) = (self.flag("password"), self.flag("passwordfile"));
        match (&self.password, &self.file) {
            (None, None) => faults.push(format!("{file} or {password} is required")),
            (Some(_), Some(_)) => faults.push(format!("use only one of {file} and {password}")),
            _ => {}
        }
    }

    /// Returns the password as given; `None` if there is none or its file cannot be read (keeper C6). A file that
    /// others can read is a warning (keeper C7).
    fn read_password(
        &self,
        method: Option<AuthMethod>,
        faults: &mut Faults,
        warnings: &mut Vec<ArgsWarning>,
    ) -> Option<String> {
        if method.is_none_or(|method| method == AuthMethod::Trust) {
            return None;
        }
        match (&self.password, &self.file) {
            (Some(password), None) => Some(password.clone()),
            (None, Some(file)) => match read_password_file(file) {
                Ok((text, mode)) => {
                    if mode & 0o077 != 0 {
                        let flag = self.flag("passwordfile");
                        warnings.push(ArgsWarning::from(format!(
                            "{flag} {} can be read by others (mode {mode:04o}): chmod 600 it",
                            file.display()
                        )));
                    }
                    Some(text)
                }
                Err(error) => {
                    faults.push(format!(
                        "{} {} cannot be read: {error}",
                        self.flag("passwordfile"),
                        file.display()
                    ));
                    None
                }
            },
            _ => None,
        }
    }

    /// Returns the password without trailing newlines (keeper C8); an empty one is an error (keeper C9).
    fn trim_newlines(&self, text: String, faults: &mut Faults, warnings: &mut Vec<ArgsWarning>) -> String {
        let password = text.trim_end_matches(['\r', '\n']);
        if password.len() < text.len() {
            warnings.push(ArgsWarning::from(format!(
                "{} password contain trailing new line, removing",
                self.who
            )));
            if password.is_empty() {
                faults.push(format!(
                    "{} password is empty after removing trailing new line",
                    self.who
                ));
            }
        } else if password.is_empty() {
            let (password, file) = (self.flag("password"), self.flag("passwordfile"));
            faults.push(format!(
                "{} password is empty: put one into {file} or {password}",
                self.who
            ));
        }
        // initdb reads one line, password files hold one, and PostgreSQL's protocol ends a text at NUL (keeper C13).
        if password.contains(['\n', '\0']) {
            faults.push(format!(
                "{} password contains a newline or a NUL byte, which no PostgreSQL password can: give it on one line",
                self.who
            ));
        }
        password.to_owned()
    }

    fn login(&self, method: Option<AuthMethod>, password: Option<String>) -> Option<Login> {
        Some(Login {
            user: self.user.to_owned(),
            method: method?,
            password: password.map(|password| match &self.file {
                Some(file) => Secret::from_file(file, password),
                None => Secret::new(password),
            }),
        })
    }
}
