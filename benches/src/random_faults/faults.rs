//! The faults of a random run: what is chosen, how it is caused and repaired.

use std::fmt;

use local_cluster::leftovers::server_processes;
use stolon_tests::cluster::Cluster;
use stolon_tests::process::{Signal, send_signal};
use stolon_tests::tcp_relay::{NetworkCondition, TcpRelay};

/// What a fault hits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A keeper and every process of its PostgreSQL, as a whole host.
    Host(String),
    /// A keeper without its PostgreSQL.
    Keeper(String),
    /// The postmaster of a keeper.
    Postmaster(String),
    /// One other process of a keeper's PostgreSQL.
    ServerProcess(String),
    /// A sentinel or a proxy.
    Program(String),
    /// The store.
    Etcd,
}

impl Target {
    /// Returns the name of the program: at most one fault of one program at a time.
    pub(super) fn program(&self) -> &str {
        match self {
            Self::Host(name)
            | Self::Keeper(name)
            | Self::Postmaster(name)
            | Self::ServerProcess(name)
            | Self::Program(name) => name,
            Self::Etcd => "etcd",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "{name} and its PostgreSQL"),
            Self::Keeper(name) => write!(f, "{name} alone"),
            Self::Postmaster(name) => write!(f, "the postmaster of {name}"),
            Self::ServerProcess(name) => write!(f, "a process of {name}'s PostgreSQL"),
            Self::Program(name) => f.write_str(name),
            Self::Etcd => f.write_str("etcd"),
        }
    }
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FaultKind {
    /// SIGKILL; it is started again later.
    Kill,
    /// SIGTERM; it is started again later.
    Terminate,
    /// SIGSTOP, and SIGCONT later.
    Freeze,
    /// Its connections to the store carry no bytes for a while.
    StallStore,
    /// Its connections to the store are closed, and refused for a while.
    CutStore,
    /// The connections to its PostgreSQL, of proxies and standbys, carry no bytes for a while.
    StallSql,
    /// The connections to its PostgreSQL are closed, and refused for a while.
    CutSql,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "SIGKILL",
            Self::Terminate => "SIGTERM",
            Self::Freeze => "SIGSTOP",
            Self::StallStore => "store connections hang:",
            Self::CutStore => "store connections refused:",
            Self::StallSql => "SQL connections hang:",
            Self::CutSql => "SQL connections refused:",
        })
    }
}

/// A fault that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// What happens.
    pub(super) kind: FaultKind,
    /// To what.
    pub(super) target: Target,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.target)
    }
}

/// Relays that stand between the programs: to the store by program, and to PostgreSQL by keeper.
#[derive(Debug)]
pub(super) struct Network {
    /// By the names of the programs.
    pub(super) store: Vec<(String, TcpRelay)>,
    /// By the names of the keepers.
    pub(super) clients: Vec<(String, TcpRelay)>,
}

impl Network {
    fn relay<'a>(relays: &'a [(String, TcpRelay)], name: &str) -> &'a TcpRelay {
        let found = relays.iter().find(|(of, _)| of == name);
        &found.expect("every program has its relays").1
    }

    fn of(&self, fault: &Fault) -> &TcpRelay {
        let relays = match fault.kind {
            FaultKind::StallSql | FaultKind::CutSql => &self.clients,
            _ => &self.store,
        };
        Self::relay(relays, fault.target.program())
    }
}

/// Chooses a fault of a program that is none of `busy`.
pub(super) fn choose(random: &mut fastrand::Rng, cluster: &Programs, busy: &[String]) -> Option<Fault> {
    let free =
        |names: &[String]| -> Vec<String> { names.iter().filter(|name| !busy.contains(name)).cloned().collect() };
    let (keepers, others) = (free(&cluster.keepers), free(&cluster.others));
    let etcd_is_free = !busy.iter().any(|name| name == "etcd");
    // Keepers more often than the rest: what they run is what can be lost.
    for _ in 0..16 {
        let fault = match random.u8(0..12) {
            0..8 => random
                .choice(&keepers)
                .map(|keeper| keeper_fault(random, keeper.clone())),
            8..11 => random.choice(&others).map(|name| program_fault(random, name.clone())),
            _ => etcd_is_free.then(|| Fault {
                kind: if random.bool() {
                    FaultKind::Kill
                } else {
                    FaultKind::Freeze
                },
                target: Target::Etcd,
            }),
        };
        if fault.is_some() {
            return fault;
        }
    }
    None
}

/// The names of a cluster's programs.
#[derive(Debug, Clone, Default)]
pub(super) struct Programs {
    /// Keepers.
    pub(super) keepers: Vec<String>,
    /// Sentinels and proxies.
    pub(super) others: Vec<String>,
}

fn keeper_fault(random: &mut fastrand::Rng, keeper: String) -> Fault {
    let (kind, target) = match random.u8(0..14) {
        0 | 1 => (FaultKind::Kill, Target::Host(keeper)),
        2 => (FaultKind::Kill, Target::Keeper(keeper)),
        3 => (FaultKind::Kill, Target::Postmaster(keeper)),
        4 => (FaultKind::Kill, Target::ServerProcess(keeper)),
        5 | 6 => (FaultKind::Freeze, Target::Host(keeper)),
        7 => (FaultKind::Freeze, Target::Keeper(keeper)),
        8 => (FaultKind::Freeze, Target::ServerProcess(keeper)),
        9 => (FaultKind::Terminate, Target::Keeper(keeper)),
        10 => (FaultKind::StallStore, Target::Keeper(keeper)),
        11 => (FaultKind::CutStore, Target::Keeper(keeper)),
        12 => (FaultKind::StallSql, Target::Keeper(keeper)),
        _ => (FaultKind::CutSql, Target::Keeper(keeper)),
    };
    Fault { kind, target }
}

fn program_fault(random: &mut fastrand::Rng, name: String) -> Fault {
    let kinds = [
        FaultKind::Kill,
        FaultKind::Terminate,
        FaultKind::Freeze,
        FaultKind::StallStore,
        FaultKind::CutStore,
    ];
    Fault {
        kind: kinds[random.usize(0..kinds.len())],
        target: Target::Program(name),
    }
}

/// Causes a fault. Returns what has to be repaired; `None` when nothing is left to hit.
pub(super) fn cause(
    random: &mut fastrand::Rng,
    fault: &Fault,
    cluster: &mut Cluster,
    network: &Network,
) -> Option<Repair> {
    match fault.kind {
        FaultKind::StallStore | FaultKind::StallSql => network.of(fault).set_both(NetworkCondition::Hold),
        FaultKind::CutStore | FaultKind::CutSql => network.of(fault).disable(),
        FaultKind::Kill => return kill(random, &fault.target, cluster),
        FaultKind::Terminate => {
            cluster.process(fault.target.program()).signal(Signal::TERM);
            return Some(Repair::Start(fault.target.program().to_owned()));
        }
        FaultKind::Freeze => return stop(random, &fault.target, cluster),
    }
    Some(Repair::Network(fault.clone()))
}

/// How a fault is repaired.
#[derive(Debug, Clone)]
pub(super) enum Repair {
    /// The program is started, as soon as it has ended.
    Start(String),
    /// These processes go on.
    Continue(Vec<u32>),
    /// The connections are possible again.
    Network(Fault),
    StartEtcd,
    /// etcd goes on.
    ContinueEtcd,
    /// The cluster repairs it.
    Nothing,
}

fn kill(random: &mut fastrand::Rng, target: &Target, cluster: &mut Cluster) -> Option<Repair> {
    match target {
        Target::Host(keeper) => cluster.kill_keeper_and_postgres(keeper),
        Target::Keeper(name) | Target::Program(name) => cluster.process(name).kill(),
        Target::Postmaster(keeper) => {
            cluster.postmaster(keeper)?;
            cluster.kill_postmaster(keeper);
            return Some(Repair::Nothing);
        }
        Target::ServerProcess(keeper) => {
            send_signal(server_process(random, cluster, keeper)?, Signal::KILL);
            return Some(Repair::Nothing);
        }
        Target::Etcd => {
            cluster.etcd.kill();
            return Some(Repair::StartEtcd);
        }
    }
    Some(Repair::Start(target.program().to_owned()))
}

fn stop(random: &mut fastrand::Rng, target: &Target, cluster: &mut Cluster) -> Option<Repair> {
    let pids = match target {
        Target::Host(keeper) => {
            let mut pids = vec![cluster.process(keeper).pid()];
            pids.extend(server_processes(&cluster.pgdata(keeper)));
            pids
        }
        Target::Keeper(name) | Target::Program(name) => vec![cluster.process(name).pid()],
        Target::Postmaster(keeper) => vec![cluster.postmaster(keeper)?],
        Target::ServerProcess(keeper) => vec![server_process(random, cluster, keeper)?],
        Target::Etcd => {
            send_signal(cluster.etcd.process().pid(), Signal::STOP);
            return Some(Repair::ContinueEtcd);
        }
    };
    for pid in &pids {
        send_signal(*pid, Signal::STOP);
    }
    Some(Repair::Continue(pids))
}

/// Returns a process of a keeper's PostgreSQL that is not the postmaster.
fn server_process(random: &mut fastrand::Rng, cluster: &Cluster, keeper: &str) -> Option<u32> {
    let postmaster = cluster.postmaster(keeper)?;
    let mut pids = server_processes(&cluster.pgdata(keeper));
    pids.retain(|pid| *pid != postmaster);
    random.choice(pids)
}

/// Repairs a fault. Returns false when it has to be tried again later: a program that was asked to end still runs.
pub(super) async fn repair(what: &Repair, cluster: &mut Cluster, network: &Network) -> bool {
    match what {
        Repair::Start(name) => {
            if cluster.process(name).try_wait().is_none() {
                return false;
            }
            cluster.start(name);
        }
        Repair::Continue(pids) => pids.iter().for_each(|pid| send_signal(*pid, Signal::CONT)),
        Repair::Network(fault) => {
            let relay = network.of(fault);
            relay.set_both(NetworkCondition::Normal);
            relay.enable();
        }
        Repair::StartEtcd => {
            cluster.restart_etcd().await;
        }
        Repair::ContinueEtcd => send_signal(cluster.etcd.process().pid(), Signal::CONT),
        Repair::Nothing => {}
    }
    true
}
