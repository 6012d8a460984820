//! The keeper's options: the command line as typed, and the checked configuration. All errors are reported together, in
//! the order of keeper 1.3, before anything is changed.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use daemon::args::{CommonConfig, DaemonArgs, Faults, Switch};
use daemon::telemetry::LogConfig;

use crate::local::state_files::is_valid_uid;
use crate::postgres::config::credentials::{AuthMethod, Login, Secret};
use crate::postgres::data::layout::{LOST_FOUND, SUBDIRECTORY};

/// Run one PostgreSQL instance as a member of the cluster.
///
/// Every option can also be given by an environment variable: --pg-port is STKEEPER_PG_PORT.
#[derive(Debug, Clone, Default, clap::Parser)]
pub struct Args {
    #[expect(missing_docs, reason = "clap would take it for help text")]
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Unique name of this keeper: letters a-z, digits and '_' [default: generated at the first start, then kept]
    #[arg(long, alias = "id", value_name = "UID")]
    pub uid: Option<String>,
    /// Directory of the keeper's state and its instance (required)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address that PostgreSQL listens on; * for all (required)
    #[arg(long, value_name = "ADDRESS")]
    pub pg_listen_address: Option<String>,
    /// Port that PostgreSQL listens on [default: 5432]
    #[arg(long, value_name = "PORT")]
    pub pg_port: Option<String>,
    /// Address published for connections to the instance [default: --pg-listen-address]
    #[arg(long, value_name = "ADDRESS")]
    pub pg_advertise_address: Option<String>,
    /// Port published for connections to the instance [default: --pg-port]
    #[arg(long, value_name = "PORT")]
    pub pg_advertise_port: Option<String>,
    /// Directory of PostgreSQL's programs [default: PATH, then the standard directories]
    #[arg(long, value_name = "DIR")]
    pub pg_bin_path: Option<PathBuf>,
    /// Authentication method of the replication user: md5, scram-sha-256 or trust [default: md5]
    #[arg(long, value_name = "METHOD")]
    pub pg_repl_auth_method: Option<String>,
    /// Name of the replication user (required)
    #[arg(long, value_name = "NAME")]
    pub pg_repl_username: Option<String>,
    /// Password of the replication user; prefer a file, since other users can read command lines
    #[arg(long, value_name = "PASSWORD")]
    pub pg_repl_password: Option<Secret>,
    /// File with the password of the replication user
    #[arg(long, value_name = "FILE")]
    pub pg_repl_passwordfile: Option<PathBuf>,
    /// Authentication method of the superuser: md5, scram-sha-256 or trust [default: md5]
    #[arg(long, value_name = "METHOD")]
    pub pg_su_auth_method: Option<String>,
    /// Name of the superuser [default: the name of the operating system's user]
    #[arg(long, value_name = "NAME")]
    pub pg_su_username: Option<String>,
    /// Password of the superuser; prefer a file, since other users can read command lines
    #[arg(long, value_name = "PASSWORD")]
    pub pg_su_password: Option<Secret>,
    /// File with the password of the superuser
    #[arg(long, value_name = "FILE")]
    pub pg_su_passwordfile: Option<PathBuf>,
    /// Allow this keeper to be elected as master [default: true]
    #[arg(long)]
    pub can_be_master: Option<Switch>,
    /// Allow this keeper to be a synchronous standby [default: true]
    #[arg(long)]
    pub can_be_synchronous_replica: Option<Switch>,
    /// Do not lock the data directory: for file systems without locks
    #[arg(long)]
    pub disable_data_dir_locking: Option<Switch>,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Options of cluster, store and metrics.
    pub common: CommonConfig,
    /// The given uid.
    pub uid: Option<String>,
    /// The data directory, absolute.
    pub data_dir: PathBuf,
    /// Whether the data directory is locked.
    pub locking: bool,
    /// The given directory of the programs.
    pub bin_path: Option<PathBuf>,
    /// `listen_addresses`.
    pub listen_address: String,
    /// The port that the instance listens on.
    pub port: u16,
    /// The published address.
    pub advertise_address: String,
    /// The published port, as text.
    pub advertise_port: String,
    /// The superuser.
    pub superuser: Login,
    /// The replication user.
    pub replication: Login,
    /// Published: whether this keeper may be elected.
    pub can_be_master: bool,
    /// Published: whether this keeper may be a synchronous standby.
    pub can_be_synchronous_replica: bool,
}

/// Result of checking the options.
#[derive(Debug)]
pub struct CheckedKeeperArgs {
    /// Logging options; usable even if others are invalid.
    pub log: LogConfig,
    /// Warnings, in order, to be logged before the errors.
    pub warnings: Vec<String>,
    /// The configuration, or all errors.
    pub config: Result<Config, Faults>,
}

/// Facts about the host that the check needs.
#[derive(Debug, Clone)]
pub struct HostEnv {
    /// Effective user id.
    pub uid: u32,
    /// User name, if there is one.
    pub user: Option<String>,
    /// Working directory.
    pub directory: PathBuf,
}

impl HostEnv {
    /// Reads the current values.
    pub fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let variable = std::env::var_os("USER").and_then(|name: OsString| name.into_string().ok());
        Self {
            uid,
            user: user_name(&users, uid).or(variable).filter(|name| !name.is_empty()),
            directory: std::env::current_dir().unwrap_or_default(),
        }
    }
}

/// Returns a user's name according to passwd(5).
fn user_name(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

impl Args {
    /// Checks all options without changing anything (keeper 1.3, without the steps that act).
    pub fn check(&self, host: &HostEnv) -> CheckedKeeperArgs {
        let mut faults = Faults::default();
        let mut warnings = Vec::new();
        if host.uid == 0 {
            // keeper 1.6: initdb and postgres refuse root
            faults.push(
                "cannot run as root, since PostgreSQL refuses to: start the keeper as another user, such as postgres",
            );
        }
        let su_name = match &self.pg_su_username {
            Some(name) => name.clone(),
            None => host.user.clone().unwrap_or_else(|| {
                faults.push(format!("user {} has no name: use --pg-su-username", host.uid));
                String::new()
            }),
        };
        let log = self.daemon.log(&mut faults);
        let data_dir = given_path(&self.data_dir).map(|path| host.directory.join(path));
        match &data_dir {
            None => faults.push("data dir required: use --data-dir"),
            Some(dir) => faults_of_data_dir(dir, host.uid, &mut faults),
        }
        let common = self.daemon.common.check(&mut faults);
        let listen_address = given(&self.pg_listen_address).to_owned();
        if listen_address.is_empty() {
            faults.push("--pg-listen-address is required");
        }
        let port_text = Some(given(&self.pg_port))
            .filter(|port| !port.is_empty())
            .unwrap_or("5432");
        let port = port_text.parse().ok().filter(|port| *port != 0);
        if port.is_none() {
            faults.push(format!(
                "--pg-port {port_text:?} is not a valid port: use a number from 1 to 65535"
            ));
        }
        let logins = self.logins(su_name, &mut faults, &mut warnings);
        let uid = self.uid.clone().filter(|uid| !uid.is_empty());
        if let Some(uid) = uid.as_ref().filter(|uid| !is_valid_uid(uid)) {
            faults.push(format!(
                "keeper uid {uid:?} is not valid: use letters a-z, digits and '_'"
            ));
        }
        let or = |given: &Option<String>, default: &str| {
            given
                .clone()
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| default.to_owned())
        };
        let config = match (common, data_dir, port, logins) {
            (Some(common), Some(data_dir), Some(port), Some((superuser, replication))) if faults.is_empty() => {
                Ok(Config {
                    common,
                    uid,
                    data_dir,
                    locking: self.disable_data_dir_locking != Some(Switch(true)),
                    bin_path: given_path(&self.pg_bin_path).map(|path| host.directory.join(path)),
                    advertise_address: or(&self.pg_advertise_address, &listen_address),
                    advertise_port: or(&self.pg_advertise_port, port_text),
                    listen_address,
                    port,
                    superuser,
                    replication,
                    can_be_master: self.can_be_master != Some(Switch(false)),
                    can_be_synchronous_replica: self.can_be_synchronous_replica != Some(Switch(false)),
                })
            }
            _ => Err(faults),
        };
        CheckedKeeperArgs { log, warnings, config }
    }

    /// Returns the option that set the advertised address (keeper 1.3.10).
    pub fn advertise_option(&self) -> &'static str {
        match given(&self.pg_advertise_address) {
            "" => "pg-listen-address",
            _ => "pg-advertise-address",
        }
    }

    /// Superuser and replication user (keeper 1.3 steps 11 to 16, 1.4).
    fn logins(&self, su_name: String, faults: &mut Faults, warnings: &mut Vec<String>) -> Option<(Login, Login)> {
        let superuser = LoginArgs {
            who: "superuser",
            option: "su",
            user: &su_name,
            method: self.pg_su_auth_method.as_deref().unwrap_or("md5"),
            password: self.pg_su_password.as_ref().map(Secret::reveal),
            file: given_path(&self.pg_su_passwordfile),
        };
        let replication = LoginArgs {
            who: "replication user",
            option: "repl",
            user: given(&self.pg_repl_username),
            method: self.pg_repl_auth_method.as_deref().unwrap_or("md5"),
            password: self.pg_repl_password.as_ref().map(Secret::reveal),
            file: given_path(&self.pg_repl_passwordfile),
        };
        let repl_method = replication.method(faults);
        replication.name(faults);
        superuser.name(faults);
        replication.trust_without_secret(repl_method, faults);
        superuser.trust_without_secret(AuthMethod::parse(superuser.method), faults);
        replication.one_secret(repl_method, faults);
        let su_method = superuser.method(faults);
        superuser.one_secret(su_method, faults);
        for (typed, method) in [(&replication, repl_method), (&superuser, su_method)] {
            if method == Some(AuthMethod::Trust) {
                warnings.push(format!(
                    "{} method is trust: any client that reaches the server may log in as {:?}",
                    typed.flag("auth-method"),
                    typed.user
                ));
            }
        }
        let read_repl = replication.read(repl_method, faults, warnings);
        let read_su = superuser.read(su_method, faults, warnings);
        let su_password = read_su.map(|text| superuser.without_newline(text, faults, warnings));
        let repl_password = read_repl.map(|text| replication.without_newline(text, faults, warnings));
        if !superuser.user.is_empty() && superuser.user == replication.user {
            warnings.push(format!(
                "superuser and replication user are both {:?}: different users are better",
                superuser.user
            ));
            if su_method != repl_method {
                faults.push("superuser and replication user are the same, but their auth methods are different"); // keeper C11
            } else if su_password.is_some() && repl_password.is_some() && su_password != repl_password {
                faults.push(
                    "provided superuser name and replication user name are the same but provided passwords are different",
                ); // keeper C12
            }
        }
        let login = |typed: &LoginArgs<'_>, method: Option<AuthMethod>, password: Option<String>| {
            let method = method?;
            Some(Login {
                user: typed.user.to_owned(),
                method,
                password: password.map(|password| match &typed.file {
                    Some(file) => Secret::from_file(file, password),
                    None => Secret::new(password),
                }),
            })
        };
        Some((
            login(&superuser, su_method, su_password)?,
            login(&replication, repl_method, repl_password)?,
        ))
    }
}

/// Options of one of the two roles.
struct LoginArgs<'a> {
    who: &'static str,
    option: &'static str,
    user: &'a str,
    method: &'a str,
    password: Option<String>,
    file: Option<PathBuf>,
}

impl LoginArgs<'_> {
    fn flag(&self, name: &str) -> String {
        format!("--pg-{}-{name}", self.option)
    }

    fn method(&self, faults: &mut Faults) -> Option<AuthMethod> {
        let method = AuthMethod::parse(self.method);
        if method.is_none() {
            // keeper C1
            let flag = self.flag("auth-method");
            faults.push(format!(
                "{flag} {:?} is unknown: use md5, scram-sha-256 or trust",
                self.method
            ));
        }
        method
    }

    fn name(&self, faults: &mut Faults) {
        if self.user.is_empty() {
            faults.push(format!("{} is required", self.flag("username")));
        }
    }

    fn trust_without_secret(&self, method: Option<AuthMethod>, faults: &mut Faults) {
        if method == Some(AuthMethod::Trust) && (self.password.is_some() || self.file.is_some()) {
            // keeper C3
            faults.push(format!(
                "{} is trust, which asks for no password: leave out {} and {}",
                self.flag("auth-method"),
                self.flag("password"),
                self.flag("passwordfile")
            ));
        }
    }

    fn one_secret(&self, method: Option<AuthMethod>, faults: &mut Faults) {
        if method.is_none_or(|method| method == AuthMethod::Trust) {
            return;
        }
        let (password, file) = (self.flag("password"), self.flag("passwordfile"));
        match (&self.password, &self.file) {
            (None, None) => faults.push(format!("{file} or {password} is required")), // keeper C4
            (Some(_), Some(_)) => faults.push(format!("use only one of {file} and {password}")), // keeper C5
            _ => {}
        }
    }

    /// Returns the password as given; `None` if there is none or it cannot be read.
    fn read(&self, method: Option<AuthMethod>, faults: &mut Faults, warnings: &mut Vec<String>) -> Option<String> {
        if method.is_none_or(|method| method == AuthMethod::Trust) {
            return None;
        }
        match (&self.password, &self.file) {
            (Some(password), None) => Some(password.clone()),
            (None, Some(file)) => match read_password_file(file) {
                Ok((text, mode)) => {
                    if mode & 0o077 != 0 {
                        // keeper C7
                        let flag = self.flag("passwordfile");
                        warnings.push(format!(
                            "{flag} {} can be read by others (mode {mode:04o}): chmod 600 it",
                            file.display()
                        ));
                    }
                    Some(text)
                }
                Err(error) => {
                    // keeper C6
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
    fn without_newline(&self, text: String, faults: &mut Faults, warnings: &mut Vec<String>) -> String {
        let password = text.trim_end_matches(['\r', '\n']);
        if password.len() < text.len() {
            warnings.push(format!("{} password contain trailing new line, removing", self.who));
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
        password.to_owned()
    }
}

/// Text and mode of a password file; a link is followed.
fn read_password_file(file: &Path) -> io::Result<(String, u32)> {
    let mode = std::fs::metadata(file)?.permissions().mode() & 0o7777;
    Ok((std::fs::read_to_string(file)?, mode))
}

/// Checks that a directory can be, or become, a keeper's data directory (keeper 1.3).
fn faults_of_data_dir(dir: &Path, user: u32, faults: &mut Faults) {
    let path = dir.display();
    let metadata = match std::fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return faults_of_parent(dir, faults);
        }
        Err(error) => return faults.push(format!("data dir {path} cannot be read: {error}")),
    };
    if !metadata.is_dir() {
        return faults.push(format!("data dir {path} is not a directory"));
    }
    if metadata.uid() != user {
        return faults.push(format!(
            "data dir {path} belongs to user {}, not to user {user} that runs the keeper: use another --data-dir or user",
            metadata.uid()
        ));
    }
    let names = match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>(),
        Err(error) => return faults.push(format!("data dir {path} cannot be read: {error}")),
    };
    let names: Vec<_> = names.into_iter().filter(|name| name != LOST_FOUND).collect();
    let has = |name: &str| names.iter().any(|entry| entry == name);
    if has("PG_VERSION") {
        faults.push(format!(
            "data dir {path} is itself a PostgreSQL data directory: the keeper keeps its own in {path}/postgres, use another --data-dir"
        ));
    } else if !names.is_empty() && !["keeperstate", "lock", "postgres"].into_iter().any(has) {
        faults.push(format!(
            "data dir {path} is not empty and not a keeper's: use another --data-dir"
        ));
    } else if !has("keeperstate") && is_somebody_elses(&dir.join("postgres")) {
        // an existing PostgreSQL instance is accepted (init mode existing); anything else would be deleted
        faults.push(format!(
            "data dir {path} has files in {path}/postgres that are neither a keeper's nor PostgreSQL's: use another --data-dir"
        ));
    } else if rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_err() {
        faults.push(format!("data dir {path} is not writable"));
    }
}

/// Whether a directory has contents other than a PostgreSQL data directory. The root of a file system may have a
/// `lost+found`, with the data in a subdirectory.
fn is_somebody_elses(dir: &Path) -> bool {
    let foreign = |name: &std::ffi::OsStr| name != LOST_FOUND && name != SUBDIRECTORY;
    let holds_something = |dir: &Path, counts: &dyn Fn(&std::ffi::OsStr) -> bool| {
        std::fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(|entry| counts(&entry.file_name())))
    };
    let below = dir.join(SUBDIRECTORY);
    let is_somebody_elses_below = holds_something(&below, &|_| true) && !below.join("PG_VERSION").exists();
    !dir.join("PG_VERSION").exists() && (holds_something(dir, &foreign) || is_somebody_elses_below)
}

/// Checks that a missing directory can be created in its nearest existing parent.
fn faults_of_parent(dir: &Path, faults: &mut Faults) {
    let Some(parent) = dir.ancestors().skip(1).find(|parent| parent.exists()) else {
        return;
    };
    if !parent.is_dir() {
        faults.push(format!(
            "data dir {} cannot be created: {} is not a directory",
            dir.display(),
            parent.display()
        ));
    } else if rustix::fs::access(parent, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        faults.push(format!(
            "data dir {} cannot be created: {} is not writable",
            dir.display(),
            parent.display()
        ));
    }
}

/// Returns warnings about the advertised address (keeper 1.3.10). `resolved` are the addresses of a host name, `None`
/// if it does not resolve.
pub fn address_warnings(option: &str, address: &str, resolved: Option<&[IpAddr]>) -> Vec<String> {
    if matches!(address, "*" | "0.0.0.0" | "::") {
        return vec![format!(
            "--{option} {address:?} is published as the address of this keeper, to which no client can connect: use \
             --pg-advertise-address"
        )];
    }
    let mut warnings = Vec::new();
    if address.parse::<IpAddr>().is_err() {
        warnings.push(format!(
            "--{option} {address:?} is not an IP address: other components have to resolve it"
        ));
    }
    match resolved {
        None | Some([]) => warnings.push(format!("--{option} {address:?} does not resolve here")),
        Some(addresses) if addresses.iter().any(IpAddr::is_loopback) => {
            warnings.push(format!(
                "--{option} {address:?} is a loopback address: only components on this host reach it"
            ));
        }
        Some(_) => {}
    }
    warnings
}

fn given(option: &Option<String>) -> &str {
    option.as_deref().unwrap_or_default()
}

fn given_path(option: &Option<PathBuf>) -> Option<PathBuf> {
    option.clone().filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests;
