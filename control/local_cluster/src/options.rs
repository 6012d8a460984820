//! The options of the programs: those of the store, which all have, and a keeper's.

use std::path::PathBuf;
use std::process::Command;

/// Prefixes of the variables that set options of our programs, of etcd and of libpq.
const OPTION_VARIABLES: [&str; 6] = ["STKEEPER_", "STSENTINEL_", "STPROXY_", "STOLONCTL_", "ETCD_", "PG"];

/// Removes variables of our own environment that would configure a program.
pub fn remove_option_variables(command: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if OPTION_VARIABLES.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&variable);
        }
    }
}

/// Returns the options that name a cluster and its store, for each of the four programs.
pub fn store_options(cluster_name: &str, endpoints: &str) -> Vec<String> {
    vec![
        format!("--cluster-name={cluster_name}"),
        "--store-backend=etcdv3".to_owned(),
        format!("--store-endpoints={endpoints}"),
    ]
}

/// Where a keeper reads a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordOption {
    /// On its command line.
    Value(String),
    /// In a file.
    File(PathBuf),
}

/// What a keeper on loopback needs besides the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperOptions<'a> {
    /// Its uid.
    pub uid: &'a str,
    /// The directory of its files.
    pub data_dir: PathBuf,
    /// The port of its PostgreSQL.
    pub port: u16,
    /// The superuser's name and password.
    pub superuser: (&'a str, PasswordOption),
    /// The replication user's name and password.
    pub replication_user: (&'a str, PasswordOption),
}

impl KeeperOptions<'_> {
    /// Returns the options of the command line.
    pub fn to_vec(&self) -> Vec<String> {
        let mut options = vec![
            format!("--uid={}", self.uid),
            format!("--data-dir={}", self.data_dir.display()),
            "--pg-listen-address=127.0.0.1".to_owned(),
            format!("--pg-port={}", self.port),
        ];
        for (kind, (name, password)) in [("su", &self.superuser), ("repl", &self.replication_user)] {
            options.push(format!("--pg-{kind}-username={name}"));
            options.push(match password {
                PasswordOption::Value(value) => format!("--pg-{kind}-password={value}"),
                PasswordOption::File(path) => format!("--pg-{kind}-passwordfile={}", path.display()),
            });
        }
        options
    }
}
