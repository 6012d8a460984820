//! What one keeper knows of synchronous replication on its server: the value of `synchronous_standby_names` in force, the
//! mark, who is in sync, and whether client logins are blocked. Who has to be in sync is decided by `reconcile`; the
//! queries are in `sync_marker`.

mod in_sync;
mod mark;
mod report;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base::clock::Boottime;
use model::{DbUid, SYNCHRONOUS_COMMIT};
use tokio::sync::{Notify, watch};

use crate::metrics::Metrics;
use crate::postgres::client::replication_state::WalSender;
use crate::postgres::client::sql::NamesShown;
use crate::postgres::instance::Instance;
use crate::problems::Problems;
use crate::reconcile::TargetDb;
use crate::synchronous::report::SyncReporter;

pub use self::in_sync::InSync;
pub use self::mark::{Mark, MarkState, MarkTask, WrittenFor};
pub use self::report::CommitLevel;

/// State that rounds, observations and the marker share.
#[derive(Debug)]
pub struct SyncReplication {
    instance: Arc<Instance>,
    reporter: SyncReporter,
    state: watch::Sender<MarkState>,
    target: Mutex<SyncTarget>,
    /// A round would find that client logins can be allowed.
    round_wanted: Notify,
    /// The names have changed, or a listed standby was missing at the last observation.
    standbys_missing: Notify,
}

/// What the cluster data request, and whether client logins are blocked.
#[derive(Debug, Clone, Default)]
struct SyncTarget {
    /// The configuration is one for synchronous replication.
    is_configured: bool,
    /// Commits wait for standbys.
    is_master: bool,
    /// The standbys of this cluster that they wait for.
    wanted: BTreeSet<DbUid>,
    /// `synchronous_commit` of the cluster spec.
    commit_level: Option<String>,
    /// Since when client logins are blocked.
    logins_blocked_since: Option<Boottime>,
}

impl SyncReplication {
    pub fn new(instance: &Arc<Instance>, problems: &Arc<Problems>, metrics: &Arc<Metrics>) -> Self {
        Self {
            instance: Arc::clone(instance),
            reporter: SyncReporter::new(Arc::clone(problems), Arc::clone(metrics)),
            state: watch::Sender::default(),
            target: Mutex::default(),
            round_wanted: Notify::new(),
            standbys_missing: Notify::new(),
        }
    }

    /// Sets the db to run; `None` for none.
    pub fn set_target(&self, target: Option<&TargetDb>) {
        let mut current = self.target();
        let commit_level = target.and_then(|target| {
            let mut set = target.spec.pg_parameters.iter();
            set.find(|(name, _)| name.eq_ignore_ascii_case(SYNCHRONOUS_COMMIT))
                .map(|(_, value)| value.clone())
        });
        *current = SyncTarget {
            is_configured: target.is_some_and(TargetDb::is_synchronous),
            is_master: target.is_some_and(TargetDb::is_synchronous_master),
            wanted: target.map(TargetDb::wanted_standbys).unwrap_or_default(),
            commit_level,
            logins_blocked_since: current.logins_blocked_since,
        };
    }

    /// Whether the server is configured for synchronous replication.
    pub fn is_configured(&self) -> bool {
        self.target().is_configured
    }

    /// Sets whether client logins are blocked.
    pub fn set_logins_blocked(&self, are_blocked: bool) {
        let now = self.instance.clock().now();
        let mut target = self.target();
        target.logins_blocked_since = are_blocked.then(|| target.logins_blocked_since.unwrap_or(now));
        self.reporter.set_logins_metric(are_blocked);
        if !are_blocked {
            self.reporter.report_blocked_logins(None);
        }
    }

    /// Whether client logins are blocked.
    pub fn are_logins_blocked(&self) -> bool {
        self.target().logins_blocked_since.is_some()
    }

    /// Records the value of `synchronous_standby_names` in the files that are about to be written.
    pub fn expect_names(&self, names: &str, written_for: WrittenFor) {
        self.change(|state| state.begin_change(names, written_for));
    }

    /// Records that the server is being promoted.
    pub fn record_promotion(&self) {
        self.change(MarkState::record_promotion);
    }

    /// Records that the server is being stopped.
    pub fn record_stop(&self) {
        self.change(MarkState::record_stop);
        self.set_logins_blocked(false);
    }

    fn change(&self, change: impl FnOnce(&mut MarkState)) {
        self.state.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            *state != before
        });
    }

    /// Records what was found for a task of the mark.
    pub fn record(&self, task: &MarkTask, found: &NamesShown) {
        self.change(|state| state.record(task, found));
        self.standbys_missing.notify_one();
    }

    /// Whether the instance is a master whose commits wait for standbys.
    pub fn is_synchronous_master(&self) -> bool {
        self.target().is_master
    }

    /// Reports settings with which commits do not wait; `found` are those of roles and databases.
    pub fn report_commit_levels(&self, found: Vec<CommitLevel>) {
        let target = self.target().clone();
        let of_spec = target.commit_level.map(CommitLevel::of_spec);
        let all = of_spec.into_iter().chain(found).filter(|_| target.is_master);
        self.reporter.report_commit_levels(all);
    }

    /// Returns changes of `synchronous_standby_names` and the mark.
    pub fn subscribe(&self) -> watch::Receiver<MarkState> {
        self.state.subscribe()
    }

    /// Waits until this value of `synchronous_standby_names` is in force; returns false after `limit`.
    pub async fn wait_confirmed(&self, names: &str, limit: Duration) -> bool {
        let mut state = self.state.subscribe();
        let confirmed = state.wait_for(|state| state.confirms(names));
        matches!(tokio::time::timeout(limit, confirmed).await, Ok(Ok(_)))
    }

    /// Returns the mark, to be compared with the one after a query of the WAL senders.
    pub fn mark(&self) -> Option<Mark> {
        self.state.borrow().mark()
    }

    /// Returns who is in sync, from WAL senders that were queried after `mark` was returned.
    pub fn in_sync(&self, mark: Option<Mark>, senders: &[WalSender]) -> InSync {
        if !self.target().is_master {
            return InSync::Unchecked;
        }
        // A value that changed during the query: the senders may belong to the earlier one, the mark to the later one.
        match mark.filter(|mark| self.mark() == Some(*mark)) {
            Some(mark) => InSync::marked(mark, senders),
            None => InSync::Unmarked,
        }
    }

    /// Reports why client logins are blocked, and triggers a round when they need not be. `senders` are those of an
    /// observation, `keeper_of` the keeper of a db.
    pub fn report_missing_standbys(
        &self,
        in_sync: &InSync,
        senders: &[WalSender],
        keeper_of: impl Fn(&DbUid) -> Option<String>,
    ) {
        let target = self.target().clone();
        let missing = in_sync.missing(&target.wanted);
        if target.is_master && !missing.is_empty() {
            self.standbys_missing.notify_one();
        }
        let Some(since) = target.logins_blocked_since else {
            return;
        };
        if missing.is_empty() {
            self.round_wanted.notify_one();
            return;
        }
        let blocked_for = self.instance.clock().now().since(since);
        let missing = missing.into_iter();
        let missing = missing.map(|db| report::missing_standby(db, keeper_of(db), in_sync, senders));
        self.reporter
            .report_blocked_logins(Some((blocked_for, missing.collect())));
    }

    /// Whether all listed standbys of this cluster are in sync, from WAL senders that were queried after `mark` was
    /// returned.
    pub fn are_in_sync(&self, mark: Mark, senders: &[WalSender]) -> bool {
        let wanted = self.target().wanted.clone();
        self.in_sync(Some(mark), senders).missing(&wanted).is_empty()
    }

    /// Waits until the names have changed, or a listed standby was missing at an observation.
    pub async fn wait_for_missing_standbys(&self) {
        self.standbys_missing.notified().await;
    }

    /// Waits until a round would find that client logins can be allowed.
    pub async fn wait_until_logins_allowable(&self) {
        self.round_wanted.notified().await;
    }

    fn target(&self) -> MutexGuard<'_, SyncTarget> {
        self.target.lock().expect("no thread panics while holding the target")
    }
}
