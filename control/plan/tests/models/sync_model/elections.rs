//! Who is elected, and when: after a failure, after an orderly shutdown, by a switchover, and going back to an old master.

use super::log::Log;
use super::rules::{Change, Config, Make};
use super::search::Next;
use super::servers::members;
use super::world::{DBS, Info, Phase, Plan, Progress, Set, Stopped, Switchover, World, has, only};

impl World {
    /// All elections that a sentinel can decide on now.
    pub(super) fn elections(&self, make: Make, config: &Config, next: &mut Next) {
        let is_closed = self.doc.published || self.route.is_none();
        if make == Make::Ours {
            if !is_closed && !config.has(Change::ElectWhileForwarding) {
                return; // SY-10
            }
            self.planned_elections(config, next);
        }
        // an order has to end first; Go stolon has no switchover
        if self.switchover == Switchover::No || make == Make::GoStolon {
            self.elections_after_failure(make, config, next);
        }
    }

    /// Standbys that are in order.
    fn good_standbys(&self) -> impl Iterator<Item = usize> {
        members(DBS & !self.doc.masters).filter(|index| {
            let keeper = &self.keepers[*index];
            keeper.phase == Phase::Up && keeper.is_standby() && !keeper.is_stale
        })
    }

    /// E, or what replaces it.
    fn electable(&self, config: &Config) -> Set {
        let (known, wanted, reported) = (self.doc.known(), self.doc.wanted, self.master().info.in_sync);
        let current = if self.master().info.is_current { reported } else { 0 };
        DBS & if config.has(Change::ElectWanted) {
            wanted
        } else if config.has(Change::ElectKnown) {
            known
        } else if config.has(Change::ElectReported) {
            reported & wanted
        } else if config.has(Change::ElectKnownOrReported) {
            (known | current) & wanted
        } else {
            known & wanted
        }
    }

    /// After a clean stop: who has everything. At once after a shutdown, too, a member of E (SY-2, SY-12).
    fn planned_elections(&self, config: &Config, next: &mut Next) {
        let info = self.master().info;
        let is_shutdown = info.leaving && self.switchover == Switchover::No;
        let is_switchover =
            !info.leaving && self.switchover == Switchover::Ordered && !self.doc.published && self.route.is_none();
        if info.stopped == Stopped::No || !(is_shutdown || is_switchover) {
            return;
        }
        let electable = self.electable(config);
        let counts_as_clean = info.stopped == Stopped::Clean || config.has(Change::PlannedWithoutClean);
        for to in self.good_standbys() {
            let log = self.keepers[to].log;
            let has_all = counts_as_clean && self.has_all(log, &info, config);
            let in_bounds = !config.has(Change::PlannedWithinE) || has(electable, to);
            let anyone = info.stopped == Stopped::Unclean && config.has(Change::UncleanShutdownAnyone);
            let at_once = is_shutdown && (has(electable, to) || anyone && self.is_on_timeline(log));
            if has_all && in_bounds || at_once {
                let mut plan = self.elect(to, config);
                plan.ends_switchover = is_switchover;
                let what = if is_switchover {
                    "shall be elected by a switchover"
                } else {
                    "shall be elected after a shutdown"
                };
                self.decide(what, Make::Ours, plan, next);
            }
        }
    }

    /// Whether a standby has received all that a stopped master has.
    fn has_all(&self, log: Log, info: &Info, config: &Config) -> bool {
        let stopped_at = if info.stopped == Stopped::Clean {
            info.log
        } else {
            self.master().log
        };
        let without_end = config.has(Change::PlannedWithoutLsn) || info.stopped != Stopped::Clean;
        log.timeline() == stopped_at.timeline() && (without_end || log.end() >= stopped_at.end())
    }

    fn is_on_timeline(&self, log: Log) -> bool {
        log.timeline() == self.recorded_timeline()
    }

    /// The timeline in the master's last info.
    fn recorded_timeline(&self) -> u8 {
        let master = self.master();
        let is_recorded = master.info.is_serving || master.info.stopped != Stopped::No || !master.is_master;
        if is_recorded {
            master.log.timeline()
        } else {
            master.log.earlier_timeline()
        }
    }

    /// The master is considered failed: its keeper is silent, or reports for long that its server does not run, or is
    /// shutting down for long. One that works can only be considered so by a fault.
    fn elections_after_failure(&self, make: Make, config: &Config, next: &mut Next) {
        let master = self.doc.master();
        let keeper = self.master();
        let is_silent = matches!(keeper.phase, Phase::Paused | Phase::Down | Phase::Lost);
        let is_reported = !keeper.runs && !keeper.info.is_serving || keeper.info.leaving;
        let mut judged = *self;
        if is_silent {
            // the permit has expired (extensions)
            let keeper = &mut judged.keepers[master];
            if keeper.progress == Progress::Permitted && !config.keeper_has(master, Change::NoPermit) {
                keeper.progress = Progress::Idle;
                keeper.forget_read();
            }
        } else if !is_reported {
            if self.left.slow == 0 {
                return;
            }
            judged.left.slow -= 1;
        }
        let electable = self.electable(config);
        for to in judged.good_standbys() {
            let anyone = config.has(Change::ElectAnyone) && self.is_on_timeline(self.keepers[to].log);
            if has(electable, to) || anyone {
                let mut plan = self.elect(to, config);
                if make == Make::GoStolon {
                    plan.depends_on = 0;
                }
                judged.decide("shall be elected", make, plan, next);
            }
        }
        if make == Make::Ours {
            judged.return_of_old_masters(config, next);
            judged.operators_choice(config, next);
        }
    }

    /// SY-20: first no proxy may forward any more, then any standby in order may be chosen.
    fn operators_choice(&self, config: &Config, next: &mut Next) {
        if self.left.overrides == 0 {
            return;
        }
        let while_forwarding = config.has(Change::OverrideWhileForwarding);
        if self.doc.published && !while_forwarding {
            let mut doc = self.doc;
            doc.published = false;
            let plan = self.plan(doc, 0, only(self.doc.master()));
            self.decide("shall not be announced, for an operator", Make::Ours, plan, next);
        } else if self.route.is_none() || while_forwarding {
            let mut chosen = *self;
            chosen.left.overrides -= 1;
            for to in self.good_standbys() {
                let mut plan = self.elect(to, config);
                plan.accepts_loss = true;
                chosen.decide("shall be elected, chosen by an operator", Make::Ours, plan, next);
            }
        }
    }

    /// SY-9.
    fn return_of_old_masters(&self, config: &Config, next: &mut Next) {
        let is_unpublished = !self.doc.published || config.has(Change::GoBackAfterPublication);
        let is_closed = self.route.is_none() || config.has(Change::GoBackWhileForwarding);
        if !is_unpublished || !is_closed || config.has(Change::NeverGoBack) {
            return;
        }
        for to in members(self.doc.masters & !only(self.doc.master())) {
            let old = &self.keepers[to];
            let is_there = old.phase == Phase::Up && !old.info.leaving;
            let is_reported = old.info.is_serving || old.info.stopped != Stopped::No;
            let timeline = old.log.timeline();
            let is_allowed = if config.has(Change::GoBackOnSameTimeline) {
                timeline == self.recorded_timeline()
            } else if config.has(Change::GoBackToAncestor) {
                self.master().log.has_timeline(timeline)
            } else {
                true
            };
            if is_there && is_reported && is_allowed {
                let mut plan = self.elect(to, config);
                plan.depends_on |= only(to);
                self.decide("shall be elected again", Make::Ours, plan, next);
            }
        }
    }

    /// What an election writes (sentinel N-9).
    fn elect(&self, to: usize, config: &Config) -> Plan {
        let mut doc = self.doc;
        doc.master = to as u8;
        doc.masters |= only(to);
        doc.published = false;
        doc.wanted = self.names_after_election(to, config);
        if !config.has(Change::KnownOfElectedKept) {
            doc.known = [0; 3];
        }
        self.plan(doc, 0, only(self.doc.master()))
    }
}
