//! Names of the replication slots that a master or standby has (keeper 11). Creating and dropping them is left to
//! `executor`.

use std::collections::BTreeSet;

use model::{stolon_name, strip_stolon_name};

use crate::reconcile::TargetDb;

/// Whether a slot was not created by a keeper. Keepers never change such slots (keeper I14).
pub fn is_foreign_slot(name: &str) -> bool {
    strip_stolon_name(name).is_none()
}

/// Whether the desired slots and the foreign ones exceed the server's `max_replication_slots`.
pub fn is_short_of_slots(target: &TargetDb, existing: &BTreeSet<String>, max_slots: u32) -> bool {
    let foreign = existing.iter().filter(|name| is_foreign_slot(name)).count();
    let wanted = follower_slots(target).count() + additional_slots(target).count();
    usize::try_from(max_slots).is_ok_and(|max_slots| wanted + foreign > max_slots)
}

/// A change of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotChange {
    /// No longer needed, or to be made again because the server has invalidated it.
    Drop(String),
    /// Missing.
    Create(String),
}

/// Returns the changes that turn `existing` into the desired slots: drops first, then creations, those for standbys
/// before additional ones (keeper 11.3). An `invalidated` slot is of no use: it is dropped and created.
pub(crate) fn slot_changes(
    target: &TargetDb,
    existing: &BTreeSet<String>,
    invalidated: &BTreeSet<String>,
) -> Vec<SlotChange> {
    let wanted: BTreeSet<String> = follower_slots(target).chain(additional_slots(target)).collect();
    // Drops come first: they free slots for the creations when max_replication_slots is reached.
    let drops = existing
        .iter()
        .filter(|name| !is_foreign_slot(name) && (!wanted.contains(*name) || invalidated.contains(*name)));
    let creations = follower_slots(target)
        .chain(additional_slots(target))
        .filter(|name| !existing.contains(name) || invalidated.contains(name));
    drops
        .map(|name| SlotChange::Drop(name.clone()))
        .chain(creations.map(SlotChange::Create))
        .collect()
}

/// Returns one slot per follower except the db itself (keeper 11.1), sorted.
fn follower_slots(target: &TargetDb) -> impl Iterator<Item = String> {
    let followers = target.spec.followers.iter().flatten().filter(|uid| **uid != target.db);
    let names: BTreeSet<String> = followers.map(|uid| stolon_name(uid.as_str())).collect();
    names.into_iter()
}

/// Returns the additional slots, sorted, without those of followers.
fn additional_slots(target: &TargetDb) -> impl Iterator<Item = String> {
    let own: BTreeSet<String> = follower_slots(target).collect();
    let names = target.spec.additional_replication_slots.iter().flatten();
    let names: BTreeSet<String> = names
        .map(|name| stolon_name(name))
        .filter(|name| !own.contains(name))
        .collect();
    names.into_iter()
}
