//! Constant properties of an instance: where it lies, where it listens, and who may log in. What the cluster data may
//! change is in `files`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::postgres::config::conninfo::{is_passfile_current, write_passfile};
use crate::postgres::config::credentials::{Login, Secret};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::layout;

/// Name of the password file of `primary_conninfo`.
const PASSFILE: &str = "replication.pgpass";

/// Constant properties of an instance.
#[derive(Debug, Clone)]
pub struct InstanceConfig {
    /// Its PGDATA, as an absolute path.
    pub data: PathBuf,
    /// Directory of its unix socket, inaccessible to other users; the keeper connects there.
    pub socket_dir: String,
    /// Directory of a second socket, for users' tools; omitted when another server's socket is there.
    pub public_socket_dir: Option<String>,
    pub listen_addresses: String,
    pub port: u16,
    pub superuser: Login,
    pub replication: Login,
    /// Time limit of each query, fixed for the life of the process (keeper 3.1).
    pub request_timeout: Duration,
}

impl InstanceConfig {
    /// Returns the passwords of both users, if they have one.
    pub fn passwords(&self) -> impl Iterator<Item = &Secret> {
        [&self.superuser, &self.replication]
            .into_iter()
            .filter_map(|login| login.password.as_ref())
    }

    /// Returns the value of `unix_socket_directories`.
    pub fn socket_directories(&self) -> String {
        let dirs = [Some(&self.socket_dir), self.public_socket_dir.as_ref()];
        let dirs: Vec<&str> = dirs.into_iter().flatten().map(String::as_str).collect();
        dirs.join(",")
    }

    /// Returns the directory of temporary files with passwords: the keeper's directory, where the next start removes
    /// leftovers of a killed keeper (keeper I16).
    pub(crate) fn scratch_dir(&self) -> &Path {
        layout::keeper_dir(&self.data)
    }

    /// Returns the path of the password file of `primary_conninfo`. It lies beside PGDATA, so that no copy
    /// of the data contains it.
    pub fn passfile(&self) -> PathBuf {
        let beside = self.scratch_dir();
        // A server setting cannot hold every path; the socket directory is chosen so that it can.
        let dir = if beside.to_str().is_some() {
            beside
        } else {
            self.socket_dir.as_ref()
        };
        dir.join(PASSFILE)
    }

    /// Whether [`Self::refresh_passfile`] has nothing to do.
    pub fn is_passfile_current(&self) -> bool {
        is_passfile_current(&self.passfile(), &self.replication)
    }

    /// Updates the password file of `primary_conninfo`: a password may change while the server runs.
    pub fn refresh_passfile(&self) -> Result<(), FileError> {
        write_passfile(&self.passfile(), &self.replication)
    }
}
