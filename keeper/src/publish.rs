//! Publishes the keeper's info: what and when. Each publication is a put under a lease, conditional on the key's
//! revision (`info_key`). The permit to become master, and the acceptance of an order, are such publications (`permit`).

use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;
use std::time::Duration;

use base::{Clock, RandomBytes};
use model::{
    BootUuid, ClusterUid, DbUid, InfoUid, KeeperInfo, KeeperUid, Lsn, PostgresBinaryVersion, PostgresState, Problem,
    SettingsInfo, Stopped, short_uid, to_compact,
};
use store::{Entry, Revision, Store, StoreError, Txn};
use tokio::sync::{Mutex, Notify};
use tracing::warn;

use crate::publish::info_key::{InfoKey, InfoPut, PutOutcome};
use crate::publish::permit::PermitRequest;

pub use crate::publish::permit::{PermitConditions, PermitResponse};

mod info_key;
mod permit;

/// Attempts of a publication that conflicts with another writer.
const ATTEMPTS: usize = 4;
/// On a slow store a due publication waits for this fraction of the latency, to include changes that follow closely;
/// they would otherwise wait for the response of the first one.
const COALESCE_LATENCY_PART: u32 = 8;
/// Maximum of that wait.
const COALESCE_MAX: Duration = Duration::from_millis(150);
/// An unhealthy info that has not changed is repeated after this many latencies of the store: an election reads the
/// info, is decided, and is written, and every publication between reading and writing undoes it (extensions X-1.5).
const ELECTION_LATENCIES: u32 = 3;
/// Minimum interval of looking for changes during that delay.
const REPEAT_STEP_MIN: Duration = Duration::from_millis(100);
/// Maximum delay after a failed publication; the sleepInterval if that is shorter.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

const UNPOISONED: &str = "no thread panics while holding the report";

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
    /// The switchover on whose order the instance is stopping or stopped; empty for none (extensions X-2.4).
    pub stopping: String,
    /// The instance is stopped, and the end of its data (extensions X-1.1, X-1.4).
    pub stopped: Option<Stopped>,
    /// The last switchover whose ordered checkpoint is complete; empty for none.
    pub checkpointed: String,
    /// Whether each connected standby has received the WAL up to the end of that checkpoint.
    pub checkpoint_received: BTreeMap<DbUid, bool>,
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

/// Whether a change is published immediately or with the next publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Immediately.
    Now,
    /// With the next publication.
    Later,
}

/// Publishes the info of this keeper.
#[derive(Debug)]
pub struct Publisher {
    store: Store,
    identity: KeeperIdentity,
    report: StdMutex<InfoReport>,
    interval: StdMutex<Duration>,
    fail_interval: StdMutex<Duration>,
    wake: Notify,
    random: RandomBytes,
    key: Mutex<InfoKey>,
}

impl Publisher {
    /// `interval` is the maximum time between two publications.
    pub fn new(
        store: Store,
        identity: KeeperIdentity,
        report: InfoReport,
        interval: Duration,
        clock: Clock,
        random: RandomBytes,
    ) -> Self {
        Self {
            key: Mutex::new(InfoKey::new(identity.uid.clone(), clock)),
            store,
            identity,
            report: StdMutex::new(report),
            interval: StdMutex::new(interval),
            fail_interval: StdMutex::new(Duration::ZERO),
            wake: Notify::new(),
            random,
        }
    }

    /// Returns the contents of the next publication.
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

    /// Sets failInterval, which bounds the delay after an unhealthy info (keeper 3.6.5).
    pub fn set_fail_interval(&self, fail_interval: Duration) {
        *self.fail_interval.lock().expect(UNPOISONED) = fail_interval;
    }

    /// Publishes when a change is due, and at least once an interval, but an unchanged unhealthy info more rarely on a
    /// slow store. Never returns.
    pub async fn run(&self) {
        let mut failing = false;
        loop {
            let interval = self.interval();
            let before = self.report();
            let delay = match self.publish(&self.store).await {
                Ok(Published::Stored) => {
                    failing = false;
                    let fail_interval = *self.fail_interval.lock().expect(UNPOISONED);
                    repeat_delay(&before, interval, fail_interval, self.store.latency())
                }
                Ok(Published::NoCluster) => interval,
                Ok(Published::Contested) => {
                    warn!(uid = %self.identity.uid, "another keeper publishes under our uid: stop one of the two");
                    interval
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(error = %base::Chain(&error), "could not publish the keeper info");
                    }
                    interval.min(RETRY_DELAY_MAX)
                }
            };
            tokio::select! {
                () = self.wake.notified() => {
                    tokio::time::sleep((self.store.latency() / COALESCE_LATENCY_PART).min(COALESCE_MAX)).await;
                }
                () = self.wait_to_repeat(&before, delay, interval) => {}
            }
        }
    }

    /// Waits for the delay; a longer one than the interval ends with the first interval in which something has changed.
    async fn wait_to_repeat(&self, published: &InfoReport, delay: Duration, interval: Duration) {
        let mut left = delay.saturating_sub(interval);
        tokio::time::sleep(delay - left).await;
        while !left.is_zero() && is_repetition(published, &self.report()) {
            let step = left.min(interval.max(REPEAT_STEP_MIN));
            tokio::time::sleep(step).await;
            left -= step;
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

    /// Requests the permit to become master on this revision of the cluster data (extensions X-1.3). If they have changed,
    /// `is_unchanged` returns whether the desired state is still the same.
    pub async fn permit(
        &self,
        cluster_data: Revision,
        is_unchanged: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<PermitResponse, StoreError> {
        let conditions = PermitConditions {
            cluster_data,
            order: Revision::ABSENT,
        };
        self.publish_conditionally(conditions, "", is_unchanged).await
    }

    /// Accepts the order of this switchover to stop the instance: publishes it as stopping (extensions X-2.4).
    pub async fn accept_order(
        &self,
        conditions: PermitConditions,
        switchover: &str,
        is_unchanged: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<PermitResponse, StoreError> {
        self.publish_conditionally(conditions, switchover, is_unchanged).await
    }

    /// Publishes, on these conditions, which switchover the instance is stopping for. The same transaction withdraws an
    /// earlier `stopped`.
    async fn publish_conditionally(
        &self,
        conditions: PermitConditions,
        stopping: &str,
        is_unchanged: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<PermitResponse, StoreError> {
        let request = PermitRequest {
            store: &self.store,
            keeper: &self.identity.uid,
            interval: self.interval(),
        };
        let change = |report: &mut InfoReport| {
            stopping.clone_into(&mut report.stopping);
            report.stopped = None;
        };
        let info = || {
            let mut report = self.report();
            change(&mut report);
            self.next_info(&report)
        };
        let mut key = self.key.lock().await;
        let response = request.send(&mut key, conditions, info, is_unchanged).await?;
        if matches!(response, PermitResponse::Granted(_)) {
            change(&mut self.report.lock().expect(UNPOISONED));
        }
        Ok(response)
    }

    async fn publish(&self, store: &Store) -> Result<Published, StoreError> {
        let mut key = self.key.lock().await;
        for _ in 0..ATTEMPTS {
            let mut report = self.report();
            if report.cluster.is_empty() {
                return Ok(Published::NoCluster);
            }
            let revision = key.revision(store).await?;
            // `stopped` lets the sentinel elect another master. Written where no info exists, it could arrive late:
            // after a successor of this process has published otherwise and its info has expired (extensions X-1.2).
            let includes_stopped = revision != Revision::ABSENT || report.stopped.is_none();
            if !includes_stopped {
                report.stopped = None;
            }
            let put = InfoPut {
                info: self.next_info(&report),
                revision,
                conditions: Txn::new(),
                read: Vec::new(),
            };
            let put = key.put(store, put, self.interval()).await?;
            if matches!(put, PutOutcome::Put(_)) && includes_stopped {
                return Ok(Published::Stored);
            }
        }
        Ok(Published::Contested)
    }

    fn interval(&self) -> Duration {
        *self.interval.lock().expect(UNPOISONED)
    }

    /// Returns the next info as JSON, with a new uid (store S-22).
    fn next_info(&self, report: &InfoReport) -> String {
        let uid = short_uid(self.random.bytes()).into();
        to_compact(&info(&self.identity, report, uid))
    }
}

/// Returns the delay before an info that has not changed is published again (keeper 3.6.5).
///
/// An unhealthy info is repeated late, to leave the leader time to elect another master on a slow store. With the
/// responses to the next publication the delay stays below failInterval, after which sentinels of Go stolon count the
/// keeper itself as failed, and below half of the life of the info's lease, after which a new lease would be needed each
/// time.
fn repeat_delay(report: &InfoReport, interval: Duration, fail_interval: Duration, latency: Duration) -> Duration {
    let is_unhealthy = report.state.as_ref().is_some_and(|state| !state.healthy);
    if !is_unhealthy {
        return interval;
    }
    let election = latency.saturating_mul(ELECTION_LATENCIES);
    // A publication takes one response, or two with a new lease.
    let answers = latency.saturating_mul(2);
    let limit = fail_interval.min(info_key::ttl(interval) / 2).saturating_sub(answers);
    election.min(limit).max(interval)
}

/// Whether `next` only repeats `published`. Positions do not count: those of a server that no
/// longer answers move on while its open sessions write, and they are not what an election waits for.
fn is_repetition(published: &InfoReport, next: &InfoReport) -> bool {
    let level = |report: &InfoReport| InfoReport {
        state: report.state.as_ref().map(without_positions),
        ..report.clone()
    };
    level(published) == level(next)
}

/// Returns the state without what changes all the time.
pub(crate) fn without_positions(state: &PostgresState) -> PostgresState {
    PostgresState {
        xlog_pos: Lsn::default(),
        older_wal_file: String::new(),
        ..state.clone()
    }
}

/// Builds the keeper info (keeper 3.4), with the fields of extensions 1 and 8.
fn info(identity: &KeeperIdentity, report: &InfoReport, uid: InfoUid) -> KeeperInfo {
    KeeperInfo {
        info_uid: uid,
        uid: identity.uid.clone(),
        cluster_uid: report.cluster.clone(),
        boot_uuid: identity.boot.clone(),
        postgres_binary_version: report.version,
        postgres_state: report.state.clone(),
        can_be_master: Some(identity.can_be_master),
        can_be_synchronous_replica: Some(identity.can_be_synchronous_replica),
        liveness_key: true,
        leaving: report.leaving,
        stopping: report.stopping.clone(),
        checkpointed: report.checkpointed.clone(),
        checkpoint_received: report.checkpoint_received.clone(),
        stopped: report.stopped.clone(),
        settings: report.settings.clone(),
        problems: report.problems.clone(),
        data_lost: report.data_lost.clone(),
        orders: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> KeeperIdentity {
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
            to_compact(&info(&identity(), &report, "00000001".into())),
            r#"{"infoUID":"00000001","uid":"k1","clusterUID":"c1","bootUUID":"b","postgresBinaryVersion":{"Maj":0,"Min":0},"canBeMaster":true,"canBeSynchronousReplica":false,"livenessKey":true,"leaving":true,"orders":true}"#
        );
    }

    #[test]
    fn an_unhealthy_info_is_repeated_slowly_enough_for_an_election_on_a_slow_store() {
        let report = |healthy| InfoReport {
            state: Some(PostgresState {
                healthy,
                ..PostgresState::default()
            }),
            ..InfoReport::default()
        };
        let milliseconds = Duration::from_millis;
        let delay = |healthy, sleep, fail, latency| {
            let delay = repeat_delay(
                &report(healthy),
                milliseconds(sleep),
                milliseconds(fail),
                milliseconds(latency),
            );
            delay.as_millis()
        };
        assert_eq!(
            delay(false, 1_000, 20_000, 1_400),
            4_200,
            "reading and writing take 2.8 s"
        );
        assert_eq!(
            delay(true, 1_000, 20_000, 1_400),
            1_000,
            "a healthy master is not replaced"
        );
        assert_eq!(delay(false, 5_000, 20_000, 1), 5_000, "a fast store needs no delay");
        assert_eq!(
            delay(false, 1_000, 5_000, 1_400),
            2_200,
            "with two responses within failInterval"
        );
        assert_eq!(
            delay(false, 1_000, 90_000, 3_000),
            4_000,
            "and within half of the lease"
        );
        assert_eq!(
            delay(false, 1_000, 90_000, 5_000),
            1_000,
            "never more often than before"
        );
        assert_eq!(delay(false, 5_000, 4_000, 5_000), 5_000, "never more often than before");
        let nothing_observed = InfoReport::default();
        let second = milliseconds(1_000);
        assert_eq!(repeat_delay(&nothing_observed, second, 20 * second, 2 * second), second);
    }

    #[test]
    fn positions_that_move_on_are_a_repetition_and_health_is_not() {
        let report = |healthy, position| InfoReport {
            state: Some(PostgresState {
                healthy,
                xlog_pos: Lsn(position),
                older_wal_file: position.to_string(),
                ..PostgresState::default()
            }),
            ..InfoReport::default()
        };
        assert!(is_repetition(&report(false, 1), &report(false, 2)));
        assert!(!is_repetition(&report(false, 1), &report(true, 1)));
        assert!(!is_repetition(&report(false, 1), &InfoReport::default()));
    }

    #[test]
    fn problems_are_published_only_when_there_are_some() {
        let report = InfoReport {
            cluster: "c1".into(),
            problems: vec![Problem::new("login", "refused", "set the password")],
            ..InfoReport::default()
        };
        let text = to_compact(&info(&identity(), &report, "1".into()));
        assert!(
            text.ends_with(
                r#","problems":[{"kind":"login","text":"refused","remedy":"set the password"}],"orders":true}"#
            ),
            "{text}"
        );
    }
}
