//! Keepers that are removed or marked as failed (INV-26, INV-27).

use crate::check::transition::{Transition, master};
use crate::check::violations::Violations;
use model::KeeperUid;

/// Checks keepers that are removed or marked as failed.
pub(super) fn check(transition: &Transition<'_>, violations: &mut Violations) {
    for (uid, keeper) in transition.derived.keepers() {
        if transition.next.keepers().contains_key(uid) {
            continue;
        }
        let dead =
            transition.wall.since(keeper.status.last_healthy_time) > transition.spec.dead_keeper_removal_interval;
        let free = transition.next.db_of_keeper(uid).is_none();
        violations.require(dead && free, "INV-26", || {
            format!("the keeper {uid} is removed although it has a db or was healthy recently")
        });
    }
    for (uid, keeper) in transition
        .before
        .keepers()
        .iter()
        .filter(|(_, keeper)| keeper.status.force_fail)
    {
        let Some(after) = transition.next.keepers().get(uid) else {
            continue;
        };
        let kept = after.status == keeper.status;
        let acted = !after.status.force_fail && !after.status.healthy;
        // A switchover that it takes part in ends first.
        let may_wait = after.status.force_fail && takes_part(transition, uid);
        let right = if transition.first_run { kept } else { acted || may_wait };
        violations.require(right, "INV-27", || {
            format!("forceFail of keeper {uid} was not acted on and cleared")
        });
    }
}

/// Returns whether a keeper has an order, the master that a switchover replaces, or is to get it.
fn takes_part(transition: &Transition<'_>, keeper: &KeeperUid) -> bool {
    let of_master = transition.before.dbs().get(&master(transition.before));
    let of_request = transition.switchover.is_some_and(|(request, _)| {
        request.to.as_ref() == Some(keeper) || of_master.is_some_and(|db| db.spec.keeper_uid == *keeper)
    });
    of_request || transition.orders.contains_key(keeper)
}
