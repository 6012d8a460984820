//! The playground's programs: which there are, with which options, and what is reported when one of them fails. Which
//! steps are taken is left to `tour`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base::{Clock, RandomBytes};
use local_cluster::options::{KeeperOptions, PasswordOption};
use local_cluster::{
    ClusterDir, EtcdMember, LocalCluster, LocalProgram, LoggedProcess, Port, ProgramKind, Signal, missing_program,
    processes, wait,
};
use store::{Store, StoreConfig, StoreOptions};
use tokio_postgres::Config;

use super::ports::Ports;
use super::screen::Screen;

/// Cluster name, as in the README.
pub(super) const CLUSTER: &str = "stolon-cluster";
/// Superuser of its databases.
pub(super) const SUPERUSER: &str = "postgres";
/// The keepers, in the order of their ports.
const KEEPERS: [&str; 3] = ["postgres0", "postgres1", "postgres2"];
/// Time that a child gets to exit after SIGTERM.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);
/// Time that etcd gets to exit after SIGTERM, and a killed process to disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(4);
/// Lines of a log that are printed after a failure.
const LOG_TAIL_LINES: usize = 25;

/// A failed step, and the end of the log that explains it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct StepFailure {
    reason: String,
    log_tail: Option<String>,
}

impl StepFailure {
    fn new(reason: String, process: Option<&LoggedProcess>) -> Self {
        let log_tail = process.map(|process| {
            format!(
                "the last lines of {}'s log:\n  {}",
                process.name(),
                process.tail(LOG_TAIL_LINES).join("\n  ")
            )
        });
        Self { reason, log_tail }
    }

    /// Returns the last lines of the log.
    pub(super) fn log_tail(&self) -> Option<&str> {
        self.log_tail.as_deref()
    }
}

/// Where a program serves its metrics, on loopback.
#[derive(Debug)]
pub(super) struct MetricsPage {
    /// The program's name in the playground.
    pub(super) name: String,
    pub(super) kind: ProgramKind,
    pub(super) port: Port,
}

/// The running playground.
#[derive(Debug)]
pub(super) struct Playground {
    programs: LocalCluster,
    etcd: Option<LoggedProcess>,
    /// Prometheus and Grafana.
    observing: Vec<LoggedProcess>,
    pub(super) ports: Ports,
    pub(super) store: Store,
    /// Password of the superuser.
    pub(super) password: String,
    /// Where the steps are printed.
    pub(super) screen: Screen,
}

impl Playground {
    /// Creates the directory and finds the programs. Starts nothing.
    pub(super) fn prepare(ports: Ports, clock: Clock, random: &RandomBytes) -> anyhow::Result<Self> {
        let dir = ClusterDir::create("stolon-playground.", &own_program_dir()?)?;
        let (password, replication_password) = (random_password(random), random_password(random));
        let password_file = dir.write_secret("su-password", &password)?;
        let replication_password_file = dir.write_secret("repl-password", &replication_password)?;
        let endpoint = format!("http://127.0.0.1:{}", ports.etcd);

        let mut programs = LocalCluster::new(CLUSTER, dir);
        let program = |kind, options| LocalProgram::new(kind, endpoint.clone(), options);
        for name in ["sentinel0", "sentinel1"] {
            programs.add(name, program(ProgramKind::Sentinel, Vec::new()));
        }
        for (uid, port) in KEEPERS.into_iter().zip(ports.postgres) {
            let options = KeeperOptions {
                uid,
                data_dir: programs.dir().data_dir(uid),
                port,
                superuser: (SUPERUSER, PasswordOption::File(password_file.clone())),
                replication_user: ("repluser", PasswordOption::File(replication_password_file.clone())),
            };
            programs.add(uid, program(ProgramKind::Keeper, options.to_vec()));
        }
        let options = vec![format!("--port={}", ports.proxy)];
        programs.add("proxy", program(ProgramKind::Proxy, options));

        let options = StoreOptions {
            endpoints: endpoint,
            cluster_name: CLUSTER.to_owned(),
            timeout: Duration::from_secs(2),
            ..StoreOptions::default()
        };
        let config = StoreConfig::validate(&options)
            .map_err(|faults| anyhow!("the playground's own store options: {faults:?}"))?;
        Ok(Self {
            programs,
            etcd: None,
            observing: Vec::new(),
            ports,
            store: Store::new(config, clock.clone()),
            password,
            screen: Screen::new(clock),
        })
    }

    pub(super) fn start_etcd(&mut self) -> anyhow::Result<()> {
        let dir = self.programs.dir();
        let member = EtcdMember {
            name: "playground".to_owned(),
            data_dir: dir.path().join("etcd/data"),
            client_url: self.store_endpoint(),
            peer_url: format!("http://127.0.0.1:{}", self.ports.etcd_peer),
            members: None,
        };
        let mut command = member.command();
        command.current_dir(dir.path());
        let process =
            start_apart("etcd", command, dir).context("is etcd installed? (Debian: apt-get install etcd-server)");
        self.etcd = Some(process?);
        Ok(())
    }

    /// Lets all programs serve metrics from their next start on; returns where.
    pub(super) fn serve_metrics(&mut self) -> anyhow::Result<Vec<MetricsPage>> {
        let names: Vec<String> = self.programs.programs().keys().cloned().collect();
        let mut pages = Vec::new();
        for name in names {
            let port = Port::free()?;
            let program = self.programs.program(&name)?;
            program
                .options
                .push(format!("--metrics-listen-address=127.0.0.1:{port}"));
            let kind = program.kind();
            pages.push(MetricsPage { name, kind, port });
        }
        Ok(pages)
    }

    /// Starts Prometheus or Grafana.
    pub(super) fn start_server(&mut self, name: &str, command: Command) -> anyhow::Result<()> {
        self.observing.push(start_apart(name, command, self.programs.dir())?);
        Ok(())
    }

    /// Starts a sentinel (`sentinel0`, `sentinel1`), a keeper (`postgres0` to `postgres2`) or the `proxy`.
    pub(super) fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let mut command = self.programs.command(name)?;
        leave_terminal(&mut command);
        Ok(self.programs.start(name, command)?)
    }

    /// Runs `stolonctl` with these arguments and waits for it to exit.
    pub(super) async fn stolonctl(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let dir = self.programs.dir();
        let mut command = self.programs.stolonctl(&self.store_endpoint());
        command.args(arguments).current_dir(dir.path());
        let mut process = start_apart("stolonctl", command, dir)?;
        let exit = wait::retry(SHUTDOWN_TIMEOUT, async || match process.try_wait() {
            Ok(Some(status)) => Ok(Ok(status)),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Ok(Err(error)),
        });
        let status = exit.await.map_err(|_| anyhow!("stolonctl takes too long"))??;
        if !status.success() {
            let reason = format!("stolonctl {}: {status}", arguments.join(" "));
            return Err(StepFailure::new(reason, Some(&process)).into());
        }
        Ok(())
    }

    /// Returns the directory of all files.
    pub(super) fn dir(&self) -> &ClusterDir {
        self.programs.dir()
    }

    /// Returns the client configuration for this port, a server's or the proxy's.
    pub(super) fn client_config(&self, port: u16) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(port)
            .user(SUPERUSER)
            .password(&self.password)
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(2));
        config
    }

    /// Kills a keeper and every process of its PostgreSQL, as a power failure would.
    pub(super) async fn kill_keeper(&mut self, uid: &str) -> anyhow::Result<()> {
        let servers = self.programs.kill_keeper_and_postgres(uid)?;
        // Its exit is no failure.
        self.programs.program(uid)?.take_process();
        let gone = wait::retry(KILL_TIMEOUT, async || {
            let runs = servers.iter().any(|pid| processes::is_running(*pid));
            if runs { Err("it runs".to_owned()) } else { Ok(()) }
        });
        if gone.await.is_err() {
            bail!("PostgreSQL of {uid} still runs after SIGKILL");
        }
        Ok(())
    }

    /// Calls `probe` until it returns a value.
    ///
    /// # Errors
    ///
    /// `limit` has passed: the error has the last error of `probe` and the log of the child `log_of`. Or a child has
    /// exited, at once.
    pub(super) async fn wait_until<T>(
        &mut self,
        log_of: &str,
        limit: Duration,
        mut probe: impl AsyncFnMut(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let waited = wait::retry(limit, async || {
            if let Err(failure) = self.check_children() {
                return Ok(Err(failure));
            }
            match probe(self).await {
                Ok(value) => Ok(Ok(value)),
                Err(error) => {
                    self.screen.update_step();
                    Err(format!("{error:#}"))
                }
            }
        })
        .await;
        waited.unwrap_or_else(|timed_out| Err(StepFailure::new(timed_out.to_string(), self.process(log_of)).into()))
    }

    /// Returns an error if one of the children has exited: none does so by itself.
    pub(super) fn check_children(&mut self) -> anyhow::Result<()> {
        let mut exited = None;
        for process in self.etcd.iter_mut().chain(&mut self.observing) {
            let status = process.try_wait();
            let status = status.with_context(|| format!("read the status of {}", process.name()))?;
            exited = exited.or(status.map(|status| (&*process, status)));
        }
        let exited = match exited {
            Some(exited) => Some(exited),
            None => self.programs.first_exited()?,
        };
        match exited {
            Some((process, status)) => {
                let reason = format!("{} has ended: {status}", process.name());
                Err(StepFailure::new(reason, Some(process)).into())
            }
            None => Ok(()),
        }
    }

    /// Stops all processes and removes all files. Continues after failures, and returns an error that lists what is
    /// left. Blocks: nothing else is to be done meanwhile.
    pub(super) fn shut_down(mut self) -> anyhow::Result<()> {
        // Sentinels, keepers and the proxy first, the store last, because all of them write to it when they stop.
        self.programs.terminate(SHUTDOWN_TIMEOUT);
        for process in self.observing.iter_mut().chain(&mut self.etcd) {
            // If that fails, it is found again by its directory.
            let _ = process.signal(Signal::TERM);
            process.wait_exited(KILL_TIMEOUT);
        }
        let left = self.programs.end_everything(KILL_TIMEOUT);
        self.programs.remove_dir()?;
        if !left.is_empty() {
            bail!("these processes do not end: {left:?}");
        }
        Ok(())
    }

    fn store_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.etcd)
    }

    fn process(&self, name: &str) -> Option<&LoggedProcess> {
        let mut apart = self.etcd.iter().chain(&self.observing);
        let found = apart.find(|process| process.name() == name);
        found.or_else(|| self.programs.programs().get(name)?.process())
    }
}

/// Starts a program that is none of the cluster's own, as the user that PostgreSQL runs as.
fn start_apart(name: &str, mut command: Command, dir: &ClusterDir) -> Result<LoggedProcess, local_cluster::Error> {
    leave_terminal(&mut command);
    LoggedProcess::start(name, command, dir.user(), &dir.log(name))
}

/// Ctrl-C at the terminal then signals only us; the children are stopped in order.
fn leave_terminal(command: &mut Command) {
    command.process_group(0);
}

/// Returns the directory of our own executable, links resolved, which must contain the other programs as well.
fn own_program_dir() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("find our own executable")?;
    let dir = me.parent().context("our own executable is in no directory")?;
    if let Some(name) = missing_program(dir) {
        bail!(
            "{name} is not beside stolonctl in {}: build all programs with `make`",
            dir.display()
        );
    }
    Ok(dir.to_owned())
}

/// Returns sixteen random hexadecimal digits.
fn random_password(random: &RandomBytes) -> String {
    let bytes: [u8; 8] = random.bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
