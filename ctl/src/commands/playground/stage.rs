//! The cluster on one machine: a temporary directory, the programs in it as child processes, and their end. What is
//! done with them is the tour's business.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use control::store::{Store, StoreConfig, StoreOptions};
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_postgres::Config;

use super::leftovers::{self, Traces};
use super::now;
use super::screen::Screen;

/// The cluster's name, as in the walk-through.
pub(super) const CLUSTER: &str = "stolon-cluster";
/// The superuser of its databases.
pub(super) const SUPERUSER: &str = "postgres";
/// How long a child may take to end in order.
const ORDERLY: Duration = Duration::from_secs(8);
/// How long a killed one may take to be gone.
const AT_ONCE: Duration = Duration::from_secs(4);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many lines of a log explain a failure.
const TAIL: usize = 25;
/// Below the kernel's range for outgoing connections, so that none of them takes a port before its server does.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Which ports the servers listen on.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    pub(super) etcd: u16,
    etcd_peer: u16,
    pub(super) postgres: [u16; 3],
    pub(super) proxy: u16,
}

impl Ports {
    /// Those of the walk-through.
    pub(super) const USUAL: Self = Self {
        etcd: 2379,
        etcd_peer: 2380,
        postgres: [5432, 5435, 5436],
        proxy: 25432,
    };

    /// Some that nobody listens on.
    pub(super) fn free() -> anyhow::Result<Self> {
        let size = u32::from(FREE_PORTS.end - FREE_PORTS.start);
        // two playgrounds started together look in different places
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

    /// Errs with the port that somebody else listens on.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for port in [self.etcd, self.etcd_peer, self.proxy].into_iter().chain(self.postgres) {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("port {port} is in use: stop who listens there, or do not ask for it"))?;
        }
        Ok(())
    }
}

/// Why a step failed, and whose log tells more.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Failure {
    why: String,
    log: Option<PathBuf>,
}

impl Failure {
    /// The end of the log that tells more.
    pub(super) fn explanation(&self) -> Option<String> {
        let log = self.log.as_ref()?;
        let text = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let name = log.file_stem()?.to_string_lossy();
        Some(format!(
            "the end of what {name} said:\n  {}",
            lines[lines.len().saturating_sub(TAIL)..].join("\n  ")
        ))
    }
}

#[derive(Debug)]
struct Actor {
    child: Child,
    log: PathBuf,
}

/// The user whom the children run as when we are root: PostgreSQL refuses root, and so does the keeper.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// The running cluster.
#[derive(Debug)]
pub(super) struct Stage {
    dir: TempDir,
    programs: PathBuf,
    user: Option<User>,
    actors: BTreeMap<String, Actor>,
    traces: Traces,
    /// Which ports its servers have.
    pub(super) ports: Ports,
    /// Where its data are.
    pub(super) store: Store,
    /// The superuser's password.
    pub(super) password: String,
    /// Where the steps are told.
    pub(super) screen: Screen,
}

impl Stage {
    /// Makes the directory and finds the programs; starts nothing.
    pub(super) fn build(ports: Ports) -> anyhow::Result<Self> {
        let user = if geteuid().is_root() {
            Some(user_postgres()?)
        } else {
            None
        };
        // root's own TMPDIR may be out of the other user's reach
        let parent = if user.is_some() {
            PathBuf::from("/tmp")
        } else {
            std::env::temp_dir()
        };
        let dir = TempDir::with_prefix_in("stolon-playground.", parent).context("make a temporary directory")?;
        let beside_us = beside_us()?;
        let programs = if let Some(user) = user {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).context("open the directory")?;
            let programs = dir.path().join("bin");
            fs::create_dir(&programs).context("make bin/")?;
            for name in PROGRAMS {
                // ours may be out of that user's reach
                fs::copy(beside_us.join(name), programs.join(name)).with_context(|| format!("copy {name}"))?;
            }
            for name in ["etcd", "data"] {
                let path = dir.path().join(name);
                fs::create_dir(&path).with_context(|| format!("make {name}/"))?;
                chown(&path, Some(user.uid), Some(user.gid)).with_context(|| format!("give {name}/ away"))?;
            }
            programs
        } else {
            fs::create_dir(dir.path().join("data")).context("make data/")?;
            beside_us
        };
        fs::create_dir(dir.path().join("log")).context("make log/")?;
        let (password, repl_password) = (random_text()?, random_text()?);
        for (name, secret) in [("su-password", &password), ("repl-password", &repl_password)] {
            let path = dir.path().join(name);
            fs::write(&path, secret)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
                .with_context(|| format!("write {name}"))?;
            if let Some(user) = user {
                chown(&path, Some(user.uid), Some(user.gid)).with_context(|| format!("give {name} away"))?;
            }
        }
        let options = StoreOptions {
            endpoints: format!("http://127.0.0.1:{}", ports.etcd),
            cluster_name: CLUSTER.to_owned(),
            timeout: Duration::from_secs(2),
            ..StoreOptions::default()
        };
        let config = StoreConfig::load(&options)
            .map_err(|faults| anyhow::anyhow!("the playground's own store options: {faults:?}"))?;
        Ok(Self {
            dir,
            programs,
            user,
            actors: BTreeMap::new(),
            traces: Traces::default(),
            ports,
            store: Store::connect(config),
            password,
            screen: Screen::new(),
        })
    }

    /// Starts etcd.
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

    /// Starts a sentinel.
    pub(super) fn start_sentinel(&mut self, name: &str) -> anyhow::Result<()> {
        let command = self.command("stolon-sentinel");
        self.start(name, command)
    }

    /// Starts the keeper of this index: `postgres0` to `postgres2`.
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

    /// Starts the proxy.
    pub(super) fn start_proxy(&mut self) -> anyhow::Result<()> {
        let mut command = self.command("stolon-proxy");
        command.arg(format!("--port={}", self.ports.proxy));
        self.start("proxy", command)
    }

    /// Runs `stolonctl` with these arguments to its end.
    pub(super) async fn stolonctl(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command("stolonctl");
        command.args(arguments);
        self.start("stolonctl", command)?;
        let actor = self.actors.get_mut("stolonctl").context("it was just started")?;
        let status = tokio::time::timeout(ORDERLY, actor.child.wait())
            .await
            .context("stolonctl takes too long")??;
        let actor = self.actors.remove("stolonctl").context("it was just waited for")?;
        if !status.success() {
            let why = format!("stolonctl {}: {status}", arguments.join(" "));
            return Err(Failure {
                why,
                log: Some(actor.log),
            }
            .into());
        }
        Ok(())
    }

    /// Where a client connects: one server's port, or the proxy's.
    pub(super) fn connection(&self, port: u16) -> Config {
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

    /// Kills a keeper and every process of its PostgreSQL, as a power cut would.
    pub(super) async fn kill_keeper(&mut self, uid: &str) -> anyhow::Result<()> {
        let pgdata = self.data_dir(uid).join("postgres");
        self.traces.note(&pgdata);
        let mut actor = self
            .actors
            .remove(uid)
            .with_context(|| format!("keeper {uid} does not run"))?;
        actor.child.start_kill().context("kill the keeper")?;
        let postmaster = leftovers::postmaster(&pgdata);
        let servers: Vec<u32> = postmaster
            .into_iter()
            .chain(postmaster.map(leftovers::children).unwrap_or_default())
            .collect();
        for pid in &servers {
            leftovers::send(*pid, Signal::KILL);
        }
        actor.child.wait().await.context("wait for the killed keeper")?;
        if !gone(&servers, AT_ONCE).await {
            bail!("PostgreSQL of {uid} outlives SIGKILL");
        }
        Ok(())
    }

    /// Looks again and again until `probe` gives a value. Errs when `limit` has passed, with the last reason and the
    /// log of `whose`, and at once when a child has ended.
    pub(super) async fn until<T>(
        &mut self,
        whose: &str,
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
                let why = format!("not within {} s: {reason:#}", limit.as_secs());
                return Err(Failure {
                    why,
                    log: self.actors.get(whose).map(|actor| actor.log.clone()),
                }
                .into());
            }
            self.screen.tick(now());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Errs when one of the children has ended, which none does by itself.
    pub(super) fn check_children(&mut self) -> anyhow::Result<()> {
        for (name, actor) in &mut self.actors {
            if let Some(status) = actor.child.try_wait().with_context(|| format!("ask after {name}"))? {
                return Err(Failure {
                    why: format!("{name} has ended: {status}"),
                    log: Some(actor.log.clone()),
                }
                .into());
            }
        }
        Ok(())
    }

    /// Ends everything and removes everything. Whatever fails, it goes on with the rest; then it errs with what is
    /// still there.
    pub(super) async fn clear(mut self) -> anyhow::Result<()> {
        for uid in (0..3).map(|index| format!("postgres{index}")) {
            self.traces.note(&self.data_dir(&uid).join("postgres"));
        }
        // in order: who decides, who carries, who serves; the store last, since all of them speak with it
        let etcd = self.actors.remove("etcd");
        for actor in self.actors.values() {
            actor
                .child
                .id()
                .into_iter()
                .for_each(|pid| leftovers::send(pid, Signal::TERM));
        }
        let mut actors: Vec<Actor> = std::mem::take(&mut self.actors).into_values().collect();
        wait_all(&mut actors, ORDERLY).await;
        if let Some(etcd) = etcd {
            etcd.child
                .id()
                .into_iter()
                .for_each(|pid| leftovers::send(pid, Signal::TERM));
            actors.push(etcd);
            wait_all(&mut actors[..], AT_ONCE).await;
        }
        // a server that nobody looks after, since its keeper was killed: SIGQUIT lets it remove what it holds
        let servers: Vec<u32> = (0..3)
            .filter_map(|index| leftovers::postmaster(&self.data_dir(&format!("postgres{index}")).join("postgres")))
            .collect();
        servers.iter().for_each(|pid| leftovers::send(*pid, Signal::QUIT));
        gone(&servers, AT_ONCE).await;
        let left = leftovers::at_home_in(self.dir.path());
        left.iter().for_each(|pid| leftovers::send(*pid, Signal::KILL));
        for actor in &mut actors {
            // it may have ended by now
            let _ = actor.child.start_kill();
        }
        wait_all(&mut actors, AT_ONCE).await;
        let all_gone = gone(&left, AT_ONCE).await;
        self.traces.remove();
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

    /// One of our programs with the options that all of them have.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
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
        // our own options are no business of the children
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
            // Ctrl-C reaches us alone, and we end them in order
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", command.as_std().get_program().to_string_lossy()))?;
        self.actors.insert(name.to_owned(), Actor { child, log });
        Ok(())
    }
}

const PROGRAMS: [&str; 4] = ["stolonctl", "stolon-sentinel", "stolon-keeper", "stolon-proxy"];

/// The directory of our own executable, links resolved, in which the other programs are, too.
fn beside_us() -> anyhow::Result<PathBuf> {
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

fn user_postgres() -> anyhow::Result<User> {
    let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some(User {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    });
    found.context(
        "PostgreSQL refuses root and there is no user postgres: install PostgreSQL, or run this as another user",
    )
}

/// Sixteen random characters.
fn random_text() -> anyhow::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn wait_all(actors: &mut [Actor], limit: Duration) {
    let start = now();
    while now().since(start) < limit {
        // an error to ask after a child is as good as its end
        if actors
            .iter_mut()
            .all(|actor| !matches!(actor.child.try_wait(), Ok(None)))
        {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn gone(pids: &[u32], limit: Duration) -> bool {
    let start = now();
    loop {
        if !pids.iter().any(|pid| leftovers::lives(*pid)) {
            return true;
        }
        if now().since(start) > limit {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
