//! `register`: keeps the healthy instances of a cluster registered in Consul, round after round, until a signal ends it
//! (cli 15). What is registered is left to `services`, the requests to `consul`.

use std::collections::BTreeSet;
use std::convert::Infallible;

use anyhow::Context as _;
use base::Chain;
use daemon::signals::{STOP, SignalHandlers};
use daemon::telemetry::{self, LogConfig};
use model::{ClusterData, DbUid};
use store::Store;
use tracing::{Level, debug, error, info};

use super::{CommandOutcome, stored_document};

mod config;
mod consul;
mod http_client;
mod services;

pub(super) use config::{Args, Config};
use consul::Consul;
use services::{CatalogChanges, Wanted, changes, wanted};

/// Runs rounds until SIGINT or SIGTERM, which leave all registrations in place.
pub(super) async fn run(
    store: &Store,
    cluster_name: &str,
    level: Level,
    config: Config,
) -> anyhow::Result<CommandOutcome> {
    let mut signals = SignalHandlers::install(&STOP).context("install signal handlers")?;
    telemetry::init(&LogConfig {
        level: if config.debug { Level::DEBUG } else { level },
        ..LogConfig::default()
    });
    let mut registrar = Registrar::new(store, cluster_name, config);
    let signal = tokio::select! {
        signal = signals.next() => signal,
        never = Box::pin(registrar.run()) => match never {},
    };
    info!(signal = %signal, "stopping, the registered services stay registered");
    telemetry::flush();
    Ok(CommandOutcome::Success)
}

/// What lasts from round to round.
struct Registrar<'a> {
    store: &'a Store,
    /// The name of the cluster, and of its service.
    name: &'a str,
    config: Config,
    consul: Consul,
    /// The failures of the last round. One that lasts is logged once.
    failures: BTreeSet<String>,
    /// The master that was last left out, to log it once.
    skipped_master: Option<DbUid>,
}

impl<'a> Registrar<'a> {
    fn new(store: &'a Store, name: &'a str, config: Config) -> Self {
        Self {
            store,
            name,
            consul: Consul::new(config.consul.clone()),
            config,
            failures: BTreeSet::new(),
            skipped_master: None,
        }
    }

    async fn run(&mut self) -> Infallible {
        loop {
            let failures = match self.round().await {
                Ok(failures) => failures,
                Err(failure) => vec![format!(
                    "skipping this round, nothing is changed: {}",
                    Chain(failure.as_ref())
                )],
            };
            self.log_failures(failures);
            tokio::time::sleep(self.config.sleep_interval).await;
        }
    }

    /// Compares the catalogue with the cluster data and changes what differs (cli 15.2). Returns the failures of single
    /// changes.
    ///
    /// # Errors
    /// The catalogue or the cluster data cannot be used: nothing is changed.
    async fn round(&mut self) -> anyhow::Result<Vec<String>> {
        let discovered = self.consul.services(self.name).await?;
        let (data, _) = stored_document::read_unchecked(self.store).await?;
        let wanted = self.wanted(data.as_ref())?;
        let CatalogChanges { remove, add } = changes(&wanted.services, &discovered);
        let mut failures = Vec::new();
        for id in remove {
            match self.consul.deregister(&id).await {
                Ok(()) => info!(service = %id, "service deregistered"),
                Err(failure) => failures.push(Chain(&failure).to_string()),
            }
        }
        for service in add {
            match self.consul.register(&service).await {
                Ok(()) => info!(
                    service = %service.id,
                    address = %service.address,
                    port = service.port,
                    tags = %service.tags.join(","),
                    "service registered"
                ),
                Err(failure) => failures.push(Chain(&failure).to_string()),
            }
        }
        Ok(failures)
    }

    fn wanted(&mut self, data: Option<&ClusterData>) -> anyhow::Result<Wanted> {
        let wanted = wanted(data, self.name, &self.config.services)?;
        if wanted.skipped_master != self.skipped_master {
            if let Some(db) = &wanted.skipped_master {
                info!(db = %db, "skipping the master, without --register-master only standbys are registered");
            }
            self.skipped_master.clone_from(&wanted.skipped_master);
        }
        Ok(wanted)
    }

    fn log_failures(&mut self, failures: Vec<String>) {
        let failures: BTreeSet<String> = failures.into_iter().collect();
        for failure in &failures {
            if self.failures.contains(failure) {
                debug!(error = %failure, "service registration still fails");
            } else {
                error!(error = %failure, "service registration failed, repeating it every round");
            }
        }
        if failures.is_empty() && !self.failures.is_empty() {
            info!("service registration works again");
        }
        self.failures = failures;
    }
}
