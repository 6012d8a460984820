//! A cluster under random faults: programs are killed, stopped and terminated and networks are cut at random moments, while
//! clients insert rows through the proxies. At the end every acknowledged row is looked up.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use base::clock::Boottime;
use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::tcp_relay::TcpRelay;
use stolon_tests::wait::now;
use tokio::time::{sleep, timeout};

use self::acknowledged::MasterTimeline;
use self::clients::{Clients, LostRows, Record, create_table, lost_rows};
use self::faults::{Fault, Network, Programs, Repair, Target, cause, choose, repair};

mod acknowledged;
mod clients;
mod faults;

/// How many clients insert rows.
const CLIENTS: usize = 8;
/// Delay between two faults.
const BETWEEN_FAULTS: std::ops::Range<u64> = 200..9000;
/// How long a fault lasts; failInterval of the cluster is 4 s.
const FAULT_LASTS: std::ops::Range<u64> = 100..8000;
/// Faults at the same time.
const FAULTS_MAX: usize = 2;
/// Interval in which repairs and ended programs are looked for.
const TICK: Duration = Duration::from_millis(50);
/// Delay before a program that has ended by itself is started again, as in the systemd units.
const RESTART_DELAY: Duration = Duration::from_secs(2);
/// Time within which the cluster must be healthy after the last fault.
const HEALTHY_LIMIT: Duration = Duration::from_secs(60);
/// Faults that are named with a loss: those that began so long before.
const NAMED_FAULTS: Duration = Duration::from_secs(20);

/// A random run.
#[derive(Debug, Clone, Copy)]
pub struct RandomOptions {
    /// How many faults.
    pub faults: usize,
    /// Keepers of the cluster.
    pub keepers: usize,
    /// Sentinels of the cluster.
    pub sentinels: usize,
    /// Minimum and maximum of synchronous standbys; `None`: asynchronous replication.
    pub synchronous: Option<(u16, u16)>,
    /// Of the random numbers.
    pub seed: u64,
}

/// A fault that was caused.
struct CausedFault {
    number: usize,
    at: Boottime,
    fault: Fault,
}

/// A fault that lasts.
struct ActiveFault {
    program: String,
    repair: Repair,
    until: Boottime,
}

/// Runs the cluster and prints the table and what was lost.
///
/// # Errors
///
/// Rows are lost under synchronous replication, two masters were written to, or the cluster was not healthy in time.
///
/// # Panics
///
/// The cluster does not start.
pub async fn measure(options: RandomOptions) -> anyhow::Result<()> {
    let mut run = RandomRun::start(options).await?;
    for number in 1..=options.faults {
        run.cause_fault(number).await?;
    }
    run.repair_all().await;
    let last_fault = now();
    let healthy = timeout(HEALTHY_LIMIT, run.wait_healthy()).await;
    let healthy_after = now().since(last_fault);
    if healthy.is_err() {
        let (_, status) = run.cluster.stolonctl(&["status"]).await;
        let why = run.health().await.err().unwrap_or_default();
        anyhow::bail!(
            "not healthy {HEALTHY_LIMIT:?} after the last fault (seed {}): {why}\n{status}",
            options.seed
        );
    }
    // The announcements of the last rows arrive meanwhile.
    sleep(acknowledged::ANNOUNCEMENT_DELAY).await;
    run.clients.stop();
    run.clients
        .record()
        .check_rows(now() + acknowledged::ANNOUNCEMENT_DELAY);
    let sql = run.cluster.connect("proxy0").await;
    let logs = run.clients.record().logs.clone();
    let lost = lost_rows(&sql, &logs).await.context("look up the rows")?;
    run.report(&lost, healthy_after)
}

struct RandomRun {
    options: RandomOptions,
    random: fastrand::Rng,
    clients: Clients,
    programs: Programs,
    network: Network,
    caused: Vec<CausedFault>,
    active: Vec<ActiveFault>,
    /// Programs that have ended by themselves, and when they are started again.
    ended: BTreeMap<String, Boottime>,
    ends: BTreeMap<String, usize>,
    // after the clients and relays
    cluster: Cluster,
    began: Boottime,
}

impl RandomRun {
    async fn start(options: RandomOptions) -> anyhow::Result<Self> {
        let builder = Cluster::builder(Profile::Fast).without_programs();
        let mut cluster = builder.synchronous(options.synchronous).start().await;
        let mut network = Network {
            store: Vec::new(),
            clients: Vec::new(),
        };
        let mut programs = Programs::default();
        for _ in 0..options.sentinels {
            let name = cluster.prepare_sentinel();
            start_behind_relay(&mut cluster, &mut network, &name).await;
            programs.others.push(name);
        }
        for index in 0..options.keepers {
            let name = cluster.prepare_keeper();
            let relay = TcpRelay::to(&format!("127.0.0.1:{}", cluster.port(&name))).await;
            let address = relay.address();
            let (host, port) = address.rsplit_once(':').context("the address of a relay")?;
            let advertised = [
                format!("--pg-advertise-address={host}"),
                format!("--pg-advertise-port={port}"),
            ];
            cluster.program(&name).options.extend(advertised);
            network.clients.push((name.clone(), relay));
            start_behind_relay(&mut cluster, &mut network, &name).await;
            let role = if index == 0 { Role::Master } else { Role::Standby };
            cluster.wait_healthy(&name, &role).await;
            programs.keepers.push(name);
        }
        let mut addresses = Vec::new();
        for _ in 0..2 {
            let name = cluster.prepare_proxy();
            start_behind_relay(&mut cluster, &mut network, &name).await;
            cluster.wait_proxy_serves(&name).await;
            addresses.push(cluster.sql_config(&name));
            programs.others.push(name);
        }
        create_table(&cluster.connect("proxy0").await).await?;
        let mut clients = Clients::start(&addresses, CLIENTS);
        let ports = programs.keepers.iter().map(|name| (name.clone(), cluster.port(name)));
        clients.record_announcements(&cluster.store, ports.collect());
        Ok(Self {
            options,
            random: fastrand::Rng::with_seed(options.seed),
            clients,
            programs,
            network,
            caused: Vec::new(),
            active: Vec::new(),
            ended: BTreeMap::new(),
            ends: BTreeMap::new(),
            cluster,
            began: now(),
        })
    }

    /// Waits for a random time and until a fault is possible, and causes it.
    async fn cause_fault(&mut self, number: usize) -> anyhow::Result<()> {
        let delay = Duration::from_millis(self.random.u64(BETWEEN_FAULTS));
        let from = now() + delay;
        loop {
            self.tick().await;
            let is_possible = self.active.len() < FAULTS_MAX && now() >= from;
            if is_possible && self.try_fault(number) {
                return Ok(());
            }
            ensure!(
                now().since(from) < HEALTHY_LIMIT * 3,
                "no program to hit for a long time: {:?} have ended",
                self.ended.keys()
            );
            sleep(TICK).await;
        }
    }

    fn try_fault(&mut self, number: usize) -> bool {
        let active = self.active.iter().map(|active| active.program.clone());
        let busy: Vec<String> = active.chain(self.ended.keys().cloned()).collect();
        let Some(fault) = choose(&mut self.random, &self.programs, &busy) else {
            return false;
        };
        let Some(repair) = cause(&mut self.random, &fault, &mut self.cluster, &self.network) else {
            return false;
        };
        let lasts = Duration::from_millis(self.random.u64(FAULT_LASTS));
        let at = now();
        eprintln!(
            "{:8.2} s, fault {number}: {fault} for {:.1} s; {} rows",
            at.since(self.began).as_secs_f64(),
            lasts.as_secs_f64(),
            self.clients.counts().iter().sum::<i64>(),
        );
        self.active.push(ActiveFault {
            program: fault.target.program().to_owned(),
            repair,
            until: at + lasts,
        });
        self.caused.push(CausedFault { number, at, fault });
        true
    }

    /// Repairs what is due and starts programs that have ended by themselves.
    async fn tick(&mut self) {
        let (due, lasting) = std::mem::take(&mut self.active)
            .into_iter()
            .partition::<Vec<_>, _>(|active| active.until <= now());
        self.active = lasting;
        for mut active in due {
            if !repair(&active.repair, &mut self.cluster, &self.network).await {
                active.until = now() + TICK;
                self.active.push(active);
            }
        }
        let names: Vec<String> = [self.programs.keepers.as_slice(), &self.programs.others].concat();
        for name in names {
            if self.active.iter().any(|active| active.program == name) {
                continue;
            }
            if self.cluster.process(&name).try_wait().is_none() {
                self.ended.remove(&name);
                continue;
            }
            let restart = *self.ended.entry(name.clone()).or_insert_with(|| {
                *self.ends.entry(name.clone()).or_default() += 1;
                now() + RESTART_DELAY
            });
            if now() >= restart {
                self.cluster.start(&name);
                self.ended.remove(&name);
            }
        }
    }

    async fn repair_all(&mut self) {
        for active in &mut self.active {
            active.until = now();
        }
        while !self.active.is_empty() {
            self.tick().await;
            sleep(TICK).await;
        }
    }

    async fn wait_healthy(&mut self) {
        loop {
            self.tick().await;
            if self.health().await.is_ok() {
                return;
            }
            sleep(TICK).await;
        }
    }

    /// Returns why the cluster is not healthy: all instances are healthy and converged, all standbys stream, and every
    /// client is served.
    async fn health(&self) -> Result<(), String> {
        let data = self.cluster.data().await.map_err(error_text)?;
        let (_, master) = data.proxied_master().ok_or("no master is announced")?;
        let master = master.spec.keeper_uid.to_string();
        for keeper in &self.programs.keepers {
            let (_, db) = stolon_tests::cluster::db_of(&data, keeper).map_err(error_text)?;
            check(db.status.healthy, || format!("{keeper} is not healthy"))?;
            check(db.status.current_generation == db.generation, || {
                format!("{keeper} has not converged")
            })?;
        }
        let streaming = "select count(*) from pg_stat_replication where state = 'streaming'";
        let streaming = self.cluster.query(&master, streaming).await?;
        check(streaming == (self.options.keepers - 1).to_string(), || {
            format!("{streaming} standbys stream from {master}")
        })?;
        let before = self.clients.counts();
        sleep(TICK * 10).await;
        let after = self.clients.counts();
        check(before.iter().zip(&after).all(|(before, after)| after > before), || {
            format!("not all clients are served: {before:?}, {after:?}")
        })
    }

    fn report(&self, lost: &[LostRows], healthy_after: Duration) -> anyhow::Result<()> {
        let rows: i64 = self.clients.counts().iter().sum();
        let record = self.clients.record();
        let replication = match self.options.synchronous {
            None => "asynchronous".to_owned(),
            Some((min, max)) => format!("synchronous, min {min}, max {max}"),
        };
        let lost_count: i64 = lost.iter().map(|rows| rows.count).sum();
        println!("| replication | keepers | faults | masters | rows | lost | two masters | healthy after (s) | seed |");
        println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        println!(
            "| {replication} | {} | {} | {} | {rows} | {lost_count} | {} | {:.1} | {} |",
            self.options.keepers,
            self.options.faults,
            record.masters(),
            record.two_masters.len(),
            healthy_after.as_secs_f64(),
            self.options.seed
        );
        self.print_details(lost, &record);
        ensure!(
            record.two_masters.is_empty(),
            "two masters were written to through the proxies"
        );
        ensure!(
            self.options.synchronous.is_none() || lost.is_empty(),
            "acknowledged rows are lost under synchronous replication"
        );
        Ok(())
    }

    fn print_details(&self, lost: &[LostRows], record: &Record) {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for caused in &self.caused {
            let target = match &caused.fault.target {
                Target::Program(name) if name.starts_with("proxy") => "a proxy",
                Target::Program(_) => "a sentinel",
                Target::Host(_) => "a keeper and its PostgreSQL",
                Target::Keeper(_) => "a keeper",
                Target::Postmaster(_) => "a postmaster",
                Target::ServerProcess(_) => "a process of PostgreSQL",
                Target::Etcd => "etcd",
            };
            *kinds.entry(format!("{} {target}", caused.fault.kind)).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        println!("\nfaults: {}", kinds.join(", "));
        if !self.ends.is_empty() {
            println!("ended by themselves and were started again: {:?}", self.ends);
        }
        for (master, (count, until)) in lost_by_master(lost) {
            let before = self
                .caused
                .iter()
                .filter(|caused| caused.at <= until + FAULT_MARGIN && until.since(caused.at) <= NAMED_FAULTS);
            let named: Vec<String> = before
                .map(|caused| {
                    let at = caused.at.since(self.began).as_secs_f64();
                    format!("{at:.2} s: fault {}, {}", caused.number, caused.fault)
                })
                .collect();
            println!(
                "lost: {count} rows acknowledged by {master} until {:.2} s; {}",
                until.since(self.began).as_secs_f64(),
                named.join("; ")
            );
        }
        for sentence in record.two_masters.iter().take(20) {
            println!("two masters: {sentence}");
        }
        for (text, times) in &record.errors {
            eprintln!("{times} × {text}");
        }
    }
}

/// Returns how many rows of each master are lost, and when it acknowledged the last one of those ranges.
fn lost_by_master(lost: &[LostRows]) -> BTreeMap<MasterTimeline, (i64, Boottime)> {
    let mut by_master = BTreeMap::new();
    for rows in lost {
        let (count, until) = by_master.entry(rows.master).or_insert((0, rows.until));
        *count += rows.count;
        *until = rows.until.max(*until);
    }
    by_master
}

/// A fault can follow the last acknowledged row by so much.
const FAULT_MARGIN: Duration = Duration::from_secs(1);

/// Starts a program whose connections to the store go through a relay of its own.
async fn start_behind_relay(cluster: &mut Cluster, network: &mut Network, name: &str) {
    let relay = TcpRelay::to(&cluster.etcd.address()).await;
    cluster.program(name).store_endpoint = relay.endpoint();
    network.store.push((name.to_owned(), relay));
    cluster.start(name);
}
