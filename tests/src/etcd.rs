//! A private etcd with its own ports and data, which ends with the value that started it. It can be stopped, started
//! again on the same data, and frozen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use local_cluster::EtcdMember;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::deadlines::SHORT_TIMEOUT;
use crate::ports::{self, Port};
use crate::process::{Process, Signal};
use crate::wait::eventually;

/// An etcd that a test started.
#[derive(Debug)]
pub struct Etcd {
    // before the directory: the process ends first
    process: Option<Process>,
    dir: PathBuf,
    client: Port,
    peer: Port,
    tls: Option<ServerTls>,
    name: String,
    /// The value of `--initial-cluster` with all members; `None` for a single member.
    members: Option<String>,
    /// Additional options.
    options: Vec<String>,
    _own_dir: Option<TempDir>,
}

/// The TLS configuration of the server.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The certificate, for 127.0.0.1.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that client certificates are required from.
    pub client_ca: Option<PathBuf>,
}

impl Etcd {
    /// Starts an etcd in its own temporary directory, and waits until it serves.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start() -> Self {
        let dir = TempDir::with_prefix("stolon-etcd.").expect("a temporary directory can be made");
        let path = dir.path().to_owned();
        Self::launch(path, Some(dir), None).await
    }

    /// The same with additional options.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start_with_options(options: &[&str]) -> Self {
        let mut etcd = Self::prepare_in_own_dir();
        etcd.options = options.iter().map(|option| (*option).to_owned()).collect();
        etcd.restart().await;
        etcd
    }

    /// Starts three members of one etcd, and waits until they serve.
    ///
    /// # Panics
    ///
    /// They do not start.
    pub async fn start_cluster() -> [Self; 3] {
        let mut three = [(); 3].map(|()| Self::prepare_in_own_dir());
        for (index, etcd) in three.iter_mut().enumerate() {
            etcd.name = format!("member{index}");
        }
        let members = three
            .iter()
            .map(|etcd| format!("{}=http://127.0.0.1:{}", etcd.name, etcd.peer));
        let members = members.collect::<Vec<_>>().join(",");
        for etcd in &mut three {
            etcd.members = Some(members.clone());
        }
        // No member serves before more than half of them run.
        let [first, second, third] = &mut three;
        tokio::join!(first.restart(), second.restart(), third.restart());
        three
    }

    /// Starts an etcd with its data and its log in `dir`, and waits until it serves.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start_in(dir: &Path) -> Self {
        Self::launch(dir.to_owned(), None, None).await
    }

    /// Starts an etcd that uses TLS with its clients, in its own temporary directory.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start_with_tls(tls: ServerTls) -> Self {
        let dir = TempDir::with_prefix("stolon-etcd.").expect("a temporary directory can be made");
        let path = dir.path().to_owned();
        Self::launch(path, Some(dir), Some(tls)).await
    }

    async fn launch(dir: PathBuf, own_dir: Option<TempDir>, tls: Option<ServerTls>) -> Self {
        let mut etcd = Self::prepare(dir, own_dir, tls);
        etcd.restart().await;
        etcd
    }

    fn prepare_in_own_dir() -> Self {
        let dir = TempDir::with_prefix("stolon-etcd.").expect("a temporary directory can be made");
        Self::prepare(dir.path().to_owned(), Some(dir), None)
    }

    fn prepare(dir: PathBuf, own_dir: Option<TempDir>, tls: Option<ServerTls>) -> Self {
        Self {
            process: None,
            dir,
            client: ports::free(),
            peer: ports::free(),
            tls,
            name: "one".to_owned(),
            members: None,
            options: Vec::new(),
            _own_dir: own_dir,
        }
    }

    /// Returns its client URL, for `--store-endpoints`.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// Returns its client address, `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// Sends SIGTERM and waits for its end; does nothing when it does not run.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::CONT);
            process.signal(Signal::TERM);
            process.exit_status(SHORT_TIMEOUT).await;
        }
    }

    /// Sends SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it on the same ports with the same data, and waits until it serves; does nothing when it runs.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            return;
        }
        let log = self.dir.join("etcd.log");
        let log_length = fs::read(&log).map_or(0, |log| log.len());
        let process = self.process.insert(Process::start("etcd", self.command(), None, &log));
        let (address, limit) = (format!("127.0.0.1:{}", self.client), SHORT_TIMEOUT);
        eventually("etcd to serve", limit, async || {
            if let Some(status) = process.try_wait() {
                panic!("etcd ended at its start: {status}");
            }
            let log = process.log();
            if !log
                .get(log_length..)
                .is_some_and(|added| added.contains("ready to serve client requests"))
            {
                return Err("it does not log that it serves".to_owned());
            }
            TcpStream::connect(&address)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .await;
    }

    /// Sends SIGSTOP and waits until it has stopped: connections stay open, and requests are not answered.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub async fn freeze(&mut self) {
        let process = self.process.as_mut().expect("etcd runs");
        process.freeze(SHORT_TIMEOUT).await;
    }

    /// Sends SIGCONT.
    pub fn thaw(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::CONT);
        }
    }

    /// Returns the running process.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("etcd runs")
    }

    /// Returns an `etcdctl` command with its endpoint, without options for TLS.
    pub fn etcdctl(&self) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoint());
        command
    }

    fn command(&self) -> Command {
        let member = EtcdMember {
            name: self.name.clone(),
            data_dir: self.dir.join("data"),
            client_url: self.endpoint(),
            peer_url: format!("http://127.0.0.1:{}", self.peer),
            members: self.members.clone(),
        };
        let mut command = member.command();
        command.arg("--unsafe-no-fsync=false").args(&self.options);
        if self.members.is_none() {
            // A single member elects itself, and need not wait a second for others.
            command.args(["--heartbeat-interval=20", "--election-timeout=200"]);
        }
        if let Some(tls) = &self.tls {
            command
                .arg("--cert-file")
                .arg(&tls.cert)
                .arg("--key-file")
                .arg(&tls.key);
            if let Some(ca) = &tls.client_ca {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            }
        }
        command
    }
}
