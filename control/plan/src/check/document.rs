//! The document as a whole: the master exists, and uid, spec and phase are kept (INV-2, INV-30).

use std::collections::BTreeSet;

use crate::check::transition::{Transition, master, phase};
use crate::check::violations::Violations;
use model::{ClusterData, KeeperUid, Phase};

/// Checks the document as a whole.
pub(super) fn check(transition: &Transition<'_>, violations: &mut Violations) {
    let (before, next) = (transition.before, transition.next);
    if phase(next) == Some(&Phase::Normal) {
        let exists = next.dbs().contains_key(&master(next));
        violations.require(exists, "INV-2", || {
            format!("master db {:?} is not among the dbs", master(next).as_str())
        });
    }
    // Faults that existed before are not caused by this plan, and must not block it.
    for broken in misplaced_dbs(next).difference(&misplaced_dbs(before)) {
        violations.require(false, "INV-2", || broken.clone());
    }
    let (Some(old), Some(new)) = (&before.cluster, &next.cluster) else {
        violations.require(false, "INV-30", || "the cluster is gone".to_owned());
        return;
    };
    violations.require(old.uid == new.uid, "INV-30", || "the cluster uid changes".to_owned());
    let is_initialised = old.status.phase == Phase::Initializing && new.status.phase == Phase::Normal;
    violations.require(is_initialised || old.spec == new.spec, "INV-30", || {
        "the cluster spec changes".to_owned()
    });
    let forward = is_initialised || old.status.phase == new.status.phase;
    violations.require(forward, "INV-30", || {
        format!("phase {} follows {}", new.status.phase, old.status.phase)
    });
}

/// Returns descriptions of dbs without a keeper, and of keepers with several dbs.
fn misplaced_dbs(data: &ClusterData) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut seen: BTreeSet<&KeeperUid> = BTreeSet::new();
    for (uid, db) in data.dbs() {
        let keeper = &db.spec.keeper_uid;
        if !data.keepers().contains_key(keeper) {
            found.insert(format!("db {uid} is on the unknown keeper {keeper}"));
        }
        if !seen.insert(keeper) {
            found.insert(format!("db {uid} shares the keeper {keeper}"));
        }
    }
    found
}
