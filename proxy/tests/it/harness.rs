//! The harness of this test binary: a private etcd, masters that answer with their name, a stolon-proxy, and what a
//! sentinel would write.

mod client;
mod master;

use std::process::Command;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use base::clock::Boottime;
use local_cluster::options::store_options;
use model::{ClusterSpec, GoDuration, ProxyInfo, from_slice};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::etcd::Etcd;
use stolon_tests::fake_sentinel::{self, FakeSentinel};
use stolon_tests::ports::{self, Port};
use stolon_tests::process::{Process, Signal};
use stolon_tests::store_client;
use stolon_tests::wait::{eventually, now};
use store::{Revision, Store};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use self::client::Client;
pub(crate) use self::master::{LATE, Master};

/// Proxy timeout of tests that are not about the end of a lease: no busy machine delays check-ins for that long.
pub(crate) const STEADY_LEASE: Duration = Duration::from_secs(120);
/// Proxy timeout of [`ProxyHarness::with_short_lease`], as in the `fast` profile.
pub(crate) const SHORT_LEASE: Duration = Duration::from_secs(3);
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CLUSTER: &str = "main";

/// A flood of clients makes the kernel drop loopback packets, also those of other tests, and a lost reset is not
/// repeated. So a test with a flood runs alone, and all others in parallel.
static EXCLUSIVE: RwLock<()> = RwLock::new(());

pub(crate) fn run_test(test: impl Future<Output = ()>) {
    let _beside_others = EXCLUSIVE.read().unwrap_or_else(PoisonError::into_inner);
    run(test);
}

pub(crate) fn run_test_alone(test: impl Future<Output = ()>) {
    let _alone = EXCLUSIVE.write().unwrap_or_else(PoisonError::into_inner);
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

/// Raises the limit of open files of this process, which has both the clients and the masters. Returns the limit.
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

/// An etcd, and the cluster data that a sentinel would have written last.
pub(crate) struct ProxyHarness {
    pub(crate) etcd: Etcd,
    pub(crate) store: Store,
    pub(crate) sentinel: FakeSentinel,
    pub(crate) dir: TempDir,
}

impl ProxyHarness {
    /// Starts with an empty store, and a spec whose lease outlasts every test.
    pub(crate) async fn start() -> Self {
        Self::with_timeout(STEADY_LEASE).await
    }

    /// The same with a short lease, for tests of its end. On a busy machine it may end at any time.
    pub(crate) async fn with_short_lease() -> Self {
        Self::with_timeout(SHORT_LEASE).await
    }

    async fn with_timeout(timeout: Duration) -> Self {
        let etcd = Etcd::start().await;
        let store = store_client::connect(&etcd.endpoint(), CLUSTER);
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

    /// Sets both intervals in the spec; they are written with the next change.
    pub(crate) fn set_timing(&mut self, check_interval: Duration, timeout: Duration) {
        let spec = self.sentinel.data.cluster.as_mut().unwrap().spec.as_mut().unwrap();
        spec.proxy_check_interval = Some(GoDuration::from_nanos(check_interval.as_nanos() as i64));
        spec.proxy_timeout = Some(GoDuration::from_nanos(timeout.as_nanos() as i64));
    }

    /// Writes the current cluster data.
    pub(crate) async fn write(&self) -> Revision {
        self.sentinel.write().await.unwrap()
    }

    pub(crate) async fn write_raw(&self, value: &[u8]) -> Revision {
        self.store.put(&self.store.keys().cluster_data(), value).await.unwrap()
    }

    /// Names a master, or none, and enables these proxies. Returns the new proxy generation.
    pub(crate) async fn publish(&mut self, master: Option<&Master>, enabled: &[&Proxy]) -> i64 {
        let uids: Vec<String> = enabled.iter().map(|proxy| proxy.uid.clone()).collect();
        let master = master.map(|master| fake_sentinel::healthy_db(&master.db, &master.host, master.port));
        self.sentinel.publish_db(master, &uids).await.unwrap();
        self.sentinel.generation()
    }

    /// Starts a master `A` and a proxy, and sends the proxy's clients there. The master ends when it is dropped.
    pub(crate) async fn forwarding(&mut self) -> (Master, Proxy) {
        let (master, proxy) = (Master::start(b'A').await, self.proxy().await);
        self.publish(Some(&master), &[&proxy]).await;
        (master, proxy)
    }

    /// Returns the info that the proxy has published, if any.
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
            SHORT_TIMEOUT,
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

    /// Changes the master as fencing F-5 and F-6 require: none, then the acknowledgement or one full lease, then the
    /// new one. After that no response of `from` may reach a client; its answers are marked as late.
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

    /// Starts a proxy that connects to etcd directly.
    pub(crate) async fn proxy(&self) -> Proxy {
        Proxy::start(self, &self.etcd.endpoint(), &[]).await
    }
}

/// A running stolon-proxy.
pub(crate) struct Proxy {
    pub(crate) process: Process,
    pub(crate) uid: String,
    pub(crate) port: Port,
    pub(crate) metrics: Port,
}

/// Returns the command line of a proxy that uses this store.
pub(crate) fn command(endpoint: &str, port: u16, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stolon-proxy"));
    command
        .args(store_options(CLUSTER, endpoint))
        .arg(format!("--port={port}"))
        .args(options);
    command
}

impl Proxy {
    /// Starts a proxy and waits for its uid.
    pub(crate) async fn start(harness: &ProxyHarness, endpoint: &str, options: &[&str]) -> Self {
        Self::start_with(harness, endpoint, options, |_| {}).await
    }

    pub(crate) async fn start_with(
        harness: &ProxyHarness,
        endpoint: &str,
        options: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let (port, metrics) = (ports::free(), ports::free());
        let mut command = command(endpoint, port.number(), options);
        command
            .arg(format!("--metrics-listen-address=127.0.0.1:{metrics}"))
            .arg("--log-level=debug");
        change(&mut command);
        let log = harness.dir.path().join(format!("proxy-{port}.log"));
        let process = Process::start("stolon-proxy", command, None, &log);
        process.wait_for_log("proxy id id=", SHORT_TIMEOUT).await;
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

    /// Connects to the proxy, whether or not its route is open.
    pub(crate) async fn connect(&self) -> std::io::Result<Client> {
        Client::connect(self.port.number()).await
    }

    /// Waits until a connection reaches the master with this name, and returns it.
    pub(crate) async fn wait_connected_to(&self, name: u8) -> Client {
        eventually(
            format!("a response of {}", char::from(name)),
            SHORT_TIMEOUT,
            async || {
                let mut client = self.connect().await.map_err(|err| err.to_string())?;
                let answer = client.ask().await.map_err(|err| err.to_string())?;
                if answer == Some(name) {
                    Ok(client)
                } else {
                    Err(format!("{answer:?}"))
                }
            },
        )
        .await
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.pid()))
            .unwrap()
            .count()
    }

    /// Returns the number of descriptors, once no connection is open and the number does not change.
    pub(crate) async fn stable_descriptors(&self) -> usize {
        self.wait_for_metric("stolon_proxy_connections_open", 0.0).await;
        let mut last = 0;
        eventually("the descriptors to stand still", SHORT_TIMEOUT, async || {
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

    /// Resident memory (proc_pid_status(5)).
    pub(crate) fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Returns the value of one series, given as `name{label="value"}`.
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

    pub(crate) async fn wait_for_metric(&self, series: &str, expected: f64) {
        self.wait_for_value(series, &format!("be {expected}"), |value| value == expected)
            .await;
    }

    /// Waits until a counter that goes on growing has grown by at least this since the call.
    pub(crate) async fn wait_for_growth(&self, series: &str, by: f64) {
        let least = self.metric(series).await.unwrap() + by;
        self.wait_for_value(series, &format!("reach {least}"), |value| value >= least)
            .await;
    }

    async fn wait_for_value(&self, series: &str, what: &str, holds: impl Fn(f64) -> bool) {
        eventually(format!("{series} to {what}"), SHORT_TIMEOUT, async || {
            let value = self.metric(series).await;
            if value.is_some_and(&holds) {
                Ok(())
            } else {
                Err(format!("{value:?}"))
            }
        })
        .await;
    }

    /// Stops it with SIGTERM. Returns its exit status and how long it took.
    pub(crate) async fn stop(&mut self) -> (i32, Duration) {
        let start: Boottime = now();
        self.process.signal(Signal::TERM);
        let status = self.process.exit_status(SHORT_TIMEOUT).await;
        (status, now().since(start))
    }
}

/// Returns the sum of all series with this name in a scrape.
pub(crate) fn sum(scraped: &str, name: &str) -> f64 {
    let series = scraped
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    series
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}
