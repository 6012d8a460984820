//! A private etcd, masters that answer with their name, a stolon-proxy, and what a sentinel would write.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use control::clock::Boottime;
use control::model::{ClusterSpec, GoDuration, ProxyInfo, from_slice};
use control::store::{Revision, Store, StoreConfig, StoreOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stolon_tests::etcd::Etcd;
use stolon_tests::fake_sentinel::{self, FakeSentinel};
use stolon_tests::ports::Port;
use stolon_tests::process::{Process, Signal};
use stolon_tests::wait::{eventually, now};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The proxy timeout of tests that are not about the end of a lease: no busy machine delays check-ins for as long.
pub(crate) const STEADY_TIMEOUT: Duration = Duration::from_secs(120);
/// The proxy timeout of [`Rig::with_short_lease`], and the check interval of both: the `fast` profile.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CLUSTER: &str = "main";

/// A storm of clients makes the kernel drop packets of loopback, those of other tests with them, and a reset that is lost
/// is not sent again. So a test with a storm runs alone, and all others beside each other.
static STORM: RwLock<()> = RwLock::new(());

pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let _beside_others = STORM.read().unwrap_or_else(PoisonError::into_inner);
    run(test);
}

pub(crate) fn block_on_alone(test: impl Future<Output = ()>) {
    let _alone = STORM.write().unwrap_or_else(PoisonError::into_inner);
    run(test);
}

fn run(test: impl Future<Output = ()>) {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

/// Lets this process open as many files as it may at all, and gives how many: it is both the clients and the masters.
pub(crate) fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    limit
        .maximum
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap())
}

/// etcd, and what the sentinel last wrote.
pub(crate) struct Rig {
    pub(crate) etcd: Etcd,
    pub(crate) store: Store,
    pub(crate) sentinel: FakeSentinel,
    pub(crate) dir: TempDir,
}

impl Rig {
    /// An empty store, and a spec with a lease that no test waits for.
    pub(crate) async fn start() -> Self {
        Self::with_timeout(STEADY_TIMEOUT).await
    }

    /// The same for tests of the end of a lease. A busy machine may let it end at any time.
    pub(crate) async fn with_short_lease() -> Self {
        Self::with_timeout(TIMEOUT).await
    }

    async fn with_timeout(timeout: Duration) -> Self {
        let etcd = Etcd::start().await;
        let options = StoreOptions {
            endpoints: etcd.endpoint(),
            cluster_name: CLUSTER.to_owned(),
            ..StoreOptions::default()
        };
        let store = Store::connect(StoreConfig::load(&options).unwrap());
        let spec = ClusterSpec {
            proxy_check_interval: Some(GoDuration::from_nanos(CHECK_INTERVAL.as_nanos() as i64)),
            proxy_timeout: Some(GoDuration::from_nanos(timeout.as_nanos() as i64)),
            ..ClusterSpec::default()
        };
        Self {
            etcd,
            sentinel: FakeSentinel::new(store.clone(), spec),
            store,
            dir: TempDir::with_prefix("stolon-proxy.").unwrap(),
        }
    }

    /// Sets both intervals of the spec; written with the next change.
    pub(crate) fn timing(&mut self, check_interval: Duration, timeout: Duration) {
        let spec = self.sentinel.data.cluster.as_mut().unwrap().spec.as_mut().unwrap();
        spec.proxy_check_interval = Some(GoDuration::from_nanos(check_interval.as_nanos() as i64));
        spec.proxy_timeout = Some(GoDuration::from_nanos(timeout.as_nanos() as i64));
    }

    /// Writes the cluster data as they are.
    pub(crate) async fn write(&self) -> Revision {
        self.sentinel.write().await.unwrap()
    }

    pub(crate) async fn write_raw(&self, value: &[u8]) -> Revision {
        self.store.put(&self.store.keys().cluster_data(), value).await.unwrap()
    }

    /// Names a master, or none, for these proxies. Gives the new proxy generation.
    pub(crate) async fn publish(&mut self, master: Option<&Master>, enabled: &[&Proxy]) -> i64 {
        let uids: Vec<String> = enabled.iter().map(|proxy| proxy.uid.clone()).collect();
        let master = master.map(|master| fake_sentinel::healthy_db(&master.db, &master.host, master.port));
        self.sentinel.publish_db(master, &uids).await.unwrap();
        self.sentinel.generation()
    }

    /// What the proxy has published, if anything.
    pub(crate) async fn info(&self, proxy: &Proxy) -> Option<ProxyInfo> {
        let entry = self
            .store
            .get(&self.store.keys().proxy_info(&proxy.uid))
            .await
            .unwrap()?;
        Some(from_slice(&entry.value).unwrap())
    }

    /// Waits until the proxy has published this generation.
    pub(crate) async fn acknowledged(&self, proxy: &Proxy, generation: i64) {
        eventually(
            format!("generation {generation} to be published"),
            PATIENCE,
            async || {
                let info = self.info(proxy).await;
                if info.as_ref().is_some_and(|info| info.generation == generation) {
                    Ok(())
                } else {
                    Err(format!("{info:?}"))
                }
            },
        )
        .await;
    }

    /// Changes the master as fencing F-5 and F-6 say: none, then the acknowledgement or one full lease, then the new
    /// one. From its return on, nothing that `from` answers may reach a client; its answers are marked as late.
    pub(crate) async fn fail_over(&mut self, proxy: &Proxy, from: &Master, to: &Master) {
        let timeout = self
            .info(proxy)
            .await
            .map_or(Duration::ZERO, |info| Duration::from_nanos(info.proxy_timeout as u64));
        let generation = self.publish(None, &[proxy]).await;
        let written = now();
        let lease = timeout.mul_f64(1.01) + Duration::from_millis(100);
        while now().since(written) < lease {
            if self.info(proxy).await.is_some_and(|info| info.generation >= generation) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.publish(Some(to), &[proxy]).await;
        from.answer_with(LATE);
    }

    /// A proxy that runs, directly on etcd.
    pub(crate) async fn proxy(&self) -> Proxy {
        Proxy::start(self, &self.etcd.endpoint(), &[]).await
    }
}

/// What a master answers once another one has been published: no client may see it.
pub(crate) const LATE: u8 = b'!';

/// A server that answers every `?` with its name, once it may, and everything else with itself.
pub(crate) struct Master {
    pub(crate) db: String,
    /// As it is advertised.
    pub(crate) host: String,
    pub(crate) port: u16,
    shared: Arc<Answers>,
    _task: AbortOnDropHandle<()>,
}

struct Answers {
    name: AtomicU8,
    asked: AtomicU64,
    open: AtomicUsize,
    silent: watch::Sender<bool>,
}

impl Master {
    pub(crate) async fn start(name: u8) -> Self {
        Self::start_at(name, ([127, 0, 0, 1], 0).into()).await
    }

    /// The same on this address and port.
    pub(crate) async fn start_at(name: u8, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Answers {
            name: AtomicU8::new(name),
            asked: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            silent: watch::Sender::new(false),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        let db = format!("db{}", char::from(name).to_lowercase());
        Self {
            db,
            host: "127.0.0.1".to_owned(),
            port,
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// From now on answers with this.
    pub(crate) fn answer_with(&self, name: u8) {
        self.shared.name.store(name, Ordering::SeqCst);
    }

    /// Whether it keeps its answers back.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.shared.silent.send_replace(silent);
    }

    /// Questions that have arrived.
    pub(crate) fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    pub(crate) async fn has_open(&self, connections: usize) {
        eventually(
            format!("{connections} connections to {}", self.db),
            PATIENCE,
            async || {
                let open = self.open();
                if open == connections { Ok(()) } else { Err(open) }
            },
        )
        .await;
    }
}

async fn serve(listener: TcpListener, answers: Arc<Answers>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        answers.open.fetch_add(1, Ordering::SeqCst);
        let answers = Arc::clone(&answers);
        connections.spawn(async move {
            // How a connection of the test ends is looked at elsewhere.
            let _ = answer(client, &answers).await;
            answers.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn answer(mut client: TcpStream, answers: &Answers) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut silent = answers.silent.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return client.shutdown().await;
        }
        let questions = buffer[..read].iter().filter(|byte| **byte == b'?').count();
        answers.asked.fetch_add(questions as u64, Ordering::SeqCst);
        // An error would mean that the master is gone, and then this task is, too.
        let _ = silent.wait_for(|silent| !silent).await;
        let name = answers.name.load(Ordering::SeqCst);
        buffer[..read]
            .iter_mut()
            .filter(|byte| **byte == b'?')
            .for_each(|byte| *byte = name);
        client.write_all(&buffer[..read]).await?;
    }
}

/// A running stolon-proxy.
pub(crate) struct Proxy {
    pub(crate) process: Process,
    pub(crate) uid: String,
    pub(crate) port: Port,
    pub(crate) metrics: Port,
}

/// The command line of a proxy on this store.
pub(crate) fn command(endpoint: &str, port: u16, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stolon-proxy"));
    command
        .args([format!("--cluster-name={CLUSTER}"), "--store-backend=etcdv3".to_owned()])
        .args([format!("--store-endpoints={endpoint}"), format!("--port={port}")])
        .args(options);
    command
}

impl Proxy {
    /// Starts one, and waits for its uid.
    pub(crate) async fn start(rig: &Rig, endpoint: &str, options: &[&str]) -> Self {
        Self::start_with(rig, endpoint, options, |_| {}).await
    }

    pub(crate) async fn start_with(
        rig: &Rig,
        endpoint: &str,
        options: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let (port, metrics) = (Port::free(), Port::free());
        let mut command = command(endpoint, port.number(), options);
        command
            .arg(format!("--metrics-listen-address=127.0.0.1:{metrics}"))
            .arg("--log-level=debug");
        change(&mut command);
        let log = rig.dir.path().join(format!("proxy-{port}.log"));
        let process = Process::start("stolon-proxy", command, None, &log);
        process.wait_for_log("proxy id id=", PATIENCE).await;
        let text = process.log();
        let uid = text
            .split("proxy id id=")
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned();
        Self {
            process,
            uid,
            port,
            metrics,
        }
    }

    /// One connection, with no promise that it leads anywhere.
    pub(crate) async fn connect(&self) -> std::io::Result<Client> {
        Client::connect(self.port.number()).await
    }

    /// A connection to the master of this name, as soon as there is one.
    pub(crate) async fn client_of(&self, name: u8) -> Client {
        eventually(format!("an answer of {}", char::from(name)), PATIENCE, async || {
            let mut client = self.connect().await.map_err(|err| err.to_string())?;
            let answer = client.ask().await.map_err(|err| err.to_string())?;
            if answer == Some(name) {
                Ok(client)
            } else {
                Err(format!("{answer:?}"))
            }
        })
        .await
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.pid()))
            .unwrap()
            .count()
    }

    /// The same, once connections that end have been closed on both sides: when nothing is open and the number stands
    /// still.
    pub(crate) async fn settled_descriptors(&self) -> usize {
        self.metric_is("stolon_proxy_connections_open", 0.0).await;
        let mut last = 0;
        eventually("the descriptors to stand still", PATIENCE, async || {
            let before = std::mem::replace(&mut last, self.descriptors());
            if last == before { Ok(last) } else { Err(last) }
        })
        .await
    }

    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.process.pid()))
            .unwrap()
            .count()
    }

    /// Its memory that is not swapped out (proc_pid_status(5)).
    pub(crate) fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The value of one series of its metrics, as `name{label="value"}`.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.scrape().await;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub(crate) async fn scrape(&self) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.metrics.number())).await.unwrap();
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }

    pub(crate) async fn metric_is(&self, series: &str, expected: f64) {
        eventually(format!("{series} to be {expected}"), PATIENCE, async || {
            let value = self.metric(series).await;
            if value == Some(expected) {
                Ok(())
            } else {
                Err(format!("{value:?}"))
            }
        })
        .await;
    }

    /// Stops it with SIGTERM: its exit status and the time that it took.
    pub(crate) async fn stop(&mut self) -> (i32, Duration) {
        let start: Boottime = now();
        self.process.signal(Signal::TERM);
        let status = self.process.exit_status(PATIENCE).await;
        (status, now().since(start))
    }
}

/// The sum over all series of this name in what a scrape gave.
pub(crate) fn sum(scraped: &str, name: &str) -> f64 {
    let series = scraped
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    series
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// A client of the proxy.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
}

impl Client {
    /// A connection to this port of the machine.
    pub(crate) async fn connect(port: u16) -> std::io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket })
    }

    /// Asks the master for its name; `None` when the connection has ended.
    pub(crate) async fn ask(&mut self) -> std::io::Result<Option<u8>> {
        self.socket.write_all(b"?").await?;
        self.answer().await
    }

    /// The next byte of an answer; `None` when the connection has ended in order.
    pub(crate) async fn answer(&mut self) -> std::io::Result<Option<u8>> {
        let mut answer = [0];
        let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut answer))
            .await
            .expect("an answer in time")?;
        Ok((read > 0).then_some(answer[0]))
    }

    /// Waits until the connection has ended, and gives what still arrived before.
    pub(crate) async fn ended(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // An end by reset is an end.
        let _ = tokio::time::timeout(PATIENCE, self.socket.read_to_end(&mut rest))
            .await
            .expect("an end in time");
        rest
    }
}
