//! The command line of an etcd on this machine.

use std::path::PathBuf;
use std::process::Command;

use crate::options::remove_option_variables;

/// A member of an etcd, on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its name within the etcd.
    pub name: String,
    /// The directory of its data; it is created at the first start.
    pub data_dir: PathBuf,
    /// Where clients connect: `http://127.0.0.1:2379`.
    pub client_url: String,
    /// Where other members connect.
    pub peer_url: String,
    /// All members, as `name=peer-url`, separated by commas; `None`: it is the only one.
    pub members: Option<String>,
}

impl EtcdMember {
    /// Returns the command that starts it.
    pub fn command(&self) -> Command {
        let (name, client, peer) = (&self.name, &self.client_url, &self.peer_url);
        let members = self.members.clone().unwrap_or_else(|| format!("{name}={peer}"));
        let mut command = Command::new("etcd");
        command
            .arg(format!("--name={name}"))
            .arg("--data-dir")
            .arg(&self.data_dir)
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={members}"));
        remove_option_variables(&mut command);
        command
    }
}
