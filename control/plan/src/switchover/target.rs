//! Whether a master may be replaced by a switchover, and by which db, before it is stopped (extensions X-2, steps 0
//! and 1). What makes the election safe is looked at once it is stopped (`elect`).

use std::collections::BTreeMap;

use crate::classify::Validity;
use crate::switchover_reason::{SWITCHOVER_FAIL_INTERVAL_MIN, SwitchoverReason, Unfit};
use crate::view::PlanView;
use model::{Db, DbUid, KeeperUid, Role};

/// The kind of the problem that a standby's keeper reports while its instance receives no WAL.
const NOT_STREAMING: &str = "replication";

/// Whether a lag counts against a db.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LagCheck {
    /// At most maxStandbyLag: clients would wait while it receives the rest.
    Limited,
    /// It receives the rest, or is not elected.
    Ignored,
}

/// Checks that the master may be stopped. Its keeper has to report it healthy, and to act on orders.
pub(super) fn check_master(view: &PlanView<'_>, master: &DbUid, db: &Db) -> Result<(), SwitchoverReason> {
    if view.spec.role == Role::Standby || db.spec.role != Role::Master {
        return Err(SwitchoverReason::StandbyCluster);
    }
    if view.spec.fail_interval < SWITCHOVER_FAIL_INTERVAL_MIN {
        return Err(SwitchoverReason::FailIntervalTooShort);
    }
    let keeper = db.spec.keeper_uid.clone();
    if view.keeper_of(db).is_some_and(|keeper| keeper.status.force_fail) {
        return Err(SwitchoverReason::FailedByHand { keeper });
    }
    let report = view.report_of(db).filter(|report| report.key_exists);
    let report = report.ok_or(SwitchoverReason::MasterKeeperGone)?;
    if report.info.leaving {
        return Err(SwitchoverReason::MasterLeaving);
    }
    if !report.is_keeper_running {
        return Err(SwitchoverReason::MasterKeeperGone);
    }
    if !report.info.orders {
        return Err(SwitchoverReason::NoOrders { keeper });
    }
    if !db.status.healthy || !report.reports_healthy(master) {
        return Err(SwitchoverReason::MasterNotHealthy);
    }
    if !db.is_converged() {
        return Err(SwitchoverReason::MasterConverging);
    }
    // With closed proxies a former master may be elected if the new one fails, and lacks what clients wrote since
    // (extensions; synchronous SY-8).
    match view.former_masters(master).next() {
        Some((_, former)) => Err(SwitchoverReason::FormerMasterKept {
            keeper: former.spec.keeper_uid.clone(),
        }),
        None => Ok(()),
    }
}

/// Returns the keeper whose db is to become the master: `to`, or that of the most advanced standby that is fit.
pub(super) fn find(
    view: &PlanView<'_>,
    to: Option<&KeeperUid>,
    master: &DbUid,
    db: &Db,
    lag: LagCheck,
) -> Result<KeeperUid, SwitchoverReason> {
    if let Some(to) = to {
        let (uid, standby) = view.data.db_of_keeper(to).ok_or_else(|| unfit(to, Unfit::NoDb))?;
        return match reason_against(view, uid, standby, (master, db), lag) {
            None => Ok(to.clone()),
            Some(why) => Err(unfit(to, why)),
        };
    }
    let mut reasons = Vec::new();
    let mut fit = Vec::new();
    for (uid, standby) in view.standbys() {
        match reason_against(view, uid, standby, (master, db), lag) {
            None => fit.push((uid, standby)),
            Some(why) => reasons.push((standby.spec.keeper_uid.clone(), why)),
        }
    }
    let best = fit
        .into_iter()
        .min_by(|(a_uid, a), (b_uid, b)| b.status.xlog_pos.cmp(&a.status.xlog_pos).then_with(|| a_uid.cmp(b_uid)));
    best.map(|(_, standby)| standby.spec.keeper_uid.clone())
        .ok_or(SwitchoverReason::NoTarget(reasons))
}

/// Checks that each standby that is connected to the master has received the WAL up to the end of the checkpoint, as the
/// master's keeper publishes it, and that the new master is among them (extensions X-2, step 1). A shutdown of the
/// master waits for every one of them.
pub(super) fn check_received(
    view: &PlanView<'_>,
    to: Option<&KeeperUid>,
    (master, db): (&DbUid, &Db),
    received: &BTreeMap<DbUid, bool>,
) -> Result<(), SwitchoverReason> {
    let (mut keepers, mut unknown) = (Vec::new(), Vec::new());
    for (uid, _) in received.iter().filter(|(_, has_received)| !**has_received) {
        match view.data.dbs().get(uid) {
            Some(standby) => keepers.push(standby.spec.keeper_uid.clone()),
            None => unknown.push(uid.clone()),
        }
    }
    if !(keepers.is_empty() && unknown.is_empty()) {
        return Err(SwitchoverReason::CheckpointNotReceived { keepers, unknown });
    }
    let can_be_elected = |uid: &DbUid| {
        let standby = view.data.dbs().get(uid);
        standby.is_some_and(|standby| reason_against(view, uid, standby, (master, db), LagCheck::Ignored).is_none())
    };
    match to {
        Some(to) => {
            let named = view.data.db_of_keeper(to).map(|(uid, _)| uid);
            let is_connected = named.is_some_and(|uid| received.contains_key(uid));
            let not_connected = || SwitchoverReason::NotConnected { keeper: to.clone() };
            is_connected.then_some(()).ok_or_else(not_connected)
        }
        None => {
            let can_go_on = received.keys().any(can_be_elected);
            can_go_on.then_some(()).ok_or(SwitchoverReason::NoElectableStandby)
        }
    }
}

fn unfit(keeper: &KeeperUid, why: Unfit) -> SwitchoverReason {
    SwitchoverReason::Target {
        keeper: keeper.clone(),
        why,
    }
}

/// Returns the first reason why a db cannot replace the master; those that pass by themselves come last.
fn reason_against(
    view: &PlanView<'_>,
    uid: &DbUid,
    db: &Db,
    (master_uid, master): (&DbUid, &Db),
    lag: LagCheck,
) -> Option<Unfit> {
    if uid == master_uid {
        return Some(Unfit::IsMaster);
    }
    if !db.is_standby_type() {
        return Some(Unfit::NotStandby);
    }
    if let Err(why) = check_keeper(view, uid, db) {
        return Some(why);
    }
    if matches!(view.assess(uid, db, master).validity, Validity::Invalid(_)) {
        return Some(Unfit::OtherData);
    }
    if !db.is_converged() {
        return Some(Unfit::Converging);
    }
    let (own, timeline) = (db.status.timeline_id, master.status.timeline_id);
    if own != timeline {
        return Some(Unfit::OtherTimeline { own, master: timeline });
    }
    let (at, end) = (db.status.xlog_pos, master.status.xlog_pos);
    let is_behind = at.bytes_behind(end) > i128::from(view.spec.max_standby_lag);
    (lag == LagCheck::Limited && is_behind).then_some(Unfit::TooFarBehind { at, master: end })
}

/// Checks that a standby's keeper runs, reports it healthy, and may have the master.
fn check_keeper(view: &PlanView<'_>, uid: &DbUid, db: &Db) -> Result<(), Unfit> {
    let keeper = view.keeper_of(db).ok_or(Unfit::NoDb)?;
    if keeper.status.force_fail {
        return Err(Unfit::FailedByHand);
    }
    if keeper.status.can_be_master == Some(false) {
        return Err(Unfit::MayNotBeMaster);
    }
    let report = view.report_of(db).ok_or(Unfit::NotHealthy)?;
    if report.info.is_leaving_or_stopped() {
        return Err(Unfit::Leaving);
    }
    let is_healthy = keeper.status.healthy && db.status.healthy;
    if !is_healthy || !report.is_keeper_running || !report.reports_healthy(uid) {
        return Err(Unfit::NotHealthy);
    }
    if report.info.problems.iter().any(|problem| problem.kind == NOT_STREAMING) {
        return Err(Unfit::NotStreaming);
    }
    Ok(())
}
