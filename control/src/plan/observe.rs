//! What a sentinel reads beside the cluster data, and what it remembers of earlier readings: when each info arrived, and
//! when a liveness key went. What follows from that for health is left to `health`, for proxies to `proxies`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Boottime;
use crate::model::{BootUuid, ClusterUid, KeeperInfo, KeeperUid, ProxyInfo, ProxyUid, Spec};

/// How long a liveness key outlives its last renewal (beyond ). A server that grants more only makes a vanished
/// key look younger than it is.
pub const LIVENESS_TTL: Duration = Duration::from_secs(3);

/// From one renewal of a liveness key to the next (beyond ).
pub const LIVENESS_PERIOD: Duration = Duration::from_secs(1);

/// One info as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed<T> {
    /// The last part of its key, which may differ from the uid inside (store S-11).
    pub key: String,
    /// The revision of its last put.
    pub revision: i64,
    /// At least so old already when read, as its lease or the watch that brought it tells (sentinel E-2, E-6); zero when
    /// neither is known.
    pub age: Duration,
    /// The info.
    pub info: T,
}

/// What was read of the infos and liveness keys in the transaction that read the cluster data (sentinel E-2).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observations {
    /// Keeper infos by the uid inside; those that cannot be decoded are left out (store S-12).
    pub keepers: BTreeMap<KeeperUid, Observed<KeeperInfo>>,
    /// Every key of a keeper info with the revision of its last put, also of those that cannot be decoded.
    pub keeper_keys: BTreeMap<String, i64>,
    /// Proxy infos by the uid inside.
    pub proxies: BTreeMap<ProxyUid, Observed<ProxyInfo>>,
    /// Keys of proxy infos that cannot be decoded: each may be a proxy that forwards (fencing F-6).
    pub garbled_proxies: BTreeSet<ProxyUid>,
    /// Liveness keys and their values.
    pub alive: BTreeMap<KeeperUid, BootUuid>,
    /// When a watch learnt that a liveness key was gone; it was gone by then, and its last renewal a TTL earlier.
    pub gone: BTreeMap<KeeperUid, Boottime>,
    /// How long the reading took, from its sending to its answer.
    pub took: Duration,
    /// How long the sentinel's own requests took since the reading before: its write, and questions after ages.
    pub busy: Duration,
}

/// How an info came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was there when this sentinel first looked; when it was put is not known.
    Found,
    /// This sentinel has seen it arrive, in an earlier reading.
    Seen,
    /// It has arrived since the last reading that something followed from.
    New,
    /// It had arrived at a reading from which nothing could follow; the next one takes it for new.
    Unplanned,
}

/// What is remembered of a keeper's publications.
#[derive(Debug, Clone, PartialEq)]
pub struct KeeperSighting {
    /// The last info.
    pub seen: Observed<KeeperInfo>,
    /// How it came to be known.
    pub arrival: Arrival,
    /// When it came, not later than that.
    pub since: Boottime,
    /// Whether its key was there at the last reading.
    pub listed: bool,
    /// The liveness key at the last reading.
    pub alive: Option<BootUuid>,
    /// When the liveness key was found gone.
    pub vanished: Option<Boottime>,
}

/// What is remembered of a proxy's publications.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxySighting {
    /// The last info; none while it has never been decodable.
    pub info: Option<ProxyInfo>,
    /// Whether the last reading found garbage in its key.
    pub garbled: bool,
    /// When the last info was first seen.
    pub since: Boottime,
    /// Until when a lease that an earlier info with another timeout announced may still run.
    pub earlier_lease_end: Boottime,
}

/// What a sentinel, leading or not, remembers of what it read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sightings {
    cluster: ClusterUid,
    read_at: Option<Boottime>,
    readable_since: Boottime,
    /// How long readings take of late.
    took: Duration,
    /// The gap before the last reading in which the store could not be read; zero when there was none.
    pub gap: Duration,
    /// By keeper uid; entries stay when their key goes (sentinel H-4).
    pub keepers: BTreeMap<KeeperUid, KeeperSighting>,
    /// The keys of keeper infos at the last reading, whatever they hold, with the revision of their last put.
    pub keeper_keys: BTreeMap<String, i64>,
    /// By proxy uid; entries go with their key (sentinel P-1).
    pub proxies: BTreeMap<ProxyUid, ProxySighting>,
}

/// Whether a keeper reports, as far as its publications tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its last info counts as its present state (sentinel H-3).
    pub fresh: bool,
    /// Since when it has failed to report; none while it reports. May lie in the future, for a key that was found.
    pub silent_since: Option<Boottime>,
    /// When `fresh` ends by itself.
    pub fresh_until: Option<Boottime>,
}

impl Sightings {
    /// What is remembered after one more reading, made at `now`.
    ///
    /// Time in which the store could not be read does not count: everything remembered moves by it (sentinel E-3). Slow
    /// readings count, see [`gap`].
    #[must_use]
    pub fn after(&self, seen: &Observations, cluster: &ClusterUid, spec: &Spec, now: Boottime) -> Self {
        let same_cluster = self.cluster == *cluster;
        let first = self.read_at.is_none();
        let mut next = if same_cluster || first {
            self.clone()
        } else {
            Self::default()
        };
        next.cluster = cluster.clone();
        next.read_at = Some(now);
        next.gap = self.read_at.map_or(Duration::ZERO, |last| {
            let answered = seen.busy.min(in_good_time(self.took));
            gap(
                now.since(last).saturating_sub(answered),
                seen.took,
                self.took,
                spec.sleep_interval,
            )
        });
        next.took = seen.took.max(self.took / 2);
        if next.gap > Duration::ZERO || first {
            next.readable_since = now;
        }
        for sighting in next.keepers.values_mut() {
            sighting.since = sighting.since + next.gap;
            sighting.vanished = sighting.vanished.map(|at| at + next.gap);
        }
        for sighting in next.proxies.values_mut() {
            sighting.since = sighting.since + next.gap;
        }
        next.keeper_keys.clone_from(&seen.keeper_keys);
        let decoded = seen.keepers.values();
        next.keeper_keys
            .extend(decoded.map(|observed| (observed.key.clone(), observed.revision)));
        next.sight_keepers(seen, cluster, first, now);
        next.sight_proxies(seen, spec, now);
        next
    }

    /// Since when a keeper that is leaving counts as failed: from its publication, less one period of renewals. The
    /// timers of a keeper that was killed then run from its last renewal, which is no earlier, so a shutdown that takes
    /// long is never the slower way.
    pub(crate) fn leaving_since(&self, sighting: &KeeperSighting) -> Boottime {
        let last_renewal = sighting.since.before(LIVENESS_PERIOD);
        last_renewal.max(self.readable_since).min(sighting.since)
    }

    /// Whether nothing has been read yet: the ages of what is found first are worth asking for (sentinel E-6).
    pub fn is_blank(&self) -> bool {
        self.read_at.is_none()
    }

    /// Whether these are readings of this cluster.
    pub(crate) fn is_of(&self, cluster: &ClusterUid) -> bool {
        self.cluster == *cluster
    }

    /// The same after a round in which nothing could be decided or written: what was new is still to be acted upon.
    #[must_use]
    pub(crate) fn unplanned(mut self) -> Self {
        for sighting in self
            .keepers
            .values_mut()
            .filter(|sighting| sighting.arrival == Arrival::New)
        {
            sighting.arrival = Arrival::Unplanned;
        }
        self
    }

    fn sight_keepers(&mut self, seen: &Observations, cluster: &ClusterUid, first: bool, now: Boottime) {
        self.keepers
            .retain(|_, sighting| sighting.seen.info.cluster_uid == *cluster);
        for sighting in self.keepers.values_mut() {
            sighting.listed = false;
        }
        // sentinel H-1
        for (uid, observed) in seen.keepers.iter().filter(|(_, o)| o.info.cluster_uid == *cluster) {
            let arrival = match self.keepers.get(uid) {
                Some(known) if known.seen.info.info_uid == observed.info.info_uid => None,
                None if first => Some((Arrival::Found, now.before(observed.age))),
                // no time of the gap counts, as for all that is remembered (sentinel E-3)
                _ => Some((Arrival::New, (now.before(observed.age) + self.gap).min(now))),
            };
            match (arrival, self.keepers.get_mut(uid)) {
                (None, Some(known)) => {
                    known.listed = true;
                    known.seen.revision = observed.revision;
                    known.arrival = match known.arrival {
                        Arrival::Found => Arrival::Found,
                        Arrival::New | Arrival::Seen => Arrival::Seen,
                        Arrival::Unplanned => Arrival::New,
                    };
                }
                (Some((arrival, since)), known) => {
                    let (alive, vanished) = known.map_or((None, None), |known| (known.alive.clone(), known.vanished));
                    let seen = observed.clone();
                    let sighting = KeeperSighting {
                        seen,
                        arrival,
                        since,
                        listed: true,
                        alive,
                        vanished,
                    };
                    self.keepers.insert(uid.clone(), sighting);
                }
                (None, None) => unreachable!("only a known info has no arrival"),
            }
        }
        for (uid, sighting) in &mut self.keepers {
            let alive = seen.alive.get(uid).cloned();
            match (&sighting.alive, &alive) {
                (_, Some(_)) => sighting.vanished = None,
                (Some(_), None) => {
                    let learnt = seen.gone.get(uid).copied();
                    sighting.vanished = Some(learnt.map_or(now, |learnt| (learnt + self.gap).min(now)));
                }
                (None, None) => {}
            }
            sighting.alive = alive;
        }
    }

    fn sight_proxies(&mut self, seen: &Observations, spec: &Spec, now: Boottime) {
        // sentinel P-1
        self.proxies
            .retain(|uid, _| seen.proxies.contains_key(uid) || seen.garbled_proxies.contains(uid));
        for uid in &seen.garbled_proxies {
            let sighting = self.proxies.entry(uid.clone()).or_insert_with(|| ProxySighting {
                info: None,
                garbled: true,
                since: now,
                earlier_lease_end: Boottime::default(),
            });
            sighting.garbled = true;
        }
        for (uid, observed) in &seen.proxies {
            let Some(known) = self.proxies.get_mut(uid) else {
                let sighting = ProxySighting {
                    info: Some(observed.info.clone()),
                    garbled: false,
                    since: now,
                    earlier_lease_end: Boottime::default(),
                };
                self.proxies.insert(uid.clone(), sighting);
                continue;
            };
            known.garbled = false;
            if known
                .info
                .as_ref()
                .is_some_and(|info| info.info_uid == observed.info.info_uid)
            {
                continue;
            }
            // A smaller timeout is published one check-in after it came into force (fencing F-2), so the lease that the
            // replaced info announced may have begun just before now.
            let before = known.lease(spec);
            known.info = Some(observed.info.clone());
            known.since = now;
            if known.lease(spec) < before {
                known.earlier_lease_end = known.earlier_lease_end.max(now + before);
            }
        }
    }

    /// Whether a keeper reports; none when it has never published for this cluster, as far as this sentinel knows.
    pub fn standing(&self, keeper: &KeeperUid, spec: &Spec, now: Boottime) -> Option<Standing> {
        let sighting = self.keepers.get(keeper)?;
        let info = &sighting.seen.info;
        let reporting = Standing {
            fresh: sighting.listed,
            silent_since: None,
            fresh_until: None,
        };
        let stale_at = sighting.since + freshness(spec);
        let own_key = sighting.alive.as_ref().filter(|boot| **boot == info.boot_uuid);
        if info.liveness_key {
            // beyond: while the key is there the keeper reports, whatever the age of its info
            if own_key.is_some() {
                return Some(reporting);
            }
            // Another process of the same keeper has put its key and not yet its info: neither alive nor vanished.
            if sighting.alive.is_none() {
                let vanished = sighting.vanished.filter(|at| *at >= sighting.since);
                let silent = vanished.map_or(sighting.since, |at| {
                    let last_renewal = at.before(LIVENESS_TTL).max(self.readable_since);
                    last_renewal.max(sighting.since)
                });
                if vanished.is_none() && sighting.listed && sighting.arrival != Arrival::Found && now <= stale_at {
                    return Some(Standing {
                        fresh_until: Some(stale_at),
                        ..reporting
                    });
                }
                return Some(Standing {
                    fresh: false,
                    silent_since: Some(silent),
                    fresh_until: None,
                });
            }
        }
        // sentinel H-3 with E-3
        if sighting.listed && sighting.arrival != Arrival::Found && now <= stale_at {
            return Some(Standing {
                fresh_until: Some(stale_at),
                ..reporting
            });
        }
        Some(Standing {
            fresh: false,
            silent_since: Some(stale_at),
            fresh_until: None,
        })
    }

    /// Whether the keeper behind an info lives: its liveness key is there, if it keeps one, and its info is fresh.
    pub fn lives(&self, keeper: &KeeperUid, spec: &Spec, now: Boottime) -> bool {
        let Some(sighting) = self.keepers.get(keeper) else {
            return false;
        };
        let fresh = self.standing(keeper, spec, now).is_some_and(|standing| standing.fresh);
        fresh && (!sighting.seen.info.liveness_key || sighting.alive.is_some())
    }
}

impl ProxySighting {
    /// How long this proxy may go on forwarding after its last check-in, or after "no master" was written, whichever
    /// was later (fencing F-6).
    pub fn lease(&self, spec: &Spec) -> Duration {
        let carried = self
            .info
            .as_ref()
            .map_or(Duration::ZERO, |info| nanos(info.proxy_timeout));
        let longest = carried.max(spec.proxy_timeout);
        let fenced = !self.garbled && self.info.as_ref().is_some_and(|info| info.fenced);
        if fenced {
            longest
                .saturating_add(longest / 100)
                .saturating_add(Duration::from_millis(100))
        } else {
            longest.saturating_mul(2)
        }
    }

    /// Until when the proxy counts as active although it publishes nothing more (sentinel P-2).
    pub fn active_until(&self) -> Boottime {
        let carried = self
            .info
            .as_ref()
            .map_or(Duration::ZERO, |info| nanos(info.proxy_timeout));
        self.since + carried.saturating_mul(2)
    }
}

/// A count of nanoseconds as others published it: negative means none.
fn nanos(count: i64) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(0))
}

/// How long an info counts as present: sleepInterval, which may be zero (data-model 5).
fn freshness(spec: &Spec) -> Duration {
    spec.sleep_interval.max(Duration::from_millis(500))
}

/// How long a request may take without counting as one that waited for the end of an outage.
fn in_good_time(usually_took: Duration) -> Duration {
    usually_took.saturating_mul(2).max(Duration::from_secs(1))
}

/// The part of the time since the last reading in which the store may not have answered.
///
/// A store that answers late answers all the same, and publishers reach it as late as readers do: a reading that took as
/// long as the last ones counts whole. One that took much longer may have waited for the end of an outage: what exceeds
/// twice the usual does not count. Neither does the whole pause before it, when readings should have come meanwhile.
fn gap(elapsed: Duration, took: Duration, usually_took: Duration, sleep_interval: Duration) -> Duration {
    let usual = sleep_interval.saturating_add((sleep_interval / 2).max(Duration::from_secs(1)));
    let pause = Some(elapsed.saturating_sub(took)).filter(|pause| *pause > usual);
    let counts = in_good_time(usually_took);
    let beyond = took.min(elapsed).saturating_sub(counts);
    match pause {
        // nothing tells what of a reading that ended an outage was waiting for the store
        Some(_) => elapsed,
        None => beyond,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_readings_count_and_outages_do_not() {
        let gap = |pause: u64, took: u64, usually: u64| {
            let millis = Duration::from_millis;
            super::gap(millis(pause + took), millis(took), millis(usually), millis(5000)).as_millis()
        };
        assert_eq!(gap(5000, 10, 10), 0);
        assert_eq!(gap(5000, 3000, 3000), 0, "as slow as before");
        assert_eq!(gap(7500, 4900, 3000), 0);
        assert_eq!(gap(5000, 900, 10), 0, "within the tolerance");
        assert_eq!(gap(5000, 4000, 10), 3000, "it may have waited for the end of an outage");
        assert_eq!(gap(7501, 3000, 3000), 10_501, "readings in between failed");
        assert_eq!(gap(60_000, 10, 10), 60_010);
    }
}
