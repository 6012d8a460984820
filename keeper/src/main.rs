//! stolon-keeper: checks its options, takes its data directory, and runs the keeper's loop.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use base::{Chain, RandomBytes};
use daemon::args::{self, KEEPER};
use daemon::telemetry::{self, Component};
use keeper::args::{Args, Config, HostEnv, address_warnings};
use keeper::keeper::{KeeperParts, KeeperSignals, data_of, run};
use keeper::local::boot_history;
use keeper::local::lock::DataDirLock;
use keeper::local::state::LocalState;
use keeper::local::state_files::{ChosenUid, choose_uid};
use keeper::metrics::Metrics;
use keeper::postgres::data::files::data_major;
use keeper::postgres::data::files::remove_leftovers;
use keeper::postgres::data::owned_dirs::OwnedDirs;
use keeper::postgres::programs::installation::{NEWEST_MAJOR, Programs};
use keeper::postgres::server::sockets::PrivateSocketDir;
use model::{BootUuid, KeeperUid, short_uid};
use tokio::task::LocalSet;
use tracing::{error, info, warn};

/// Time limit for resolving the advertised address before a warning is logged.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let typed: Args = args::parse(KEEPER);
    let checked = typed.check(&HostEnv::current());
    telemetry::init(&checked.log);
    for warning in &checked.warnings {
        warn!("{warning}");
    }
    let config = checked.config.unwrap_or_else(|faults| {
        let lines: Vec<&str> = faults.lines().collect();
        let (last, others) = lines.split_last().expect("a refused configuration has a fault");
        others.iter().for_each(|fault| error!("{fault}"));
        telemetry::fatal(last)
    });
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => telemetry::fatal_error("cannot start", &error),
    };
    let option = typed.advertise_option();
    let ended = LocalSet::new().block_on(&runtime, start_and_run(config, option));
    if let Err(error) = ended {
        telemetry::fatal(Chain(error.as_ref()));
    }
    telemetry::flush();
    // Do not wait for work on other threads, such as an abandoned removal.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

/// Checks everything that can be checked without changes, then takes the data directory and runs the keeper.
async fn start_and_run(config: Config, advertise_option: &str) -> Result<()> {
    if let Some(address) = &config.common.metrics_listen_address {
        telemetry::serve_metrics(address, Component::Keeper, &config.common.cluster_name)?;
    }
    let metrics = Metrics::register();
    let programs = find_programs(&config).await?;
    for odd in address_warnings(
        advertise_option,
        &config.advertise_address,
        resolve(&config.advertise_address).await.as_deref(),
    ) {
        warn!("{odd}");
    }
    let signals = KeeperSignals::install().context("install signal handlers")?;

    create_dir(&config.data_dir)?;
    let is_locked = config.locking;
    if is_locked {
        DataDirLock::take(&config.data_dir)?.hold_forever();
        info!("exclusive lock on data dir taken");
        remove_leftovers(&config.data_dir)?;
    }
    let local = LocalState::load(&config.data_dir)?;
    let owned = OwnedDirs::load(&config.data_dir, RandomBytes::system())?;
    let me = take_uid(&local, config.uid.as_deref())?;
    info!(uid = %me, "keeper uid");
    owned.adopt(me.as_str())?;
    let sockets = PrivateSocketDir::prepare(&config.data_dir)?;
    let boot = boot_uuid();
    let predecessors = match is_locked {
        true => boot_history::predecessors(&config.data_dir),
        false => Vec::new(),
    };
    // Without the lock another process may run on this directory, and the next holder of the lock would assume that
    // this one has ended.
    if is_locked && let Err(failed) = boot_history::record(&config.data_dir, &boot) {
        warn!(error = %Chain(&failed), "could not record this start, so the next one may take some seconds longer");
    }
    Box::pin(run(KeeperParts {
        config,
        programs,
        local,
        owned,
        sockets,
        me,
        boot,
        predecessors,
        metrics,
        signals,
    }))
    .await?;
    Ok(())
}

/// Finds PostgreSQL programs of a supported version.
async fn find_programs(config: &Config) -> Result<Programs> {
    let major = data_major(&data_of(config)).unwrap_or_default();
    let programs = Programs::find(config.bin_path.as_deref(), std::env::var_os("PATH").as_deref(), major)?;
    let version = programs.version().await?;
    info!(dir = %programs.dir().display(), %version, why = %programs.found(), "programs of PostgreSQL");
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

/// Creates the data directory with all its parents, accessible to the own user only (keeper 1.3.7).
fn create_dir(dir: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("create the data dir {}", dir.display()))
}

/// Returns the uid to run under, saved (keeper 1.5).
fn take_uid(local: &LocalState, given: Option<&str>) -> Result<KeeperUid> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).context("make up a uid")?;
    let uid = match choose_uid(&local.keeper_uid(), given, short_uid(random))? {
        ChosenUid::Saved(uid) => uid,
        ChosenUid::Given(uid) => {
            local.save_keeper_uid(&uid)?;
            uid
        }
        ChosenUid::Generated(uid) => {
            local.save_keeper_uid(&uid)?;
            info!(%uid, "generated a uid for this keeper");
            uid
        }
    };
    Ok(KeeperUid::from(uid))
}

/// Returns a random UUID of version 4 (keeper 0).
fn boot_uuid() -> BootUuid {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    BootUuid::from(uuid_v4(bytes))
}

/// RFC 9562, section 5.4.
fn uuid_v4(mut bytes: [u8; 16]) -> String {
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_uuids_are_of_version_4() {
        assert_eq!(uuid_v4([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(boot_uuid().as_str().len(), 36);
        assert_ne!(boot_uuid(), boot_uuid());
    }
}
