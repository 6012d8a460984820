//! A whole cluster for a test: etcd, sentinels, keepers and proxies as child processes, the failures that a test can
//! cause, and the states that it can wait for.

mod builder;
mod profile;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use base::clock::Boottime;
use local_cluster::leftovers::server_processes;
use local_cluster::options::{KeeperOptions, PasswordOption};
use local_cluster::{ClusterDir, LocalCluster, LocalProgram, ProgramKind};
use model::{ClusterData, Db, DbUid, KeeperUid, Role};
use store::Store;
use tokio_postgres::Config;

pub use self::builder::ClusterBuilder;
pub use self::profile::Profile;

use crate::deadlines::{CLEANUP_TIMEOUT, LONG_TIMEOUT, SHORT_TIMEOUT};
use crate::etcd::Etcd;
use crate::ports::{self, Port};
use crate::process::{self, Process, Signal};
use crate::sql::SqlClient;
use crate::store_client;
use crate::tcp_relay::TcpRelay;
use crate::test_dir;
use crate::wait::{eventually, now};

/// The name of every test cluster; each has its own etcd.
pub const CLUSTER_NAME: &str = "test";
/// The superuser's name and password.
pub const SUPERUSER: (&str, &str) = ("stolon", "su'pass word");
/// The replication user's name and password.
pub const REPLUSER: (&str, &str) = ("repluser", "repl\\pass'word");

/// A running cluster. Dropping it ends all programs and removes their files.
#[derive(Debug)]
pub struct Cluster {
    /// All programs except etcd, by name: `sentinel0`, `keeper0`, `proxy0`.
    local: LocalCluster<Process>,
    /// The cluster's store.
    pub etcd: Etcd,
    /// The store endpoints of the programs, where they do not connect to etcd directly.
    pub relays: Vec<TcpRelay>,
    /// The store client of the test itself.
    pub store: Store,
    /// The ports of the programs' pages.
    page_ports: Vec<Port>,
}

impl Cluster {
    /// Returns a builder of a cluster with one sentinel, two keepers and one proxy.
    pub fn builder(profile: Profile) -> ClusterBuilder {
        ClusterBuilder::new(profile)
    }

    /// Starts etcd alone.
    pub async fn store_only() -> Self {
        let dir = test_dir::create();
        let etcd = Etcd::start_in(&dir.path().join("etcd")).await;
        let store = store_client::connect(&etcd.endpoint(), CLUSTER_NAME);
        Self {
            local: LocalCluster::new(CLUSTER_NAME, dir),
            etcd,
            relays: Vec::new(),
            store,
            page_ports: Vec::new(),
        }
    }

    /// Returns the directory with the programs, their data and their logs.
    pub fn dir(&self) -> &ClusterDir {
        self.local.dir()
    }

    // ---- the store

    /// Starts a stopped etcd again; returns the time at which it answered.
    pub async fn restart_etcd(&mut self) -> Boottime {
        self.etcd.restart().await;
        eventually("etcd to answer", SHORT_TIMEOUT, async || self.store.get("any").await).await;
        now()
    }

    /// Reads the cluster data.
    ///
    /// # Errors
    ///
    /// There are none, or they cannot be decoded.
    pub async fn data(&self) -> anyhow::Result<ClusterData> {
        let entry = self
            .store
            .get(&self.store.keys().cluster_data())
            .await?
            .context("no cluster data")?;
        ClusterData::parse(&entry.value)?.context("no cluster data")
    }

    // ---- programs

    /// Starts another sentinel; returns its name.
    pub fn add_sentinel(&mut self) -> String {
        let name = self.prepare_sentinel();
        self.start(&name);
        name
    }

    /// Adds a sentinel without starting it; returns its name.
    pub fn prepare_sentinel(&mut self) -> String {
        let name = self.next_name("sentinel");
        self.prepare(&name, ProgramKind::Sentinel, Vec::new(), None);
        name
    }

    /// Starts another keeper; returns its name, which is its uid.
    pub fn add_keeper(&mut self) -> String {
        let uid = self.prepare_keeper();
        self.start(&uid);
        uid
    }

    /// Adds a keeper with the usual options without starting it; returns its name, which is its uid.
    pub fn prepare_keeper(&mut self) -> String {
        let uid = self.next_name("keeper");
        let port = ports::free();
        let user = |(name, password): (&'static str, &str)| (name, PasswordOption::Value(password.to_owned()));
        let options = KeeperOptions {
            uid: &uid,
            data_dir: self.dir().data_dir(&uid),
            port: port.number(),
            superuser: user(SUPERUSER),
            replication_user: user(REPLUSER),
        };
        self.prepare(&uid, ProgramKind::Keeper, options.to_vec(), Some(port));
        uid
    }

    /// Starts another proxy; returns its name.
    pub fn add_proxy(&mut self) -> String {
        let name = self.prepare_proxy();
        self.start(&name);
        name
    }

    /// Adds a proxy without starting it; returns its name.
    pub fn prepare_proxy(&mut self) -> String {
        let name = self.next_name("proxy");
        let port = ports::free();
        self.prepare(&name, ProgramKind::Proxy, vec![format!("--port={port}")], Some(port));
        name
    }

    /// Lets a stopped program serve metrics and its other pages; returns their address.
    pub fn serve_pages(&mut self, name: &str) -> String {
        let port = ports::free();
        let address = format!("127.0.0.1:{port}");
        self.page_ports.push(port);
        let option = format!("--metrics-listen-address={address}");
        self.program(name).options.push(option);
        address
    }

    /// Starts a program, for the first time or again.
    ///
    /// # Panics
    ///
    /// There is no program of this name, or it is running.
    pub fn start(&mut self, name: &str) {
        let started = self
            .local
            .command(name)
            .and_then(|command| self.local.start(name, command));
        started.unwrap_or_else(|error| panic!("start {name}: {error:?}"));
    }

    /// Returns a program by its name.
    ///
    /// # Panics
    ///
    /// There is none of this name.
    pub fn program(&mut self, name: &str) -> &mut LocalProgram<Process> {
        self.local.program(name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the process of a program by its name.
    ///
    /// # Panics
    ///
    /// There is none of this name, or it has never been started.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.program(name).process_mut().expect("the test has started it")
    }

    /// Returns the name of the program with this process id.
    pub fn name_of(&self, pid: u32) -> Option<String> {
        let programs = self.local.programs().iter();
        let mut running = programs.filter_map(|(name, program)| Some((name, program.process()?)));
        running
            .find(|(_, process)| process.pid() == pid)
            .map(|(name, _)| name.clone())
    }

    /// Returns the TCP port of a keeper's PostgreSQL or of a proxy.
    ///
    /// # Panics
    ///
    /// The program has none.
    pub fn port(&self, name: &str) -> u16 {
        let program = self.local.programs().get(name);
        let port = program.and_then(|program| program.port.as_ref());
        port.unwrap_or_else(|| panic!("{name} has no port")).number()
    }

    /// Runs stolonctl to its end; returns its exit status, and its standard output followed by its standard error.
    pub async fn stolonctl(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = tokio::process::Command::from(self.local.stolonctl(&self.etcd.endpoint()));
        command.args(arguments).kill_on_drop(true);
        let run = tokio::time::timeout(SHORT_TIMEOUT, command.output()).await;
        let output = run.expect("stolonctl ends in time").expect("stolonctl can be started");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Starts a command of stolonctl that goes on until a signal ends it.
    pub fn start_stolonctl(&self, arguments: &[&str]) -> Process {
        let mut command = self.local.stolonctl(&self.etcd.endpoint());
        command.args(arguments);
        Process::start("stolonctl", command, None, &self.dir().path().join("stolonctl.log"))
    }

    /// Assigns a new port to the PostgreSQL of a stopped keeper.
    pub fn change_port(&mut self, uid: &str) {
        let port = ports::free();
        let program = self.program(uid);
        program.options.retain(|option| !option.starts_with("--pg-port="));
        program.options.push(format!("--pg-port={port}"));
        program.port = Some(port);
    }

    // ---- failures

    /// Sends a signal that ends a program, waits for its end, and returns its exit status.
    pub async fn stop(&mut self, name: &str, signal: Signal) -> i32 {
        let process = self.process(name);
        process.signal(signal);
        process.exit_status(LONG_TIMEOUT).await
    }

    /// Sends SIGKILL to a keeper and to every process of its PostgreSQL, like a power failure.
    pub fn kill_keeper_and_postgres(&mut self, uid: &str) {
        let killed = self.local.kill_keeper_and_postgres(uid);
        killed.unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Sends SIGKILL to the postmaster of a keeper; the server's other processes then exit.
    pub fn kill_postmaster(&mut self, uid: &str) {
        self.local.record_leftovers(uid);
        process::send_signal(self.postmaster(uid).expect("a server runs"), Signal::KILL);
    }

    /// Sends SIGSTOP to a keeper and to every process of its PostgreSQL.
    pub fn freeze(&mut self, uid: &str) {
        self.process(uid).signal(Signal::STOP);
        for pid in server_processes(&self.pgdata(uid)) {
            process::send_signal(pid, Signal::STOP);
        }
    }

    /// Sends SIGCONT to a frozen keeper and its PostgreSQL.
    pub fn thaw(&mut self, uid: &str) {
        for pid in server_processes(&self.pgdata(uid)) {
            process::send_signal(pid, Signal::CONT);
        }
        self.process(uid).signal(Signal::CONT);
    }

    /// Returns the process id of a keeper's postmaster while it runs.
    pub fn postmaster(&self, uid: &str) -> Option<u32> {
        self.local.postmaster(uid)
    }

    /// Returns PGDATA of a keeper.
    pub fn pgdata(&self, uid: &str) -> PathBuf {
        self.local.pgdata(uid)
    }

    // ---- SQL

    /// Returns the superuser's connection parameters for a keeper's PostgreSQL or a proxy.
    pub fn sql_config(&self, name: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port(name))
            .user(SUPERUSER.0)
            .password(SUPERUSER.1)
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(5));
        config
    }

    /// Connects to a keeper's PostgreSQL or through a proxy; retries until that succeeds.
    pub async fn connect(&self, name: &str) -> SqlClient {
        let config = self.sql_config(name);
        eventually(format!("{name} to accept a client"), LONG_TIMEOUT, async || {
            SqlClient::connect(&config).await.map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// Connects to a keeper's PostgreSQL or through a proxy, and returns the first column of the first row.
    ///
    /// # Errors
    ///
    /// The connect or the query fails, or there is no row.
    pub async fn query(&self, name: &str, sql: &str) -> Result<String, String> {
        let client = SqlClient::connect(&self.sql_config(name)).await.map_err(error_text)?;
        client.value(sql).await.map_err(error_text)
    }

    // ---- conditions

    /// Waits until a keeper's instance is healthy and has this role and its newest generation, by the cluster data and
    /// by the instance itself.
    pub async fn wait_healthy(&self, uid: &str, role: &Role) {
        eventually(format!("{uid} to be a healthy {role}"), LONG_TIMEOUT, async || {
            let data = self.data().await.map_err(error_text)?;
            let (db_uid, db) = db_of(&data, uid).map_err(error_text)?;
            let is_master = data.master_uid() == Some(db_uid);
            check(is_master == (*role == Role::Master), || {
                format!("elected master: {is_master}")
            })?;
            check(db.spec.role == *role, || format!("its role is {}", db.spec.role))?;
            check(db.status.healthy, || "it is not healthy".to_owned())?;
            check(db.status.current_generation == db.generation, || {
                format!("generation {} of {}", db.status.current_generation, db.generation)
            })?;
            let recovers = self.query(uid, "select pg_is_in_recovery()").await?;
            check(recovers == if *role == Role::Master { "f" } else { "t" }, || {
                format!("in recovery: {recovers}")
            })
        })
        .await;
    }

    /// Waits until a keeper counts as failed.
    pub async fn wait_counts_as_failed(&self, uid: &str) {
        eventually(format!("{uid} to count as failed"), LONG_TIMEOUT, async || {
            let data = self.data().await.map_err(error_text)?;
            let keeper = data.keepers().get(uid).ok_or("no keeper")?;
            check(!keeper.status.healthy, || format!("{:?}", keeper.status))
        })
        .await;
    }

    /// Waits until the master is another keeper's than this one; returns that keeper's uid.
    pub async fn wait_other_master_elected(&self, than: &str, limit: Duration) -> String {
        eventually(format!("another master than {than}"), limit, async || {
            let master = self.master().await.map_err(error_text)?;
            check(master != than, || format!("{than} is still the master"))?;
            Ok::<_, String>(master)
        })
        .await
    }

    /// Returns the uid of the keeper whose db is the elected master.
    ///
    /// # Errors
    ///
    /// No master is elected.
    pub async fn master(&self) -> anyhow::Result<String> {
        let data = self.data().await?;
        let db = data
            .master_uid()
            .and_then(|uid| data.dbs().get(uid))
            .context("no master is elected")?;
        Ok(db.spec.keeper_uid.to_string())
    }

    /// Returns the uid of the keeper whose db is announced to the proxies.
    ///
    /// # Errors
    ///
    /// No master is announced.
    pub async fn proxied_master(&self) -> anyhow::Result<String> {
        let data = self.data().await?;
        let (_, db) = data.proxied_master().context("no master is announced to the proxies")?;
        Ok(db.spec.keeper_uid.to_string())
    }

    /// Returns the uid of a keeper's db.
    ///
    /// # Panics
    ///
    /// It has none.
    pub async fn db_uid(&self, keeper: &str) -> String {
        let data = self.data().await.expect("the store answers");
        let (uid, _) = db_of(&data, keeper).unwrap_or_else(|error| panic!("{error}"));
        uid.to_string()
    }

    /// Waits until a keeper has another db than this one.
    pub async fn wait_other_db(&self, keeper: &str, than: &str) {
        eventually(format!("another db for {keeper}"), LONG_TIMEOUT, async || {
            let data = self.data().await.map_err(error_text)?;
            let (uid, _) = db_of(&data, keeper).map_err(error_text)?;
            check(uid.as_str() != than, || "the same db".to_owned())
        })
        .await;
    }

    /// Waits until a client of this proxy reaches a server that is not in recovery.
    pub async fn wait_proxy_serves(&self, proxy: &str) {
        eventually(format!("{proxy} to lead to a master"), LONG_TIMEOUT, async || {
            let recovers = self.query(proxy, "select pg_is_in_recovery()").await?;
            check(recovers == "f", || "it leads to a standby".to_owned())
        })
        .await;
    }

    /// Waits until this standby has replayed what this master has written up to now.
    pub async fn wait_caught_up(&self, standby: &str, master: &str) {
        let written = self
            .connect(master)
            .await
            .value("select pg_current_wal_lsn()")
            .await
            .expect("the master answers");
        let sql = self.connect(standby).await;
        let query = format!("select pg_last_wal_replay_lsn() >= '{written}'");
        eventually(
            format!("{standby} to replay up to {written}"),
            LONG_TIMEOUT,
            async || {
                let there = sql.value(&query).await.map_err(error_text)?;
                check(there == "t", || "it is behind".to_owned())
            },
        )
        .await;
    }

    /// Returns the name of the leading sentinel.
    ///
    /// # Errors
    ///
    /// No sentinel leads.
    pub async fn leading_sentinel(&self) -> anyhow::Result<String> {
        let mut candidates = self.store.list(&self.store.keys().election()).await?;
        candidates.sort_by_key(|entry| entry.create_revision);
        let leader = candidates.first().context("no sentinel leads")?;
        let logged = format!("id={}", String::from_utf8_lossy(&leader.value));
        let found = self.local.programs().iter().find(|(name, program)| {
            name.starts_with("sentinel") && program.process().is_some_and(|process| process.log().contains(&logged))
        });
        Ok(found.context("the leader is not a sentinel of ours")?.0.clone())
    }

    fn next_name(&self, kind: &str) -> String {
        let taken = self
            .local
            .programs()
            .keys()
            .filter(|name| name.starts_with(kind))
            .count();
        format!("{kind}{taken}")
    }

    fn prepare(&mut self, name: &str, kind: ProgramKind, options: Vec<String>, port: Option<Port>) {
        let relays: Vec<String> = self.relays.iter().map(TcpRelay::endpoint).collect();
        let store_endpoint = match relays.as_slice() {
            [] => self.etcd.endpoint(),
            relays => relays.join(","),
        };
        let mut program = LocalProgram::new(kind, store_endpoint, options);
        program.port = port;
        self.local.add(name, program);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Dropping a program prints the end of its log when the test has failed. etcd works in the directory, too.
        self.local.end_everything(CLEANUP_TIMEOUT);
        test_dir::keep_after_failure(self.local.dir_mut());
    }
}

/// Returns the db of a keeper.
///
/// # Errors
///
/// It has none.
pub fn db_of<'a>(data: &'a ClusterData, keeper: &str) -> anyhow::Result<(&'a DbUid, &'a Db)> {
    let uid = KeeperUid::from(keeper.to_owned());
    data.db_of_keeper(&uid).with_context(|| format!("{keeper} has no db"))
}

/// Returns an error with its causes on one line.
pub fn error_text(error: anyhow::Error) -> String {
    format!("{error:#}")
}

/// Returns `Err(reason())` unless `holds`.
///
/// # Errors
///
/// `holds` is false.
pub fn check(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}
