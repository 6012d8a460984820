//! The compared paths to a server: a direct connection, other proxies in their configurations, and stolon-proxy.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use local_cluster::UnixUser;
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::ports::{self, Port};
use stolon_tests::process::{self, Process, Signal};
use stolon_tests::wait::eventually;
use tokio::net::TcpStream;

/// How many clients a peer must accept: the 5,000 idle ones and some more.
const CLIENTS_MAX: usize = 6_000;

/// A path to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// No proxy.
    Direct,
    /// HAProxy with its defaults.
    Haproxy,
    /// HAProxy with one thread, splicing in both directions, pipes of 1 MiB.
    HaproxyTuned,
    /// nginx's stream module, one worker.
    Nginx,
    /// PgBouncer, session pooling.
    Pgbouncer,
    /// stolon-proxy with its defaults.
    Stolon,
    /// stolon-proxy with `--relay-threads=2`.
    StolonTwoThreads,
    /// stolon-proxy with its defaults, its metrics scraped 10 times per second.
    StolonScraped,
    /// The stolon-proxy of another build, with its defaults: what this build is compared with.
    StolonBefore,
}

impl Peer {
    /// All paths.
    pub const ALL: [Self; 9] = [
        Self::Direct,
        Self::Haproxy,
        Self::HaproxyTuned,
        Self::Nginx,
        Self::Pgbouncer,
        Self::Stolon,
        Self::StolonTwoThreads,
        Self::StolonScraped,
        Self::StolonBefore,
    ];

    /// Returns the paths that every load is measured with, unless they cannot carry it.
    pub fn usual() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|peer| peer.is_usual())
    }

    /// Returns whether it is one of [`Peer::usual`], not a variant of ours.
    pub fn is_usual(self) -> bool {
        !matches!(self, Self::StolonTwoThreads | Self::StolonScraped)
    }

    /// Returns its name in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::HaproxyTuned => "haproxy-tuned",
            Self::Nginx => "nginx",
            Self::Pgbouncer => "pgbouncer",
            Self::Stolon => "stolon-proxy",
            Self::StolonTwoThreads => "stolon-proxy-2-threads",
            Self::StolonScraped => "stolon-proxy-scraped",
            Self::StolonBefore => "stolon-proxy-before",
        }
    }

    /// Returns its title in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "HAProxy",
            Self::HaproxyTuned => "HAProxy tuned",
            Self::Nginx => "nginx",
            Self::Pgbouncer => "PgBouncer",
            Self::Stolon => "stolon-proxy",
            Self::StolonTwoThreads => "stolon-proxy, 2 threads",
            Self::StolonScraped => "stolon-proxy, scraped",
            Self::StolonBefore => "stolon-proxy before",
        }
    }

    /// Returns whether it is stolon-proxy.
    pub fn is_ours(self) -> bool {
        matches!(
            self,
            Self::Stolon | Self::StolonTwoThreads | Self::StolonScraped | Self::StolonBefore
        )
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

/// A running path: where clients connect, and the processes whose CPU and memory are measured.
#[derive(Debug)]
pub struct Instance {
    /// The port that clients connect to, on 127.0.0.1.
    pub port: u16,
    /// The processes between client and server; none on the direct path.
    pub pids: Vec<u32>,
    /// HAProxy's command socket.
    pub commands: Option<PathBuf>,
    /// The port of stolon-proxy's metrics.
    pub metrics: Option<u16>,
    process: Option<Process>,
    _ports: Vec<Port>,
}

impl Instance {
    /// Returns the direct path.
    pub fn direct(port: u16) -> Self {
        Self::new(port, Vec::new(), None)
    }

    /// Returns a stolon-proxy that the caller has started and stops.
    pub fn stolon(port: u16, pid: u32, metrics: u16) -> Self {
        Self::new(port, vec![pid], Some(metrics))
    }

    fn new(port: u16, pids: Vec<u32>, metrics: Option<u16>) -> Self {
        Self {
            port,
            pids,
            commands: None,
            metrics,
            process: None,
            _ports: Vec::new(),
        }
    }

    /// Starts HAProxy, nginx or PgBouncer in front of a server on 127.0.0.1, with its files in `dir`, and waits until
    /// it listens.
    ///
    /// # Errors
    ///
    /// It cannot be configured.
    ///
    /// # Panics
    ///
    /// It does not listen in time, or `peer` is the direct path or a stolon-proxy.
    pub async fn start(peer: Peer, server: u16, dir: &Path, user: Option<&UnixUser>) -> anyhow::Result<Self> {
        let port = ports::free();
        let dir = dir.join(format!("{}-{port}", peer.name()));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let commands = dir.join("commands");
        let (file, text) = match peer {
            Peer::Haproxy => ("haproxy.cfg", haproxy(port.number(), server, &commands, "", "")),
            Peer::HaproxyTuned => (
                "haproxy.cfg",
                haproxy(
                    port.number(),
                    server,
                    &commands,
                    "    nbthread 1\n    tune.pipesize 1048576\n",
                    "    option splice-request\n    option splice-response\n",
                ),
            ),
            Peer::Nginx => ("nginx.conf", nginx(port.number(), server, &dir)),
            Peer::Pgbouncer => ("pgbouncer.ini", pgbouncer(port.number(), server, &dir)),
            Peer::Direct | Peer::Stolon | Peer::StolonTwoThreads | Peer::StolonScraped | Peer::StolonBefore => {
                unreachable!("{peer} is not started here")
            }
        };
        let configuration = dir.join(file);
        fs::write(&configuration, text).with_context(|| format!("write {}", configuration.display()))?;
        fs::write(dir.join("users"), "\"bench\" \"\"\n").context("write PgBouncer's users")?;
        if let Some(user) = user {
            std::os::unix::fs::chown(&dir, Some(user.uid), Some(user.gid)).context("chown the directory")?;
        }
        let mut command = match peer {
            Peer::Haproxy | Peer::HaproxyTuned => {
                let mut command = program("haproxy");
                command.arg("-db").arg("-f").arg(&configuration);
                command
            }
            Peer::Nginx => {
                let mut command = program("nginx");
                command.arg("-p").arg(&dir).arg("-c").arg(&configuration);
                command.arg("-e").arg(dir.join("error.log"));
                command
            }
            _ => {
                let mut command = program("pgbouncer");
                command.arg(&configuration);
                command
            }
        };
        command.current_dir(&dir);
        let process = Process::start(peer.name(), command, user, &dir.join("output"));
        let mut instance = Self {
            port: port.number(),
            pids: Vec::new(),
            commands: matches!(peer, Peer::Haproxy | Peer::HaproxyTuned).then_some(commands),
            metrics: None,
            process: Some(process),
            _ports: vec![port],
        };
        instance.wait_listening(peer).await;
        Ok(instance)
    }

    async fn wait_listening(&mut self, peer: Peer) {
        let Some(process) = &mut self.process else { return };
        let port = self.port;
        eventually(format!("{peer} to listen"), SHORT_TIMEOUT, async || {
            assert!(
                process.try_wait().is_none(),
                "{peer} does not start: {}",
                process.tail(20)
            );
            TcpStream::connect(("127.0.0.1", port)).await.map(drop)
        })
        .await;
        let pid = process.pid();
        self.pids = [vec![pid], process::children(pid)].concat();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // nginx's workers keep running when their master process is killed.
        if let Some(process) = &mut self.process {
            process.signal(Signal::TERM);
            for _ in 0..200 {
                if process.try_wait().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            for pid in self.pids.iter().filter(|pid| process::is_running(**pid)) {
                process::send_signal(*pid, Signal::KILL);
            }
        }
    }
}

/// Returns a command for a server program, which Debian installs in directories that are not on every user's path.
fn program(name: &str) -> Command {
    let path = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    Command::new(path.unwrap_or_else(|| name.into()))
}

fn haproxy(port: u16, server: u16, commands: &Path, global: &str, defaults: &str) -> String {
    let commands = commands.display();
    format!(
        "global\n    maxconn {CLIENTS_MAX}\n    stats socket {commands} mode 600 level admin\n{global}\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n{defaults}\
         listen postgres\n    bind 127.0.0.1:{port}\n    server master 127.0.0.1:{server}\n"
    )
}

fn nginx(port: u16, server: u16, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nworker_processes 1;\npid {dir}/pid;\n\
         error_log {dir}/error.log;\nevents {{ worker_connections {}; }}\n\
         stream {{ server {{ listen 127.0.0.1:{port}; proxy_timeout 1h; proxy_pass 127.0.0.1:{server}; }} }}\n",
        2 * CLIENTS_MAX + 500
    )
}

fn pgbouncer(port: u16, server: u16, dir: &Path) -> String {
    let users = dir.join("users");
    format!(
        "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = session\nmax_client_conn = {CLIENTS_MAX}\n\
         default_pool_size = 100\nignore_startup_parameters = extra_float_digits\nlog_connections = 0\n\
         log_disconnections = 0\n",
        users.display()
    )
}
