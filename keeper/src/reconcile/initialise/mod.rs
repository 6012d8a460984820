//! Initialisation: creates or completes the data of the assigned db according to its init mode (keeper 5, 6). What each
//! init mode does is in a file of its own.

mod existing;
mod new;
mod pitr;
mod resync;

use std::path::PathBuf;

use model::DbInitMode;

use crate::external_dirs::Obstacle;
use crate::reconcile::observed::WAL_RETRIEVE_RETRY_INTERVAL;
use crate::reconcile::{
    HoldReason, LocalDb, LogMessage, ObservedState, ReconcilePlan, ServerConfig, Step, TargetDb, Upstream,
    is_incomplete,
};

pub(crate) use pitr::is_kept;

/// Returns the steps that create the data of the assigned db.
pub(crate) fn initialise(observed: &ObservedState<'_>, target: &TargetDb) -> ReconcilePlan {
    let local = &observed.local.db.uid;
    let mut steps = Vec::new();
    let is_rewound = observed.process.rewound.as_ref() == Some(&target.db);
    if is_incomplete(observed) && !is_rewound && !pitr::is_kept(observed, target) {
        steps.push(Step::Log(LogMessage::Incomplete { db: local.clone() }));
    }
    if *local != target.db {
        steps.push(Step::Log(LogMessage::DbDiffers {
            local: local.clone(),
            wanted: target.db.clone(),
        }));
    }
    let mut plan = match &target.spec.init_mode {
        DbInitMode::New => new::new(observed, target),
        DbInitMode::Existing => existing::existing(observed, target),
        DbInitMode::Pitr => pitr::pitr(observed, target),
        DbInitMode::Resync => resync::resync(observed, target),
        DbInitMode::None => ReconcilePlan::hold(HoldReason::DataLost), // keeper I5
        mode => ReconcilePlan::hold(HoldReason::UnknownInitMode(mode.as_str().to_owned())),
    };
    steps.append(&mut plan.steps);
    ReconcilePlan { steps, ..plan }
}

/// Returns the desired configuration of a standby of `upstream`.
pub(crate) fn standby_config(observed: &ObservedState<'_>, upstream: impl Into<Upstream>) -> ServerConfig {
    ServerConfig {
        upstream: Some(upstream.into()),
        ..observed.config.cloned().unwrap_or_default()
    }
}

/// Returns the configuration for the first start of newly created data. The round ends with a reload of the desired
/// one.
///
/// A new master is read-only until its round has completed: if the round failed, the data would be created again and
/// writes of clients would be lost (keeper R12). A new standby retries every 500 ms instead of every 5 s while its
/// source is not ready.
pub(crate) fn first_start_config(mut config: ServerConfig) -> ServerConfig {
    let (name, value) = match config.upstream {
        None => ("default_transaction_read_only", "on"),
        Some(_) => (WAL_RETRIEVE_RETRY_INTERVAL, "500ms"),
    };
    config.set_unless_given(name, value);
    config
}

/// Saves that an initialisation begins, before anything is removed (keeper I4).
fn save_initializing(target: &TargetDb) -> Step {
    Step::SaveDb(LocalDb {
        uid: target.db.clone(),
        generation: 0,
        initializing: true,
    })
}

/// Returns what prevents an initialisation when there are data of unknown origin: they are never removed.
fn unclaimed_data(observed: &ObservedState<'_>) -> Option<(PathBuf, Obstacle)> {
    let found = observed.local.unclaimed.clone()?;
    Some((found, Obstacle::Unclaimed))
}
