//! The keeper's options: the command line as typed, and the checked configuration. All errors are reported together, in
//! the order of keeper 1.3, before anything is changed.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use daemon::args::{ArgsWarning, CheckedArgs, CommonConfig, DaemonArgs, Faults, Switch, given, given_path};
use model::KeeperUid;

use crate::args::logins::LoginArgs;
use crate::postgres::config::credentials::{Login, Secret};

mod addresses;
mod data_dir;
mod logins;

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
    pub fn check(&self, host: &HostEnv) -> CheckedArgs<Config> {
        let mut faults = Faults::default();
        let mut warnings = Vec::new();
        if host.uid == 0 {
            // keeper 1.6: initdb and postgres refuse root
            faults.push(
                "cannot run as root, since PostgreSQL refuses to: start the keeper as another user, such as postgres",
            );
        }
        let su_name = self.su_name(host, &mut faults);
        let log = self.daemon.log(&mut faults);
        let data_dir = given_path(&self.data_dir).map(|path| host.directory.join(path));
        match &data_dir {
            None => faults.push("data dir required: use --data-dir"),
            Some(dir) => data_dir::check(dir, host.uid, &mut faults),
        }
        let common = self.daemon.check(&mut faults);
        let listen_address = given(&self.pg_listen_address).to_owned();
        addresses::check_listen(&listen_address, &mut faults);
        addresses::check_advertised(
            given(&self.pg_advertise_address),
            given(&self.pg_advertise_port),
            &mut faults,
        );
        let (port_text, port) = self.port(&mut faults);
        let logins = self.logins(&su_name, &mut faults, &mut warnings);
        let uid = self.uid.clone().filter(|uid| !uid.is_empty());
        match &uid {
            Some(uid) if uid.len() > KeeperUid::BYTES_MAX => {
                let start: String = uid.chars().take(20).collect();
                faults.push(format!(
                    "keeper uid {start:?}… is not valid: it is longer than {} bytes",
                    KeeperUid::BYTES_MAX
                ));
            }
            Some(uid) if !KeeperUid::has_valid_characters(uid) => faults.push(format!(
                "keeper uid {uid:?} is not valid: use letters a-z, digits and '_'"
            )),
            _ => {}
        }
        let or = |option: &Option<String>, default: &str| match given(option) {
            "" => default.to_owned(),
            text => text.to_owned(),
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
        CheckedArgs { log, warnings, config }
    }

    /// Returns the option that set the advertised address (keeper 1.3.10).
    pub fn advertise_option(&self) -> &'static str {
        match given(&self.pg_advertise_address) {
            "" => "pg-listen-address",
            _ => "pg-advertise-address",
        }
    }

    /// Returns the superuser's name: by default that of the operating system's user.
    fn su_name(&self, host: &HostEnv, faults: &mut Faults) -> String {
        let name = self.pg_su_username.clone().or_else(|| host.user.clone());
        name.unwrap_or_else(|| {
            faults.push(format!("user {} has no name: use --pg-su-username", host.uid));
            String::new()
        })
    }

    /// Returns the port as typed or by default, and its number if it is valid.
    fn port(&self, faults: &mut Faults) -> (&str, Option<u16>) {
        let text = match given(&self.pg_port) {
            "" => "5432",
            text => text,
        };
        let port = text.parse().ok().filter(|port| *port != 0);
        if port.is_none() {
            faults.push(format!(
                "--pg-port {text:?} is not a valid port: use a number from 1 to 65535"
            ));
        }
        (text, port)
    }

    /// Returns superuser and replication user, checked (keeper 1.3 steps 11 to 16, 1.4).
    fn logins(&self, su_name: &str, faults: &mut Faults, warnings: &mut Vec<ArgsWarning>) -> Option<(Login, Login)> {
        let superuser = LoginArgs {
            who: "superuser",
            option: "su",
            user: su_name,
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
        logins::check(&superuser, &replication, faults, warnings)
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

#[cfg(test)]
mod tests;
