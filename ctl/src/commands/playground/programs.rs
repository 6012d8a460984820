//! Runs a cluster on one machine: a temporary directory, the programs in it as child processes, and their shutdown.
//! Which steps are taken is left to `tour`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use base::Clock;
use rustix::process::{Signal, geteuid};
use store::{Store, StoreConfig, StoreOptions};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_postgres::Config;

use super::leftovers::{self, PgLeftovers};
use super::now;
use super::screen::Screen;

/// Cluster name, as in the walk-through.
pub(super) const CLUSTER: &str = "stolon-cluster";
/// Superuser of its databases.
pub(super) const SUPERUSER: &str = "postgres";
/// Time that a child gets to exit after SIGTERM.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);
/// Time that a killed process gets to disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(4);
/// Pause between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Lines of a log that are printed after a failure.
const LOG_TAIL_LINES: usize = 25;
/// Below the kernel's range for outgoing connections, so that none of those takes a port before its server binds it.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The ports that the servers listen on.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    pub(super) etcd: u16,
    etcd_peer: u16,
    pub(super) postgres: [u16; 3],
    pub(super) proxy: u16,
}

impl Ports {
    /// The ports of the walk-through.
    pub(super) const WALK_THROUGH: Self = Self {
        etcd: 2379,
        etcd_peer: 2380,
        postgres: [5432, 5435, 5436],
        proxy: 25432,
    };

    /// Returns ports that nobody listens on.
    pub(super) fn free() -> anyhow::Result<Self> {
        let size = u32::from(FREE_PORTS.end - FREE_PORTS.start);
        // Two playgrounds that start together search different parts of the range.
        let start = std::process::id().wrapping_mul(37);
        let mut free = (0..size)
            .filter_map(|step| u16::try_from(start.wrapping_add(step) % size).ok())
            .map(|offset| FREE_PORTS.start + offset)
            .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        let mut next = || free.next().with_context(|| format!("no free port in {FREE_PORTS:?}"));
        Ok(Self {
            etcd: next()?,
            etcd_peer: next()?,
            postgres: [next()?, next()?, next()?],
            proxy: next()?,
        })
    }

    /// Returns an error that names the port if another process listens on one.
    pub(super) fn ensure_free(&self) -> anyhow::Result<()> {
        for port in [self.etcd, self.etcd_peer, self.proxy].into_iter().chain(self.postgres) {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
                format!("port {port} is in use: stop the program that listens there, or use other ports")
            })?;
        }
        Ok(())
    }
}

/// A failed step, and the log that explains it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct StepFailure {
    reason: String,
    log: Option<PathBuf>,
}

impl StepFailure {
    /// Returns the last lines of the log.
    pub(super) fn log_tail(&self) -> Option<String> {
        let log = self.log.as_ref()?;
        let text = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let name = log.file_stem()?.to_string_lossy();
        Some(format!(
            "the last lines of {name}'s log:\n  {}",
            lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n  ")
        ))
    }
}

#[derive(Debug)]
struct ChildProcess {
    child: Child,
    log: PathBuf,
}

/// The user that the children run as if we are root: PostgreSQL and the keeper refuse to run as root.
#[derive(Debug, Clone, Copy)]
struct UnixUser {
    uid: u32,
    gid: u32,
}

/// The running cluster.
#[derive(Debug)]
pub(super) struct LocalCluster {
    dir: TempDir,
    program_dir: PathBuf,
    user: Option<UnixUser>,
    children: BTreeMap<String, ChildProcess>,
    leftovers: PgLeftovers,
    pub(super) ports: Ports,
    pub(super) store: Store,
    /// Password of the superuser.
    pub(super) password: String,
    /// Where the steps are printed.
    pub(super) screen: Screen,
}

impl LocalCluster {
    /// Creates the directory and finds the programs. Starts nothing.
    pub(super) fn prepare(ports: Ports) -> anyhow::Result<Self> {
        let user = if geteuid().is_root() {
            Some(postgres_user()?)
        } else {
            None
        };
        // The other user may not have access to root's own TMPDIR.
        let parent = if user.is_some() {
            PathBuf::from("/tmp")
        } else {
            std::env::temp_dir()
        };
        let dir = TempDir::with_prefix_in("stolon-playground.", parent).context("make a temporary directory")?;
        let own_dir = own_program_dir()?;
        let programs = if let Some(user) = user {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).context("open the directory")?;
            let programs = dir.path().join("bin");
            fs::create_dir(&programs).context("make bin/")?;
            for name in PROGRAMS {
                // The other user may not have access to the directory of our programs.
                fs::copy(own_dir.join(name), programs.join(name)).with_context(|| format!("copy {name}"))?;
            }
            for name in ["etcd", "data"] {
                let path = dir.path().join(name);
                fs::create_dir(&path).with_context(|| format!("make {name}/"))?;
                chown(&path, Some(user.uid), Some(user.gid)).with_context(|| format!("change the owner of {name}/"))?;
            }
            programs
        } else {
            fs::create_dir(dir.path().join("data")).context("make data/")?;
            own_dir
        };
        fs::create_dir(dir.path().join("log")).context("make log/")?;
        let (password, repl_password) = (random_password()?, random_password()?);
        for (name, secret) in [("su-password", &password), ("repl-password", &repl_password)] {
            let path = dir.path().join(name);
            fs::write(&path, secret)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
                .with_context(|| format!("write {name}"))?;
            if let Some(user) = user {
                chown(&path, Some(user.uid), Some(user.gid)).with_context(|| format!("change the owner of {name}"))?;
            }
        }
        let options = StoreOptions {
            endpoints: format!("http://127.0.0.1:{}", ports.etcd),
            cluster_name: CLUSTER.to_owned(),
            timeout: Duration::from_secs(2),
            ..StoreOptions::default()
        };
        let config = StoreConfig::validate(&options)
            .map_err(|faults| anyhow::anyhow!("the playground's own store options: {faults:?}"))?;
        Ok(Self {
            dir,
            program_dir: programs,
            user,
            children: BTreeMap::new(),
            leftovers: PgLeftovers::default(),
            ports,
            store: Store::connect(config, Clock::system()),
            password,
            screen: Screen::new(),
        })
    }

    pub(super) fn start_etcd(&mut self) -> anyhow::Result<()> {
        let client = format!("http://127.0.0.1:{}", self.ports.etcd);
        let peer = format!("http://127.0.0.1:{}", self.ports.etcd_peer);
        let mut command = Command::new("etcd");
        command
            .arg("--name=playground")
            .arg(format!("--data-dir={}", self.dir.path().join("etcd/data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=playground={peer}"));
        self.start("etcd", command)
            .context("is etcd installed? (Debian: apt-get install etcd-server)")
    }

    pub(super) fn start_sentinel(&mut self, name: &str) -> anyhow::Result<()> {
        let command = self.command("stolon-sentinel");
        self.start(name, command)
    }

    /// Starts the keeper with this index: `postgres0` to `postgres2`.
    pub(super) fn start_keeper(&mut self, index: usize) -> anyhow::Result<()> {
        let uid = format!("postgres{index}");
        let mut command = self.command("stolon-keeper");
        command
            .arg(format!("--uid={uid}"))
            .arg(format!("--data-dir={}", self.data_dir(&uid).display()))
            .arg("--pg-listen-address=127.0.0.1")
            .arg(format!("--pg-port={}", self.ports.postgres[index]))
            .arg(format!("--pg-su-username={SUPERUSER}"))
            .arg(format!(
                "--pg-su-passwordfile={}",
                self.dir.path().join("su-password").display()
            ))
            .arg("--pg-repl-username=repluser")
            .arg(format!(
                "--pg-repl-passwordfile={}",
                self.dir.path().join("repl-password").display()
            ));
        self.start(&uid, command)
    }

    pub(super) fn start_proxy(&mut self) -> anyhow::Result<()> {
        let mut command = self.command("stolon-proxy");
        command.arg(format!("--port={}", self.ports.proxy));
        self.start("proxy", command)
    }

    /// Runs `stolonctl` with these arguments and waits for it to exit.
    pub(super) async fn stolonctl(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command("stolonctl");
        command.args(arguments);
        self.start("stolonctl", command)?;
        let process = self.children.get_mut("stolonctl").context("it was just started")?;
        let status = tokio::time::timeout(SHUTDOWN_TIMEOUT, process.child.wait())
            .await
            .context("stolonctl takes too long")??;
        let process = self.children.remove("stolonctl").context("it was just waited for")?;
        if !status.success() {
            let reason = format!("stolonctl {}: {status}", arguments.join(" "));
            return Err(StepFailure {
                reason,
                log: Some(process.log),
            }
            .into());
        }
        Ok(())
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
        let pgdata = self.data_dir(uid).join("postgres");
        self.leftovers.record(&pgdata);
        let mut process = self
            .children
            .remove(uid)
            .with_context(|| format!("keeper {uid} does not run"))?;
        process.child.start_kill().context("kill the keeper")?;
        let postmaster = leftovers::postmaster_pid(&pgdata);
        let servers: Vec<u32> = postmaster
            .into_iter()
            .chain(postmaster.map(leftovers::child_pids).unwrap_or_default())
            .collect();
        for pid in &servers {
            leftovers::send_signal(*pid, Signal::KILL);
        }
        process.child.wait().await.context("wait for the killed keeper")?;
        if !wait_until_gone(&servers, KILL_TIMEOUT).await {
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
        let start = now();
        loop {
            self.check_children()?;
            let reason = match tokio::time::timeout(limit, probe(self)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer"),
            };
            if now().since(start) > limit {
                let reason = format!("not within {} s: {reason:#}", limit.as_secs());
                return Err(StepFailure {
                    reason,
                    log: self.children.get(log_of).map(|process| process.log.clone()),
                }
                .into());
            }
            self.screen.update_step(now());
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns an error if one of the children has exited: none does so by itself.
    pub(super) fn check_children(&mut self) -> anyhow::Result<()> {
        for (name, process) in &mut self.children {
            if let Some(status) = process
                .child
                .try_wait()
                .with_context(|| format!("read the status of {name}"))?
            {
                return Err(StepFailure {
                    reason: format!("{name} has ended: {status}"),
                    log: Some(process.log.clone()),
                }
                .into());
            }
        }
        Ok(())
    }

    /// Stops all processes and removes all files. Continues after failures, and returns an error that lists what is
    /// left.
    pub(super) async fn shut_down(mut self) -> anyhow::Result<()> {
        for uid in (0..3).map(|index| format!("postgres{index}")) {
            self.leftovers.record(&self.data_dir(&uid).join("postgres"));
        }
        // Sentinels, keepers and the proxy first, the store last, because all of them write to it when they stop.
        let etcd = self.children.remove("etcd");
        for process in self.children.values() {
            process
                .child
                .id()
                .into_iter()
                .for_each(|pid| leftovers::send_signal(pid, Signal::TERM));
        }
        let mut children: Vec<ChildProcess> = std::mem::take(&mut self.children).into_values().collect();
        wait_for_exit(&mut children, SHUTDOWN_TIMEOUT).await;
        if let Some(etcd) = etcd {
            etcd.child
                .id()
                .into_iter()
                .for_each(|pid| leftovers::send_signal(pid, Signal::TERM));
            children.push(etcd);
            wait_for_exit(&mut children[..], KILL_TIMEOUT).await;
        }
        // Servers whose keeper was killed. SIGQUIT lets a server remove its lock files and shared memory.
        let servers: Vec<u32> = (0..3)
            .filter_map(|index| leftovers::postmaster_pid(&self.data_dir(&format!("postgres{index}")).join("postgres")))
            .collect();
        servers
            .iter()
            .for_each(|pid| leftovers::send_signal(*pid, Signal::QUIT));
        wait_until_gone(&servers, KILL_TIMEOUT).await;
        let left = leftovers::pids_using(self.dir.path());
        left.iter().for_each(|pid| leftovers::send_signal(*pid, Signal::KILL));
        for process in &mut children {
            // It may have exited by now.
            let _ = process.child.start_kill();
        }
        wait_for_exit(&mut children, KILL_TIMEOUT).await;
        let all_gone = wait_until_gone(&left, KILL_TIMEOUT).await;
        self.leftovers.remove();
        let path = self.dir.path().to_owned();
        self.dir.close().with_context(|| format!("remove {}", path.display()))?;
        if !all_gone {
            bail!("these processes do not end: {left:?}");
        }
        Ok(())
    }

    fn data_dir(&self, uid: &str) -> PathBuf {
        self.dir.path().join("data").join(uid)
    }

    /// Returns the command line of one of our programs with the options that all of them share.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.program_dir.join(program));
        command
            .arg(format!("--cluster-name={CLUSTER}"))
            .arg("--store-backend=etcdv3")
            .arg(format!("--store-endpoints=http://127.0.0.1:{}", self.ports.etcd));
        command
    }

    fn start(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let log = self.dir.path().join("log").join(format!("{name}.log"));
        let out = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let err = out.try_clone().context("duplicate a descriptor")?;
        // Options in our own environment must not configure the children.
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if ["STKEEPER_", "STSENTINEL_", "STPROXY_", "STOLONCTL_", "ETCD_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(&variable);
            }
        }
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .current_dir(self.dir.path())
            // Ctrl-C at the terminal signals only us; the children are stopped in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", command.as_std().get_program().to_string_lossy()))?;
        self.children.insert(name.to_owned(), ChildProcess { child, log });
        Ok(())
    }
}

const PROGRAMS: [&str; 4] = ["stolonctl", "stolon-sentinel", "stolon-keeper", "stolon-proxy"];

/// Returns the directory of our own executable, links resolved, which must contain the other programs as well.
fn own_program_dir() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("find our own executable")?;
    let dir = me.parent().context("our own executable is in no directory")?;
    for name in PROGRAMS {
        if !dir.join(name).exists() {
            bail!(
                "{name} is not beside stolonctl in {}: build all programs with `make`",
                dir.display()
            );
        }
    }
    Ok(dir.to_owned())
}

fn postgres_user() -> anyhow::Result<UnixUser> {
    let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some(UnixUser {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    });
    found.context(
        "PostgreSQL refuses root and there is no user postgres: install PostgreSQL, or run this as another user",
    )
}

/// Returns sixteen random hexadecimal digits.
fn random_password() -> anyhow::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn wait_for_exit(children: &mut [ChildProcess], limit: Duration) {
    let start = now();
    while now().since(start) < limit {
        // A child whose status cannot be read counts as exited.
        if children
            .iter_mut()
            .all(|process| !matches!(process.child.try_wait(), Ok(None)))
        {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn wait_until_gone(pids: &[u32], limit: Duration) -> bool {
    let start = now();
    loop {
        if !pids.iter().any(|pid| leftovers::is_alive(*pid)) {
            return true;
        }
        if now().since(start) > limit {
            return false;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
