//! A whole cluster for a test: etcd, sentinels, keepers and proxies as child processes, the failures that a test can
//! cause, and the states that it can wait for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use base::clock::Boottime;
use model::{ClusterData, Db, DbUid, KeeperUid, Role};
use serde_json::{Value, json};
use store::Store;
use tokio_postgres::Config;

use crate::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use crate::etcd::Etcd;
use crate::leftovers::{self, ServerLeftovers};
use crate::ports::Port;
use crate::process::{self, Process, Signal};
use crate::sql::SqlClient;
use crate::store_client;
use crate::tcp_relay::TcpRelay;
use crate::test_dir::TestDir;
use crate::wait::{eventually, now};

/// The name of every test cluster; each has its own etcd.
pub const CLUSTER_NAME: &str = "test";
/// The superuser's name and password.
pub const SUPERUSER: (&str, &str) = ("stolon", "su'pass word");
/// The replication user's name and password.
pub const REPLUSER: (&str, &str) = ("repluser", "repl\\pass'word");

/// The intervals in a cluster's spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The defaults: failInterval 20 s.
    Default,
    /// failInterval 4 s.
    Fast,
    /// failInterval 5 s, sleepInterval 1 s; default proxy intervals.
    Short,
    /// As in the reference's integration suite (sentinel 16): failInterval 5 s.
    Suite,
}

impl Profile {
    /// Returns the spec of a new cluster with these intervals.
    pub fn spec(self) -> Value {
        let mut spec = match self {
            Self::Default => json!({}),
            Self::Fast => json!({
                "sleepInterval": "1s", "requestTimeout": "2s", "failInterval": "4s",
                "proxyCheckInterval": "1s", "proxyTimeout": "3s",
            }),
            Self::Short => json!({ "sleepInterval": "1s", "failInterval": "5s" }),
            Self::Suite => json!({
                "sleepInterval": "2s", "failInterval": "5s", "convergenceTimeout": "30s", "maxStandbyLag": 50 * 1024,
            }),
        };
        spec["initMode"] = "new".into();
        // A killed server then leaves its segments in its data directory, not in /dev/shm.
        spec["pgParameters"] = json!({ "dynamic_shared_memory_type": "mmap" });
        spec
    }

    /// failInterval: a keeper counts as failed after so long without a report.
    pub fn fail_interval(self) -> Duration {
        Duration::from_secs(match self {
            Self::Default => 20,
            Self::Fast => 4,
            Self::Short | Self::Suite => 5,
        })
    }

    /// proxyTimeout: how long after a check-in a proxy may forward.
    pub fn proxy_timeout(self) -> Duration {
        Duration::from_secs(if self == Self::Fast { 3 } else { 15 })
    }
}

/// The initial size and spec of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    spec: Value,
    sentinels: usize,
    keepers: usize,
    proxies: usize,
    endpoints: usize,
}

impl ClusterBuilder {
    /// Sets the number of sentinels (default: 1).
    #[must_use]
    pub fn sentinels(mut self, count: usize) -> Self {
        self.sentinels = count;
        self
    }

    /// Sets the number of keepers (default: 2); the first one is the first master.
    #[must_use]
    pub fn keepers(mut self, count: usize) -> Self {
        self.keepers = count;
        self
    }

    /// Sets the number of proxies (default: 1).
    #[must_use]
    pub fn proxies(mut self, count: usize) -> Self {
        self.proxies = count;
        self
    }

    /// Connects the programs to the store over `count` endpoints, each a relay in [`Cluster::relays`] (default:
    /// directly).
    #[must_use]
    pub fn endpoints(mut self, count: usize) -> Self {
        self.endpoints = count;
        self
    }

    /// Sets a field of the spec, in place of the profile's.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.spec[field] = value.into();
        self
    }

    /// Starts the cluster and waits until clients are served and the standbys follow.
    pub async fn start(self) -> Cluster {
        let mut cluster = Cluster::store_only().await;
        for _ in 0..self.endpoints {
            let relay = TcpRelay::to(&cluster.etcd.address()).await;
            cluster.relays.push(relay);
        }
        let spec = self.spec.to_string();
        let (status, output) = cluster.stolonctl(&["init", "--yes", &spec]).await;
        assert_eq!(status, 0, "stolonctl init: {output}");
        for _ in 0..self.sentinels {
            cluster.add_sentinel();
        }
        for index in 0..self.keepers {
            let uid = cluster.add_keeper();
            let role = if index == 0 { Role::Master } else { Role::Standby };
            if index == 0 || index + 1 == self.keepers {
                cluster.wait_healthy(&uid, &role).await;
            }
        }
        for _ in 0..self.proxies {
            let name = cluster.add_proxy();
            cluster.wait_serving(&name).await;
        }
        for index in 1..self.keepers {
            cluster.wait_healthy(&format!("keeper{index}"), &Role::Standby).await;
        }
        cluster
    }
}

/// A program of the cluster that can be stopped and started again with the same options.
#[derive(Debug)]
pub struct ManagedProgram {
    program: &'static str,
    /// Its options, without those of the store.
    pub options: Vec<String>,
    /// A command with arguments that runs the program; empty: it is run directly.
    pub wrapper: Vec<String>,
    /// Variables that are added to its environment.
    pub environment: Vec<(String, String)>,
    /// The value of its `--store-endpoints`.
    pub store_endpoint: String,
    port: Option<Port>,
    process: Option<Process>,
}

impl ManagedProgram {
    /// Returns the process.
    ///
    /// # Panics
    ///
    /// The program has never been started.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the test has started it")
    }
}

/// A running cluster. Dropping it ends all programs and removes their files.
#[derive(Debug)]
pub struct Cluster {
    /// All programs except etcd, by name: `sentinel0`, `keeper0`, `proxy0`.
    programs: BTreeMap<String, ManagedProgram>,
    leftovers: ServerLeftovers,
    /// The cluster's store.
    pub etcd: Etcd,
    /// The store endpoints of the programs, where they do not connect to etcd directly.
    pub relays: Vec<TcpRelay>,
    /// The store client of the test itself.
    pub store: Store,
    /// The directory with the programs, their data and their logs.
    pub dir: TestDir,
}

impl Cluster {
    /// Returns a builder of a cluster with one sentinel, two keepers and one proxy.
    pub fn builder(profile: Profile) -> ClusterBuilder {
        ClusterBuilder {
            spec: profile.spec(),
            sentinels: 1,
            keepers: 2,
            proxies: 1,
            endpoints: 0,
        }
    }

    /// Starts etcd alone.
    pub async fn store_only() -> Self {
        let dir = TestDir::create();
        let etcd = Etcd::start_in(&dir.path().join("etcd")).await;
        let store = store_client::connect(&etcd.endpoint(), CLUSTER_NAME);
        Self {
            programs: BTreeMap::new(),
            leftovers: ServerLeftovers::default(),
            etcd,
            relays: Vec::new(),
            store,
            dir,
        }
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
        self.prepare(&name, "stolon-sentinel", Vec::new(), None);
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
        let port = Port::free();
        let options = vec![
            format!("--uid={uid}"),
            format!("--data-dir={}", self.dir.data_dir(&uid).display()),
            "--pg-listen-address=127.0.0.1".to_owned(),
            format!("--pg-port={port}"),
            format!("--pg-su-username={}", SUPERUSER.0),
            format!("--pg-su-password={}", SUPERUSER.1),
            format!("--pg-repl-username={}", REPLUSER.0),
            format!("--pg-repl-password={}", REPLUSER.1),
        ];
        self.prepare(&uid, "stolon-keeper", options, Some(port));
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
        let port = Port::free();
        self.prepare(&name, "stolon-proxy", vec![format!("--port={port}")], Some(port));
        name
    }

    /// Starts a program, for the first time or again.
    ///
    /// # Panics
    ///
    /// There is no program of this name, or it is running.
    pub fn start(&mut self, name: &str) {
        let log = self.dir.path().join("log").join(format!("{name}.log"));
        let user = self.dir.user.clone();
        let executable = self.program(name).program;
        let executable = self.dir.program(executable);
        let program = self.program(name);
        assert!(
            program
                .process
                .as_mut()
                .is_none_or(|process| process.try_wait().is_some()),
            "{name} is running"
        );
        let words = program.wrapper.iter().map(OsString::from).chain([executable.into()]);
        let words: Vec<OsString> = words.collect();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(format!("--cluster-name={CLUSTER_NAME}"))
            .arg("--store-backend=etcdv3")
            .arg(format!("--store-endpoints={}", program.store_endpoint))
            .args(&program.options)
            .current_dir("/");
        remove_option_variables(&mut command);
        command.envs(
            program
                .environment
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let process = Process::start(name, command, user.as_ref(), &log);
        program.process = Some(process);
    }

    /// Returns a program by its name.
    ///
    /// # Panics
    ///
    /// There is none of this name.
    pub fn program(&mut self, name: &str) -> &mut ManagedProgram {
        self.programs
            .get_mut(name)
            .unwrap_or_else(|| panic!("no {name} in this cluster"))
    }

    /// Returns the process of a program by its name.
    ///
    /// # Panics
    ///
    /// There is none of this name, or it has never been started.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.program(name).process()
    }

    /// Returns the name of the program with this process id.
    pub fn name_of(&self, pid: u32) -> Option<String> {
        let mut running = self
            .programs
            .iter()
            .filter_map(|(name, program)| Some((name, program.process.as_ref()?)));
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
        let port = self.programs.get(name).and_then(|program| program.port.as_ref());
        port.unwrap_or_else(|| panic!("{name} has no port")).number()
    }

    /// Runs stolonctl to its end; returns its exit status, and its standard output followed by its standard error.
    pub async fn stolonctl(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = tokio::process::Command::new(self.dir.program("stolonctl"));
        command
            .arg(format!("--cluster-name={CLUSTER_NAME}"))
            .arg("--store-backend=etcdv3")
            .arg(format!("--store-endpoints={}", self.etcd.endpoint()))
            .args(arguments)
            .kill_on_drop(true);
        remove_option_variables(command.as_std_mut());
        let run = tokio::time::timeout(SHORT_TIMEOUT, command.output()).await;
        let output = run.expect("stolonctl ends in time").expect("stolonctl can be started");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Assigns a new port to the PostgreSQL of a stopped keeper.
    pub fn change_port(&mut self, uid: &str) {
        let port = Port::free();
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
        let pgdata = self.pgdata(uid);
        self.leftovers.record(&pgdata);
        self.process(uid).signal(Signal::KILL);
        let servers = server_processes(&pgdata);
        servers.iter().for_each(|pid| process::send_signal(*pid, Signal::KILL));
        self.process(uid).kill();
    }

    /// Sends SIGKILL to the postmaster of a keeper; the server's other processes then exit.
    pub fn kill_postmaster(&mut self, uid: &str) {
        let pgdata = self.pgdata(uid);
        self.leftovers.record(&pgdata);
        process::send_signal(leftovers::postmaster(&pgdata).expect("a server runs"), Signal::KILL);
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
        leftovers::postmaster(&self.pgdata(uid))
    }

    /// Returns the data directory of a keeper's PostgreSQL.
    pub fn pgdata(&self, uid: &str) -> PathBuf {
        self.dir.data_dir(uid).join("postgres")
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
            let sql = SqlClient::connect(&self.sql_config(uid)).await.map_err(error_text)?;
            let recovers = sql.value("select pg_is_in_recovery()").await.map_err(error_text)?;
            check(recovers == if *role == Role::Master { "f" } else { "t" }, || {
                format!("in recovery: {recovers}")
            })
        })
        .await;
    }

    /// Waits until the master is another keeper's than this one; returns that keeper's uid.
    pub async fn wait_other_master(&self, than: &str, limit: Duration) -> String {
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

    /// Waits until a client of this proxy reaches a server that is not in recovery.
    pub async fn wait_serving(&self, proxy: &str) {
        let config = self.sql_config(proxy);
        eventually(format!("{proxy} to lead to a master"), LONG_TIMEOUT, async || {
            let sql = SqlClient::connect(&config).await.map_err(error_text)?;
            let recovers = sql.value("select pg_is_in_recovery()").await.map_err(error_text)?;
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
        let found = self.programs.iter().find(|(name, program)| {
            name.starts_with("sentinel")
                && program
                    .process
                    .as_ref()
                    .is_some_and(|process| process.log().contains(&logged))
        });
        Ok(found.context("the leader is no sentinel of ours")?.0.clone())
    }

    fn next_name(&self, kind: &str) -> String {
        let taken = self.programs.keys().filter(|name| name.starts_with(kind)).count();
        format!("{kind}{taken}")
    }

    fn prepare(&mut self, name: &str, program: &'static str, options: Vec<String>, port: Option<Port>) {
        let relays: Vec<String> = self.relays.iter().map(TcpRelay::endpoint).collect();
        let store_endpoint = match relays.as_slice() {
            [] => self.etcd.endpoint(),
            relays => relays.join(","),
        };
        let program = ManagedProgram {
            program,
            options,
            wrapper: Vec::new(),
            environment: Vec::new(),
            store_endpoint,
            port,
            process: None,
        };
        self.programs.insert(name.to_owned(), program);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let keepers: Vec<String> = self
            .programs
            .keys()
            .filter(|name| name.starts_with("keeper"))
            .cloned()
            .collect();
        for uid in &keepers {
            self.leftovers.record(&self.pgdata(uid));
        }
        for name in self.programs.keys().cloned().collect::<Vec<_>>() {
            if let Some(process) = &mut self.program(&name).process {
                process.signal(Signal::KILL);
            }
        }
        leftovers::stop_immediately(&keepers.iter().map(|uid| self.pgdata(uid)).collect::<Vec<_>>());
        // Dropping a program prints the end of its log when the test has failed.
        self.programs.clear();
        self.etcd.kill();
        // A killed keeper leaves its server, or an initdb or pg_basebackup.
        let dir = self.dir.path().to_owned();
        for _ in 0..400 {
            let left = process::using_directory(&dir);
            if left.is_empty() {
                break;
            }
            left.into_iter().for_each(|pid| process::send_signal(pid, Signal::KILL));
            std::thread::sleep(Duration::from_millis(10));
        }
        self.leftovers.remove();
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

/// Returns the processes of an instance: the postmaster and its children.
fn server_processes(pgdata: &std::path::Path) -> Vec<u32> {
    let postmaster = leftovers::postmaster(pgdata);
    postmaster
        .into_iter()
        .chain(postmaster.map(process::children).unwrap_or_default())
        .collect()
}

/// Removes variables that set options of our programs or of libpq.
fn remove_option_variables(command: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if ["STKEEPER_", "STSENTINEL_", "STPROXY_", "STOLONCTL_", "PG"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(&variable);
        }
    }
}
