//! What the keeper tells the others about itself: its info, each time new and under a fresh lease, on the condition
//! that nobody else wrote it meanwhile; and the permit to become a master, which is one of these publications.

use std::sync::Mutex as StdMutex;
use std::time::Duration;

use control::model::{
    BootUuid, ClusterUid, DbUid, InfoUid, KeeperInfo, KeeperUid, PostgresBinaryVersion, PostgresState, Problem,
    SettingsInfo, Stopped, from_slice, short_uid, to_compact,
};
use control::store::{Outcome, Revision, Store, StoreError, Txn, info_ttl};
use tokio::sync::{Mutex, Notify};
use tracing::{debug, warn};

/// What never changes in the infos of one process.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// The keeper.
    pub uid: KeeperUid,
    /// The process.
    pub boot: BootUuid,
    /// Whether it may be elected.
    pub can_be_master: bool,
    /// Whether commits may wait for it.
    pub can_be_synchronous_replica: bool,
}

/// What the next publication says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The cluster that the keeper has seen; empty: nothing is published (keeper 3.4).
    pub cluster: ClusterUid,
    /// Version of the programs.
    pub version: PostgresBinaryVersion,
    /// The instance, as last looked at.
    pub state: Option<PostgresState>,
    /// Leaving on purpose (beyond X-1.1).
    pub leaving: bool,
    /// The instance is down, and where it stands (beyond X-1.1, X-1.4).
    pub stopped: Option<Stopped>,
    /// How far the instance is with the cluster's parameters.
    pub settings: Option<SettingsInfo>,
    /// What an operator has to mend.
    pub problems: Vec<Problem>,
    /// The assigned db, when its data are not here.
    pub data_lost: DbUid,
}

/// What came of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It stands in the store.
    Yes,
    /// There is no cluster yet to say it in.
    NoCluster,
    /// Somebody else writes under this uid, again and again.
    Contested,
}

/// The answer to a question for the permit (beyond X-1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// The instance may become a master, for a quarter of failInterval from before the question.
    Granted,
    /// Not on this cluster data, or not while an order lives: read again.
    Refused,
}

/// Publishes one keeper's info.
#[derive(Debug)]
pub struct Publisher {
    store: Store,
    fixed: Fixed,
    report: StdMutex<Report>,
    interval: StdMutex<Duration>,
    wake: Notify,
    own: Mutex<Own>,
}

/// What is known of the own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// A request went out and nobody knows what became of it, or none went out yet: read the key first (beyond X-1.2).
    Unknown,
    /// Its last put, or [`Revision::ABSENT`].
    At(Revision),
}

/// How often a publication that lost to another writer goes on from what it finds.
const ATTEMPTS: usize = 4;
/// Pause after a failed publication, at most; the sleepInterval when that is shorter.
const RETRY: Duration = Duration::from_secs(1);

impl Publisher {
    /// Publishes nothing yet; `interval` is the longest time between two publications.
    pub fn new(store: Store, fixed: Fixed, report: Report, interval: Duration) -> Self {
        Self {
            store,
            fixed,
            report: StdMutex::new(report),
            interval: StdMutex::new(interval),
            wake: Notify::new(),
            own: Mutex::new(Own::Unknown),
        }
    }

    /// What the next publication says.
    pub fn report(&self) -> Report {
        self.report.lock().expect(UNPOISONED).clone()
    }

    /// Changes what the next publication says, and whether it is due at once.
    pub fn change(&self, due: Due, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().expect(UNPOISONED));
        if due == Due::Now {
            self.wake.notify_one();
        }
    }

    /// Sets the longest time between two publications (keeper 3.6.1).
    pub fn set_interval(&self, interval: Duration) {
        let before = std::mem::replace(&mut *self.interval.lock().expect(UNPOISONED), interval);
        if interval < before {
            self.wake.notify_one();
        }
    }

    /// Publishes when something is due, and at least once an interval, for ever.
    pub async fn run(&self) {
        let mut failing = false;
        loop {
            let interval = *self.interval.lock().expect(UNPOISONED);
            let pause = match self.publish(&self.store).await {
                Ok(Published::Yes) => {
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
                        warn!(error = %control::telemetry::Chain(&error), "could not publish the keeper info");
                    }
                    interval.min(RETRY)
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Publishes once, within `limit` for all of it, whatever else hangs: the last words of a keeper that stops.
    /// [`Publisher::run`] must have ended.
    pub async fn say_within(&self, limit: Duration) {
        let store = self.store.limited(limit);
        match tokio::time::timeout(limit, self.publish(&store)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(error = %control::telemetry::Chain(&error), "could not publish the keeper info"),
            Err(_) => warn!(?limit, "could not publish the keeper info in time"),
        }
    }

    /// Asks whether the instance may become a master: the cluster data are still those of this revision, and no order
    /// says otherwise; with the answer the info no longer says `stopped` (beyond X-1.3).
    pub async fn permit(&self, cluster_data: Revision) -> Result<Permit, StoreError> {
        let keys = self.store.keys();
        let conditions = Txn::new()
            .if_unchanged(&keys.cluster_data(), cluster_data)
            .if_absent(&keys.order(self.fixed.uid.as_str()));
        let mut own = self.own.lock().await;
        let revision = self.own_revision(&self.store, &mut own).await?;
        let mut report = self.report();
        report.stopped = None;
        match self.put(&self.store, &mut own, revision, conditions, &report).await? {
            Some(_) => {
                self.report.lock().expect(UNPOISONED).stopped = None;
                Ok(Permit::Granted)
            }
            None => Ok(Permit::Refused),
        }
    }

    async fn publish(&self, store: &Store) -> Result<Published, StoreError> {
        let mut own = self.own.lock().await;
        for _ in 0..ATTEMPTS {
            let mut report = self.report();
            if report.cluster.is_empty() {
                return Ok(Published::NoCluster);
            }
            let revision = self.own_revision(store, &mut own).await?;
            // `stopped` elects. Said where no info is, it could arrive so late that a successor of this process has
            // said otherwise and its info has expired: then there is none again (beyond X-1.2).
            let is_whole = revision != Revision::ABSENT || report.stopped.is_none();
            if !is_whole {
                report.stopped = None;
            }
            let put = self.put(store, &mut own, revision, Txn::new(), &report).await?;
            if put.is_some() && is_whole {
                return Ok(Published::Yes);
            }
        }
        Ok(Published::Contested)
    }

    /// The revision that the next put is conditional on.
    async fn own_revision(&self, store: &Store, own: &mut Own) -> Result<Revision, StoreError> {
        if let Own::At(revision) = *own {
            return Ok(revision);
        }
        let found = store.get(&store.keys().keeper_info(self.fixed.uid.as_str())).await?;
        let revision = found.as_ref().map_or(Revision::ABSENT, |entry| entry.mod_revision);
        let earlier = found.and_then(|entry| from_slice::<KeeperInfo>(&entry.value).ok());
        debug!(%revision, boot = earlier.map(|info| info.boot_uuid.to_string()), "own info read");
        *own = Own::At(revision);
        Ok(revision)
    }

    /// One put under a fresh lease, on top of `txn`'s conditions; the revision, or nothing when a condition failed.
    async fn put(
        &self,
        store: &Store,
        own: &mut Own,
        revision: Revision,
        txn: Txn,
        report: &Report,
    ) -> Result<Option<Revision>, StoreError> {
        let key = store.keys().keeper_info(self.fixed.uid.as_str());
        let interval = *self.interval.lock().expect(UNPOISONED);
        // Twice the interval, so that the key outlives the pause between two publications (store S-21).
        let granted = store.grant(info_ttl(interval.saturating_mul(2))).await?;
        let value = to_compact(&info(&self.fixed, report, fresh_uid()));
        // Until it is answered, and also when this future is dropped, nobody knows what became of it.
        *own = Own::Unknown;
        match store
            .commit(txn.if_unchanged(&key, revision).put_leased(&key, value, granted.lease))
            .await
        {
            Ok(Outcome::Committed(committed)) => {
                *own = Own::At(committed.revision);
                Ok(Some(committed.revision))
            }
            Ok(Outcome::Conflict) => Ok(None),
            Err(error) => {
                if !error.is_outcome_unknown() {
                    *own = Own::At(revision);
                }
                Err(error)
            }
        }
    }
}

/// Whether a change is published at once or with the next publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// With the next one.
    Later,
}

/// The document (keeper 3.4), with the announcements of beyond 1 and 8.
fn info(fixed: &Fixed, report: &Report, uid: InfoUid) -> KeeperInfo {
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

/// A new uid for one publication (store S-22).
fn fresh_uid() -> InfoUid {
    let mut random = [0; 4];
    getrandom::fill(&mut random).expect("the system has random numbers");
    short_uid(random).into()
}

const UNPOISONED: &str = "nobody panics while holding the report";

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed() -> Fixed {
        Fixed {
            uid: "k1".into(),
            boot: "b".into(),
            can_be_master: true,
            can_be_synchronous_replica: false,
        }
    }

    #[test]
    fn an_info_says_what_its_readers_know_and_what_is_ours() {
        let report = Report {
            cluster: "c1".into(),
            leaving: true,
            ..Report::default()
        };
        assert_eq!(
            to_compact(&info(&fixed(), &report, "00000001".into())),
            r#"{"infoUID":"00000001","uid":"k1","clusterUID":"c1","bootUUID":"b","postgresBinaryVersion":{"Maj":0,"Min":0},"canBeMaster":true,"canBeSynchronousReplica":false,"livenessKey":true,"leaving":true}"#
        );
    }

    #[test]
    fn problems_are_published_only_when_there_are_some() {
        let report = Report {
            cluster: "c1".into(),
            problems: vec![Problem::new("login", "refused", "set the password")],
            ..Report::default()
        };
        let text = to_compact(&info(&fixed(), &report, "1".into()));
        assert!(
            text.ends_with(r#","problems":[{"kind":"login","text":"refused","remedy":"set the password"}]}"#),
            "{text}"
        );
    }

    #[test]
    fn each_publication_has_a_new_uid() {
        assert_ne!(fresh_uid(), fresh_uid());
        assert_eq!(fresh_uid().as_str().len(), 8);
    }
}
