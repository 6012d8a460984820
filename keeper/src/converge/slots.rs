//! Replication slots: which ones a master or standby has, by name (keeper 11).

use std::collections::BTreeSet;

use control::model::stolon_name;

use crate::converge::{LocalRole, Target};

/// Prefix of the names that a keeper may drop (keeper I14).
const PREFIX: &str = "stolon_";

/// One change of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotChange {
    /// Nobody wants it any more.
    Drop(String),
    /// Missing; on this kind of instance.
    Create(String, LocalRole),
}

impl SlotChange {
    /// A drop may fail (the slot is still active); so may a creation on a standby (keeper 11.3, S5).
    pub fn may_fail(&self) -> bool {
        !matches!(self, Self::Create(_, LocalRole::Master))
    }
}

/// What has to change for `existing` to become what `target` wants: drops first, then creations (keeper 11.3).
pub(crate) fn slot_changes(target: &Target, existing: &BTreeSet<String>, role: LocalRole) -> Vec<SlotChange> {
    let wanted = wanted_slots(target);
    let drops = existing
        .iter()
        .filter(|name| name.starts_with(PREFIX) && !wanted.contains(*name));
    let creations = wanted.iter().filter(|name| !existing.contains(*name));
    drops
        .map(|name| SlotChange::Drop(name.clone()))
        .chain(creations.map(|name| SlotChange::Create(name.clone(), role)))
        .collect()
}

/// One for each follower but oneself, and the additional ones (keeper 11.1).
fn wanted_slots(target: &Target) -> BTreeSet<String> {
    let followers = target.spec.followers.iter().flatten().filter(|uid| **uid != target.db);
    let additional = target.spec.additional_replication_slots.iter().flatten();
    followers
        .map(|uid| stolon_name(uid.as_str()))
        .chain(additional.map(|name| stolon_name(name)))
        .collect()
}
