//! One round on a healthy, converged master: how the wanted and the known set change (SY-3, SY-5).

use super::rules::{Change, Config};
use super::servers::members;
use super::world::{DBS, DEAD, FAKE, Set, only};

/// What a round has found.
pub(super) struct Round {
    pub(super) good: Set,
    /// Failed, invalid or leaving, no standby, or removed.
    pub(super) failed: Set,
    /// The standbys that exist.
    pub(super) standbys: Set,
    /// R.
    pub(super) reported: Set,
}

/// Returns the pairs (W with the fake name, K) that may be written. There are several where the choice is free.
pub(super) fn next_sets(stored: Set, known: Set, round: &Round, config: &Config) -> Vec<(Set, Set)> {
    let fake = stored & FAKE;
    let mut wanted = stored & !FAKE;
    let mut known = known;
    if known != wanted {
        known &= wanted;
        known |= round.reported & wanted;
        let pending = wanted & !known;
        if pending & round.failed != 0 {
            wanted = known;
        }
        if known != wanted {
            return vec![(wanted | fake, known)];
        }
    }
    let mut found = Vec::new();
    let kept = wanted & !round.failed;
    for smaller in without_excess(kept, config.max) {
        for mut chosen in filled(smaller, round.good & !smaller, config.max) {
            if chosen.count_ones() < config.min && !config.has(Change::NoAddingBack) {
                let back = members(wanted & round.standbys & !chosen);
                let missing = config.min - chosen.count_ones();
                chosen |= back.take(missing as usize).fold(0, |set, index| set | only(index));
            }
            if chosen & !wanted != 0 && !config.has(Change::NoMerge) {
                chosen |= wanted & round.standbys;
            }
            let missing = chosen.count_ones() < config.min && !config.has(Change::NoFakeName);
            let fake = if missing { FAKE } else { 0 };
            let known = if config.has(Change::KnownNotCut) {
                known
            } else {
                known & chosen
            };
            let sets = (chosen | fake, known);
            if !found.contains(&sets) {
                found.push(sets);
            }
        }
    }
    found
}

/// The sets that are left when members are dropped down to `max`.
fn without_excess(set: Set, max: u32) -> Vec<Set> {
    if set.count_ones() <= max {
        return vec![set];
    }
    members(set)
        .flat_map(|index| without_excess(set & !only(index), max))
        .collect()
}

/// The sets after good standbys were added up to `max`.
fn filled(set: Set, good: Set, max: u32) -> Vec<Set> {
    if set.count_ones() >= max || good == 0 {
        return vec![set];
    }
    members(good)
        .flat_map(|index| filled(set | only(index), good & !only(index), max))
        .collect()
}

const _: () = assert!(DBS & (FAKE | DEAD) == 0);
