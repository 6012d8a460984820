//! The proxy's options, and the configuration that they result in (cli 5). All errors are reported at once.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use daemon::args::{CheckedArgs, CommonConfig, DaemonArgs, Faults, GoInt, Switch};
use model::GoDuration;

use crate::listener;
use crate::relay::{Keepalive, PIPES_MAX, RelayConfig};

/// Descriptors that are not available for clients: logs, store, metrics, runtime, the spare one.
const OWN_DESCRIPTORS: usize = 64;
/// Descriptors of the pipes of one relay thread.
const THREAD_DESCRIPTORS: usize = 2 * PIPES_MAX;
/// A client takes one descriptor on each side.
const CLIENT_DESCRIPTORS: usize = 2;
/// Longest keepalive time that the kernel accepts (tcp(7), `MAX_TCP_KEEPIDLE`).
const KEEPALIVE_SECONDS_MAX: i64 = 32_767;
/// Most keepalive probes that the kernel accepts (`MAX_TCP_KEEPCNT`).
const KEEPALIVE_COUNT_MAX: i64 = 127;
/// Default of `--hold-max`.
const HOLD_MAX_DEFAULT: i64 = 1024;
/// More than the CPUs of any machine in use.
const RELAY_THREADS_MAX: i64 = 256;

/// Accept clients and forward them to the current master.
///
/// Every option can also be given by an environment variable: --listen-address is STPROXY_LISTEN_ADDRESS.
#[derive(Debug, Clone, Default, clap::Parser)]
pub struct Args {
    #[expect(missing_docs, reason = "clap would take it for help text")]
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Address to listen on; 0.0.0.0 or :: for all addresses of this machine [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub listen_address: Option<String>,
    /// Port to listen on [default: 5432]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Close the listening socket when the store has not answered for the proxy timeout; otherwise only connections are
    /// closed then [default: true]
    #[arg(long)]
    pub stop_listening: Option<Switch>,
    /// Idle seconds before TCP keepalive probes; 0: the system's default [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub tcp_keepalive_idle: Option<GoInt>,
    /// Unanswered keepalive probes that end a connection; 0: the system's default [default: 0]
    #[arg(long, value_name = "PROBES")]
    pub tcp_keepalive_count: Option<GoInt>,
    /// Seconds between keepalive probes; 0: the system's default [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub tcp_keepalive_interval: Option<GoInt>,
    /// Timeout of a connect to the master [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub connect_timeout: Option<GoDuration>,
    /// Maximum concurrent clients; more are closed [default: what the limit of open files allows]
    #[arg(long, value_name = "CLIENTS")]
    pub max_connections: Option<GoInt>,
    /// Relay threads [default: 1 for every 4 CPUs]
    #[arg(long, value_name = "THREADS")]
    pub relay_threads: Option<GoInt>,
    /// Read long streams, such as COPY, in larger pieces, which takes fewer wake-ups; delays their end by a few ms
    /// [default: true]
    #[arg(long)]
    pub batch_streams: Option<Switch>,
    /// How long a new client is held, connected and waiting, for the next master during a change of master; 0s: not at
    /// all [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub hold: Option<GoDuration>,
    /// Maximum clients that are held at once, see --hold; more are closed [default: 1024]
    #[arg(long, value_name = "CLIENTS")]
    pub hold_max: Option<GoInt>,
    /// How long a shutdown waits for connections to end by themselves [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<GoDuration>,
}

/// The validated configuration of the proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// Cluster, store, metrics.
    pub common: CommonConfig,
    /// Listener and connections.
    pub listener: listener::Config,
    /// Number of relay threads.
    pub relay_threads: usize,
    /// How long a shutdown waits for connections to end by themselves (proxy P-9).
    pub drain: Duration,
}

/// Facts about the machine that the validation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineLimits {
    /// CPUs available to this process.
    pub cpus: usize,
    /// The limit of open files, already raised.
    pub descriptors: usize,
}

/// Returns what to do about an address that cannot be listened on, depending on the error (bind(2), ip(7)).
pub fn bind_error_remedy(err: &io::Error) -> &'static str {
    match err.kind() {
        ErrorKind::AddrInUse => "choose another --port or --listen-address, or stop what is there",
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address, give --listen-address one that it has, or 0.0.0.0 or :: for all of them"
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE), choose another --port or grant it"
        }
        _ => "see --port and --listen-address",
    }
}

impl Args {
    /// Validates all options; the errors come in the order of cli 5.
    pub fn check(&self, machine: MachineLimits) -> CheckedArgs<Config> {
        let mut faults = Faults::default();
        let log = self.daemon.log(&mut faults);
        let common = self.daemon.check(&mut faults);
        let keepalive = self.keepalive(&mut faults);
        let listen = self.listen(&mut faults);
        let connect_timeout = self.connect_timeout.map_or(Duration::from_secs(5), GoDuration::to_std);
        if connect_timeout.is_zero() {
            faults.push("--connect-timeout must be greater than zero, such as 5s");
        }
        let mut not_negative = |option: &str, value: Option<GoDuration>, default: u64| match value {
            Some(value) if value.is_negative() => {
                faults.push(format!(
                    "--{option} is negative: it takes a duration such as 10s, or 0s"
                ));
                Duration::ZERO
            }
            value => value.map_or(Duration::from_secs(default), GoDuration::to_std),
        };
        let hold = not_negative("hold", self.hold, 10);
        let drain = not_negative("drain", self.drain, 0);
        let hold_max = match self.hold_max.map_or(HOLD_MAX_DEFAULT, |GoInt(max)| max) {
            max @ 0.. => usize::try_from(max).unwrap_or(usize::MAX),
            max => {
                faults.push(format!("--hold-max is {max}: it takes 0 or more"));
                0
            }
        };
        let relay_threads = self.relay_threads(machine, &mut faults);
        let max_connections = self.max_connections(machine, relay_threads, &mut faults);
        let relay = RelayConfig {
            batching: self.batch_streams != Some(Switch(false)),
            peer_timeout: keepalive.peer_timeout(),
            ..RelayConfig::default()
        };
        let config = match (common, listen) {
            (Some(common), Some(listen)) if faults.is_empty() => Ok(Config {
                common,
                listener: listener::Config {
                    listen,
                    stop_listening: self.stop_listening != Some(Switch(false)),
                    keepalive,
                    connect_timeout,
                    max_connections,
                    relay,
                    hold,
                    hold_max,
                },
                relay_threads,
                drain,
            }),
            _ => Err(faults),
        };
        CheckedArgs {
            log,
            warnings: Vec::new(),
            config,
        }
    }

    fn keepalive(&self, faults: &mut Faults) -> Keepalive {
        let mut within = |option: &str, value: Option<GoInt>, max: i64| match value.map_or(0, |GoInt(value)| value) {
            0 => None,
            value if (1..=max).contains(&value) => u32::try_from(value).ok(),
            value => {
                faults.push(format!(
                    "--{option} is {value}: it takes 0 to {max}, 0 for the system's default"
                ));
                None
            }
        };
        let idle = within("tcp-keepalive-idle", self.tcp_keepalive_idle, KEEPALIVE_SECONDS_MAX);
        let count = within("tcp-keepalive-count", self.tcp_keepalive_count, KEEPALIVE_COUNT_MAX);
        let interval = within(
            "tcp-keepalive-interval",
            self.tcp_keepalive_interval,
            KEEPALIVE_SECONDS_MAX,
        );
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Keepalive {
            idle: idle.map(seconds),
            interval: interval.map(seconds),
            count,
        }
    }

    fn listen(&self, faults: &mut Faults) -> Option<SocketAddr> {
        let (address, port) = (self.listen_address.as_deref(), self.port.as_deref());
        let (address, port) = (address.unwrap_or("127.0.0.1"), port.unwrap_or("5432"));
        let address_text = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(address);
        let ip: Option<IpAddr> = address_text.parse().ok();
        if ip.is_none() {
            faults.push(format!(
                "--listen-address is {address:?}: it takes an IP address, such as 127.0.0.1, 0.0.0.0 or ::"
            ));
        }
        let number: Option<u16> = port.parse().ok();
        if number.is_none() {
            faults.push(format!(
                "--port is {port:?}: it takes a number from 0 to 65535, 0 for any free one"
            ));
        }
        Some(SocketAddr::new(ip?, number?))
    }

    fn relay_threads(&self, machine: MachineLimits, faults: &mut Faults) -> usize {
        match self.relay_threads {
            None => (machine.cpus / 4).max(1),
            Some(GoInt(threads @ 1..=RELAY_THREADS_MAX)) => usize::try_from(threads).unwrap_or(1),
            Some(GoInt(threads)) => {
                faults.push(format!(
                    "--relay-threads is {threads}: it takes 1 to {RELAY_THREADS_MAX}"
                ));
                1
            }
        }
    }

    fn max_connections(&self, machine: MachineLimits, relay_threads: usize, faults: &mut Faults) -> usize {
        let own = OWN_DESCRIPTORS + THREAD_DESCRIPTORS * relay_threads;
        let possible = (machine.descriptors.saturating_sub(own) / CLIENT_DESCRIPTORS).max(1);
        match self.max_connections {
            None => possible,
            Some(GoInt(max)) => match usize::try_from(max) {
                Ok(max) if (1..=possible).contains(&max) => max,
                Ok(0) | Err(_) => {
                    faults.push(format!("--max-connections is {max}: it takes 1 or more"));
                    1
                }
                Ok(_) => {
                    faults.push(format!(
                        "--max-connections is {max}: the limit of open files allows {possible}, raise it (ulimit -n) or \
                         ask for fewer"
                    ));
                    1
                }
            },
        }
    }
}

#[cfg(test)]
mod tests;
