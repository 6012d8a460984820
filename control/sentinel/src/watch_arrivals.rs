//! When watch events of infos and liveness keys arrived. On a slow store a read returns the same change a round trip later,
//! and an info that only repeats the last one causes no read. What follows from the times is left to `plan`.

use std::collections::BTreeMap;

use base::clock::Boottime;
use model::KeeperUid;
use plan::{Observations, Observed};
use store::{Changes, KeyChange, Keys, Revision};

/// Maximum number of keys recorded of each kind; above it, all are dropped and only reads count.
const REMEMBERED_MAX: usize = 1000;

/// The last put of each key.
type Puts = BTreeMap<String, Put>;

#[derive(Debug)]
struct Put {
    revision: Revision,
    /// When its event arrived.
    arrived: Boottime,
    /// It started no round.
    is_repetition: bool,
}

/// The arrival of the last event, by the last part of the key.
#[derive(Debug, Default)]
pub(super) struct WatchArrivals {
    /// Keeper infos.
    keepers: Puts,
    /// Proxy infos.
    proxies: Puts,
    /// Deleted liveness keys.
    gone: BTreeMap<String, Boottime>,
}

impl WatchArrivals {
    /// Records watch events.
    pub(super) fn record(&mut self, changes: &Changes, keys: &Keys) {
        let (keepers, proxies, alive) = (keys.keeper_infos(), keys.proxy_infos(), keys.liveness_keys());
        for (key, change) in &changes.keys {
            if let Some(name) = key.strip_prefix(&keepers) {
                record_put(&mut self.keepers, name, change);
            }
            if let Some(name) = key.strip_prefix(&proxies) {
                record_put(&mut self.proxies, name, change);
            }
            if let Some(name) = key.strip_prefix(&alive) {
                match change.entry {
                    Some(_) => drop(self.gone.remove(name)),
                    None => drop(self.gone.insert(name.to_owned(), change.arrived)),
                }
            }
        }
        for puts in [&mut self.keepers, &mut self.proxies] {
            if puts.len() > REMEMBERED_MAX {
                puts.clear();
            }
        }
        if self.gone.len() > REMEMBERED_MAX {
            self.gone.clear();
        }
    }

    /// Records that these changes, which were recorded before, start no round.
    pub(super) fn record_repetitions(&mut self, changes: &Changes, keys: &Keys) {
        let infos = keys.keeper_infos();
        for name in changes.keys.keys().filter_map(|key| key.strip_prefix(&infos)) {
            if let Some(put) = self.keepers.get_mut(name) {
                put.is_repetition = true;
            }
        }
    }

    /// Adds the arrival times to a read: an info is at least as old as the event of its put, and a liveness key was
    /// gone when its deletion arrived.
    pub(super) fn apply_to(&mut self, observations: &mut Observations, now: Boottime) {
        let repeated = observations.keepers.values().filter(|observed| {
            let put = put_of(observed, &self.keepers);
            put.is_some_and(|put| put.is_repetition)
        });
        observations.repeated_keepers = repeated.map(|observed| observed.key.clone()).collect();
        for observed in observations.keepers.values_mut() {
            set_age(observed, &self.keepers, now);
        }
        for observed in observations.proxies.values_mut() {
            set_age(observed, &self.proxies, now);
        }
        self.gone
            .retain(|name, _| !observations.liveness_keys.contains_key(&KeeperUid::from(name.as_str())));
        let gone = self.gone.iter().map(|(name, at)| (KeeperUid::from(name.as_str()), *at));
        observations.liveness_gone = gone.collect();
    }
}

fn record_put(puts: &mut Puts, name: &str, change: &KeyChange) {
    match change.entry {
        Some(_) => {
            let put = Put {
                revision: change.revision,
                arrived: change.arrived,
                is_repetition: false,
            };
            puts.insert(name.to_owned(), put);
        }
        None => drop(puts.remove(name)),
    }
}

/// Returns the put that was read, if its event has arrived.
fn put_of<'a, T>(observed: &Observed<T>, puts: &'a Puts) -> Option<&'a Put> {
    puts.get(&observed.key)
        .filter(|put| put.revision.0 == observed.revision)
}

/// Sets the age of an info if the event of the put that was read has arrived.
fn set_age<T>(observed: &mut Observed<T>, puts: &Puts, now: Boottime) {
    if let Some(put) = put_of(observed, puts) {
        observed.age = now.since(put.arrived);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use model::{BootUuid, KeeperInfo, ProxyInfo, ProxyUid};
    use store::Entry;

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(seconds * 1_000_000_000)
    }

    fn change(is_there: bool, revision: i64, arrived: u64) -> KeyChange {
        let entry = Entry {
            key: String::new(),
            value: Vec::new(),
            mod_revision: Revision(revision),
            create_revision: Revision(1),
            lease: None,
        };
        KeyChange {
            entry: is_there.then_some(entry),
            revision: Revision(revision),
            arrived: at(arrived),
        }
    }

    fn event(key: String, change: KeyChange) -> Changes {
        Changes {
            keys: BTreeMap::from([(key, change)]),
            gap: false,
        }
    }

    fn seen(revision: i64) -> Observations {
        Observations {
            keepers: BTreeMap::from([("k1".into(), observed(revision, KeeperInfo::default()))]),
            proxies: BTreeMap::from([("k1".into(), observed(revision, ProxyInfo::default()))]),
            ..Observations::default()
        }
    }

    fn observed<T>(revision: i64, info: T) -> Observed<T> {
        Observed {
            key: "k1".to_owned(),
            revision,
            age: Duration::ZERO,
            info,
        }
    }

    #[test]
    fn a_deleted_key_is_recorded_until_it_exists_again() {
        let keys = Keys::new("p", "c").unwrap();
        let mut arrivals = WatchArrivals::default();
        arrivals.record(&event(keys.liveness_key("k1"), change(false, 1, 1)), &keys);
        arrivals.record(&event(keys.liveness_key("k2"), change(false, 2, 2)), &keys);
        arrivals.record(&event(keys.liveness_key("k3"), change(false, 3, 3)), &keys);
        arrivals.record(&event(keys.liveness_key("k2"), change(true, 4, 4)), &keys);
        let mut first = Observations {
            liveness_keys: BTreeMap::from([("k3".into(), BootUuid::from("b"))]),
            ..Observations::default()
        };
        arrivals.apply_to(&mut first, at(5));
        assert_eq!(first.liveness_gone, BTreeMap::from([("k1".into(), at(1))]));
        let mut second = Observations::default();
        arrivals.apply_to(&mut second, at(6));
        assert_eq!(
            second.liveness_gone, first.liveness_gone,
            "a key that exists again is dropped"
        );
    }

    #[test]
    fn an_info_is_as_old_as_the_event_of_the_put_that_was_read() {
        let keys = Keys::new("p", "c").unwrap();
        for key in [keys.keeper_info("k1"), keys.proxy_info("k1")] {
            let mut arrivals = WatchArrivals::default();
            arrivals.record(&event(key.clone(), change(true, 7, 10)), &keys);
            let age = |arrivals: &mut WatchArrivals, revision| {
                let mut seen = seen(revision);
                arrivals.apply_to(&mut seen, at(14));
                let keeper = seen.keepers[&KeeperUid::from("k1")].age.as_secs();
                let proxy = seen.proxies[&ProxyUid::from("k1")].age.as_secs();
                assert!(keeper == 0 || proxy == 0, "the event is about one of them");
                keeper + proxy
            };
            assert_eq!(age(&mut arrivals, 7), 4);
            assert_eq!(age(&mut arrivals, 8), 0, "a later put, whose event has not arrived");
            arrivals.record(&event(key, change(false, 9, 12)), &keys);
            assert_eq!(age(&mut arrivals, 7), 0);
        }
    }

    #[test]
    fn an_info_is_a_repetition_only_if_the_put_that_was_read_started_no_round() {
        let keys = Keys::new("p", "c").unwrap();
        let mut arrivals = WatchArrivals::default();
        let repeated = |arrivals: &mut WatchArrivals, revision| {
            let mut seen = seen(revision);
            arrivals.apply_to(&mut seen, at(14));
            !seen.repeated_keepers.is_empty()
        };
        let first = event(keys.keeper_info("k1"), change(true, 7, 10));
        arrivals.record(&first, &keys);
        assert!(!repeated(&mut arrivals, 7));
        arrivals.record_repetitions(&first, &keys);
        assert!(repeated(&mut arrivals, 7));
        assert!(!repeated(&mut arrivals, 8), "a later put, whose event has not arrived");
        arrivals.record(&event(keys.keeper_info("k1"), change(true, 9, 12)), &keys);
        assert!(!repeated(&mut arrivals, 9));
        let deleted = event(keys.keeper_info("k1"), change(false, 10, 13));
        arrivals.record(&deleted, &keys);
        arrivals.record_repetitions(&deleted, &keys);
        assert!(!repeated(&mut arrivals, 9));
    }

    #[test]
    fn the_number_of_recorded_keys_is_bounded() {
        let keys = Keys::new("p", "c").unwrap();
        let mut arrivals = WatchArrivals::default();
        for n in 0..3 * REMEMBERED_MAX {
            let name = format!("k{n}");
            arrivals.record(&event(keys.liveness_key(&name), change(false, 1, 1)), &keys);
            arrivals.record(&event(keys.keeper_info(&name), change(true, 1, 1)), &keys);
            arrivals.record(&event(keys.proxy_info(&name), change(true, 1, 1)), &keys);
        }
        assert!(arrivals.gone.len() <= REMEMBERED_MAX);
        assert!(arrivals.keepers.len() <= REMEMBERED_MAX && arrivals.proxies.len() <= REMEMBERED_MAX);
    }
}
