//! Differences between parameters, specs and desired states. What follows from them is left to the callers.

use std::collections::BTreeMap;

use model::{DbSpec, Json};

use crate::reconcile::{Desired, Goal, HoldReason, ParameterChange, TargetRole, Upstream};

/// Returns the parameters that differ, sorted by name (keeper T4).
pub fn changed_parameters(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<ParameterChange> {
    let removed_or_changed = old.iter().filter(|(name, value)| new.get(*name) != Some(value));
    let added = new.iter().filter(|(name, _)| !old.contains_key(*name));
    let mut changes: Vec<_> = removed_or_changed
        .map(|(name, value)| ParameterChange {
            name: name.clone(),
            old: Some(value.clone()),
            new: new.get(name).cloned(),
        })
        .chain(added.map(|(name, value)| ParameterChange {
            name: name.clone(),
            old: None,
            new: Some(value.clone()),
        }))
        .collect();
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    changes
}

/// Returns the names of the fields in which two specs differ, in the order of the document.
pub fn changed_fields(old: &DbSpec, new: &DbSpec) -> Vec<String> {
    let members = |spec: &DbSpec| match Json::of(spec) {
        Json::Object(members) => members,
        _ => Vec::new(),
    };
    let (old, new) = (members(old), members(new));
    let differs =
        |(name, value): &&(String, Json)| old.iter().find(|(known, _)| known == name).map(|(_, v)| v) != Some(value);
    let removed = old
        .iter()
        .filter(|(name, _)| new.iter().all(|(known, _)| known != name));
    new.iter()
        .filter(differs)
        .chain(removed)
        .map(|(name, _)| name.clone())
        .collect()
}

/// Whether `new` differs from `old` only in parameters and hba lines of this db. Such a change waits a moment for
/// further ones, so that several updates in a row cause one reload (keeper 18.2).
pub fn is_only_configuration(old: &Desired, new: &Desired) -> bool {
    let (Goal::Run(before), Goal::Run(after)) = (&old.goal, &new.goal) else {
        return false;
    };
    let without_configuration = |spec: &DbSpec| DbSpec {
        pg_parameters: BTreeMap::new(),
        pg_hba: None,
        ..spec.clone()
    };
    let mut after_with_old_spec = after.clone();
    after_with_old_spec.generation = before.generation;
    after_with_old_spec.spec = before.spec.clone();
    old != new
        && old.cluster == new.cluster
        && without_configuration(&before.spec) == without_configuration(&after.spec)
        && after_with_old_spec == *before
}

/// Whether a round for `before` should be aborted because of `after`: what it creates, or keeps running, is no longer
/// wanted (keeper W3).
pub fn is_superseded(before: &Desired, after: &Desired) -> bool {
    // What a round for this desired state brings about: `Ok` for a db to run, `Err` with the reason to stop, if there
    // is one, for none.
    let result = |desired: &Desired| match &desired.goal {
        Goal::Run(target) => Ok((target.db.clone(), target.role.clone(), target.spec.init_mode.clone())),
        Goal::Stop(why) => Err(Some(why.clone())),
        Goal::Hold(_) => Err(None),
    };
    // An operator has initialised the cluster again, and its sentinel waits for this keeper, which reports the former one
    // until the round has ended.
    let is_other_cluster = matches!((&before.cluster, &after.cluster), (Some(old), Some(new)) if old != new);
    if is_other_cluster && after.goal == Goal::Hold(HoldReason::NotListed) {
        return true;
    }
    match (result(before), result(after)) {
        // Unusable cluster data change nothing and interrupt nothing (keeper I7).
        (_, Err(None)) => false,
        // The init mode is ignored: it changes for the same db when its initialisation ends.
        (Ok((db, role, _)), Ok((after_db, after_role, _))) => {
            db != after_db || (role != after_role && !(follows_outside(&role) && follows_outside(&after_role)))
        }
        (before, after) => before != after,
    }
}

/// Whether it is the first standby of a standby cluster. Other settings of its upstream interrupt nothing: a backup that
/// is being restored is needed all the same.
fn follows_outside(role: &TargetRole) -> bool {
    matches!(role, TargetRole::Standby(Upstream::External(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::StopReason;

    #[test]
    fn a_round_is_aborted_only_if_its_result_is_not_wanted_any_more() {
        let down = |why| Desired {
            cluster: None,
            goal: Goal::Stop(why),
        };
        let unread = Desired {
            cluster: None,
            goal: Goal::Hold(HoldReason::StoreUnavailable),
        };
        assert!(!is_superseded(&down(StopReason::NoDb), &unread));
        assert!(!is_superseded(&down(StopReason::NoDb), &down(StopReason::NoDb)));
        assert!(is_superseded(
            &down(StopReason::NoDb),
            &down(StopReason::BootNotAcknowledged)
        ));
        assert!(is_superseded(&unread, &down(StopReason::NoDb)));
    }

    /// Otherwise a restore that hangs, or a copy, would keep the keeper out of the new cluster.
    #[test]
    fn a_round_for_a_cluster_that_is_initialised_again_is_aborted() {
        let unlisted = |cluster: &str| Desired {
            cluster: Some(cluster.into()),
            goal: Goal::Hold(HoldReason::NotListed),
        };
        assert!(is_superseded(&unlisted("c1"), &unlisted("c2")));
        assert!(!is_superseded(&unlisted("c1"), &unlisted("c1")));
    }
}
