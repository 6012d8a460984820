//! Keepers that are removed or marked as failed (INV-26, INV-27).

use crate::check::transition::Transition;
use crate::check::violations::Violations;

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
        let right = if transition.first_run { kept } else { acted };
        violations.require(right, "INV-27", || {
            format!("forceFail of keeper {uid} was not acted on and cleared")
        });
    }
}
