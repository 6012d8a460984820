//! One pass: reads the orders, looks, has `converge` plan, and does the steps (keeper 4). What a step is for is
//! `converge`'s to say; when a pass runs is the loop's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::clock::{Boottime, wall_clock};
use control::model::{
    AccessMode, BootUuid, Checked, ClusterData, DbUid, KeeperUid, Spec, Stopped as Announced, Unusable, stolon_name,
};
use control::store::{Entry, Revision, Store, StoreError};
use control::telemetry::Chain;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::args::Config;
use crate::collect::Collector;
use crate::converge::{
    Asked, Be, Copy, Data, Down, End, EndState, Facts, Fork, Known, Line, Local, LocalRole, Orders, Plan, Reading,
    Seen, Server, Sets, SlotChange, Source, StartAs, Step, Target, TargetRole, Then, Unchanged, Upstream,
    changed_fields, orders, plan,
};
use crate::local::LocalState;
use crate::metrics::{Metrics, Role};
use crate::postgres::basebackup;
use crate::postgres::conf::{self, Minima, Recovery};
use crate::postgres::conninfo::{Address, primary_conninfo};
use crate::postgres::control::{self as control_file, ControlError};
use crate::postgres::files::{self, FileError};
use crate::postgres::hba::{self, Remote, Users};
use crate::postgres::history::{self, Ancestor};
use crate::postgres::initdb;
use crate::postgres::instance::{Files, Instance, InstanceError, LocalRole as FileRole, Start, StopLimits};
use crate::postgres::roles;
use crate::postgres::source::{self, SourceError};
use crate::postgres::sql::SqlError;
use crate::publish::{Due, Permit, Publisher};
use crate::tell::{self, Lines};

/// Looks in one pass; more means that two rules undo each other, or that the orders change all the time.
const LOOKS_MAX: usize = 20;
/// How long a promotion may take; then the next pass goes on with it (keeper 12.7).
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);
/// How long an instance with its old data has until it streams (keeper 6.7).
const STREAM_LIMIT: Duration = Duration::from_secs(10);
/// From look to look at the WAL receiver.
const STREAM_POLL: Duration = Duration::from_millis(20);
/// From question to question while the source of a copy is not ready.
const SOURCE_POLL: Duration = Duration::from_millis(100);
/// The same when it does not answer at all.
const SOURCE_AWAY_POLL: Duration = Duration::from_secs(1);
/// A copy tells its progress at each of these steps, in percent.
const PROGRESS_STEP: u64 = 20;

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
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The orders for whose sake something long is under way, for the loop to see.
    pub works_on: Arc<Mutex<Option<Orders>>>,
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
    /// What a standby may not have less of than its control file says.
    minima: Minima,
    /// A removal that goes on although its pass was given up.
    removal: Option<JoinHandle<Result<(), InstanceError>>>,
    /// User parameters that are left out, as last said.
    dropped: Vec<String>,
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
pub struct Read {
    reading: Reading,
    revision: Revision,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The store says no: read again.
    #[error("the cluster data have changed, or an order forbids it")]
    NotPermitted,
    /// The permit is too old to be acted on.
    #[error("the permit to become a master is too old")]
    PermitExpired,
    /// The old data are not streamed into.
    #[error("the instance does not stream from the followed db within {0:?}")]
    DoesNotStream(Duration),
}

impl StepError {
    /// Whether reading again may be all that is needed.
    fn is_worth_another_look(&self) -> bool {
        matches!(self, Self::NotPermitted | Self::PermitExpired)
    }
}

/// What one pass knows while it runs.
struct Pass {
    lines: Lines,
    asked: Option<Asked>,
    copy: Option<Copy>,
    /// When the permit was asked for.
    permit: Option<Boottime>,
}

impl Engine {
    /// Runs one pass. Dropping the future ends it; what was begun is found by the next one.
    pub async fn pass(&mut self, woken: Woken) -> Outcome {
        self.work_on(None);
        if let Some(removal) = &mut self.memory.removal {
            // Its own errors were those of a pass that was given up.
            let _ = removal.await;
            self.memory.removal = None;
        }
        let mut pass = Pass {
            lines: Lines::new(woken == Woken::ByTimer),
            asked: None,
            copy: None,
            permit: None,
        };
        let mut read = self.read().await;
        for look in 0..LOOKS_MAX {
            let orders = orders(&read.reading, &self.me, &self.boot);
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
                    read = self.read().await;
                }
                Then::AskServer => pass.asked = Some(self.ask().await),
                Then::AskSource(from) => {
                    self.work_on(Some(&orders));
                    pass.copy = Some(self.ask_source(&from, &orders).await);
                    self.work_on(None);
                }
                Then::Done => {
                    if matches!(orders.be, Be::Db(_)) {
                        self.complete();
                    }
                    return outcome(Ended::Done, orders, &read);
                }
                Then::Hold(_) => return outcome(Ended::Held, orders, &read),
            }
        }
        error!(looks = LOOKS_MAX, "the pass does not come to its end");
        let orders = orders(&read.reading, &self.me, &self.boot);
        outcome(Ended::Failed, orders, &read)
    }

    /// Reads the cluster data.
    pub async fn read(&self) -> Read {
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

    /// What every reading brings with it: metrics, what is said of a changed db, a `stopped` that is over.
    #[expect(clippy::disallowed_methods, reason = "a metric carries the time at which it was set")]
    fn obey(&mut self, orders: &Orders, read: &Read, lines: &mut Lines) {
        if let Reading::Valid(_) = read.reading {
            self.metrics.cluster_data_valid.set(unix_seconds(wall_clock()));
        }
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
        };
        let server = match self.instance.running().await? {
            None => Server::Down,
            Some(_) => Server::Up(pass.asked.clone().unwrap_or(Asked::NotYet)),
        };
        let sets = match &orders.be {
            Be::Db(target) => {
                if server == Server::Down {
                    self.read_minima(target, data).await;
                }
                Some(self.sets(target))
            }
            _ => None,
        };
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
            if failed.is_worth_another_look() {
                info!(why = %failed, "not permitted to be master, reading the cluster data again");
                return Err(failed);
            }
            let message = failure(step);
            if step.may_fail() {
                warn!(error = %Chain(&failed), "{message}");
            } else {
                error!(error = %Chain(&failed), "{message}");
                return Err(failed);
            }
        }
        Ok(())
    }

    fn work_on(&self, orders: Option<&Orders>) {
        *self.works_on.lock().expect("nobody panics while holding the orders") = orders.cloned();
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

    async fn step(&mut self, step: &Step, orders: &Orders, read: &Read, pass: &mut Pass) -> Result<(), StepError> {
        match step {
            Step::Tell(_) => {}
            Step::SaveCluster(cluster) => {
                self.local.save_cluster(cluster)?;
                self.publisher
                    .change(Due::Now, |report| report.cluster = cluster.clone());
            }
            Step::SaveDb(db) => {
                self.local.save_db(db)?;
                self.collector.look();
            }
            Step::Stop => {
                self.instance.stop(StopLimits::default()).await?;
                self.memory.known.current = None;
                self.collector.look();
            }
            Step::SayStopped(db) => self.say_stopped(db).await?,
            Step::RemoveData => self.remove_data().await?,
            Step::Initdb(config) => {
                let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
                let new = initdb::New {
                    locale: text(&config.locale),
                    encoding: text(&config.encoding),
                    data_checksums: config.data_checksums,
                };
                self.instance.initdb(&new).await?;
            }
            Step::StartTemporarily(sets) => {
                let mut files = self.files(sets);
                if let Be::Db(target) = &orders.be {
                    files.hba = self.hba(target, &Users::Nobody); // keeper W21
                }
                self.instance.start(&files, Start::Temporary).await?;
            }
            Step::WaitReady => {
                let limit = match &orders.be {
                    Be::Db(target) => Some(target.ready_timeout).filter(|limit| !limit.is_zero()),
                    _ => None,
                };
                self.instance.wait_ready(limit).await?;
                self.collector.look();
            }
            Step::ReadInitParameters => {
                let parameters = self.instance.sql().configured().await?;
                self.local.save_init_parameters(parameters)?;
            }
            Step::SetUpRoles => {
                roles::set_up(self.instance.sql(), &self.config.superuser, &self.config.replication).await?;
            }
            Step::CopyFrom(from) => self.copy_from(from, orders).await?,
            Step::MarkStandby => files::signal_standby(&self.instance.config().data)?,
            Step::MarkComplete(db) => self.memory.known.complete = Some(db.clone()),
            Step::Permit => self.ask_permit(read, pass).await?,
            Step::Start(role, sets) => {
                self.check_permit(*role, orders, pass)?;
                if *role == StartAs::Standby && self.memory.known.said_stopped.is_some() {
                    self.retract_stopped();
                }
                self.memory.known.current = None;
                self.instance.start(&self.files(sets), Start::Normal).await?;
                self.memory.known.current = Some(sets.clone());
                self.collector.look();
            }
            Step::CheckStreams(db) => {
                if let Err(failed) = self.check_streams().await {
                    self.memory.known.kept_in_vain = Some(db.clone());
                    return Err(failed);
                }
            }
            Step::Promote => {
                self.check_permit(StartAs::Master, orders, pass)?;
                let Be::Db(target) = &orders.be else { return Ok(()) };
                let sets = self.sets(target);
                let files = self.files(&sets);
                self.instance.promote(&files, PROMOTE_LIMIT).await?;
                self.collector.look();
            }
            Step::Slot(SlotChange::Drop(slot)) => {
                info!(%slot, "dropping replication slot");
                self.instance.sql().drop_slot(slot).await?;
            }
            Step::Slot(SlotChange::Create(slot, _)) => {
                info!(%slot, "creating replication slot");
                self.instance.sql().create_slot(slot).await?;
            }
            Step::Reload(sets) => {
                self.metrics.set_needs_reload(true);
                self.instance.reload(&self.files(sets)).await?;
                self.memory.known.current = Some(sets.clone());
                self.metrics.set_needs_reload(false);
                self.report_file_errors().await;
            }
            Step::Restart(role, sets) => {
                self.check_permit(*role, orders, pass)?;
                self.memory.known.current = None;
                self.instance.restart(&self.files(sets), StopLimits::default()).await?;
                self.memory.known.current = Some(sets.clone());
                self.metrics.set_needs_reload(false);
                self.collector.look();
            }
            Step::NoteRestartPending(pending) => self.metrics.set_needs_restart(*pending),
            Step::Record(db) => {
                self.local.save_db(db)?;
                self.memory.known.complete = None;
                self.memory.known.kept_in_vain = None;
                self.collector.look();
            }
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "a metric carries the time at which it was set")]
    fn complete(&mut self) {
        self.memory.said = None;
        self.metrics.sync_success.set(unix_seconds(wall_clock()));
    }

    /// The permit counts from before the question (beyond X-1.3).
    #[expect(clippy::disallowed_methods, reason = "the permit's time begins here")]
    async fn ask_permit(&mut self, read: &Read, pass: &mut Pass) -> Result<(), StepError> {
        let asked = Boottime::now();
        match self.publisher.permit(read.revision).await? {
            Permit::Granted => {
                pass.permit = Some(asked);
                self.memory.known.said_stopped = None;
                Ok(())
            }
            Permit::Refused => Err(StepError::NotPermitted),
        }
    }

    /// No start as master and no promotion on a permit older than a quarter of failInterval (beyond X-1.3).
    #[expect(clippy::disallowed_methods, reason = "the permit's time ends here")]
    fn check_permit(&self, role: StartAs, orders: &Orders, pass: &mut Pass) -> Result<(), StepError> {
        let (StartAs::Master, Be::Db(target)) = (role, &orders.be) else {
            return Ok(());
        };
        match pass.permit.take() {
            Some(asked) if Boottime::now().since(asked) <= target.fail_interval / 4 => Ok(()),
            _ => Err(StepError::PermitExpired),
        }
    }

    fn retract_stopped(&mut self) {
        self.memory.known.said_stopped = None;
        self.publisher.change(Due::Now, |report| report.stopped = None);
    }

    async fn say_stopped(&mut self, db: &DbUid) -> Result<(), StepError> {
        let stopped = stopped(&self.instance).await?;
        info!(%db, clean = stopped.clean, "publishing that our db is stopped");
        self.publisher.change(Due::Now, |report| {
            report.stopped = Some(stopped);
            if let Some(state) = &mut report.state {
                state.healthy = false;
            }
        });
        self.memory.known.said_stopped = Some(db.clone());
        Ok(())
    }

    /// A removal goes on when its pass is given up; the next pass waits for it.
    async fn remove_data(&mut self) -> Result<(), StepError> {
        let instance = Arc::clone(&self.instance);
        let removal = self
            .memory
            .removal
            .insert(tokio::task::spawn_local(async move { instance.remove_data().await }));
        let removed = removal.await.expect("removing data does not panic");
        self.memory.removal = None;
        Ok(removed?)
    }

    /// What the server says of itself; a server that does not take connections is silent.
    async fn ask(&self) -> Asked {
        if !self.instance.says_ready().unwrap_or(true) {
            return Asked::Silent;
        }
        let sql = self.instance.sql();
        let facts = async {
            let standby = sql.standby().await?;
            Ok::<_, SqlError>(Facts {
                slots: sql.slots().await?.into_iter().collect(),
                restart_pending: sql.pending_restart().await?.iter().any(|name| !is_of_recovery(name)),
                replay_paused: standby.is_some_and(|standby| standby.is_paused),
            })
        };
        match facts.await {
            Ok(facts) => Asked::Answered(facts),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "the server does not answer");
                Asked::Silent
            }
        }
    }

    /// Waits until the instance to copy from answers and has our slot, which its keeper makes (keeper 6.4), and tells
    /// where it and we are.
    async fn ask_source(&self, from: &Upstream, orders: &Orders) -> Copy {
        let slot = slot_of(orders);
        let mut said = String::new();
        let mut say = |text: String| {
            if said != text {
                info!(followedDB = %from.db, keeper = %from.keeper, why = %text, "waiting for the followed db");
                said = text;
            }
        };
        let told = loop {
            match self.source(from) {
                Ok(source) => match source.ask(&slot).await {
                    Ok(told) if told.has_slot => break told,
                    Ok(_) => {
                        say(format!("it has no replication slot {slot} yet"));
                        sleep(SOURCE_POLL).await;
                        continue;
                    }
                    Err(error) => say(Chain(&error).to_string()),
                },
                Err(error) => say(Chain(&error).to_string()),
            }
            sleep(SOURCE_AWAY_POLL).await;
        };
        Copy {
            own: self.own_end().await,
            source: Source {
                system_id: told.system_id.to_string(),
                timeline: told.timeline,
                position: told.position,
                history: told.history.iter().map(fork).collect(),
                oldest_segment: told.oldest_wal,
            },
        }
    }

    fn source(&self, from: &Upstream) -> Result<source::Source, SourceError> {
        let limit = self.instance.config().request_timeout;
        source::Source::new(&address(from), &self.config.superuser, &self.config.replication, limit)
    }

    /// Where the own data end; nothing when there are none, or when that cannot be found out.
    async fn own_end(&self) -> Option<End> {
        if !self.instance.is_initialised().unwrap_or(false) {
            return None;
        }
        let data = &self.instance.config().data;
        let limit = self.instance.config().request_timeout;
        let end = control_file::end(self.instance.programs(), data, limit).await;
        let end = end
            .inspect_err(|error| warn!(error = %Chain(error), "could not find the end of our data"))
            .ok()?;
        let history = history::of_data(data, end.timeline);
        let history = history
            .inspect_err(|error| warn!(error = %Chain(error), "could not read our history"))
            .ok()??;
        Some(End {
            system_id: end.control.system_id.to_string(),
            state: match end.control.state {
                control_file::State::ShutDown => EndState::ShutDown,
                control_file::State::ShutDownInRecovery => EndState::ShutDownInRecovery,
                control_file::State::Other => EndState::Unclean,
            },
            timeline: end.timeline,
            position: end.position.unwrap_or_default(),
            history: history.iter().map(fork).collect(),
        })
    }

    async fn copy_from(&self, from: &Upstream, orders: &Orders) -> Result<(), StepError> {
        let slot = slot_of(orders);
        let copy = basebackup::Copy {
            source: address(from),
            application_name: slot.clone(),
            slot,
        };
        let mut told = 0;
        self.instance
            .base_backup(&copy, |progress| {
                let percent = progress.percent();
                if percent >= told + PROGRESS_STEP {
                    told = percent - percent % PROGRESS_STEP;
                    info!(percent, kib = progress.done_kib, "copying");
                }
            })
            .await?;
        Ok(())
    }

    /// Waits until the WAL receiver streams (keeper 6.7).
    async fn check_streams(&self) -> Result<(), StepError> {
        let streams = async {
            loop {
                let standby = self.instance.sql().standby().await;
                if let Ok(Some(standby)) = standby
                    && standby.receiver.is_some_and(|receiver| receiver.is_streaming)
                {
                    return;
                }
                sleep(STREAM_POLL).await;
            }
        };
        tokio::time::timeout(STREAM_LIMIT, streams)
            .await
            .map_err(|_| StepError::DoesNotStream(STREAM_LIMIT))
    }

    async fn report_file_errors(&self) {
        // A server that does not answer has nothing to say about its files; the next reload asks again.
        for fault in self.instance.sql().file_errors().await.unwrap_or_default() {
            warn!(%fault, "postgres refuses a parameter, and with it every change of this reload");
        }
    }

    /// A standby needs at least what its master had: what its control file says (keeper 8.7).
    async fn read_minima(&mut self, target: &Target, data: Data) {
        if data == Data::Absent || !matches!(target.role, TargetRole::Standby(_)) {
            self.memory.minima = Minima::default();
            return;
        }
        let limit = self.instance.config().request_timeout;
        match control_file::read(self.instance.programs(), &self.instance.config().data, limit).await {
            Ok(control) => self.memory.minima = control.minima,
            Err(error) => warn!(error = %Chain(&error), "could not read the control file"),
        }
    }

    /// The configuration that the orders mean (keeper 8, 9).
    fn sets(&mut self, target: &Target) -> Sets {
        let spec = &target.spec;
        let init = self.local.init_parameters().filter(|_| spec.include_previous_config);
        let made = conf::parameters(&conf::Sources {
            init: init.as_ref(),
            user: &spec.pg_parameters,
            listen_addresses: &self.config.listen_address,
            port: &self.config.port.to_string(),
            socket_dir: &self.instance.config().socket_dir,
            max_standbys: spec.max_standbys.into(),
            additional_wal_senders: spec.additional_wal_senders.into(),
            use_pg_rewind: spec.use_pgrewind,
            synchronous_standby_names: "",
        });
        if made.dropped != self.memory.dropped {
            if !made.dropped.is_empty() {
                let names = made.dropped.join(",");
                warn!(%names, "recovery settings among pgParameters are left out: the keeper sets them");
            }
            self.memory.dropped = made.dropped;
        }
        let mut parameters = made.parameters;
        if matches!(target.role, TargetRole::Standby(_)) {
            conf::raise(&mut parameters, &self.memory.minima);
        }
        let users = match &spec.pg_hba {
            None => Users::Everybody,
            Some(lines) => Users::Lines(lines.clone()),
        };
        Sets {
            parameters,
            hba: self.hba(target, &users),
            upstream: None,
        }
    }

    fn hba(&self, target: &Target, users: &Users) -> Vec<String> {
        let remote = match (&target.access, &target.role) {
            (AccessMode::Strict, TargetRole::Master) => Remote::Only(target.peers.clone()),
            (AccessMode::Strict, _) => Remote::Only(Vec::new()),
            _ => Remote::All,
        };
        hba::lines(&hba::Access {
            superuser: &self.config.superuser,
            replication: &self.config.replication,
            replication_databases: &[],
            remote: &remote,
            users,
        })
    }

    fn files(&self, sets: &Sets) -> Files {
        let recovery = sets.upstream.as_ref().map(|from| {
            let db = self
                .memory
                .target
                .as_ref()
                .map(|target| target.db.clone())
                .unwrap_or_default();
            let name = stolon_name(db.as_str());
            Recovery::follow(
                primary_conninfo(&name, &address(from), &self.config.replication, None),
                &name,
            )
        });
        Files {
            parameters: sets.parameters.clone(),
            hba: sets.hba.clone(),
            recovery: recovery.unwrap_or_default(),
        }
    }
}

/// Where the stopped instance stands (beyond X-1.1).
pub async fn stopped(instance: &Instance) -> Result<Announced, ControlError> {
    let config = instance.config();
    let end = control_file::end(instance.programs(), &config.data, config.request_timeout).await?;
    Ok(Announced {
        clean: end.is_clean(),
        lsn: end.position,
        timeline_id: end.timeline,
    })
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

fn failure(step: &Step) -> &'static str {
    match step {
        Step::Tell(_) | Step::NoteRestartPending(_) | Step::MarkComplete(_) => "could not go on",
        Step::SaveCluster(_) => "could not save the cluster uid",
        Step::SaveDb(_) | Step::Record(_) => "could not save the state of the local db",
        Step::Stop => "failed to stop postgres",
        Step::SayStopped(_) => "could not find out how our db was stopped",
        Step::RemoveData => "could not remove the data directory",
        Step::Initdb(_) => "failed to initialize the database cluster",
        Step::StartTemporarily(_) | Step::Start(..) => "failed to start postgres",
        Step::WaitReady => "postgres does not take connections",
        Step::ReadInitParameters => "could not read the configured parameters",
        Step::SetUpRoles => "could not set up the roles",
        Step::CopyFrom(_) => "failed to copy the followed db",
        Step::MarkStandby => "could not make the data those of a standby",
        Step::Permit => "no permit to be master",
        Step::CheckStreams(_) => "the old data do not do, copying",
        Step::Promote => "failed to promote postgres",
        Step::Slot(SlotChange::Drop(_)) => "could not drop a replication slot",
        Step::Slot(SlotChange::Create(..)) => "could not create a replication slot",
        Step::Reload(_) => "failed to reload postgres",
        Step::Restart(..) => "failed to restart postgres",
    }
}

/// A server that was promoted counts the settings of its recovery, which left the file, as waiting for a restart.
fn is_of_recovery(parameter: &str) -> bool {
    parameter.starts_with("recovery_target")
}

fn slot_of(orders: &Orders) -> String {
    match &orders.be {
        Be::Db(target) => stolon_name(target.db.as_str()),
        _ => String::new(),
    }
}

fn address(from: &Upstream) -> Address {
    Address {
        host: from.host.clone(),
        port: from.port.clone(),
    }
}

fn fork(ancestor: &Ancestor) -> Fork {
    Fork {
        timeline: ancestor.timeline,
        switch_point: ancestor.switch_point,
    }
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
