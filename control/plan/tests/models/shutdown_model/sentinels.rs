//! The steps of leading sentinels, which decide as `plan` does.

use super::state::{Data, Db, ElectionReason, FailedBy, Info, ModelState, Next, Plan, Stopped};
use super::wal::{LITTLE, Log};
use super::{Rule, Rules};

/// Number of uids of the dbs of one keeper: more than are in use at once.
const UIDS: u8 = 4;

impl<const KEEPERS: usize> ModelState<KEEPERS> {
    /// A leading sentinel's reads, decisions and writes.
    pub(super) fn sentinels(&self, rules: Rules, next: &mut Next<KEEPERS>) {
        let data_read = self.derived();
        self.switchover_steps(&data_read, rules, next);
        self.announce(&data_read, rules, next);
        self.steady(&data_read, rules, next);
        self.decide(&data_read, rules, next);
        if data_read != self.data {
            self.decide(&self.data, rules, next); // its first round, or the infos are stale (sentinel H-2)
        }
        for (slot, plan) in self.plans.iter().enumerate() {
            let Some(plan) = plan else { continue };
            let mut state = *self;
            state.plans[slot] = None;
            let (what, after) = match plan.reason {
                Some(reason) => ("is elected", state.elected(plan.next, reason, rules)),
                None => ("is written about, late", state.with_data(plan.next, rules)),
            };
            next.push(((what, plan.next.master), after));
        }
    }

    /// Returns the data with the statuses derived from the infos (sentinel 3).
    pub(super) fn derived(&self) -> Data<KEEPERS> {
        let mut data = self.data;
        for (db, info) in data.dbs.iter_mut().zip(&self.infos) {
            let Some(info) = info else { continue };
            db.boot = info.boot;
            if let Some(runs) = info.runs.filter(|_| info.uid == db.uid) {
                db.record = Some(runs.log);
                db.has_converged |= runs.as_master;
            }
        }
        data
    }

    /// The announcement of the master. It depends on the data and, after an order, on the keeper's info (extensions ),
    /// so that its delay changes nothing.
    fn announce(&self, data_read: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let master = data_read.master;
        let is_held = self.switchover.is_live() && rules.has(Rule::HeldMeanwhile);
        let is_closed = data_read.proxied.is_none() && self.route.is_none();
        if !is_closed || is_held || !self.may_be_announced(data_read, rules) {
            return;
        }
        let data = Data {
            proxied: Some(master),
            enabled: true,
            ..*data_read
        };
        if rules.has(Rule::LeaderGuard) && rules.has(Rule::AnnounceOnInfo) {
            next.push((("is published", master), self.with_data(data, rules)));
        } else {
            self.plan(data, None, 0, rules, next);
        }
    }

    /// Writes without an election. With the guard they depend on the data alone, so that their delay changes nothing.
    pub(super) fn steady(&self, data_read: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let mut write = |what, index, data, proxy_losses| {
            let mut state = *self;
            state.left.proxy_losses -= proxy_losses;
            if rules.has(Rule::LeaderGuard) {
                next.push(((what, index), state.with_data(data, rules)));
            } else {
                state.plan(data, None, 0, rules, next);
            }
        };
        if *data_read != self.data {
            write("is written down", data_read.master, *data_read, 0);
        }
        let master = data_read.master;
        if !self.is_reported_well(data_read) {
            return;
        }
        if data_read.proxied.is_some() && data_read.enabled && self.route.is_none() && self.left.proxy_losses > 0 {
            let data = Data {
                enabled: false,
                ..*data_read
            };
            write("has no proxy left", master, data, 1);
        }
        let master_log = data_read.dbs[master].record.unwrap_or(Log::EMPTY);
        for index in (0..KEEPERS).filter(|index| *index != master) {
            let db = data_read.dbs[index];
            let invalid = db.record.is_some_and(|record| !record.is_valid_for(master_log));
            if db.is_master_type || invalid {
                // sentinel N-14, N-15, N-21
                let mut data = *data_read;
                data.dbs[index] = Db {
                    uid: (db.uid + 1) % UIDS,
                    is_master_type: false,
                    record: None,
                    has_converged: false,
                    ..db
                };
                write("gets a new db", index, data, 0);
            }
        }
    }

    /// Elections that are decided and not yet written (sentinel 7.2, 7.3).
    pub(super) fn decide(&self, data_read: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        self.decide_on_order(data_read, rules, next);
        if self.switchover.is_live() && rules.has(Rule::NobodyElectedMeanwhile) {
            return; // it has to end first (extensions)
        }
        self.decide_on_order_time(data_read, rules, next);
        let master = data_read.master;
        let info = self.infos[master];
        let orderly_shutdown = info.filter(|info| info.leaving && info.boot == data_read.dbs[master].boot);
        let stopped = orderly_shutdown.and_then(|info| info.stopped);
        if let Some(stopped) = stopped.filter(|stopped| !rules.has(Rule::CleanStop) || stopped.clean_at.is_some()) {
            for to in self.candidates(data_read, rules, Some(stopped)) {
                self.elect(data_read, to, ElectionReason::OrderlyShutdown, 1 << master, rules, next);
            }
        }
        if self.left.failures_found == 0 {
            return;
        }
        let runs = |info: Info| info.runs.is_some_and(|runs| runs.as_master);
        let is_reported = info.is_some_and(|info| !runs(info) || self.is_converging);
        let causes = [FailedBy::Silence, FailedBy::Reported];
        for cause in causes
            .into_iter()
            .filter(|cause| *cause == FailedBy::Silence || is_reported)
        {
            let mut judged = *self;
            judged.left.failures_found -= 1;
            if cause == FailedBy::Silence && rules.has(Rule::Permit) {
                judged.keepers[master].may_start = false; // its time has passed
            }
            judged.decide_on_failed(data_read, cause, rules, next);
        }
    }

    pub(super) fn decide_on_failed(
        &self,
        data_read: &Data<KEEPERS>,
        cause: FailedBy,
        rules: Rules,
        next: &mut Next<KEEPERS>,
    ) {
        let regular = self.candidates(data_read, rules, None);
        let fallback_masters = self.fallback_masters(data_read, cause, rules, regular.is_empty());
        let closed = data_read.proxied.is_none() && self.route.is_none();
        for to in &regular {
            self.elect(
                data_read,
                *to,
                ElectionReason::Failed(cause),
                1 << data_read.master,
                rules,
                next,
            );
        }
        if closed || !rules.has(Rule::ClosedFirst) {
            for (to, reason) in fallback_masters {
                self.elect(data_read, to, reason, 1 << data_read.master | 1 << to, rules, next);
            }
        } else if regular.is_empty() && !fallback_masters.is_empty() && data_read.proxied.is_some() {
            let mut state = self.with_data(
                Data {
                    proxied: None,
                    ..*data_read
                },
                rules,
            );
            state.left.failures_found += 1; // the election, once they are closed, is made on the same detected failure
            state.is_given_up = fallback_masters
                .iter()
                .any(|(_, reason)| matches!(reason, ElectionReason::JustPromoted(_)));
            next.push((("is no longer published", data_read.master), state));
        }
    }

    /// Standbys that could replace a master that failed or stopped (extensions, sentinel C-10).
    pub(super) fn candidates(&self, data_read: &Data<KEEPERS>, rules: Rules, stopped: Option<Stopped>) -> Vec<usize> {
        let master_log = data_read.dbs[data_read.master].record.map(Log::timeline);
        let eligible = |index: &usize| {
            let db = data_read.dbs[*index];
            let Some(record) = db.record.filter(|_| !db.is_master_type) else {
                return false;
            };
            let enough = stopped.is_none_or(|stopped| {
                let (end, timeline) = stopped.clean_at.unwrap_or((0, record.timeline()));
                let received = record.end() >= end || !rules.has(Rule::ReceivedAll);
                received && (record.timeline() == timeline || !rules.has(Rule::SameTimeline))
            });
            let same_timeline =
                Some(record.timeline()) == master_log || (stopped.is_some() && !rules.has(Rule::SameTimeline));
            let is_leaving = self.infos[*index].is_some_and(|info| info.is_leaving_or_stopped());
            same_timeline && enough && !is_leaving
        };
        (0..KEEPERS).filter(eligible).collect()
    }

    /// Former masters that could be elected again (extensions, sentinel C-12).
    pub(super) fn fallback_masters(
        &self,
        data_read: &Data<KEEPERS>,
        cause: FailedBy,
        rules: Rules,
        no_regular_candidate: bool,
    ) -> Vec<(usize, ElectionReason)> {
        let enabled = data_read.enabled || rules.has(Rule::NamedIsPublished);
        let published = data_read.proxied == Some(data_read.master) && enabled && rules.has(Rule::OnlyUnpublished);
        let Some(master_log) = data_read.dbs[data_read.master].record else {
            return Vec::new();
        };
        let has_converged = data_read.dbs[data_read.master].has_converged && !self.is_converging;
        let candidate = |index: usize| {
            let db = data_read.dbs[index];
            let record = db.record.filter(|_| db.is_master_type && index != data_read.master)?;
            let info = self.infos[index].filter(|info| !info.leaving)?;
            let runs = info.uid == db.uid && info.runs.is_some_and(|runs| runs.as_master);
            if !runs && info.stopped.is_none() {
                return None;
            }
            if !published && record.timeline() == master_log.timeline() && record.is_valid_for(master_log) {
                let may_lag = !has_converged || !rules.has(Rule::LagAfterConvergence);
                let is_enough = may_lag || record.end() >= master_log.end();
                return is_enough.then_some((index, ElectionReason::Unpublished(cause)));
            }
            let excess = master_log.end() - master_log.switch_of(record.timeline())?;
            let little = excess <= LITTLE || !rules.has(Rule::OnlyLittle);
            (no_regular_candidate && little).then_some((index, ElectionReason::JustPromoted(cause)))
        };
        (0..KEEPERS).filter_map(candidate).collect()
    }

    /// Decides to elect another master (sentinel N-9).
    pub(super) fn elect(
        &self,
        data_read: &Data<KEEPERS>,
        to: usize,
        reason: ElectionReason,
        depends_on: u8,
        rules: Rules,
        next: &mut Next<KEEPERS>,
    ) {
        let mut data = *data_read;
        data.master = to;
        data.dbs[to].has_converged &= data.dbs[to].is_master_type; // its spec is unchanged (sentinel N-11)
        data.dbs[to].is_master_type = true;
        data.proxied = None;
        self.plan(data, Some(reason), depends_on, rules, next);
    }

    pub(super) fn plan(
        &self,
        data: Data<KEEPERS>,
        reason: Option<ElectionReason>,
        depends_on: u8,
        rules: Rules,
        next: &mut Next<KEEPERS>,
    ) {
        // With the guard, an earlier plan of another leader is refused.
        let guarded = rules.has(Rule::LeaderGuard);
        let free = self.plans.iter().position(|plan| guarded || plan.is_none());
        let Some(slot) = free else { return };
        let mut state = *self;
        state.plans[slot] = Some(Plan {
            next: data,
            reason,
            depends_on,
        });
        let what = if reason.is_some() {
            "shall be elected"
        } else {
            "shall be written about"
        };
        next.push(((what, data.master), state));
    }
}
