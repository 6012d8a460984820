//! The history of reads: when each info arrived, and when a liveness key was lost. What follows for keepers is left to
//! `report`, for proxies to `proxy_view`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::observation::{Observations, Observed};
use crate::outage::{longest_normal_latency, outage_since};
use base::clock::Boottime;
use model::{BootUuid, ClusterUid, KeeperInfo, KeeperUid, ProxyInfo, ProxyUid, Spec};

/// When an info was put, relative to the reads of this sentinel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It existed at this sentinel's first read; when it was put is unknown.
    FoundAtStart,
    /// It arrived before the previous planned read.
    Known,
    /// It arrived since the previous planned read.
    New,
    /// The same, but before the change that started the read (sentinel E-1).
    Repetition,
    /// It arrived at a read from which no plan was written; the next read treats it as new.
    Deferred,
}

impl Arrival {
    /// Returns whether it arrived since the previous planned read.
    pub(crate) fn is_new(self) -> bool {
        matches!(self, Self::New | Self::Repetition)
    }
}

/// The history of a keeper's info and liveness key.
#[derive(Debug, Clone, PartialEq)]
pub struct KeeperHistory {
    /// The last info.
    pub last: Observed<KeeperInfo>,
    /// Whether the last info is new.
    pub arrival: Arrival,
    /// When the last info was put, at the latest.
    pub since: Boottime,
    /// Whether its key existed at the last read.
    pub key_exists: bool,
    /// The boot uuid in the liveness key at the last read; none: the key did not exist.
    pub alive: Option<BootUuid>,
    /// When the liveness key was first found to be gone.
    pub liveness_lost_at: Option<Boottime>,
}

/// The history of a proxy's info.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyHistory {
    /// The last decodable info; none if there was none yet.
    pub info: Option<ProxyInfo>,
    /// Whether its key was undecodable at the last read.
    pub undecodable: bool,
    /// When the last info was put, at the latest.
    pub since: Boottime,
    /// When the lease announced by an earlier info with a longer timeout ends.
    pub earlier_lease_end: Boottime,
}

/// The history of reads; every sentinel keeps it, also while another one leads.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    cluster: ClusterUid,
    read_at: Option<Boottime>,
    readable_since: Boottime,
    /// The longest recent latency of a read; halved with each faster read.
    latency: Duration,
    /// Time before the last read in which the store could not be read; zero when there was none.
    pub outage: Duration,
    /// By keeper uid; an entry stays when its key is deleted (sentinel H-4).
    pub keepers: BTreeMap<KeeperUid, KeeperHistory>,
    /// The keys of keeper infos at the last read, decodable or not, with the revision of their last put.
    pub keeper_keys: BTreeMap<String, i64>,
    /// By proxy uid; an entry is removed with its key (sentinel P-1).
    pub proxies: BTreeMap<ProxyUid, ProxyHistory>,
}

impl History {
    /// Returns the history after one more read, made at `now`.
    ///
    /// Time in which the store could not be read does not count: every recorded time is shifted by it (sentinel E-3).
    /// Slow reads do count, see `outage_since`.
    #[must_use]
    pub fn after(&self, observations: &Observations, cluster: &ClusterUid, spec: &Spec, now: Boottime) -> Self {
        let same_cluster = self.cluster == *cluster;
        let is_first = self.read_at.is_none();
        let mut next = if same_cluster || is_first {
            self.clone()
        } else {
            Self::default()
        };
        next.cluster = cluster.clone();
        next.read_at = Some(now);
        next.outage = self.read_at.map_or(Duration::ZERO, |last| {
            let answered = observations.own_requests.min(longest_normal_latency(self.latency));
            outage_since(
                now.since(last).saturating_sub(answered),
                observations.latency,
                self.latency,
                spec.sleep_interval,
            )
        });
        next.latency = observations.latency.max(self.latency / 2);
        if next.outage > Duration::ZERO || is_first {
            next.readable_since = now;
        }
        for known in next.keepers.values_mut() {
            known.since = known.since + next.outage;
            known.liveness_lost_at = known.liveness_lost_at.map(|at| at + next.outage);
        }
        for known in next.proxies.values_mut() {
            known.since = known.since + next.outage;
        }
        next.keeper_keys.clone_from(&observations.keeper_keys);
        let decoded = observations.keepers.values();
        next.keeper_keys
            .extend(decoded.map(|observed| (observed.key.clone(), observed.revision)));
        next.record_keepers(observations, cluster, is_first, now);
        next.record_proxies(observations, spec, now);
        next
    }

    /// Returns since when the store has been readable without an outage. No failure is dated before that.
    pub(crate) fn readable_since(&self) -> Boottime {
        self.readable_since
    }

    /// Returns whether nothing has been read yet. The ages of infos in the first read must be queried (sentinel E-6).
    pub fn is_empty(&self) -> bool {
        self.read_at.is_none()
    }

    /// Returns whether this is the history of this cluster.
    pub(crate) fn is_for(&self, cluster: &ClusterUid) -> bool {
        self.cluster == *cluster
    }

    /// Returns the history after a round without decisions: what was new stays new.
    #[must_use]
    pub(crate) fn deferring_arrivals(mut self) -> Self {
        for known in self.keepers.values_mut().filter(|known| known.arrival.is_new()) {
            known.arrival = Arrival::Deferred;
        }
        self
    }

    /// Returns when an info of this age was put. The outage does not count, as for every recorded time (sentinel E-3).
    fn put_at(&self, age: Duration, now: Boottime) -> Boottime {
        (now.before(age) + self.outage).min(now)
    }

    fn record_keepers(&mut self, observations: &Observations, cluster: &ClusterUid, is_first: bool, now: Boottime) {
        self.keepers.retain(|_, known| known.last.info.cluster_uid == *cluster);
        for known in self.keepers.values_mut() {
            known.key_exists = false;
        }
        // Infos of another cluster do not count (sentinel H-1).
        for (uid, observed) in observations
            .keepers
            .iter()
            .filter(|(_, o)| o.info.cluster_uid == *cluster)
        {
            let arrival = match self.keepers.get(uid) {
                Some(known) if known.last.info.info_uid == observed.info.info_uid => None,
                None if is_first => Some((Arrival::FoundAtStart, now.before(observed.age))),
                _ => {
                    let arrival = match observations.repeated_keepers.contains(&observed.key) {
                        true => Arrival::Repetition,
                        false => Arrival::New,
                    };
                    Some((arrival, self.put_at(observed.age, now)))
                }
            };
            match (arrival, self.keepers.get_mut(uid)) {
                (None, Some(known)) => {
                    known.key_exists = true;
                    known.last.revision = observed.revision;
                    known.arrival = match known.arrival {
                        Arrival::FoundAtStart => Arrival::FoundAtStart,
                        Arrival::New | Arrival::Repetition | Arrival::Known => Arrival::Known,
                        Arrival::Deferred => Arrival::New,
                    };
                }
                (Some((arrival, since)), known) => {
                    let (alive, liveness_lost_at) =
                        known.map_or((None, None), |known| (known.alive.clone(), known.liveness_lost_at));
                    let last = observed.clone();
                    let known = KeeperHistory {
                        last,
                        arrival,
                        since,
                        key_exists: true,
                        alive,
                        liveness_lost_at,
                    };
                    self.keepers.insert(uid.clone(), known);
                }
                (None, None) => unreachable!("only a known info has no arrival"),
            }
        }
        for (uid, known) in &mut self.keepers {
            let alive = observations.liveness_keys.get(uid).cloned();
            match (&known.alive, &alive) {
                (_, Some(_)) => known.liveness_lost_at = None,
                (Some(_), None) => {
                    let reported = observations.liveness_gone.get(uid).copied();
                    known.liveness_lost_at = Some(reported.map_or(now, |reported| (reported + self.outage).min(now)));
                }
                (None, None) => {}
            }
            known.alive = alive;
        }
    }

    fn record_proxies(&mut self, observations: &Observations, spec: &Spec, now: Boottime) {
        // A proxy is known only while its key exists (sentinel P-1).
        self.proxies
            .retain(|uid, _| observations.proxies.contains_key(uid) || observations.undecodable_proxies.contains(uid));
        for uid in &observations.undecodable_proxies {
            let known = self.proxies.entry(uid.clone()).or_insert_with(|| ProxyHistory {
                info: None,
                undecodable: true,
                since: now,
                earlier_lease_end: Boottime::default(),
            });
            known.undecodable = true;
        }
        for (uid, observed) in &observations.proxies {
            let since = self.put_at(observed.age, now);
            let Some(known) = self.proxies.get_mut(uid) else {
                let known = ProxyHistory {
                    info: Some(observed.info.clone()),
                    undecodable: false,
                    since,
                    earlier_lease_end: Boottime::default(),
                };
                self.proxies.insert(uid.clone(), known);
                continue;
            };
            known.undecodable = false;
            if known
                .info
                .as_ref()
                .is_some_and(|info| info.info_uid == observed.info.info_uid)
            {
                continue;
            }
            // A smaller timeout is published one check-in after it took effect (fencing F-2), so a lease of the length
            // that the replaced info announced may have begun just before now.
            let before = known.lease(spec);
            known.info = Some(observed.info.clone());
            known.since = since;
            if known.lease(spec) < before {
                known.earlier_lease_end = known.earlier_lease_end.max(now + before);
            }
        }
    }
}

impl ProxyHistory {
    /// Returns how long this proxy may go on forwarding after its last check-in or after "no master" was written,
    /// whichever is later (fencing F-6).
    pub fn lease(&self, spec: &Spec) -> Duration {
        let published = self
            .info
            .as_ref()
            .map_or(Duration::ZERO, |info| nanos(info.proxy_timeout));
        let longest = published.max(spec.proxy_timeout);
        let fenced = !self.undecodable && self.info.as_ref().is_some_and(|info| info.fenced);
        if fenced {
            longest
                .saturating_add(longest / 100)
                .saturating_add(Duration::from_millis(100))
        } else {
            longest.saturating_mul(2)
        }
    }

    /// Returns until when the proxy counts as active without another info (sentinel P-2).
    pub fn active_until(&self) -> Boottime {
        let published = self
            .info
            .as_ref()
            .map_or(Duration::ZERO, |info| nanos(info.proxy_timeout));
        self.since + published.saturating_mul(2)
    }
}

/// Converts published nanoseconds; negative counts as zero.
fn nanos(count: i64) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(0))
}
