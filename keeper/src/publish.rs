//! Publishes the keeper's info. Each publication is a put under a lease, conditional on the key's revision. Also
//! requests the permit to become master, which is one of these publications.

use std::sync::Mutex as StdMutex;
use std::time::Duration;

use base::clock::Boottime;
use model::{
    BootUuid, ClusterUid, DbUid, InfoUid, KeeperInfo, KeeperUid, PostgresBinaryVersion, PostgresState, Problem,
    SettingsInfo, Stopped, from_slice, short_uid, to_compact,
};
use store::{CommitOrRead, Entry, KeyRange, LeaseId, Revision, Snapshot, Store, StoreError, Txn, info_ttl};
use tokio::sync::{Mutex, Notify};
use tracing::{debug, warn};

/// The constant fields of the infos of one process.
#[derive(Debug, Clone)]
pub struct KeeperIdentity {
    pub uid: KeeperUid,
    pub boot: BootUuid,
    pub can_be_master: bool,
    /// Whether it may be a synchronous standby.
    pub can_be_synchronous_replica: bool,
}

/// Contents of the next publication.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InfoReport {
    /// The known cluster; empty: nothing is published (keeper 3.4).
    pub cluster: ClusterUid,
    /// Version of the programs.
    pub version: PostgresBinaryVersion,
    /// The instance, as last observed.
    pub state: Option<PostgresState>,
    /// The keeper is shutting down on SIGTERM (extensions X-1.1).
    pub leaving: bool,
    /// The instance is stopped, and the end of its data (extensions X-1.1, X-1.4).
    pub stopped: Option<Stopped>,
    /// Progress of applying the cluster's parameters.
    pub settings: Option<SettingsInfo>,
    pub problems: Vec<Problem>,
    /// The assigned db, if its data are missing.
    pub data_lost: DbUid,
}

/// Result of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is in the store.
    Stored,
    /// No cluster is known yet.
    NoCluster,
    /// Another process keeps writing under this uid.
    Contested,
}

/// Result of requesting the permit (extensions X-1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// The instance may become master, for half of failInterval from the sending of the granted request.
    Granted(Boottime),
    /// The cluster data have changed, or the keeper's orders key exists: read the cluster data again.
    Refused,
}

#[derive(Debug)]
pub struct Publisher {
    store: Store,
    fixed: KeeperIdentity,
    report: StdMutex<InfoReport>,
    interval: StdMutex<Duration>,
    wake: Notify,
    own: Mutex<InfoKey>,
}

/// Known state of the info's key.
#[derive(Debug)]
struct InfoKey {
    at: KnownRevision,
    lease: Option<KeeperInfoLease>,
}

/// Lease of the info. It is renewed together with each put, so that its age equals that of the info (sentinel E-6)
/// without an extra request before the put.
#[derive(Debug, Clone, Copy)]
struct KeeperInfoLease {
    id: LeaseId,
    ttl: Duration,
    /// When the last answered grant or renewal was sent.
    renewed: Boottime,
}

impl KeeperInfoLease {
    /// Whether a put and a renewal that are sent now reach the lease before it expires.
    fn is_usable(self, ttl: Duration, now: Boottime) -> bool {
        self.ttl == ttl && now.since(self.renewed) < ttl / 2
    }
}

/// Revision of the info's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownRevision {
    /// The result of a request is unknown, or none was sent yet: read the key first (extensions X-1.2).
    Unknown,
    /// Revision of its last put, or [`Revision::ABSENT`].
    At(Revision),
}

/// Attempts of a publication that conflicts with another writer.
const ATTEMPTS: usize = 4;
/// Attempts of a permit while only times and positions in the cluster data change.
const PERMIT_ATTEMPTS: usize = 8;
/// On a slow store a due publication waits for this fraction of the latency, to include changes that follow closely;
/// they would otherwise wait for the answer of the first one.
const GATHER_PART: u32 = 8;
/// Maximum of that wait.
const GATHER_MAX: Duration = Duration::from_millis(150);
/// Maximum pause after a failed publication; the sleepInterval if that is shorter.
const RETRY: Duration = Duration::from_secs(1);

impl Publisher {
    /// Publishes nothing yet. `interval` is the maximum time between two publications.
    pub fn new(store: Store, fixed: KeeperIdentity, report: InfoReport, interval: Duration) -> Self {
        Self {
            store,
            fixed,
            report: StdMutex::new(report),
            interval: StdMutex::new(interval),
            wake: Notify::new(),
            own: Mutex::new(InfoKey {
                at: KnownRevision::Unknown,
                lease: None,
            }),
        }
    }

    /// Contents of the next publication.
    pub fn report(&self) -> InfoReport {
        self.report.lock().expect(UNPOISONED).clone()
    }

    /// Changes the next publication, and publishes it now if due.
    pub fn change(&self, due: Due, change: impl FnOnce(&mut InfoReport)) {
        change(&mut self.report.lock().expect(UNPOISONED));
        if due == Due::Now {
            self.wake.notify_one();
        }
    }

    /// Sets the maximum time between two publications (keeper 3.6.1).
    pub fn set_interval(&self, interval: Duration) {
        let before = std::mem::replace(&mut *self.interval.lock().expect(UNPOISONED), interval);
        if interval < before {
            self.wake.notify_one();
        }
    }

    /// Publishes when a change is due, and at least once an interval. Never returns.
    pub async fn run(&self) {
        let mut failing = false;
        loop {
            let interval = *self.interval.lock().expect(UNPOISONED);
            let pause = match self.publish(&self.store).await {
                Ok(Published::Stored) => {
                    failing = false;
                    interval
                }
                Ok(Published::NoCluster) => interval,
                Ok(Published::Contested) => {
                    warn!(uid = %self.fixed.uid, "another keeper publishes under our uid: stop one of the two");
                    interval
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(error = %base::Chain(&error), "could not publish the keeper info");
                    }
                    interval.min(RETRY)
                }
            };
            tokio::select! {
                () = self.wake.notified() => {
                    tokio::time::sleep((self.store.latency() / GATHER_PART).min(GATHER_MAX)).await;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Publishes once, with `limit` for the whole publication, during a shutdown. [`Publisher::run`] must have ended.
    pub async fn publish_within(&self, limit: Duration) {
        let store = self.store.with_timeout(limit);
        match tokio::time::timeout(limit, self.publish(&store)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(error = %base::Chain(&error), "could not publish the keeper info"),
            Err(_) => warn!(?limit, "could not publish the keeper info in time"),
        }
    }

    /// Requests the permit to become master. It is granted if the cluster data still have this revision and the
    /// keeper's orders key does not exist. The same transaction removes `stopped` from the info (extensions X-1.3).
    ///
    /// The leader writes times and positions at least once a sleepInterval. If the cluster data have changed,
    /// `is_unchanged` returns whether the desired state is still the same; then the permit is requested on the new
    /// revision.
    pub async fn permit(
        &self,
        mut cluster_data: Revision,
        is_unchanged: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<Permit, StoreError> {
        let keys = self.store.keys();
        let order = keys.order(self.fixed.uid.as_str());
        let mut own = self.own.lock().await;
        let mut revision = self.own_revision(&self.store, &mut own).await?;
        for _ in 0..PERMIT_ATTEMPTS {
            let mut report = self.report();
            report.stopped = None;
            let put = InfoPut {
                revision,
                conditions: Txn::new()
                    .if_unchanged(&keys.cluster_data(), cluster_data)
                    .if_absent(&order),
                read: vec![KeyRange::Key(keys.cluster_data()), KeyRange::Key(order.clone())],
            };
            match self.put(&self.store, &mut own, put, &report).await? {
                PutOutcome::Put(sent) => {
                    self.report.lock().expect(UNPOISONED).stopped = None;
                    return Ok(Permit::Granted(sent));
                }
                PutOutcome::Conflict { found, mut read } => {
                    let data = read.take_one(0);
                    let now = data.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
                    // The sentinel writes times and positions all the time: a new revision alone must not refuse the
                    // permit.
                    let has_changed = now != cluster_data && !is_unchanged(data.as_ref());
                    if read.take_one(1).is_some() || has_changed {
                        return Ok(Permit::Refused);
                    }
                    debug!(revision = %now, "only times and positions have changed, asking for the permit again");
                    (revision, cluster_data) = (found, now);
                }
            }
        }
        Ok(Permit::Refused)
    }

    async fn publish(&self, store: &Store) -> Result<Published, StoreError> {
        let mut own = self.own.lock().await;
        for _ in 0..ATTEMPTS {
            let mut report = self.report();
            if report.cluster.is_empty() {
                return Ok(Published::NoCluster);
            }
            let revision = self.own_revision(store, &mut own).await?;
            // `stopped` lets the sentinel elect another master. Written where no info exists, it could arrive late:
            // after a successor of this process has published otherwise and its info has expired (extensions X-1.2).
            let includes_stopped = revision != Revision::ABSENT || report.stopped.is_none();
            if !includes_stopped {
                report.stopped = None;
            }
            let put = InfoPut {
                revision,
                conditions: Txn::new(),
                read: Vec::new(),
            };
            let put = self.put(store, &mut own, put, &report).await?;
            if matches!(put, PutOutcome::Put(_)) && includes_stopped {
                return Ok(Published::Stored);
            }
        }
        Ok(Published::Contested)
    }

    /// Returns the revision that the next put depends on.
    async fn own_revision(&self, store: &Store, own: &mut InfoKey) -> Result<Revision, StoreError> {
        if let KnownRevision::At(revision) = own.at {
            return Ok(revision);
        }
        let found = store.get(&store.keys().keeper_info(self.fixed.uid.as_str())).await?;
        let revision = found.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
        let earlier = found.and_then(|entry| from_slice::<KeeperInfo>(&entry.value).ok());
        debug!(%revision, boot = earlier.map(|info| info.boot_uuid.to_string()), "own info read");
        own.at = KnownRevision::At(revision);
        Ok(revision)
    }

    /// Sends one put with its conditions. On a conflict, returns what the next put starts from.
    async fn put(
        &self,
        store: &Store,
        own: &mut InfoKey,
        put: InfoPut,
        report: &InfoReport,
    ) -> Result<PutOutcome, StoreError> {
        let key = store.keys().keeper_info(self.fixed.uid.as_str());
        let (lease, is_new) = self.info_lease(store, own).await?;
        let value = to_compact(&info(&self.fixed, report, random_uid()));
        // The result is unknown until the answer arrives, and also when this future is dropped.
        own.at = KnownRevision::Unknown;
        let sent = boottime();
        let txn = put
            .conditions
            .if_unchanged(&key, put.revision)
            .put_leased(&key, value, lease.id);
        let mut read = put.read;
        read.push(KeyRange::Key(key));
        let commit = store.commit_or_read(txn, &read);
        let outcome = match is_new {
            true => commit.await,
            false => {
                let (outcome, renewed) = tokio::join!(commit, store.renew(lease.id));
                own.lease = match renewed {
                    Ok(true) => Some(KeeperInfoLease { renewed: sent, ..lease }),
                    Ok(false) => None,
                    Err(_) => Some(lease),
                };
                outcome
            }
        };
        match outcome {
            Ok(CommitOrRead::Committed(committed)) => {
                own.at = KnownRevision::At(committed.revision);
                Ok(PutOutcome::Put(sent))
            }
            Ok(CommitOrRead::Read(mut read)) => {
                let found = read.found.pop().and_then(|mut found| found.pop());
                let found = found.map_or(Revision::ABSENT, |entry| entry.mod_revision);
                own.at = KnownRevision::At(found);
                Ok(PutOutcome::Conflict { found, read })
            }
            Err(error) => {
                if !error.is_outcome_unknown() {
                    // the lease may be unknown to the store
                    own.lease = None;
                    own.at = KnownRevision::At(put.revision);
                }
                Err(error)
            }
        }
    }

    /// Returns the lease for a put that is sent now, and whether it is new.
    async fn info_lease(&self, store: &Store, own: &mut InfoKey) -> Result<(KeeperInfoLease, bool), StoreError> {
        let interval = *self.interval.lock().expect(UNPOISONED);
        // Twice the interval, so that the key outlives the pause between two publications (store S-21).
        let ttl = info_ttl(interval.saturating_mul(2));
        let now = boottime();
        if let Some(lease) = own.lease.filter(|lease| lease.is_usable(ttl, now)) {
            return Ok((lease, false));
        }
        let granted = store.grant(ttl).await?;
        let lease = KeeperInfoLease {
            id: granted.lease,
            ttl,
            renewed: now,
        };
        own.lease = Some(lease);
        Ok((lease, true))
    }
}

/// A put of the info.
struct InfoPut {
    /// Expected revision of the key.
    revision: Revision,
    /// Further conditions.
    conditions: Txn,
    /// What to read on a conflict.
    read: Vec<KeyRange>,
}

/// Result of a put.
enum PutOutcome {
    /// Written; when the request was sent.
    Put(Boottime),
    /// A condition was not met.
    Conflict {
        /// Revision of the info's key.
        found: Revision,
        read: Snapshot,
    },
}

#[expect(
    clippy::disallowed_methods,
    reason = "the life of a lease and of a permit is counted from before a request"
)]
fn boottime() -> Boottime {
    Boottime::now()
}

/// Whether a change is published immediately or with the next publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Immediately.
    Now,
    /// With the next publication.
    Later,
}

/// Builds the keeper info (keeper 3.4), with the fields of extensions 1 and 8.
fn info(fixed: &KeeperIdentity, report: &InfoReport, uid: InfoUid) -> KeeperInfo {
    KeeperInfo {
        info_uid: uid,
        uid: fixed.uid.clone(),
        cluster_uid: report.cluster.clone(),
        boot_uuid: fixed.boot.clone(),
        postgres_binary_version: report.version,
        postgres_state: report.state.clone(),
        can_be_master: Some(fixed.can_be_master),
        can_be_synchronous_replica: Some(fixed.can_be_synchronous_replica),
        liveness_key: true,
        leaving: report.leaving,
        stopping: String::new(),
        stopped: report.stopped.clone(),
        settings: report.settings.clone(),
        problems: report.problems.clone(),
        data_lost: report.data_lost.clone(),
    }
}

/// Returns a new uid for one publication (store S-22).
fn random_uid() -> InfoUid {
    let mut random = [0; 4];
    getrandom::fill(&mut random).expect("the system has random numbers");
    short_uid(random).into()
}

const UNPOISONED: &str = "no thread panics while holding the report";

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed() -> KeeperIdentity {
        KeeperIdentity {
            uid: "k1".into(),
            boot: "b".into(),
            can_be_master: true,
            can_be_synchronous_replica: false,
        }
    }

    #[test]
    fn an_info_has_the_fields_of_the_reference_and_ours() {
        let report = InfoReport {
            cluster: "c1".into(),
            leaving: true,
            ..InfoReport::default()
        };
        assert_eq!(
            to_compact(&info(&fixed(), &report, "00000001".into())),
            r#"{"infoUID":"00000001","uid":"k1","clusterUID":"c1","bootUUID":"b","postgresBinaryVersion":{"Maj":0,"Min":0},"canBeMaster":true,"canBeSynchronousReplica":false,"livenessKey":true,"leaving":true}"#
        );
    }

    #[test]
    fn problems_are_published_only_when_there_are_some() {
        let report = InfoReport {
            cluster: "c1".into(),
            problems: vec![Problem::new("login", "refused", "set the password")],
            ..InfoReport::default()
        };
        let text = to_compact(&info(&fixed(), &report, "1".into()));
        assert!(
            text.ends_with(r#","problems":[{"kind":"login","text":"refused","remedy":"set the password"}]}"#),
            "{text}"
        );
    }

    #[test]
    fn each_publication_has_a_new_uid() {
        assert_ne!(random_uid(), random_uid());
        assert_eq!(random_uid().as_str().len(), 8);
    }
}
