//! The start of a keeper (keeper 1, 3.1): checks what can be checked without changes, takes the data directory and the
//! liveness key, stops a server that was left running, and runs the loop.

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base::{Chain, Clock, RandomBytes};
use daemon::health::{Heartbeat, ProgramHealth};
use daemon::signals::{ProcessSignal, SignalHandlers};
use daemon::telemetry::{Component, MetricsServer};
use daemon::{program, systemd};
use model::{BootUuid, KeeperUid, Spec};
use store::Store;
use tokio::task::spawn_local;
use tracing::{info, warn};

use crate::args::{Config, address_warnings};
use crate::cluster_data::cluster_data_state;
use crate::context::KeeperContext;
use crate::keeper::{KeeperLoop, effective_sleep_interval};
use crate::liveness::{LivenessKey, renew_forever};
use crate::liveness_claim::LivenessClaim;
use crate::local::boot_history;
use crate::local::lock::DataDirLock;
use crate::local::state::LocalState;
use crate::local::uid::{boot_uuid, take_uid};
use crate::metrics::Metrics;
use crate::monitor::{InstanceReporter, Monitor, MonitorOptions};
use crate::postgres::config::conninfo::Address;
use crate::postgres::config::instance::InstanceConfig;
use crate::postgres::data::atomic_files::remove_leftovers;
use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::cluster_files::data_major;
use crate::postgres::data::layout;
use crate::postgres::data::owned_dirs::OwnedDirs;
use crate::postgres::data::walker::Walker;
use crate::postgres::instance::Instance;
use crate::postgres::programs::installation::{NEWEST_MAJOR, Programs};
use crate::postgres::server::sockets::{PUBLIC, PrivateSocketDir};
use crate::postgres::server::supervisor::StopLimits;
use crate::postgres::server::wal_senders;
use crate::problems::Problems;
use crate::publish::{InfoReport, KeeperIdentity, Publisher};
use crate::reconcile::ClusterDataState;
use crate::shutdown::{Shutdown, ShutdownKind, next_shutdown};
use crate::status::KeeperHealth;
use crate::synchronous::SyncReplication;

/// Time limit for resolving the advertised address before a warning is logged.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);
/// The signals that end a keeper, and SIGHUP, which re-reads the password files.
const SIGNALS: [ProcessSignal; 3] = [
    ProcessSignal::Terminate,
    ProcessSignal::Interrupt,
    ProcessSignal::Hangup,
];

/// Another process with the same uid has taken the liveness key, so this one has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another process runs with our uid: stop one of the two, or give one a --uid and a --data-dir of its own")]
pub struct ReplacedError;

/// A keeper that has taken its data directory.
struct StartedKeeper {
    config: Config,
    programs: Programs,
    metrics: Metrics,
    status: KeeperHealth,
    heartbeat: Heartbeat,
    dir: DataDir,
    clock: Clock,
    random: RandomBytes,
}

/// The keeper's own data directory, taken by this process.
struct DataDir {
    local: LocalState,
    /// Directories outside PGDATA that belong to this keeper.
    owned: OwnedDirs,
    me: KeeperUid,
    boot: BootUuid,
    /// Processes with this uid that have ended.
    predecessors: Vec<BootUuid>,
}

/// Runs a keeper until a signal ends it, and stops its instance. Must run where [`spawn_local`] works.
///
/// # Errors
///
/// It cannot start; or another process with the same uid has taken over, which happens when this one was suspended for
/// a while ([`ReplacedError`]).
pub async fn run(config: Config, advertise_option: &str, clock: Clock, random: RandomBytes) -> Result<()> {
    // Before PostgreSQL's programs are run, which takes its time on a busy machine.
    info!(dir = %config.data_dir.display(), "starting keeper");
    let server = program::serve_metrics(&config.common, Component::Keeper)?;
    let metrics = Metrics::register();
    let (status, heartbeat) = (
        KeeperHealth::new(clock.clone()),
        Heartbeat::new(clock.clone(), Duration::ZERO),
    );
    report_health(server.as_ref(), &status, &heartbeat).context("report to systemd")?;
    let programs = find_programs(&config).await?;
    let resolved = resolve(&config.advertise_address).await;
    for warning in address_warnings(advertise_option, &config.advertise_address, resolved.as_deref()) {
        warn!("{warning}");
    }
    let signals = SignalHandlers::install(&SIGNALS).context("install signal handlers")?;
    let (dir, sockets) = take_data_dir(&config, &random)?;
    let keeper = StartedKeeper {
        config,
        programs,
        metrics,
        status,
        heartbeat,
        dir,
        clock,
        random,
    };
    let ended = Box::pin(keeper.run(signals, &sockets)).await;
    sockets.remove();
    Ok(ended?)
}

/// Reports what the keeper does from now on. While its loop does not run, at the start and the end, a task beats for it.
fn report_health(server: Option<&MetricsServer>, status: &KeeperHealth, heartbeat: &Heartbeat) -> std::io::Result<()> {
    if let Some(server) = server {
        status.add_pages(server);
    }
    let (shown, beaten) = (status.clone(), heartbeat.clone());
    program::report_health(
        server,
        ProgramHealth::new(beaten.clone(), move || shown.service_status()),
    )?;
    let status = status.clone();
    spawn_local(beaten.beat_while(move || !status.is_running()));
    Ok(())
}

impl StartedKeeper {
    async fn run(self, mut signals: SignalHandlers, sockets: &PrivateSocketDir) -> Result<(), ReplacedError> {
        let store = Store::new(self.config.common.store.clone(), self.clock.clone());
        let (me, boot) = (&self.dir.me, self.dir.boot.clone());
        let mut liveness_key = LivenessKey::new(&store, me, boot, self.random.clone());
        let mut claim = LivenessClaim::default();
        let mut ended_by = tokio::select! {
            () = claim.take(&mut liveness_key, &self.dir.predecessors, &self.clock) => None,
            kind = next_shutdown(&mut signals) => Some(kind),
        };
        // Also without the key, where the store denies access to it.
        let may_act = ended_by.is_none();
        // Without the lock on the directory another process may supervise its server, too.
        if !may_act && (claim.is_held() || !self.config.locking) {
            info!("stopping, another process runs or may run with our uid");
            return Ok(());
        }
        // The request timeout is fixed here for the life of the process (keeper 3.1).
        let mut spec = Spec::default();
        if ended_by.is_none() {
            tokio::select! {
                read = first_spec(&store) => spec = read,
                kind = next_shutdown(&mut signals) => ended_by = Some(kind),
                () = renew_forever(&mut liveness_key) => {}
            }
        }
        let sleep_interval = effective_sleep_interval(spec.sleep_interval);
        let context = self.into_context(store, &spec, sockets);
        tokio::select! {
            () = stop_leftover_instance(&context) => {}
            () = renew_forever(&mut liveness_key) => {}
        }
        let Some(kind) = ended_by else {
            let keeper = KeeperLoop::new(context, signals, liveness_key, sleep_interval);
            return match Box::pin(keeper.run()).await {
                ShutdownKind::Replaced => Err(ReplacedError),
                ShutdownKind::Leaving | ShutdownKind::Interrupted => Ok(()),
            };
        };
        context.status.set_stopping();
        systemd::report_stopping();
        let shutdown = Shutdown::new(context, liveness_key, signals);
        // A process that was ended while it waited for the key publishes nothing: the uid may belong to another process.
        if may_act {
            shutdown.run(kind, std::future::ready(())).await;
        } else {
            shutdown.stop_without_publishing().await;
        }
        Ok(())
    }

    /// Makes the parts of the keeper. Nothing runs or is published yet.
    fn into_context(self, store: Store, spec: &Spec, sockets: &PrivateSocketDir) -> KeeperContext {
        let (config, dir, clock) = (self.config, self.dir, self.clock);
        let sleep_interval = effective_sleep_interval(spec.sleep_interval);
        let instance_config = instance_config(&config, spec, sockets);
        let walker = Walker::default();
        let changes = DataChanges::new(walker.clone());
        let programs = Arc::new(self.programs);
        let instance = Arc::new(Instance::new(instance_config, programs, changes.clone(), clock.clone()));
        let identity = KeeperIdentity {
            uid: dir.me.clone(),
            boot: dir.boot.clone(),
            can_be_master: config.can_be_master,
            can_be_synchronous_replica: config.can_be_synchronous_replica,
        };
        let local = Arc::new(dir.local);
        let report = InfoReport {
            cluster: local.cluster(),
            ..InfoReport::default()
        };
        let publisher = Arc::new(Publisher::new(
            store.clone(),
            identity,
            report,
            sleep_interval,
            clock.clone(),
            self.random,
        ));
        let problems = Arc::new(Problems::new(Arc::clone(&publisher)));
        let advertised = Address {
            host: config.advertise_address.clone(),
            port: config.advertise_port.clone(),
        };
        let metrics = Arc::new(self.metrics);
        let reporter = InstanceReporter::new(self.status.clone(), Arc::clone(&metrics), clock.clone());
        let synchronous = Arc::new(SyncReplication::new(&instance, &problems, &metrics));
        let monitor = Monitor::new(
            Arc::clone(&instance),
            Arc::clone(&publisher),
            Arc::clone(&local),
            Arc::clone(&problems),
            Arc::clone(&synchronous),
            reporter,
            MonitorOptions {
                advertised,
                interval: sleep_interval,
            },
        );
        metrics.set_sleep_interval(sleep_interval);
        KeeperContext {
            config: Arc::new(config),
            me: dir.me,
            boot: dir.boot,
            store,
            instance,
            publisher,
            monitor: Arc::new(monitor),
            synchronous,
            local,
            owned: Arc::new(dir.owned),
            changes,
            walker,
            metrics,
            problems,
            status: self.status,
            heartbeat: self.heartbeat,
            clock,
        }
    }
}

/// Returns how the instance is run.
fn instance_config(config: &Config, spec: &Spec, sockets: &PrivateSocketDir) -> InstanceConfig {
    InstanceConfig {
        data: layout::data_of(&config.data_dir),
        socket_dir: sockets.path().to_owned(),
        public_socket_dir: Some(PUBLIC.to_owned()),
        listen_addresses: config.listen_address.clone(),
        port: config.port,
        superuser: config.superuser.clone(),
        replication: config.replication.clone(),
        request_timeout: spec.request_timeout,
    }
}

/// Takes the data directory: creates and locks it, reads its state files and decides the uid.
fn take_data_dir(config: &Config, random: &RandomBytes) -> Result<(DataDir, PrivateSocketDir)> {
    create_dir(&config.data_dir)?;
    let is_locked = config.locking;
    if is_locked {
        DataDirLock::take(&config.data_dir)?.hold_forever();
        info!("exclusive lock on data dir taken");
        remove_leftovers(&config.data_dir)?;
    }
    let local = LocalState::load(&config.data_dir)?;
    let owned = OwnedDirs::load(&config.data_dir, random.clone())?;
    let me = take_uid(&local, config.uid.as_deref(), random)?;
    info!(uid = %me, "keeper uid");
    owned.adopt(me.as_str())?;
    let sockets = PrivateSocketDir::prepare(&config.data_dir)?;
    let boot = boot_uuid(random);
    let predecessors = match is_locked {
        true => boot_history::predecessors(&config.data_dir),
        false => Vec::new(),
    };
    // Without the lock another process may run on this directory, and the next holder of the lock would assume that
    // this one has ended.
    if is_locked && let Err(failed) = boot_history::record(&config.data_dir, &boot) {
        warn!(error = %Chain(&failed), "could not record this start, so the next one may take some seconds longer");
    }
    let dir = DataDir {
        local,
        owned,
        me,
        boot,
        predecessors,
    };
    Ok((dir, sockets))
}

/// Creates the data directory with all its parents, accessible to the own user only (keeper 1.3.7).
fn create_dir(dir: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("create the data dir {}", dir.display()))
}

/// Finds PostgreSQL programs of a supported version.
async fn find_programs(config: &Config) -> Result<Programs> {
    let major = data_major(&layout::data_of(&config.data_dir)).unwrap_or_default();
    let programs = Programs::find(config.bin_path.as_deref(), std::env::var_os("PATH").as_deref(), major)?;
    let version = programs.version().await?;
    info!(dir = %programs.dir().display(), %version, why = %programs.source(), "programs of PostgreSQL");
    if version.major > NEWEST_MAJOR {
        warn!(%version, newest = NEWEST_MAJOR, "this version of PostgreSQL is newer than the tested ones");
    }
    Ok(programs)
}

async fn resolve(address: &str) -> Option<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((address, 0));
    let found = tokio::time::timeout(RESOLVE_LIMIT, found).await.ok()?.ok()?;
    Some(found.map(|address| address.ip()).collect())
}

/// Returns the spec in force, or the defaults if it cannot be read.
async fn first_spec(store: &Store) -> Spec {
    match store.get(&store.keys().cluster_data()).await {
        Ok(entry) => match cluster_data_state(entry.as_ref()) {
            ClusterDataState::Valid(checked) => checked.spec,
            _ => Spec::default(),
        },
        Err(error) => {
            warn!(error = %Chain(&error), "could not read the cluster data, going on with the default intervals");
            Spec::default()
        }
    }
}

/// Stops any server on PGDATA at the start (keeper 3.1).
async fn stop_leftover_instance(context: &KeeperContext) {
    let instance = &context.instance;
    if let Ok(Some(pid)) = context.foreign_server().await {
        return warn!(
            pid,
            "a server that no keeper has started runs on PGDATA, leaving it as it is"
        );
    }
    match instance.running().await {
        Ok(None) => info!("stopping database"), // Go stolon logs it in any case
        Ok(Some(_)) => {
            // It will be started again, so no standby needs to receive the rest before that.
            let config = instance.config();
            let hurry = wal_senders::end_repeatedly(&config.data, &context.walker);
            let stopped = tokio::select! {
                stopped = instance.stop(StopLimits::default()) => stopped,
                never = hurry => match never {},
            };
            if let Err(error) = stopped {
                warn!(error = %Chain(&error), "could not stop the instance that was left running");
            }
        }
        Err(error) => warn!(error = %Chain(&error), "could not find out whether an instance was left running"),
    }
    if let Ok(None) = instance.running().await
        && let Err(error) = instance.end_other_processes().await
    {
        warn!(error = %Chain(&error), "could not stop the processes that use PGDATA");
    }
}

/// For tests: what the parts of a keeper in this directory share. Its store is never asked.
#[cfg(test)]
pub(crate) fn test_context(dir: &Path) -> KeeperContext {
    use daemon::args::{KEEPER, try_parse};

    use crate::args::{Args, HostEnv};

    let data_dir = format!("--data-dir={}", dir.join("keeper").display()); // not there yet, so it has no owner
    let options = [
        "--cluster-name=main",
        "--store-backend=etcdv3",
        &data_dir,
        "--pg-listen-address=127.0.0.1",
        "--pg-repl-username=repl",
        "--pg-repl-password=replpass",
        "--pg-su-username=super",
        "--pg-su-password=supass",
    ];
    let args: Args = try_parse(KEEPER, options.map(str::to_owned), |_| None).unwrap().args;
    let host = HostEnv {
        uid: 1,
        user: None,
        directory: dir.to_owned(),
    };
    let (config, clock, random) = (
        args.check(&host).config.unwrap(),
        Clock::system(),
        RandomBytes::system(),
    );
    let (dir, sockets) = take_data_dir(&config, &random).unwrap();
    let store = Store::new(config.common.store.clone(), clock.clone());
    let keeper = StartedKeeper {
        programs: Programs::find(None, std::env::var_os("PATH").as_deref(), None).unwrap(),
        config,
        metrics: Metrics::register(),
        status: KeeperHealth::new(clock.clone()),
        heartbeat: Heartbeat::new(clock.clone(), Duration::ZERO),
        dir,
        clock,
        random,
    };
    keeper.into_context(store, &Spec::default(), &sockets)
}
