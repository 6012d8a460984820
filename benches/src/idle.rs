//! What an idle cluster costs: memory and CPU of each program, writes to etcd, the time to a program's first log line,
//! and the size of the binaries. Each figure has a limit.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use local_cluster::UnixUser;
use model::Role;
use stolon_tests::cluster::{Cluster, Profile};
use stolon_tests::wait::now;
use tokio::task::JoinHandle;

use crate::failover::median;
use crate::http::get_metrics;
use crate::proxy::usage;

const MIB: f64 = 1024.0 * 1024.0;
/// Share of one core that a program of an idle cluster may use.
const CPU_LIMIT: f64 = 0.002;
/// Writes per second to etcd.
const WRITES_LIMIT: f64 = 1.2;
/// Time from exec to the first log line.
const START_LIMIT: Duration = Duration::from_millis(50);
/// Size of a stripped program.
const BINARY_LIMIT: f64 = 10.0 * MIB;
/// Starts of each program.
const STARTS: usize = 11;
/// Time until the cluster is idle: the first reports, checks and retries are over.
const SETTLE: Duration = Duration::from_secs(30);

/// How an idle cluster is measured.
#[derive(Debug, Clone, Copy)]
pub struct IdleOptions {
    /// How long CPU and writes are counted.
    pub time: Duration,
    /// Scrapes each program's metrics once a second meanwhile.
    pub scrape: bool,
}

/// The table, and which figures exceed their limits.
#[derive(Debug)]
struct Report {
    lines: Vec<String>,
    violations: Vec<String>,
}

impl Report {
    fn add(&mut self, what: &str, value: f64, limit: f64, unit: &str) {
        let is_met = value <= limit;
        let mark = if is_met { "yes" } else { "no" };
        self.lines
            .push(format!("| {what} | {value:.2} {unit} | {limit:.2} {unit} | {mark} |"));
        if !is_met {
            self.violations
                .push(format!("{what}: {value:.2} {unit}, limit {limit:.2}"));
        }
    }
}

/// A program of the cluster, and its limit of resident memory in bytes.
fn memory_limit(name: &str) -> f64 {
    match name.starts_with("proxy") {
        true => 10.0 * MIB,
        false => 12.0 * MIB,
    }
}

/// Measures a cluster of three keepers, one sentinel and one proxy at the default spec, and prints the table.
///
/// # Errors
///
/// A figure exceeds its limit, or cannot be measured.
pub async fn measure(options: IdleOptions) -> anyhow::Result<()> {
    let mut report = Report {
        lines: vec![
            "| figure | measured | limit | met |".to_owned(),
            "|---|--:|--:|---|".to_owned(),
        ],
        violations: Vec::new(),
    };
    measure_programs(&mut report)?;
    measure_cluster(options, &mut report).await?;
    println!("{}", report.lines.join("\n"));
    ensure!(report.violations.is_empty(), "{}", report.violations.join("; "));
    Ok(())
}

/// Sizes of the programs, and how fast they start.
fn measure_programs(report: &mut Report) -> anyhow::Result<()> {
    for program in ["stolon-sentinel", "stolon-keeper", "stolon-proxy", "stolonctl"] {
        let path = program_path(program)?;
        let size = stripped_size(&path)?;
        report.add(&format!("{program}: stripped"), size / MIB, BINARY_LIMIT / MIB, "MiB");
    }
    for program in ["stolon-sentinel", "stolon-keeper", "stolon-proxy"] {
        let path = program_path(program)?;
        let mut times = (0..STARTS)
            .map(|_| first_line_after(&path))
            .collect::<anyhow::Result<Vec<_>>>()?;
        times.sort();
        report.add(
            &format!("{program}: start to the first log line, median of {STARTS}"),
            median(&times).as_secs_f64() * 1000.0,
            START_LIMIT.as_secs_f64() * 1000.0,
            "ms",
        );
    }
    Ok(())
}

/// Returns a program beside this one.
fn program_path(program: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    Ok(own.with_file_name(program))
}

fn stripped_size(program: &Path) -> anyhow::Result<f64> {
    let stripped = tempfile::NamedTempFile::new().context("make a temporary file")?;
    let mut strip = Command::new("strip");
    let status = strip
        .arg("-o")
        .arg(stripped.path())
        .arg(program)
        .status()
        .context("run strip")?;
    ensure!(status.success(), "strip of {} failed", program.display());
    #[expect(clippy::cast_precision_loss, reason = "no program has 2^52 bytes")]
    let size = fs::metadata(stripped.path())?.len() as f64;
    Ok(size)
}

/// Starts a program with a store that does not answer, and returns the time to its first log line.
fn first_line_after(program: &Path) -> anyhow::Result<Duration> {
    let data = tempfile::tempdir().context("make a temporary directory")?;
    let mut command = Command::new(program);
    command.args([
        "--cluster-name=idle",
        "--store-backend=etcdv3",
        "--store-endpoints=http://127.0.0.1:1",
    ]);
    if program.ends_with("stolon-keeper") {
        command.arg(format!("--data-dir={}", data.path().display()));
        command.args([
            "--pg-listen-address=127.0.0.1",
            "--pg-su-password=x",
            "--pg-repl-username=repl",
            "--pg-repl-password=x",
        ]);
        // A keeper refuses to run as root.
        if let Some(user) = UnixUser::for_postgres()? {
            chown(data.path(), Some(user.uid), Some(user.gid))?;
            command.uid(user.uid).gid(user.gid);
        }
    } else if program.ends_with("stolon-proxy") {
        command.args(["--listen-address=127.0.0.1", "--port=0"]);
    }
    let began = now();
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let stderr = child.stderr.take().context("the standard error is a pipe")?;
    let mut line = String::new();
    let read = BufReader::new(stderr).read_line(&mut line);
    let took = now().since(began);
    child.kill()?;
    child.wait()?;
    read?;
    ensure!(line.contains(" INFO "), "{} wrote {line:?}", program.display());
    Ok(took)
}

/// Memory, CPU and writes of an idle cluster.
async fn measure_cluster(options: IdleOptions, report: &mut Report) -> anyhow::Result<()> {
    let (mut cluster, programs) = start_cluster().await;
    let _scrapes = options.scrape.then(|| Scrapes::start(&programs));
    tokio::time::sleep(SETTLE).await;
    let mut pids = Vec::new();
    for (name, _) in &programs {
        pids.push(cluster.process(name).pid());
    }
    let cpu = || {
        pids.iter()
            .map(|pid| usage::cpu(&[*pid]))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let (began, cpu_before, writes_before) = (now(), cpu()?, writes(&cluster.etcd.address()).await?);
    tokio::time::sleep(options.time).await;
    let (elapsed, cpu_after) = (now().since(began).as_secs_f64(), cpu()?);
    let written = writes(&cluster.etcd.address()).await? - writes_before;
    for (index, (name, _)) in programs.iter().enumerate() {
        let used = cpu_after[index].saturating_sub(cpu_before[index]).as_secs_f64() / elapsed;
        report.add(&format!("{name}: CPU"), used * 100.0, CPU_LIMIT * 100.0, "% of a core");
        #[expect(clippy::cast_precision_loss, reason = "no program has 2^52 bytes")]
        let resident = usage::resident_bytes(&[pids[index]])? as f64 / MIB;
        report.add(
            &format!("{name}: resident memory"),
            resident,
            memory_limit(name) / MIB,
            "MiB",
        );
    }
    report.add("writes to etcd per second", written / elapsed, WRITES_LIMIT, "");
    Ok(())
}

/// Starts the cluster; returns it with the names of its programs and the addresses of their metrics.
async fn start_cluster() -> (Cluster, Vec<(String, String)>) {
    let mut cluster = Cluster::builder(Profile::Default).without_programs().start().await;
    let sentinel = cluster.prepare_sentinel();
    let keepers = [(); 3].map(|()| cluster.prepare_keeper());
    let proxy = cluster.prepare_proxy();
    let names = [sentinel].into_iter().chain(keepers.clone()).chain([proxy.clone()]);
    let mut programs = Vec::new();
    for name in names {
        let address = cluster.serve_pages(&name);
        cluster.start(&name);
        if let Some(index) = keepers.iter().position(|keeper| *keeper == name) {
            let role = if index == 0 { Role::Master } else { Role::Standby };
            cluster.wait_healthy(&name, &role).await;
        }
        programs.push((name, address));
    }
    cluster.wait_proxy_serves(&proxy).await;
    (cluster, programs)
}

/// Scrapes metrics once a second until it is dropped.
struct Scrapes(Vec<JoinHandle<()>>);

impl Scrapes {
    fn start(programs: &[(String, String)]) -> Self {
        let scrape = |(_, address): &(String, String)| {
            let address = address.clone();
            tokio::spawn(async move {
                loop {
                    // A program that does not answer shows in the other figures.
                    let _ = get_metrics(&address).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            })
        };
        Self(programs.iter().map(scrape).collect())
    }
}

impl Drop for Scrapes {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Returns how many keys etcd has put and deleted since its start, by its metrics.
async fn writes(etcd: &str) -> anyhow::Result<f64> {
    let text = get_metrics(etcd).await?;
    let counter = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.with_context(|| format!("etcd has no metric {name}"))?;
        value.parse::<f64>().context("read a counter")
    };
    Ok(counter("etcd_mvcc_put_total")? + counter("etcd_mvcc_delete_total")?)
}
