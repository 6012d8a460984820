//! What leading sentinels read, decide and write, as `control::plan` does it.

use super::wal::{LITTLE, Log};
use super::world::{Data, Db, How, Next, Plan, Stopped, Why, World};
use super::{Rule, Rules};

impl<const KEEPERS: usize> World<KEEPERS> {
    /// What a leading sentinel reads, decides and writes.
    pub(super) fn sentinels(&self, rules: Rules, next: &mut Next<KEEPERS>) {
        let seen = self.derived();
        self.steady(&seen, rules, next);
        self.decide(&seen, rules, next);
        if seen != self.data {
            self.decide(&self.data, rules, next); // its first round, or the infos are stale (sentinel H-2)
        }
        for (slot, plan) in self.plans.iter().enumerate() {
            let Some(plan) = plan else { continue };
            let mut world = *self;
            world.plans[slot] = None;
            let (what, after) = match plan.why {
                Some(why) => ("is elected", world.elected(plan.next, why, rules)),
                None => ("is written about, late", world.wrote(plan.next, rules)),
            };
            next.push(((what, plan.next.master), after));
        }
    }

    /// The data with what the infos say (sentinel 3).
    pub(super) fn derived(&self) -> Data<KEEPERS> {
        let mut data = self.data;
        for (db, info) in data.dbs.iter_mut().zip(&self.infos) {
            let Some(info) = info else { continue };
            db.boot = info.boot;
            if let Some(runs) = info.runs.filter(|_| info.uid == db.uid) {
                db.record = Some(runs.log);
            }
        }
        data
    }

    /// Writes that elect nobody. With the guard they depend on the data alone, so that their delay changes nothing.
    pub(super) fn steady(&self, seen: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let mut write = |what, index, data, proxy_losses| {
            let mut world = *self;
            world.left.proxy_losses -= proxy_losses;
            if rules.has(Rule::LeaderGuard) {
                next.push(((what, index), world.wrote(data, rules)));
            } else {
                world.plan(data, None, 0, rules, next);
            }
        };
        if *seen != self.data {
            write("is written down", seen.master, *seen, 0);
        }
        let master = seen.master;
        let well = self.infos[master].is_some_and(|info| {
            let runs = info.runs.is_some_and(|runs| runs.as_master);
            runs && info.uid == seen.dbs[master].uid && !info.is_going()
        });
        if !well {
            return;
        }
        if seen.proxied.is_none() && self.route.is_none() {
            let data = Data {
                proxied: Some(master),
                enabled: true,
                ..*seen
            };
            write("is published", master, data, 0);
        }
        if seen.proxied.is_some() && seen.enabled && self.route.is_none() && self.left.proxy_losses > 0 {
            let data = Data {
                enabled: false,
                ..*seen
            };
            write("has no proxy left", master, data, 1);
        }
        let head = seen.dbs[master].record.unwrap_or(Log::EMPTY);
        for index in (0..KEEPERS).filter(|index| *index != master) {
            let db = seen.dbs[index];
            let invalid = db.record.is_some_and(|record| !record.is_valid_for(head));
            if db.is_head || invalid {
                // sentinel N-14, N-15, N-21
                let mut data = *seen;
                data.dbs[index] = Db {
                    uid: db.uid + 1,
                    is_head: false,
                    record: None,
                    ..db
                };
                write("gets a new db", index, data, 0);
            }
        }
    }

    /// Elections, decided and not yet written (sentinel 7.2, 7.3).
    pub(super) fn decide(&self, seen: &Data<KEEPERS>, rules: Rules, next: &mut Next<KEEPERS>) {
        let master = seen.master;
        let info = self.infos[master];
        let goodbye = info.filter(|info| info.leaving && info.boot == seen.dbs[master].boot);
        let stopped = goodbye.and_then(|info| info.stopped);
        if let Some(stopped) = stopped.filter(|stopped| !rules.has(Rule::CleanStop) || stopped.clean_at.is_some()) {
            for to in self.candidates(seen, rules, Some(stopped)) {
                self.elect(seen, to, Why::Goodbye, 1 << master, rules, next);
            }
        }
        if self.left.verdicts == 0 {
            return;
        }
        let speaks = info.is_some_and(|info| !info.runs.is_some_and(|runs| runs.as_master));
        let hows = [How::Silent, How::Spoken];
        for how in hows.into_iter().filter(|how| *how == How::Silent || speaks) {
            let mut judged = *self;
            judged.left.verdicts -= 1;
            if how == How::Silent && rules.has(Rule::Permit) {
                judged.keepers[master].may_start = false; // its time has passed
            }
            judged.decide_on_failed(seen, how, rules, next);
        }
    }

    pub(super) fn decide_on_failed(&self, seen: &Data<KEEPERS>, how: How, rules: Rules, next: &mut Next<KEEPERS>) {
        let ordinary = self.candidates(seen, rules, None);
        let retained = self.retained(seen, how, rules, ordinary.is_empty());
        let closed = seen.proxied.is_none() && self.route.is_none();
        for to in &ordinary {
            self.elect(seen, *to, Why::Failed(how), 1 << seen.master, rules, next);
        }
        if closed || !rules.has(Rule::ClosedFirst) {
            for (to, why) in retained {
                self.elect(seen, to, why, 1 << seen.master | 1 << to, rules, next);
            }
        } else if ordinary.is_empty() && !retained.is_empty() && seen.proxied.is_some() {
            let mut world = self.wrote(Data { proxied: None, ..*seen }, rules);
            world.left.verdicts += 1; // the election, once they are closed, is made on the same verdict
            next.push((("is no longer published", seen.master), world));
        }
    }

    /// Standbys that could take over, from a master that failed or one that stopped (extensions, sentinel C-10).
    pub(super) fn candidates(&self, seen: &Data<KEEPERS>, rules: Rules, stopped: Option<Stopped>) -> Vec<usize> {
        let head = seen.dbs[seen.master].record.map(Log::timeline);
        let eligible = |index: &usize| {
            let db = seen.dbs[*index];
            let Some(record) = db.record.filter(|_| !db.is_head) else {
                return false;
            };
            let enough = stopped.is_none_or(|stopped| {
                let (end, timeline) = stopped.clean_at.unwrap_or((0, record.timeline()));
                let received = record.end() >= end || !rules.has(Rule::Received);
                received && (record.timeline() == timeline || !rules.has(Rule::SameTimeline))
            });
            let same_timeline =
                Some(record.timeline()) == head || (stopped.is_some() && !rules.has(Rule::SameTimeline));
            let going = self.infos[*index].is_some_and(|info| info.is_going());
            same_timeline && enough && !going
        };
        (0..KEEPERS).filter(eligible).collect()
    }

    /// Former masters that could be gone back to (extensions, sentinel C-12).
    pub(super) fn retained(
        &self,
        seen: &Data<KEEPERS>,
        how: How,
        rules: Rules,
        nobody_else: bool,
    ) -> Vec<(usize, Why)> {
        let enabled = seen.enabled || rules.has(Rule::NamedIsPublished);
        let published = seen.proxied == Some(seen.master) && enabled && rules.has(Rule::OnlyUnpublished);
        let Some(head) = seen.dbs[seen.master].record else {
            return Vec::new();
        };
        let back = |index: usize| {
            let db = seen.dbs[index];
            let record = db.record.filter(|_| db.is_head && index != seen.master)?;
            let info = self.infos[index].filter(|info| !info.leaving)?;
            let runs = info.uid == db.uid && info.runs.is_some_and(|runs| runs.as_master);
            if !runs && info.stopped.is_none() {
                return None;
            }
            if !published && record.timeline() == head.timeline() && record.is_valid_for(head) {
                return Some((index, Why::Unpublished(how)));
            }
            let beyond = head.end() - head.switch_of(record.timeline())?;
            let little = beyond <= LITTLE || !rules.has(Rule::OnlyLittle);
            (nobody_else && little).then_some((index, Why::JustPromoted(how)))
        };
        (0..KEEPERS).filter_map(back).collect()
    }

    /// Decides to elect another master (sentinel N-9).
    pub(super) fn elect(
        &self,
        seen: &Data<KEEPERS>,
        to: usize,
        why: Why,
        depends_on: u8,
        rules: Rules,
        next: &mut Next<KEEPERS>,
    ) {
        let mut data = *seen;
        data.master = to;
        data.dbs[to].is_head = true;
        data.proxied = None;
        self.plan(data, Some(why), depends_on, rules, next);
    }

    pub(super) fn plan(
        &self,
        data: Data<KEEPERS>,
        why: Option<Why>,
        depends_on: u8,
        rules: Rules,
        next: &mut Next<KEEPERS>,
    ) {
        // With the guard, an earlier plan of another leader comes to nothing.
        let guarded = rules.has(Rule::LeaderGuard);
        let free = self.plans.iter().position(|plan| guarded || plan.is_none());
        let Some(slot) = free else { return };
        let mut world = *self;
        world.plans[slot] = Some(Plan {
            next: data,
            why,
            depends_on,
        });
        let what = if why.is_some() {
            "shall be elected"
        } else {
            "shall be written about"
        };
        next.push(((what, data.master), world));
    }
}
