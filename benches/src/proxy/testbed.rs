//! Everything that runs during the loads: a cluster with its PostgreSQL, plain servers, and every peer in front of
//! both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use model::ClusterSpec;
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::fake_sentinel::FakeSentinel;
use stolon_tests::wait::eventually;
use stolon_tests::{pg_programs, ports};
use tokio::net::TcpStream;

use super::peers::{Instance, Peer};
use super::plain_server::{PlainServer, request_name};
use super::size::Size;

/// The user of the loads; `pg_hba.conf` trusts it, so that figures do not contain password checks.
pub const USER: &str = "bench";
/// The database of the loads.
pub const DATABASE: &str = "postgres";
/// Limit for a statement of the preparation.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);

/// The running programs. Dropping it stops them.
#[derive(Debug)]
pub struct Testbed {
    /// The directory of PostgreSQL's programs.
    pub programs: PathBuf,
    /// A file with the rows for COPY FROM.
    pub rows: PathBuf,
    postgres: BTreeMap<Peer, Instance>,
    plain: BTreeMap<Peer, Instance>,
    servers: [PlainServer; 2],
    stub: StubCluster,
    cluster: Cluster,
    /// The program of [`Peer::StolonBefore`].
    before: Option<PathBuf>,
}

/// The cluster of the stolon-proxies in front of the plain servers: etcd, and cluster data that the benchmark writes.
#[derive(Debug)]
struct StubCluster {
    sentinel: FakeSentinel,
    cluster: Cluster,
    enabled: Vec<String>,
}

impl Testbed {
    /// Starts everything that all loads need, and fills the database.
    ///
    /// # Errors
    ///
    /// A peer does not start, or the database cannot be filled.
    ///
    /// # Panics
    ///
    /// The cluster does not start in time.
    pub async fn start(size: &Size, before: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut cluster = Cluster::builder(Profile::Default)
            .keepers(1)
            .proxies(0)
            .with(
                "pgParameters",
                json!({
                    "dynamic_shared_memory_type": "mmap", "max_connections": "400", "shared_buffers": "512MB",
                    "synchronous_commit": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "autovacuum": "off",
                }),
            )
            .with("pgHBA", json!([format!("host all {USER} 127.0.0.1/32 trust")]))
            .start()
            .await;
        let ours = [Peer::Stolon, Peer::StolonTwoThreads, Peer::StolonBefore];
        let ours: Vec<Peer> = ours
            .into_iter()
            .filter(|peer| *peer != Peer::StolonBefore || before.is_some())
            .collect();
        let postgres = start_peers(&mut cluster, &ours, before.as_deref()).await?;
        let dir = cluster.dir().path().join("log");
        let programs = pg_programs::directory("pgbench")
            .context("PostgreSQL's pgbench and psql are neither below /usr/lib/postgresql nor in PATH")?;
        let servers = [
            PlainServer::start(b'A', &dir.join("plain-a.log")).await?,
            PlainServer::start(b'B', &dir.join("plain-b.log")).await?,
        ];
        let mut testbed = Self {
            programs,
            rows: data_dir(&cluster).join("rows"),
            postgres,
            plain: BTreeMap::new(),
            servers,
            stub: StubCluster::start().await,
            cluster,
            before: before.clone(),
        };
        testbed.fill(size).await?;
        for peer in [Peer::Direct, Peer::Haproxy, Peer::HaproxyTuned, Peer::Nginx]
            .into_iter()
            .chain(ours)
        {
            let instance = testbed.start_instance(peer).await?;
            testbed.plain.insert(peer, instance);
        }
        Ok(testbed)
    }

    /// Returns the path of this peer to PostgreSQL.
    ///
    /// # Panics
    ///
    /// There is none: all peers have one.
    pub fn postgres(&self, peer: Peer) -> &Instance {
        &self.postgres[&peer]
    }

    /// Returns the path of this peer to the first plain server.
    ///
    /// # Panics
    ///
    /// There is none: PgBouncer supports only PostgreSQL's protocol.
    pub fn plain(&self, peer: Peer) -> &Instance {
        &self.plain[&peer]
    }

    /// Starts another instance of this peer in front of the first plain server.
    ///
    /// # Errors
    ///
    /// It does not start.
    ///
    /// # Panics
    ///
    /// A stolon-proxy does not open a route in time.
    pub async fn start_instance(&mut self, peer: Peer) -> anyhow::Result<Instance> {
        let server = self.servers[0].address();
        match peer {
            Peer::Direct => Ok(Instance::direct(server.port())),
            Peer::Stolon | Peer::StolonScraped | Peer::StolonTwoThreads | Peer::StolonBefore => {
                let instance = start_proxy(&mut self.stub.cluster, peer, self.before.as_deref());
                let uid = self.stub.uid_of(instance.pids[0]).await;
                self.stub.enabled.push(uid);
                self.route_to(0).await?;
                wait_port_leads_to(instance.port, self.servers[0].name).await;
                Ok(instance)
            }
            Peer::Haproxy | Peer::HaproxyTuned | Peer::Nginx | Peer::Pgbouncer => {
                let user = self.cluster.dir().user().cloned();
                let dir = data_dir(&self.cluster);
                Instance::start(peer, server.port(), &dir, user.as_ref()).await
            }
        }
    }

    /// Stops an instance that [`Self::start_instance`] returned.
    pub async fn stop_instance(&mut self, instance: Instance) {
        let proxies = instance.metrics.map(|_| instance.pids.clone()).unwrap_or_default();
        for pid in proxies {
            let uid = self.stub.uid_of(pid).await;
            self.stub.enabled.retain(|one| *one != uid);
            if let Some(name) = self.stub.cluster.name_of(pid) {
                self.stub.cluster.process(&name).kill();
            }
        }
    }

    /// Routes the stolon-proxies in front of the plain servers to one of the two, by one commit.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn route_to(&mut self, index: usize) -> anyhow::Result<()> {
        let server = &self.servers[index];
        let db = format!("db{}", char::from(server.name).to_ascii_lowercase());
        let (enabled, sentinel) = (self.stub.enabled.clone(), &mut self.stub.sentinel);
        sentinel.publish(Some((&db, server.address())), &enabled).await?;
        Ok(())
    }

    /// Returns the name of one of the two plain servers.
    pub fn server_name(&self, index: usize) -> u8 {
        self.servers[index].name
    }

    async fn fill(&self, size: &Size) -> anyhow::Result<()> {
        let pgbench = self.pgbench(Peer::Direct, &["-i", "-q", &format!("--scale={}", size.scale)]);
        run(pgbench, STATEMENT_TIMEOUT).await?;
        // 999 characters and the newline; each row has another digest.
        self.psql(&format!(
            "create unlogged table bulk as select (repeat(md5(i::text), 31) || '1234567')::text as line \
             from generate_series(1, {}) as i; create unlogged table sink (line text); vacuum analyze bulk",
            size.copied_rows
        ))
        .await?;
        self.psql(&format!("copy bulk to '{}'", self.rows.display())).await?;
        self.psql("checkpoint").await
    }

    /// Runs statements on the server, without a proxy.
    ///
    /// # Errors
    ///
    /// A statement fails, or the server does not answer in time.
    pub async fn psql(&self, sql: &str) -> anyhow::Result<()> {
        for statement in sql.split("; ") {
            let mut psql = self.psql_through(Peer::Direct);
            psql.arg("-c").arg(statement);
            run(psql, STATEMENT_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Returns a psql command for this path, without a statement.
    pub fn psql_through(&self, peer: Peer) -> tokio::process::Command {
        let mut command = self.client("psql", peer);
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]);
        command
    }

    /// Returns a pgbench command for this path.
    pub fn pgbench(&self, peer: Peer, options: &[&str]) -> tokio::process::Command {
        let mut command = self.client("pgbench", peer);
        command.args(options);
        command
    }

    fn client(&self, name: &str, peer: Peer) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.programs.join(name));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.postgres(peer).port.to_string())
            .env("PGUSER", USER)
            .env("PGDATABASE", DATABASE)
            .env("PGSSLMODE", "disable")
            .env("PGGSSENCMODE", "disable")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Returns the connection parameters of this path.
    pub fn config(&self, peer: Peer) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.postgres(peer).port)
            .user(USER)
            .dbname(DATABASE);
        config
    }
}

impl StubCluster {
    async fn start() -> Self {
        let cluster = Cluster::store_only().await;
        Self {
            sentinel: FakeSentinel::new(cluster.store.clone(), ClusterSpec::default()),
            cluster,
            enabled: Vec::new(),
        }
    }

    /// Returns the uid that a proxy has generated.
    async fn uid_of(&mut self, pid: u32) -> String {
        let name = self.cluster.name_of(pid).expect("this program has started it");
        eventually("the proxy to log its uid", SHORT_TIMEOUT, async || {
            let log = self.cluster.process(&name).log();
            let (_, after) = log.split_once("proxy id id=").ok_or("not yet")?;
            let uid = after.split_whitespace().next().ok_or("not yet")?;
            Ok::<_, &str>(uid.to_owned())
        })
        .await
    }
}

/// Starts all peers in front of the cluster's PostgreSQL; `ours` are those of this project.
async fn start_peers(
    cluster: &mut Cluster,
    ours: &[Peer],
    before: Option<&Path>,
) -> anyhow::Result<BTreeMap<Peer, Instance>> {
    let mut peers = BTreeMap::new();
    for (number, peer) in ours.iter().enumerate() {
        peers.insert(*peer, start_proxy(cluster, *peer, before));
        // The names are assigned in this order.
        cluster.wait_proxy_serves(&format!("proxy{number}")).await;
    }
    let scraped = &peers[&Peer::Stolon];
    let scraped = Instance::stolon(scraped.port, scraped.pids[0], scraped.metrics.unwrap_or_default());
    peers.insert(Peer::StolonScraped, scraped);
    let server = cluster.port("keeper0");
    peers.insert(Peer::Direct, Instance::direct(server));
    cluster
        .connect("keeper0")
        .await
        .run(&format!("create role {USER} superuser login"))
        .await?;
    for peer in [Peer::Haproxy, Peer::HaproxyTuned, Peer::Nginx, Peer::Pgbouncer] {
        let instance = Instance::start(peer, server, &data_dir(cluster), cluster.dir().user()).await?;
        peers.insert(peer, instance);
    }
    Ok(peers)
}

/// Starts this stolon-proxy with a metrics port.
fn start_proxy(cluster: &mut Cluster, peer: Peer, before: Option<&Path>) -> Instance {
    let name = cluster.prepare_proxy();
    let metrics = ports::free().number();
    let slot = cluster.program(&name);
    slot.options
        .push(format!("--metrics-listen-address=127.0.0.1:{metrics}"));
    match (peer, before) {
        (Peer::StolonTwoThreads, _) => slot.options.push("--relay-threads=2".to_owned()),
        // The wrapper is given the program of this build and its arguments: the other program takes its place.
        (Peer::StolonBefore, Some(program)) => {
            let program = program.display().to_string();
            let words = ["sh", "-c", "shift; exec \"$0\" \"$@\""].map(str::to_owned);
            slot.wrapper = words.into_iter().chain([program]).collect();
        }
        _ => {}
    }
    cluster.start(&name);
    Instance::stolon(cluster.port(&name), cluster.process(&name).pid(), metrics)
}

/// Waits until a connection to this port leads to the plain server of this name.
///
/// # Panics
///
/// It does not in time.
pub async fn wait_port_leads_to(port: u16, name: u8) {
    eventually("the path to be open", SHORT_TIMEOUT, async || {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        let answer = request_name(&mut socket).await.context("ask")?;
        let answer = answer.context("closed before a response")?;
        ensure!(answer == name, "it leads to {}", char::from(answer));
        anyhow::Ok(())
    })
    .await;
}

/// Runs a program to its end; returns its standard output.
///
/// # Errors
///
/// It cannot be started, fails (the error has its standard error), or does not end within `limit`.
pub async fn run(mut command: tokio::process::Command, limit: Duration) -> anyhow::Result<String> {
    let what = format!("{:?}", command.as_std().get_program());
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("{what} has not ended after {limit:?}"))?
        .with_context(|| format!("start {what}"))?;
    ensure!(
        output.status.success(),
        "{what}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns a directory that the server may write to.
fn data_dir(cluster: &Cluster) -> PathBuf {
    cluster.dir().path().join("data")
}

/// Returns the path of the server's program, beside pgbench.
pub fn server_program() -> PathBuf {
    pg_programs::directory("pgbench").map_or_else(|| Path::new("postgres").to_owned(), |dir| dir.join("postgres"))
}
