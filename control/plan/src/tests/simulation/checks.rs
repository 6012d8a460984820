//! Invariants over several writes, checked independently of the planner.

use std::collections::BTreeSet;

use model::{DbUid, Phase};

use super::world::World;
use crate::{Condition, Plan, RequestFate};

/// Returns what a write of this plan would break.
pub(super) fn broken_by(plan: &Plan, world: &World) -> Vec<String> {
    let mut broken = Vec::new();
    let section = |data: &model::ClusterData| data.proxy.clone().unwrap_or_default().spec.master_db_uid;
    let (was, is) = (section(&world.data), section(&plan.next));
    let forwarding = |index: usize| world.proxies[index].may_forward_to(world.now);
    if was.is_empty() && !is.is_empty() {
        for (index, route) in (0..world.proxies.len()).filter_map(|index| Some((index, forwarding(index)?))) {
            if *route != is {
                broken.push(format!("{is} is announced while p{index} may forward to {route}"));
            }
        }
    }
    let elected = world.data.master_uid() != plan.next.master_uid();
    let normal = world.data.cluster.as_ref().unwrap().status.phase == Phase::Normal;
    if elected && normal && was.is_empty() {
        let forwards = |index: &usize| forwarding(*index).is_some();
        if let Some(index) = (0..world.proxies.len()).find(forwards) {
            let proxy = &world.proxies[index];
            broken.push(format!("an election while {proxy:?} may forward"));
        }
    }
    if elected && world.data.master_uid().is_some() && plan.next.master_uid().is_some() {
        let condition = |condition: &Condition| matches!(condition, Condition::KeeperInfo { .. });
        if !plan.conditions.iter().any(condition) {
            broken.push("an election on no condition".to_owned());
        }
    }
    broken.extend(lost_by_switchover(plan, world));
    let uids: BTreeSet<_> = plan.next.dbs().values().map(|db| &db.spec.keeper_uid).collect();
    if uids.len() != plan.next.dbs().len() {
        broken.push("two dbs on one keeper".to_owned());
    }
    broken
}

/// Returns what the old master of a switchover has and the elected one has not, or that it is still running: nothing is
/// lost, with asynchronous replication too (extensions ).
fn lost_by_switchover(plan: &Plan, world: &World) -> Option<String> {
    let ends = |condition: &Condition| {
        let fate = RequestFate::Deleted;
        matches!(condition, Condition::Switchover { fate: of, .. } if *of == fate)
    };
    let (old, new) = (world.data.master_uid()?, plan.next.master_uid()?);
    if old == new || !plan.conditions.iter().any(ends) {
        return None;
    }
    let keeper = |uid: &DbUid| world.keepers.iter().find(|keeper| keeper.has_db(uid.as_str()));
    let (old, new) = (keeper(old)?, keeper(new)?);
    let is_complete = !old.running && new.contains(old.timeline, old.at);
    (!is_complete).then(|| format!("a switchover from {old:?} elects {new:?}"))
}
