//! Replication slots: which ones a master or standby has, by name (keeper 11).

use std::collections::BTreeSet;

use control::model::stolon_name;

use crate::reconcile::TargetDb;

/// Prefix of the names that a keeper may drop (keeper I14).
const PREFIX: &str = "stolon_";

/// Whether others made the slot of this name: the keeper never touches it.
pub fn is_foreign_slot(name: &str) -> bool {
    !name.starts_with(PREFIX)
}

/// Whether the slots that the orders want and those of others are more than the server has room for.
pub fn is_short_of_slots(target: &TargetDb, existing: &BTreeSet<String>, room: u32) -> bool {
    let foreign = existing.iter().filter(|name| is_foreign_slot(name)).count();
    let wanted = followers(target).count() + additional(target).count();
    usize::try_from(room).is_ok_and(|room| wanted + foreign > room)
}

/// One change of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotChange {
    /// Nobody wants it any more.
    Drop(String),
    /// Missing.
    Create(String),
}

/// What has to change for `existing` to become what `target` wants: drops first, then creations, those for standbys
/// ahead of additional ones (keeper 11.3).
pub(crate) fn slot_changes(target: &TargetDb, existing: &BTreeSet<String>) -> Vec<SlotChange> {
    let wanted: BTreeSet<String> = followers(target).chain(additional(target)).collect();
    let drops = existing
        .iter()
        .filter(|name| !is_foreign_slot(name) && !wanted.contains(*name));
    let creations = followers(target)
        .chain(additional(target))
        .filter(|name| !existing.contains(name));
    drops
        .map(|name| SlotChange::Drop(name.clone()))
        .chain(creations.map(SlotChange::Create))
        .collect()
}

/// One for each follower but oneself (keeper 11.1), sorted.
fn followers(target: &TargetDb) -> impl Iterator<Item = String> {
    let followers = target.spec.followers.iter().flatten().filter(|uid| **uid != target.db);
    let names: BTreeSet<String> = followers.map(|uid| stolon_name(uid.as_str())).collect();
    names.into_iter()
}

/// The additional ones, sorted, less those of followers.
fn additional(target: &TargetDb) -> impl Iterator<Item = String> {
    let own: BTreeSet<String> = followers(target).collect();
    let names = target.spec.additional_replication_slots.iter().flatten();
    let names: BTreeSet<String> = names
        .map(|name| stolon_name(name))
        .filter(|name| !own.contains(name))
        .collect();
    names.into_iter()
}
