//! Phase initializing: the first master is chosen, and announced once it is initialised (sentinel 6).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::classify::{Convergence, convergence};
use crate::draft::Draft;
use crate::entropy::Entropy;
use crate::note::Note;
use crate::plan_error::PlanError;
use crate::proxies;
use crate::view::PlanView;
use model::{
    Db, DbInitMode, DbSpec, DbStatus, DbUid, FollowConfig, InitMode, KeeperUid, Phase, Role, Undecidable,
    check_parameter,
};

/// Makes the decisions of phase initializing. The proxy section changes only with the last of them (sentinel I-9).
pub(crate) fn initialise(draft: &mut Draft, view: &PlanView, entropy: &mut Entropy<'_>) -> Result<(), PlanError> {
    let Some(master) = view.data.master_uid().cloned() else {
        return choose_initial_master(draft, view, entropy);
    };
    let Some(db) = view.data.dbs().get(&master) else {
        return Err(Undecidable::MissingMaster { db: master }.into());
    };
    let keeper = db.spec.keeper_uid.clone();
    // Only an empty database cluster is given up and created elsewhere: existing data are on one keeper, and a restore
    // may take days (sentinel I-5, I-6).
    let limit = match view.spec.init_mode {
        InitMode::New => view.spec.init_timeout,
        InitMode::Existing | InitMode::Pitr | InitMode::Other(_) => Duration::ZERO,
    };
    let (convergence, deadline) = convergence(&master, db, limit, view.memory, view.now);
    draft.deadlines.wake_after(deadline, view.now);
    match convergence {
        // A db that is converged and not healthy is waited for without limit (sentinel I-4, I-7).
        Convergence::Converged if db.status.healthy => {
            draft.note(Note::DbInitialized {
                db: master.clone(),
                keeper,
            });
            finish(draft, view, &master, db);
        }
        // Give up this db; the next round chooses another (sentinel I-5).
        Convergence::Failed => {
            draft.note(Note::DbFailedToInitialize { db: master, keeper });
            draft.next.dbs_mut().clear();
            draft.cluster_mut().status.master = DbUid::default();
        }
        Convergence::Converged | Convergence::Converging => draft.note(Note::WaitingForDb { db: master, keeper }),
    }
    Ok(())
}

/// Chooses the keeper of the first master and creates its db (sentinel I-1 to I-3).
fn choose_initial_master(draft: &mut Draft, view: &PlanView, entropy: &mut Entropy<'_>) -> Result<(), PlanError> {
    draft.note(Note::FindingInitialMaster {});
    let keeper = match &view.spec.init_mode {
        InitMode::Existing => existing_keeper(view)?,
        InitMode::New | InitMode::Pitr | InitMode::Other(_) => any_keeper(view, entropy)?,
    };
    let uid = entropy.db_uid(draft.next.dbs());
    let db = Db {
        uid: uid.clone(),
        generation: 1,
        spec: initial_spec(view, keeper.clone()),
        status: DbStatus::default(),
        ..Db::default()
    };
    draft.next.dbs_mut().insert(uid.clone(), db);
    draft.cluster_mut().status.master = uid.clone();
    draft.note(Note::Initializing { keeper: keeper.clone() });
    // Go stolon's walk-through for a simple cluster shows this message. The next round would not log it if the keeper,
    // woken by its watch, reports the new db before.
    let report = view.reports.get(&keeper);
    if let Some(state) = report.and_then(|report| report.info.postgres_state.as_ref()) {
        draft.note(Note::UnexpectedDb {
            received: state.uid.clone(),
            db: uid,
            keeper,
        });
    }
    Ok(())
}

/// Returns the keeper that has the existing data. Whether it is healthy does not matter: no other one has them.
fn existing_keeper(view: &PlanView) -> Result<KeeperUid, PlanError> {
    let config = view.spec.existing_config.as_ref();
    let keeper = config.map(|config| config.keeper_uid.clone()).unwrap_or_default();
    if view.data.keepers().contains_key(&keeper) {
        Ok(keeper)
    } else {
        Err(PlanError::ExistingKeeperMissing { keeper })
    }
}

/// Returns a random keeper of the healthy ones that may be master (sentinel W-7); of all if there is none.
fn any_keeper(view: &PlanView, entropy: &mut Entropy<'_>) -> Result<KeeperUid, PlanError> {
    let is_eligible = |uid: &&KeeperUid| {
        let keeper = view.data.keepers().get(*uid);
        let status = keeper.map(|keeper| &keeper.status);
        let is_leaving = view
            .reports
            .get(*uid)
            .is_some_and(|report| report.info.is_leaving_or_stopped());
        status.is_some_and(|status| status.healthy && status.can_be_master != Some(false)) && !is_leaving
    };
    let eligible: Vec<&KeeperUid> = view.data.keepers().keys().filter(is_eligible).collect();
    let choice = if eligible.is_empty() {
        view.data.keepers().keys().collect()
    } else {
        eligible
    };
    if choice.is_empty() {
        return Err(PlanError::NoKeepers);
    }
    Ok(choice[entropy.pick(choice.len())].clone())
}

/// Returns the spec of the first db (sentinel I-3).
fn initial_spec(view: &PlanView, keeper_uid: KeeperUid) -> DbSpec {
    let mut spec = DbSpec {
        keeper_uid,
        role: Role::Master,
        followers: Some(Vec::new()),
        include_previous_config: view.spec.merge_pg_parameters,
        ..DbSpec::default()
    };
    match view.spec.init_mode {
        InitMode::Existing => spec.init_mode = DbInitMode::Existing,
        InitMode::Pitr => {
            spec.init_mode = DbInitMode::Pitr;
            spec.pitr_config.clone_from(&view.spec.pitr_config);
            if view.spec.role == Role::Standby {
                spec.role = Role::Standby;
                spec.follow_config = Some(FollowConfig::external(view.spec.standby_config.as_ref()));
            }
        }
        InitMode::New | InitMode::Other(_) => {
            spec.init_mode = DbInitMode::New;
            spec.new_config.clone_from(&view.spec.new_config);
        }
    }
    spec
}

/// Ends the initialisation: the cluster enters phase normal and the master is announced (sentinel I-4).
fn finish(draft: &mut Draft, view: &PlanView, master: &DbUid, db: &Db) {
    if let Some(next) = draft.db_mut(master) {
        next.spec.init_mode = DbInitMode::None;
        next.spec.include_previous_config = false;
    }
    let cluster = draft.cluster_mut();
    cluster.status.phase = Phase::Normal;
    if view.spec.merge_pg_parameters
        && let Some(spec) = &mut cluster.spec
    {
        merge_parameters(&mut spec.pg_parameters, &db.status.pg_parameters);
    }
    let report = view.report_of(db);
    // With synchronous replication the commits have to wait first, which begins in the next round (synchronous SY-8).
    let stays = report.is_none_or(|report| !report.info.is_leaving_or_stopped());
    let ready = db.is_converged() && stays && !view.spec_is_synchronous();
    proxies::announce(draft, &view.proxies, master, ready);
}

/// Replaces the user's parameters by those that the instance reports, which are the user's and those of its
/// configuration file (sentinel I-4). A parameter that is not reported stays in the spec if a server may be given it: a
/// value that the server refused, which the user can then correct, or one that keepers never report, such as
/// `wal_keep_size`.
fn merge_parameters(user: &mut BTreeMap<String, String>, reported: &BTreeMap<String, String>) {
    let is_reported = |name: &String| reported.keys().any(|reported| reported.eq_ignore_ascii_case(name));
    user.retain(|name, value| !is_reported(name) && check_parameter(name, value).is_none());
    user.extend(reported.clone());
}
