//! Phase initializing: the first master is picked, waited for and handed over (sentinel 6).

use std::collections::BTreeMap;

use crate::model::{Db, DbInitMode, DbSpec, DbStatus, DbUid, KeeperUid, Phase, Role, parameter_fault};
use crate::plan::classify::{Convergence, convergence};
use crate::plan::draft::Draft;
use crate::plan::memory::converged;
use crate::plan::note::Note;
use crate::plan::proxies;
use crate::plan::situation::Situation;
use crate::plan::{Fresh, Refusal};

/// The decisions of phase initializing. The proxy section stays as it is until the last of them (sentinel I-9).
pub(crate) fn initialise(draft: &mut Draft, situation: &Situation, fresh: &mut Fresh<'_>) -> Result<(), Refusal> {
    let Some(master) = situation.data.master_uid().cloned() else {
        return choose(draft, situation, fresh);
    };
    let Some(db) = situation.data.dbs().get(&master) else {
        return Err(Refusal::MissingMaster { db: master });
    };
    let keeper = db.spec.keeper_uid.clone();
    let limit = situation.spec.init_timeout;
    let progress = convergence(&master, db, limit, situation.memory, situation.now, &mut draft.wakes);
    match progress {
        // sentinel I-4; I-7: converged and not healthy waits without limit
        Convergence::Converged if db.status.healthy => {
            draft.say(Note::DbInitialized {
                db: master.clone(),
                keeper,
            });
            hand_over(draft, situation, &master, db);
        }
        // sentinel I-5
        Convergence::Failed => {
            draft.say(Note::DbFailedToInitialize { db: master, keeper });
            draft.next.dbs_mut().clear();
            draft.cluster_mut().status.master = DbUid::default();
        }
        Convergence::Converged | Convergence::Converging => draft.say(Note::WaitingForDb { db: master, keeper }),
    }
    Ok(())
}

/// sentinel I-1, I-3
fn choose(draft: &mut Draft, situation: &Situation, fresh: &mut Fresh<'_>) -> Result<(), Refusal> {
    draft.say(Note::FindingInitialMaster {});
    // Healthy keepers that may be master, when there is one (W-7); else all.
    let fits = |uid: &&KeeperUid| {
        let keeper = situation.data.keepers().get(*uid);
        let status = keeper.map(|keeper| &keeper.status);
        let going = situation.reports.get(*uid).is_some_and(|report| report.going());
        status.is_some_and(|status| status.healthy && status.can_be_master != Some(false)) && !going
    };
    let fitting: Vec<&KeeperUid> = situation.data.keepers().keys().filter(fits).collect();
    let all = || situation.data.keepers().keys().collect();
    let choice = if fitting.is_empty() { all() } else { fitting };
    if choice.is_empty() {
        return Err(Refusal::NoKeepers);
    }
    let keeper = choice[fresh.pick(choice.len())].clone();
    let uid = fresh.db_uid(draft.next.dbs());
    let spec = DbSpec {
        keeper_uid: keeper.clone(),
        init_mode: DbInitMode::New,
        new_config: situation.spec.new_config.clone(),
        role: Role::Master,
        followers: Some(Vec::new()),
        include_previous_config: situation.spec.merge_pg_parameters,
        ..DbSpec::default()
    };
    let db = Db {
        uid: uid.clone(),
        generation: 1,
        spec,
        status: DbStatus::default(),
        ..Db::default()
    };
    draft.next.dbs_mut().insert(uid.clone(), db);
    draft.cluster_mut().status.master = uid.clone();
    draft.say(Note::Initializing { keeper: keeper.clone() });
    // Said here, too, as the walk-through shows it: a keeper that a watch woke reports the new db before the next round.
    let report = situation.reports.get(&keeper);
    if let Some(state) = report.and_then(|report| report.info.postgres_state.as_ref()) {
        draft.say(Note::UnexpectedDb {
            received: state.uid.clone(),
            db: uid,
            keeper,
        });
    }
    Ok(())
}

/// sentinel I-4
fn hand_over(draft: &mut Draft, situation: &Situation, master: &DbUid, db: &Db) {
    if let Some(next) = draft.db_mut(master) {
        next.spec.init_mode = DbInitMode::None;
        next.spec.include_previous_config = false;
    }
    let cluster = draft.cluster_mut();
    cluster.status.phase = Phase::Normal;
    if situation.spec.merge_pg_parameters
        && let Some(spec) = &mut cluster.spec
    {
        merge(&mut spec.pg_parameters, &db.status.pg_parameters);
    }
    let report = situation.report_of(db);
    let ready = converged(db) && report.is_none_or(|report| !report.going());
    proxies::announce(draft, &situation.proxies, master, ready);
}

/// Replaces the user's parameters by those that the instance reports (sentinel I-4), which are the user's and what it
/// came with. What it does not report and a server may be given stays in the spec: a value that its server refused, for
/// the user to see and to change, and parameters such as `wal_keep_size`, which keepers leave out of their reports.
fn merge(user: &mut BTreeMap<String, String>, reported: &BTreeMap<String, String>) {
    let is_reported = |name: &String| reported.keys().any(|reported| reported.eq_ignore_ascii_case(name));
    user.retain(|name, value| !is_reported(name) && parameter_fault(name, value).is_none());
    user.extend(reported.clone());
}
