//! The program: starts relay threads, listener and check-ins, and stops them in order when a signal arrives (proxy
//! P-9). What each of them does is left to its module.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use base::{Clock, RandomBytes};
use daemon::health::{Heartbeat, ProgramHealth};
use daemon::signals::{ProcessSignal, STOP, SignalHandlers};
use daemon::telemetry::{self, Component, MetricsServer};
use daemon::{program, runtime, systemd};
use model::{ProxyUid, short_uid};
use rustix::process::{Resource, Rlimit};
use store::Store;
use tokio::task::JoinHandle;
use tracing::info;

use crate::args::{Config, MachineLimits, bind_error_remedy};
use crate::checkin::{CheckInLoop, CheckInParts, CheckInStatus};
use crate::listener::{self, Listener, ListenerHandle};
use crate::metrics::Metrics;
use crate::relay::RelayThread;

/// Returns the machine's limits, after raising the soft limit of open files to the hard one (proxy P-14).
pub fn raise_limits() -> MachineLimits {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = rustix::process::setrlimit(Resource::Nofile, raised).map_or(limit.current, |()| limit.maximum);
    let descriptors = now.map_or(usize::MAX, |now| usize::try_from(now).unwrap_or(usize::MAX));
    MachineLimits {
        cpus: thread::available_parallelism().map_or(1, usize::from),
        descriptors,
    }
}

/// Runs the proxy until a signal stops it.
///
/// # Errors
/// It cannot start, or the listener ended by itself.
pub fn run(config: Config, clock: &Clock, random: RandomBytes) -> anyhow::Result<()> {
    let control = runtime::local().context("start the control loop")?;
    // Before the program is announced as running: a signal then stops it in order.
    let signals = {
        let _context = control.enter();
        SignalHandlers::install(&STOP)?
    };
    let server = program::serve_metrics(&config.common, Component::Proxy)?;
    if let Some(server) = &server {
        info!(address = %server.address, "serving metrics");
    }
    let metrics = Arc::new(Metrics::register(config.relay_threads));
    let status = Arc::new(CheckInStatus::new(clock.now()));
    update_at_scrapes(Arc::clone(&metrics), Arc::clone(&status), clock.clone());
    let me = ProxyUid::from(short_uid(random.bytes()));
    info!(id = %me, "proxy id");
    let (listening, listener) = start_listener(&config, &metrics, clock)?;
    let heartbeat = report_health(server.as_ref(), &status, &listener, clock)?;
    let clock = clock.clone();
    program::run_main_task(control, async move {
        log_summaries(
            Arc::clone(&metrics),
            Arc::clone(&status),
            listener.client_counter(),
            clock.clone(),
        )?;
        let checkin = CheckInLoop::new(CheckInParts {
            store: Store::new(config.common.store, clock.clone()),
            cluster_name: config.common.cluster_name,
            me,
            listener,
            metrics,
            status,
            clock,
            random,
        });
        check_in_until_stopped(checkin, listening, signals, config.drain, heartbeat).await
    })
}

/// Checks in until a signal arrives, then lets connections end for as long as `drain`, and stops.
async fn check_in_until_stopped(
    mut checkin: CheckInLoop,
    listening: JoinHandle<io::Result<()>>,
    mut signals: SignalHandlers,
    drain: Duration,
    heartbeat: Heartbeat,
) -> anyhow::Result<()> {
    // Also while connections end after a signal.
    tokio::spawn(heartbeat.beat_while(|| true));
    let stopped_by = tokio::select! {
        fatal = checkin.run() => return Err(fatal.into()),
        end = listening => {
            end.context("accept clients")?.context("accept clients")?;
            anyhow::bail!("the listener ended by itself");
        }
        signal = signals.next() => signal,
    };
    systemd::report_stopping();
    if !drain.is_zero() {
        info!(signal = %stopped_by, limit = ?drain, "stopping, letting connections end");
        tokio::select! {
            result = checkin.drain(drain) => result?,
            _ = signals.next() => {}
        }
    }
    info!(signal = %stopped_by, "stopping, closing connections to master");
    checkin.stop().await;
    Ok(())
}

/// Reports what the proxy does from now on. Returns the heartbeat of its control loop.
fn report_health(
    server: Option<&MetricsServer>,
    status: &Arc<CheckInStatus>,
    listener: &ListenerHandle,
    clock: &Clock,
) -> anyhow::Result<Heartbeat> {
    let heartbeat = Heartbeat::new(clock.clone(), Duration::ZERO);
    let (status, clients, clock) = (Arc::clone(status), listener.client_counter(), clock.clone());
    let health = ProgramHealth::new(heartbeat.clone(), move || {
        status.service_status(clients.load(Ordering::Relaxed), clock.now())
    });
    program::report_health(server, health).context("report to systemd")?;
    Ok(heartbeat)
}

/// Binds the address for clients, starts the relay threads, and the listener on the first of them. It listens once it
/// is commanded to.
fn start_listener(
    config: &Config,
    metrics: &Arc<Metrics>,
    clock: &Clock,
) -> anyhow::Result<(JoinHandle<io::Result<()>>, ListenerHandle)> {
    let address = config.listener.listen;
    let bound = match systemd::inherited_listener().context("take the socket that systemd passed")? {
        Some(inherited) => {
            let bound = listener::inherit(&config.listener, inherited).context("use the socket that systemd passed")?;
            info!(address = %bound.address, "clients connect to the socket that systemd passed");
            bound
        }
        None => listener::bind(&config.listener, address).map_err(|err| {
            let attempt = format!("listen for clients on {address}: {}", bind_error_remedy(&err));
            anyhow::Error::new(err).context(attempt)
        })?,
    };
    let threads = (0..config.relay_threads)
        .map(|number| RelayThread::start(number, metrics.relay.thread_counters(number)))
        .collect::<io::Result<Vec<_>>>()
        .context("start a relay thread")?;
    let first = threads.first().context("start a relay thread")?.handle().clone();
    let (listener, handle) = Listener::new(
        config.listener.clone(),
        bound,
        threads,
        Arc::clone(metrics),
        clock.clone(),
    )
    .context("use the socket that systemd passed")?;
    Ok((first.spawn(listener.run()), handle))
}

/// Updates at each scrape the metrics that are not counted where something happens.
fn update_at_scrapes(metrics: Arc<Metrics>, status: Arc<CheckInStatus>, clock: Clock) {
    telemetry::on_scrape(move || {
        metrics.relay.update_sums();
        status.update_gauges(&metrics, clock.now());
    });
}

/// Logs a summary at each SIGUSR1 (proxy section 3).
fn log_summaries(
    metrics: Arc<Metrics>,
    status: Arc<CheckInStatus>,
    clients: Arc<AtomicUsize>,
    clock: Clock,
) -> io::Result<()> {
    let mut signals = SignalHandlers::install(&[ProcessSignal::User1])?;
    tokio::spawn(async move {
        loop {
            signals.next().await;
            status.log_summary(&metrics, clients.load(Ordering::Relaxed), clock.now());
        }
    });
    Ok(())
}
