//! stolon-proxy: reads its options, starts the relay threads and the check-in loop, and shuts down in order. What each
//! of them does is left to its module.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::Context;
use base::clock::Boottime;
use base::{Clock, RandomBytes};
use daemon::args::{self, PROXY};
use daemon::telemetry::{self, Component};
use model::{ProxyUid, short_uid};
use proxy::args::{Args, Config, MachineLimits, bind_error_remedy};
use proxy::checkin::{CheckIn, CheckInParts, CheckInStatus};
use proxy::listener::{self, Listener};
use proxy::metrics::Metrics;
use proxy::relay::RelayThread;
use rustix::process::{Resource, Rlimit};
use store::Store;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

fn main() {
    let args: Args = args::parse(PROXY);
    let checked = args.check(machine());
    telemetry::init(&checked.log);
    let config = checked.config.unwrap_or_else(|faults| telemetry::fatal(faults));
    if let Err(err) = run(config) {
        let err: &(dyn std::error::Error + 'static) = err.as_ref();
        telemetry::fatal_error("stolon-proxy cannot run", err);
    }
    telemetry::flush();
}

/// Returns the machine's limits, after raising the soft limit of open files to the hard one (proxy P-14).
fn machine() -> MachineLimits {
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

#[expect(clippy::disallowed_methods, reason = "the program is where time enters")]
fn run(config: Config) -> anyhow::Result<()> {
    if let Some(address) = &config.common.metrics_listen_address {
        let server = telemetry::serve_metrics(address, Component::Proxy, &config.common.cluster_name)?;
        info!(address = %server.address, "serving metrics");
    }
    let metrics = Arc::new(Metrics::register(config.relay_threads));
    let status = Arc::new(CheckInStatus::new(Boottime::now()));
    let (scraped_metrics, summary_status) = (Arc::clone(&metrics), Arc::clone(&status));
    telemetry::on_scrape(move || {
        scraped_metrics.relay.update_sums();
        summary_status.update_gauges(&scraped_metrics, Boottime::now());
    });

    let me = ProxyUid::from(short_uid(RandomBytes::system().bytes()));
    info!(id = %me, "proxy id");
    let address = config.listener.listen;
    let bound = listener::bind(&config.listener, address).map_err(|err| {
        let attempt = format!("listen for clients on {address}: {}", bind_error_remedy(&err));
        anyhow::Error::new(err).context(attempt)
    })?;
    let threads: Vec<RelayThread> = (0..config.relay_threads)
        .map(|number| RelayThread::start(number, metrics.relay.thread_counters(number)))
        .collect::<Result<_, _>>()
        .context("start a relay thread")?;
    let first = threads.first().context("start a relay thread")?.handle().clone();
    let (listener, handle) = Listener::new(config.listener, bound, threads, Arc::clone(&metrics), Clock::system());
    let listening = first.spawn(listener.run());

    let control = current_thread().context("start the control loop")?;
    let outcome = control.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut usr1 = signal(SignalKind::user_defined1())?;
        let (summary_metrics, summary_status, clients) =
            (Arc::clone(&metrics), Arc::clone(&status), handle.client_counter());
        tokio::spawn(async move {
            while usr1.recv().await.is_some() {
                summary_status.log_summary(&summary_metrics, clients.load(Ordering::Relaxed), Boottime::now());
            }
        });
        let store = Store::connect(config.common.store, Clock::system());
        let mut checkin = CheckIn::new(CheckInParts {
            store,
            cluster_name: config.common.cluster_name,
            me,
            listener: handle,
            metrics,
            status,
            clock: Clock::system(),
            random: RandomBytes::system(),
        });
        let stopped_by = tokio::select! {
            fatal = checkin.run() => return Err(fatal.into()),
            end = listening => {
                end.context("accept clients")?.context("accept clients")?;
                anyhow::bail!("the listener ended by itself");
            }
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        if !config.drain.is_zero() {
            info!(signal = stopped_by, limit = ?config.drain, "stopping, letting connections end");
            tokio::select! {
                result = checkin.drain(config.drain) => result?,
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        }
        info!(signal = stopped_by, "stopping, closing connections to master");
        checkin.stop().await;
        Ok(())
    });
    control.shutdown_background(); // do not wait for a pending name lookup
    outcome
}

fn current_thread() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
