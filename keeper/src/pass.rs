//! One pass: reads the orders, looks, has `converge` plan, and does the steps (keeper 4). What a step is for is
//! `converge`'s to say; when a pass runs is the loop's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::clock::{Boottime, wall_clock};
use control::model::{BootUuid, Checked, Clamped, ClusterData, Created, DbUid, KeeperUid, Spec, Unusable, from_slice};
use control::store::{Entry, Revision, Store};
use control::telemetry::Chain;
use tracing::{error, info, warn};

use crate::args::Config;
use crate::backoff::{Backoff, Held};
use crate::collect::Collector;
use crate::converge::{
    Asked, Be, Copy, Data, Down, Known, Line, Local, LocalRole, Orders, Plan, Reading, Seen, Server, Step, Target,
    TargetRole, Then, Unchanged, changed_fields, claimed, lost_to, orders, plan,
};
use crate::local::LocalState;
use crate::metrics::{Metrics, Role};
use crate::postgres::aside;
use crate::postgres::changes::DataChanges;
use crate::postgres::conf::{Minima, SlotNeeds};
use crate::postgres::credentials::Secret;
use crate::postgres::instance::{Instance, LocalRole as FileRole};
use crate::postgres::links;
use crate::postgres::owned::Owned;
use crate::postgres::walk::{NoAnswer, Walker};
use crate::problems::{Kind, Problems};
use crate::publish::{Due, Publisher};
use crate::streaming::{self, Followed};
use crate::tell::{self, Lines, Refused};

use self::judge::Judge;
use self::steps::{StepError, failure};
use self::upkeep::{Basis, Site, Upkeep};

mod configuration;
mod judge;
mod look;
mod places;
mod problem;
mod restart;
mod steps;
mod upkeep;

pub use look::stopped;
pub use restart::Restarts;

/// Looks in one pass; more means that two rules undo each other, or that the orders change all the time.
const LOOKS_MAX: usize = 20;
/// A store whose answers take longer than this is not asked where that is not needed.
const SLOW: Duration = Duration::from_millis(100);
/// What does passes: everything that they need and remember.
pub struct Engine {
    /// The options.
    pub config: Arc<Config>,
    /// This keeper.
    pub me: KeeperUid,
    /// This process.
    pub boot: BootUuid,
    /// The store.
    pub store: Store,
    /// The instance.
    pub instance: Arc<Instance>,
    /// The published info.
    pub publisher: Arc<Publisher>,
    /// Who keeps the published state true.
    pub collector: Arc<Collector>,
    /// The state files.
    pub local: Arc<LocalState>,
    /// What the keeper has made outside PGDATA.
    pub owned: Arc<Owned>,
    /// Who looks at these directories.
    pub walker: Walker,
    /// Who changes them.
    pub changes: DataChanges,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What an operator has to fix.
    pub problems: Arc<Problems>,
    /// The orders for whose sake something long is under way, for the loop to see.
    pub works_on: Arc<Mutex<Option<Orders>>>,
    /// The cluster data as a watch has last brought them.
    pub latest: Arc<Mutex<Option<Entry>>>,
    /// Since when other instances are seen to restart.
    pub restarts: Mutex<Restarts>,
    /// What outlives a pass.
    pub memory: Memory,
}

/// What outlives a pass.
#[derive(Debug, Default)]
pub struct Memory {
    known: Known,
    /// The last orders that named a db.
    target: Option<Box<Target>>,
    /// The last thing that was said about why nothing is done.
    said: Option<Line>,
    /// What a copy waits for.
    refused: Refused,
    /// What a standby may not have less of than its control file says.
    minima: Minima,
    /// What of the configuration is refused.
    judge: Box<Judge>,
    /// The replication slots that lay in the data directory before the last start.
    slots: SlotNeeds,
    /// Changes of slots that fail, and why.
    failing_slots: BTreeMap<String, String>,
    /// What follows complete passes.
    upkeep: Upkeep,
    /// The copies that failed.
    backoff: Backoff,
    /// What was in the way of the last one.
    held: Held,
}

/// Why a pass runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Woken {
    /// Its time has come: it is told whatever it finds.
    ByTimer,
    /// Something happened.
    ByEvent,
    /// Something happened, but the last attempt failed not long ago: only other orders than these are worth another.
    ByEventUnless(Orders),
}

/// How a pass ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// Everything is as the orders say.
    Done,
    /// Nothing more can be done under these orders.
    Held,
    /// A step failed: try again.
    Failed,
    /// The orders are those that failed before.
    Skipped,
}

/// What a pass tells the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// The orders that it worked on last.
    pub orders: Orders,
    /// The spec in force, when there is one.
    pub spec: Option<Spec>,
}

/// Cluster data as read, and the revision of the document.
#[derive(Debug, Clone)]
struct Read {
    reading: Reading,
    revision: Revision,
}

/// What one pass knows while it runs.
struct Pass {
    lines: Lines,
    asked: Option<Asked>,
    copy: Option<Copy>,
    /// When the permit was asked for.
    permit: Option<control::clock::Boottime>,
    /// A step failed without which the pass went on.
    is_incomplete: bool,
}

impl Engine {
    /// Runs one pass. Dropping the future ends it; what was begun is found by the next one.
    pub async fn pass(&mut self, woken: Woken) -> Outcome {
        self.work_on(None);
        let hung = self.changes.ended().await.err();
        self.report_hung_change(hung.as_ref());
        let mut pass = Pass {
            lines: Lines::new(woken == Woken::ByTimer && !self.memory.refused.is_known()),
            asked: None,
            copy: None,
            permit: None,
            is_incomplete: false,
        };
        let mut read = self.first_read().await;
        if hung.is_some() {
            let orders = self.orders(&read.reading).await;
            return outcome(Ended::Failed, orders, &read);
        }
        for look in 0..LOOKS_MAX {
            let orders = self.orders(&read.reading).await;
            if look == 0 && matches!(&woken, Woken::ByEventUnless(failed) if *failed == orders) {
                return outcome(Ended::Skipped, orders, &read);
            }
            self.obey(&orders, &read, &mut pass.lines);
            let plan = match self.plan(&orders, &pass).await {
                Ok(plan) => plan,
                Err(error) => {
                    error!(error = %Chain(&error), "could not look at the instance");
                    return outcome(Ended::Failed, orders, &read);
                }
            };
            self.publish_lost(&orders, &plan);
            match self.act(&orders, &read, &plan, &mut pass).await {
                Ok(()) => {}
                Err(error) if error.is_worth_another_look() => {
                    (pass.asked, pass.copy) = (None, None);
                    read = self.read().await;
                    continue;
                }
                Err(_) => return outcome(Ended::Failed, orders, &read),
            }
            match plan.then {
                Then::LookAgain => {
                    (pass.asked, pass.copy) = (None, None);
                    // On a slow store what follows a promotion does not wait for another reading: the permit has just
                    // found the cluster data as they were read, and a change of them gives the pass up.
                    if !(self.is_store_slow() && plan.steps.contains(&Step::Promote)) {
                        read = self.read().await;
                    }
                }
                Then::AskServer => pass.asked = Some(Box::pin(self.ask(&orders)).await),
                Then::AskSource(from) => {
                    #[expect(clippy::disallowed_methods, reason = "the pause between two looks ends here")]
                    let now = Boottime::now();
                    if let Some(why) = self.memory.held.still(now, &orders) {
                        self.tell(&Line::Unchanged(why), &mut pass.lines);
                        return outcome(Ended::Held, orders, &read);
                    }
                    self.work_on(Some(&orders));
                    pass.copy = Some(Box::pin(self.ask_source(&from, &orders)).await);
                    self.work_on(None);
                }
                Then::Done => {
                    self.end_lines(None, &mut pass.lines);
                    self.problems.set(Kind::Data, "copy", Vec::new());
                    if !pass.is_incomplete {
                        self.forget_failed_steps();
                    }
                    if let Be::Db(target) = &orders.be {
                        self.complete(target, matches!(pass.asked, Some(Asked::Answered(_))));
                    }
                    return outcome(Ended::Done, orders, &read);
                }
                Then::Hold(why) => {
                    self.end_lines(Some(&why), &mut pass.lines);
                    let problem = problem::problem(&why, &self.instance.config().data, &self.local.cluster());
                    self.problems.set(Kind::Data, "copy", problem.into_iter().collect());
                    if matches!(why, Unchanged::Obstacle(..)) {
                        #[expect(clippy::disallowed_methods, reason = "the pause between two looks begins here")]
                        self.memory.held.found(Boottime::now(), &orders, &why);
                    }
                    return outcome(Ended::Held, orders, &read);
                }
            }
        }
        error!(looks = LOOKS_MAX, "the pass does not come to its end");
        let orders = self.orders(&read.reading).await;
        outcome(Ended::Failed, orders, &read)
    }

    /// What is in the files is not known any more: the next pass writes them, and reloads the server.
    pub fn write_files_again(&mut self) {
        self.memory.known.current = None;
    }

    /// The cluster data to begin with: read, but for a promotion on a slow store. That asks for a permit before anything
    /// else, which is granted only on the present cluster data, so those that the watch has brought do.
    async fn first_read(&self) -> Read {
        let latest = self
            .latest
            .lock()
            .expect("nobody panics while holding the cluster data")
            .take();
        let Some(entry) = latest.filter(|_| self.is_store_slow()) else {
            return self.read().await;
        };
        let read = Read {
            reading: reading(Some(&entry)),
            revision: entry.mod_revision,
        };
        let is_standby = matches!(self.instance.local_role(), Ok(FileRole::Standby));
        let runs = matches!(self.instance.running().await, Ok(Some(_)));
        match orders(&read.reading, &self.me, &self.boot).be {
            Be::Db(target) if target.role == TargetRole::Master && target.db == self.local.db().uid => {
                if is_standby && runs { read } else { self.read().await }
            }
            _ => self.read().await,
        }
    }

    fn is_store_slow(&self) -> bool {
        self.store.latency() > SLOW
    }

    /// Reads the cluster data.
    async fn read(&self) -> Read {
        match self.store.get(&self.store.keys().cluster_data()).await {
            Ok(entry) => Read {
                reading: reading(entry.as_ref()),
                revision: entry.map_or(Revision::ABSENT, |entry| entry.mod_revision),
            },
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "could not read the cluster data");
                Read {
                    reading: Reading::Unread,
                    revision: Revision::ABSENT,
                }
            }
        }
    }

    /// What the cluster data say that this keeper has to be, unless they are of another cluster than its database.
    async fn orders(&self, reading: &Reading) -> Orders {
        let orders = orders(reading, &self.me, &self.boot);
        let Reading::Valid(checked) = reading else {
            return orders;
        };
        // What cannot be looked at may be data.
        let has_data = !matches!(self.instance.local_role(), Ok(FileRole::Undefined));
        let local = Local {
            cluster: self.local.cluster(),
            db: self.local.db(),
            data: if has_data {
                Data::Present(LocalRole::Master)
            } else {
                Data::Absent
            },
            unclaimed: None, // this judges only what dbstate names
        };
        let Some(own) = lost_to(checked, &self.me, &local) else {
            return orders;
        };
        let key = self.store.keys().created();
        match self.store.get(&key).await {
            Ok(entry) => {
                let created = entry.and_then(|entry| from_slice::<Created>(&entry.value).ok());
                claimed(orders, &own, created.as_ref())
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "could not read who created the cluster");
                Orders {
                    cluster: None,
                    be: Be::Unchanged(Unchanged::Unread),
                }
            }
        }
    }

    /// What every reading brings with it: metrics, what is said of a changed db, a `stopped` that is over.
    #[expect(clippy::disallowed_methods, reason = "a metric carries the time at which it was set")]
    fn obey(&mut self, orders: &Orders, read: &Read, lines: &mut Lines) {
        if let Reading::Valid(checked) = &read.reading {
            self.report_limits(checked);
            self.metrics.cluster_data_valid.set(unix_seconds(wall_clock()));
        }
        self.report_password_files();
        let assigned = match &orders.be {
            Be::Db(target) => Some(Some(&target.db)),
            Be::Down(Down::NotTheMaster { db, .. }) => Some(Some(db)),
            Be::Down(Down::NoDb) | Be::Unchanged(Unchanged::NotListed) => Some(None),
            Be::Down(Down::BootNotAcknowledged) | Be::Unchanged(_) => None,
        };
        if let (Some(said), Some(assigned)) = (&self.memory.known.said_stopped, assigned)
            && assigned != Some(said)
        {
            self.retract_stopped();
        }
        self.collector.set_followed(followed(orders, &read.reading));
        let Be::Db(target) = &orders.be else { return };
        self.metrics.set_target_role(match target.role {
            TargetRole::Master => Role::Master,
            TargetRole::Standby(_) | TargetRole::Lost => Role::Standby,
            TargetRole::Other(_) => Role::Undefined,
        });
        match &self.memory.target {
            Some(before) if before.db == target.db && before.spec != target.spec => {
                let changed = changed_fields(&before.spec, &target.spec).join(",");
                lines.deed();
                info!(db = %target.db, generation = target.generation, %changed, "our db changed");
            }
            _ => {}
        }
        self.memory.target = Some(target.clone());
    }

    /// Reports each stored duration that counts as another one.
    fn report_limits(&self, checked: &Checked) {
        let clamped = checked.cluster().spec.as_ref().map(|spec| spec.clamped());
        let clamped = clamped.unwrap_or_default();
        let problem = |stored: &Clamped| {
            let text = format!("{} of the cluster spec cannot be used as it is: {stored}", stored.field);
            Kind::Configuration.problem(&text, "set another duration with stolonctl update")
        };
        let problems = clamped.iter().map(problem).collect();
        self.problems.set(Kind::Configuration, "limits", problems);
    }

    /// Reports password files that cannot be read any more.
    fn report_password_files(&self) {
        let failing = self.instance.config().passwords().filter_map(Secret::failure);
        let problem =
            |text: String| Kind::Login.problem(&text, "make the file readable with a password in it, and send SIGHUP");
        self.problems
            .set(Kind::Login, "password files", failing.map(problem).collect());
    }

    /// Publishes whether the data of our db are gone, so that the sentinel gives us another one in its place.
    fn publish_lost(&self, orders: &Orders, plan: &Plan) {
        let lost = match (&plan.then, &orders.be) {
            (Then::Hold(Unchanged::DataLost | Unchanged::NothingUsable), Be::Db(target)) => target.db.clone(),
            _ => DbUid::default(),
        };
        if self.publisher.report().data_lost != lost {
            self.publisher.change(Due::Now, |report| report.data_lost = lost);
        }
    }

    /// Looks at the data directory and the process, and plans.
    async fn plan(&mut self, orders: &Orders, pass: &Pass) -> Result<Plan, StepError> {
        let data = match self.instance.local_role()? {
            FileRole::Undefined => Data::Absent,
            FileRole::Master => Data::Present(LocalRole::Master),
            FileRole::Standby => Data::Present(LocalRole::Standby),
        };
        self.metrics.set_local_role(match data {
            Data::Absent => Role::Undefined,
            Data::Present(LocalRole::Master) => Role::Master,
            Data::Present(LocalRole::Standby) => Role::Standby,
        });
        let local = Local {
            cluster: self.local.cluster(),
            db: self.local.db(),
            data,
            unclaimed: match self.local.db().uid.as_str() {
                "" => aside::found_in(&self.instance.config().data, &self.owned)?,
                _ => None,
            },
        };
        let server = match self.instance.running().await? {
            None => Server::Down,
            Some(_) => Server::Up(pass.asked.clone().unwrap_or(Asked::NotYet)),
        };
        let sets = match &orders.be {
            Be::Db(target) => {
                if server == Server::Down {
                    self.read_minima(target, data).await;
                    self.read_slots(data);
                }
                if matches!(target.role, TargetRole::Standby(_)) {
                    self.instance.refresh_passfile()?;
                }
                Box::pin(self.judge(target, &server)).await;
                Some(self.sets(target))
            }
            _ => None,
        };
        #[expect(clippy::disallowed_methods, reason = "the pause between failed copies ends here")]
        let now = Boottime::now();
        self.memory.known.copy_waits = self.memory.backoff.waits(now, orders);
        let seen = Seen {
            orders,
            local: &local,
            server: &server,
            sets: sets.as_ref(),
            known: &self.memory.known,
            copy: pass.copy.as_ref(),
        };
        Ok(plan(&seen))
    }

    /// Does the steps in their order.
    async fn act(&mut self, orders: &Orders, read: &Read, plan: &Plan, pass: &mut Pass) -> Result<(), StepError> {
        for step in &plan.steps {
            if matches!(step, Step::NoteRestart(_)) {
                self.report_slots(plan);
            }
            if let Step::Tell(line) = step {
                self.tell(line, &mut pass.lines);
                continue;
            }
            if step.acts() {
                pass.lines.deed();
                self.memory.said = None;
            }
            self.work_on(step.is_long().then_some(orders));
            let done = self.step(step, orders, read, pass).await;
            self.work_on(None);
            let Err(failed) = done else { continue };
            if let StepError::Configuration(cause) = &failed {
                warn!(error = %Chain(cause), "postgres did not start, trying it with less of the configuration");
                return Err(failed);
            }
            if failed.is_worth_another_look() {
                info!(why = %failed, "not permitted to be master, reading the cluster data again");
                return Err(failed);
            }
            if let Some((kind, problem)) = problem::failed_step(step, &failed, &self.owned) {
                self.problems.set(kind, "step", vec![problem]);
            }
            let message = failure(step, &failed);
            if step.may_fail() {
                pass.is_incomplete = true;
                warn!(error = %Chain(&failed), "{message}");
            } else {
                error!(error = %Chain(&failed), "{message}");
                return Err(failed);
            }
        }
        Ok(())
    }

    /// Reports that nothing is done, because a change of the data that was begun does not get on.
    fn report_hung_change(&self, hung: Option<&NoAnswer>) {
        let problem = hung.map(problem::hung_change);
        self.problems.set(Kind::Data, "change", problem.into_iter().collect());
    }

    fn forget_failed_steps(&self) {
        for kind in [Kind::Data, Kind::Server] {
            self.problems.set(kind, "step", Vec::new());
        }
    }

    fn work_on(&self, orders: Option<&Orders>) {
        *self.works_on.lock().expect("nobody panics while holding the orders") = orders.cloned();
    }

    /// The pass ends, held for this reason or otherwise.
    fn end_lines(&mut self, held: Option<&Unchanged>, lines: &mut Lines) {
        if self.memory.refused.ended(held) {
            lines.deed();
        }
    }

    /// Why nothing is done is said when it changes, and again only where that is useful.
    fn tell(&mut self, line: &Line, lines: &mut Lines) {
        let repeats = match line {
            Line::Unchanged(why) => tell::repeats(why),
            Line::StaysDown(_) => true,
            _ => return lines.tell(line),
        };
        if self.memory.said.as_ref() != Some(line) {
            lines.deed();
            tell::say(line);
            self.memory.said = Some(line.clone());
        } else if repeats {
            lines.tell(line);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a metric carries the time at which it was set")]
    fn complete(&mut self, target: &Target, answers: bool) {
        self.memory.said = None;
        if !self.local.db().initializing {
            self.keep_up(target, answers);
        }
        self.metrics.sync_success.set(unix_seconds(wall_clock()));
    }

    /// Begins what follows a complete pass.
    #[expect(clippy::disallowed_methods, reason = "the pause between two looks ends here")]
    fn keep_up(&mut self, target: &Target, answers: bool) {
        let site = Site {
            data: self.instance.config().data.clone(),
            owned: Arc::clone(&self.owned),
            problems: Arc::clone(&self.problems),
            walker: self.walker.clone(),
            changes: self.changes.clone(),
        };
        let basis = Basis {
            locations: links::locations(&site.data).unwrap_or_default(), // the look itself reports why
            has_neighbour: target.peers.contains(&self.config.advertise_address),
            answers,
        };
        self.memory.upkeep.begin(Boottime::now(), &site, &basis);
    }
}

/// What a value of `clusterdata` is.
pub fn reading(entry: Option<&Entry>) -> Reading {
    let Some(entry) = entry else { return Reading::Absent };
    match ClusterData::parse(&entry.value) {
        Ok(None) => Reading::Absent,
        Ok(Some(data)) => match data.check() {
            Ok(checked) => Reading::Valid(Box::new(checked)),
            Err(Unusable::FormatVersion(version)) => Reading::UnsupportedFormat(version),
            Err(unusable) => Reading::Unusable(Chain(&unusable).to_string()),
        },
        Err(error) => Reading::Unusable(Chain(&error).to_string()),
    }
}

/// Whether a pass that works on `before` is better given up because of `after`: what it makes, or keeps running, is
/// not wanted any more (keeper W3).
pub fn overtaken(before: &Orders, after: &Orders) -> bool {
    let be = |orders: &Orders| match &orders.be {
        Be::Db(target) => Ok((target.db.clone(), target.role.clone(), target.spec.init_mode.clone())),
        Be::Down(why) => Err(Some(why.clone())),
        Be::Unchanged(_) => Err(None),
    };
    match (be(before), be(after)) {
        // What cannot be used changes nothing, and stops nothing that was begun (keeper I7).
        (_, Err(None)) => false,
        // The end of an initialisation changes the mode of the same db.
        (Ok((db, role, _)), Ok((after_db, after_role, _))) => db != after_db || role != after_role,
        (before, after) => before != after,
    }
}

/// The db that the instance is to follow under these orders.
fn followed(orders: &Orders, reading: &Reading) -> Option<Followed> {
    let (Be::Db(target), Reading::Valid(checked)) = (&orders.be, reading) else {
        return None;
    };
    let TargetRole::Standby(upstream) = &target.role else {
        return None;
    };
    let db = checked.data.dbs().get(&upstream.db)?;
    Some(Followed {
        db: upstream.db.clone(),
        address: upstream.host.clone(),
        port: upstream.port.clone(),
        is_healthy: db.status.healthy,
        limit: streaming::limit(target.ready_timeout, target.fail_interval),
    })
}

fn outcome(ended: Ended, orders: Orders, read: &Read) -> Outcome {
    let spec = match &read.reading {
        Reading::Valid(checked) => {
            let Checked { spec, .. } = checked.as_ref();
            Some(spec.clone())
        }
        _ => None,
    };
    Outcome { ended, orders, spec }
}

/// Nanoseconds as the seconds of a metric.
pub fn unix_seconds(nanos: i128) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a metric needs no nanoseconds")]
    let seconds = nanos as f64 / 1e9;
    seconds
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("me", &self.me).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str) -> Entry {
        Entry {
            key: "k".into(),
            value: value.as_bytes().to_vec(),
            mod_revision: Revision(1),
            create_revision: Revision(1),
            lease: None,
        }
    }

    #[test]
    fn garbage_in_the_store_is_named_and_changes_nothing() {
        assert_eq!(reading(None), Reading::Absent);
        assert_eq!(reading(Some(&entry("null"))), Reading::Absent);
        assert!(matches!(reading(Some(&entry("{a}"))), Reading::Unusable(_)));
        assert!(matches!(reading(Some(&entry(""))), Reading::Unusable(_)));
        assert_eq!(
            reading(Some(&entry(r#"{"formatVersion":2}"#))),
            Reading::UnsupportedFormat(2)
        );
        assert!(matches!(
            reading(Some(&entry(r#"{"formatVersion":1}"#))),
            Reading::Unusable(_)
        ));
    }

    #[test]
    fn a_pass_is_given_up_only_for_orders_that_make_its_work_useless() {
        let down = |why| Orders {
            cluster: None,
            be: Be::Down(why),
        };
        let unread = Orders {
            cluster: None,
            be: Be::Unchanged(Unchanged::Unread),
        };
        assert!(!overtaken(&down(Down::NoDb), &unread));
        assert!(!overtaken(&down(Down::NoDb), &down(Down::NoDb)));
        assert!(overtaken(&down(Down::NoDb), &down(Down::BootNotAcknowledged)));
        assert!(overtaken(&unread, &down(Down::NoDb)));
    }
}
