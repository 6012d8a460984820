//! The decision table of a round (keeper T8) and its invariants (keeper 17), played against a fake instance.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    BootUuid, CheckedClusterData, Cluster, ClusterData, ClusterSpec, ClusterStatus, ClusterUid, Db, DbInitMode, DbSpec,
    DbStatus, DbUid, FollowConfig, InitMode, Keeper, KeeperStatus, KeeperUid, Lsn, Phase, PitrConfig, Role,
    StandbyConfig, StandbySettings,
};

use super::*;
use crate::external_dirs::{ExternalDir, ExternalDirFacts, ExternalDirKind, Obstacle};

mod initialise;
mod orders;
mod promotion;

const ME: &str = "k1";
const BOOT: &str = "boot1";
const ROUNDS_MAX: usize = 12;

/// A keeper, its instance and the cluster data; a case changes what matters to it.
#[derive(Clone)]
struct FakeKeeper {
    data: Option<ClusterData>,
    reading: Option<ClusterDataState>,
    order: StoredOrder,
    local: LocalFacts,
    running: bool,
    answers: bool,
    refuses: bool,
    facts: ServerFacts,
    known: ProcessState,
    own_end: Option<DataEnd>,
    source: SourceFacts,
    existing: Option<ExistingData>,
    external_dirs: Vec<ExternalDir>,
    obstacle: Option<(std::path::PathBuf, Obstacle)>,
    rewind: Option<RewindFacts>,
    failing_steps: Vec<&'static str>,
    trace: Vec<String>,
    reported: Option<RestartNeed>,
    messages: Vec<LogMessage>,
}

/// Keeper `k1` with db `A` of generation 3 applied, running as the cluster's master; `k2` has standby `B`.
fn fake() -> FakeKeeper {
    let mut data = ClusterData {
        format_version: 1,
        cluster: Some(Cluster {
            uid: "c1".into(),
            spec: Some(ClusterSpec {
                init_mode: Some(InitMode::New),
                ..ClusterSpec::default()
            }),
            status: ClusterStatus {
                phase: Phase::Normal,
                master: "A".into(),
                ..ClusterStatus::default()
            },
            ..Cluster::default()
        }),
        ..ClusterData::default()
    };
    for (keeper, boot) in [("k1", BOOT), ("k2", "boot2")] {
        let status = KeeperStatus {
            boot_uuid: boot.into(),
            ..KeeperStatus::default()
        };
        data.keepers_mut().insert(
            keeper.into(),
            Keeper {
                uid: keeper.into(),
                status,
                ..Keeper::default()
            },
        );
    }
    data.dbs_mut().insert("A".into(), db("A", "k1", Role::Master, &["B"]));
    data.dbs_mut().insert("B".into(), db("B", "k2", Role::Standby, &[]));
    let config = ServerConfig {
        parameters: parameters(&[("work_mem", "4MB")]),
        hba: vec!["hba".into()],
        ..ServerConfig::default()
    };
    FakeKeeper {
        data: Some(data),
        reading: None,
        order: StoredOrder::Absent,
        local: LocalFacts {
            cluster: "c1".into(),
            db: LocalDb {
                uid: "A".into(),
                generation: 3,
                initializing: false,
            },
            data: DataState::Present(DataRole::Master),
            unclaimed: None,
            foreign_server: None,
        },
        running: true,
        answers: true,
        refuses: false,
        facts: ServerFacts {
            slots: names(&["stolon_B"]),
            ..ServerFacts::default()
        },
        known: ProcessState {
            current: Some(config),
            ..ProcessState::default()
        },
        own_end: None,
        source: SourceFacts {
            system_id: "7".into(),
            timeline: 2,
            position: Lsn(0x400_0000),
            history: vec![Fork {
                timeline: 1,
                switch_point: Lsn(0x300_00a0),
            }],
            oldest_segment: Some("000000010000000000000001".into()),
        },
        existing: None,
        external_dirs: Vec::new(),
        obstacle: None,
        rewind: None,
        failing_steps: Vec::new(),
        reported: None,
        trace: Vec::new(),
        messages: Vec::new(),
    }
}

fn db(uid: &str, keeper: &str, role: Role, followers: &[&str]) -> Db {
    Db {
        uid: uid.into(),
        generation: 3,
        spec: DbSpec {
            keeper_uid: keeper.into(),
            init_mode: DbInitMode::None,
            role,
            followers: Some(followers.iter().map(|uid| DbUid::from(*uid)).collect()),
            pg_parameters: parameters(&[("work_mem", "4MB")]),
            ..DbSpec::default()
        },
        status: DbStatus {
            listen_address: format!("host-{keeper}"),
            port: "5432".into(),
            system_id: "7".into(),
            timeline_id: 2,
            ..DbStatus::default()
        },
        ..Db::default()
    }
}

fn parameters(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

impl FakeKeeper {
    fn own_db(mut self, change: impl FnOnce(&mut Db)) -> Self {
        let data = self.data.as_mut().expect("the case has cluster data");
        let uid = data.db_of_keeper(&ME.into()).expect("the keeper has a db").0.clone();
        change(data.dbs_mut().get_mut(&uid).expect("it was just found"));
        self
    }

    fn status_master(mut self, uid: &str) -> Self {
        let cluster = self
            .data
            .as_mut()
            .and_then(|data| data.cluster.as_mut())
            .expect("the case has a cluster");
        cluster.status.master = uid.into();
        self
    }

    fn cluster_spec(mut self, change: impl FnOnce(&mut ClusterSpec)) -> Self {
        let cluster = self
            .data
            .as_mut()
            .and_then(|data| data.cluster.as_mut())
            .expect("the case has a cluster");
        change(cluster.spec.as_mut().expect("the case has a spec"));
        self
    }

    /// Commits on the local db as a master wait for these standbys.
    fn synchronous(mut self, standbys: &[&str]) -> Self {
        self = self
            .cluster_spec(|spec| spec.synchronous_replication = Some(true))
            .own_db(|db| {
                db.spec.synchronous_replication = true;
                db.spec.synchronous_standbys = Some(standbys.iter().map(|uid| DbUid::from(*uid)).collect());
                db.spec.external_synchronous_standbys = Some(Vec::new());
            });
        if let Some(current) = &mut self.known.current {
            let names = match standbys {
                [] => return self,
                [one] => format!("stolon_{one}"),
                all => format!("{} (stolon_{})", all.len(), all.join(",stolon_")),
            };
            current.parameters.insert(SYNCHRONOUS_STANDBY_NAMES.to_owned(), names);
        }
        self
    }

    /// The server was started, and client logins are blocked.
    fn logins_blocked(mut self, in_sync: &[&str]) -> Self {
        self.facts.in_sync = in_sync.iter().map(|uid| DbUid::from(*uid)).collect();
        self.known.logins_blocked = true;
        self.known.current = self.known.current.map(|config| ServerConfig {
            hba: vec!["own".into()],
            blocks_client_logins: true,
            ..config
        });
        self
    }

    /// The local db has to be a standby of B, which is the master.
    fn standby(self) -> Self {
        let mut fake = self.status_master("B").own_db(|db| {
            db.spec.role = Role::Standby;
            db.spec.follow_config = Some(FollowConfig::internal("B".into()));
            db.spec.followers = Some(Vec::new());
        });
        fake.local.data = DataState::Present(DataRole::Standby);
        fake.facts.slots.clear();
        fake.known.current = fake.known.current.map(|config| ServerConfig {
            upstream: Some(Upstream::Member(upstream("5432"))),
            ..config
        });
        fake
    }

    /// The keeper is assigned a new db A2 instead of A, with this init mode.
    fn replaced_by_a2(mut self, mode: DbInitMode) -> Self {
        let data = self.data.as_mut().expect("the case has cluster data");
        let mut db = data.dbs_mut().remove(&DbUid::from("A")).expect("the keeper has db A");
        db.uid = "A2".into();
        db.generation = 1;
        db.spec.init_mode = mode;
        data.dbs_mut().insert("A2".into(), db);
        let master = data
            .cluster
            .as_ref()
            .expect("the case has a cluster")
            .status
            .master
            .clone();
        if master.as_str() == "A" {
            self.status_master("A2")
        } else {
            self
        }
    }

    fn stopped(mut self) -> Self {
        self.running = false;
        self
    }

    fn local_db(mut self, uid: &str, initializing: bool) -> Self {
        self.local.db = LocalDb {
            uid: uid.into(),
            generation: if initializing { 0 } else { 3 },
            initializing,
        };
        self
    }

    fn no_data(mut self) -> Self {
        self.local.data = DataState::Absent;
        self.stopped()
    }

    /// The data end here, on timeline 1.
    fn ends(mut self, state: EndState, position: u64) -> Self {
        let end = DataEnd {
            system_id: "7".into(),
            state,
            timeline: 1,
            position: Lsn(position),
            history: Vec::new(),
            logs_hint_bits: true,
        };
        self.own_end = Some(end);
        self.stopped()
    }

    fn failing(mut self, step: &'static str) -> Self {
        self.failing_steps.push(step);
        self
    }

    fn reading(&self) -> ClusterDataState {
        match (&self.reading, &self.data) {
            (Some(reading), _) => reading.clone(),
            (None, Some(data)) => ClusterDataState::Valid(Box::new(data.clone().check().expect("the case is valid"))),
            (None, None) => ClusterDataState::Absent,
        }
    }

    fn desired(&self) -> Desired {
        let reading = self.reading();
        let desired = desired_state(&reading, &ME.into(), &BOOT.into());
        desired_under_order(desired, &reading, &self.order)
    }

    fn assigned(&self) -> DbUid {
        match self.desired().goal {
            Goal::Run(target) => target.db,
            _ => DbUid::default(),
        }
    }

    fn config(&self) -> Option<ServerConfig> {
        match self.desired().goal {
            Goal::Run(target) => {
                let mut parameters = target.spec.pg_parameters.clone();
                let names = target.standby_names();
                if !names.is_empty() {
                    parameters.insert(SYNCHRONOUS_STANDBY_NAMES.to_owned(), names);
                }
                Some(ServerConfig {
                    parameters,
                    hba: vec!["hba".into()],
                    ..ServerConfig::default()
                })
            }
            _ => None,
        }
    }

    /// Plays one round; returns what was done and how it ended.
    fn round(&mut self) -> String {
        self.trace.clear();
        self.messages.clear();
        let (mut probe, mut copy) = (false, None);
        for _ in 0..ROUNDS_MAX {
            let (desired, config) = (self.desired(), self.config());
            let server = match (self.running, probe) {
                (false, _) => ServerState::Down,
                (true, false) => ServerState::Up(ServerProbe::NotProbed),
                (true, true) if self.refuses => ServerState::Up(ServerProbe::Refused),
                (true, true) if !self.answers => ServerState::Up(ServerProbe::NoAnswer),
                (true, true) => ServerState::Up(ServerProbe::Answered(self.facts.clone())),
            };
            let is_answered = matches!(server, ServerState::Up(ServerProbe::Answered(_)));
            let ahead = ahead_standby(&self.reading(), &ME.into()).filter(|_| is_answered);
            let observed = ObservedState {
                desired: &desired,
                order: &self.order,
                local: &self.local,
                server: &server,
                config: config.as_ref(),
                own_hba: &["own".into()],
                process: &self.known,
                existing: self.existing.as_ref(),
                copy: copy.as_ref(),
                ahead: ahead.as_ref(),
            };
            let plan = plan(&observed);
            if let Err(step) = self.execute(&plan.steps) {
                self.trace.push(format!("failed at {step}"));
                return self.trace.join("; ");
            }
            match plan.next {
                NextAction::PlanAgain => (probe, copy) = (false, None),
                NextAction::ProbeServer => probe = true,
                NextAction::ProbeSource(from) => {
                    self.trace.push(format!("ask {}", from.db));
                    copy = Some(CopyFacts {
                        own: self.own_end.clone(),
                        source: self.source.clone(),
                        external_dirs: self.external_dirs.clone(),
                        bytes: None,
                        obstacle: self.obstacle.clone(),
                        rewind: self.rewind.clone(),
                    });
                }
                NextAction::Done => {
                    self.trace.push("done".into());
                    return self.trace.join("; ");
                }
                NextAction::Hold(why) => {
                    self.trace.push(format!("hold {why:?}"));
                    return self.trace.join("; ");
                }
            }
        }
        panic!("the round does not settle: {:?}", self.trace);
    }

    fn execute(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            let name = self.play(step);
            let Some(name) = name else { continue };
            let failed = self
                .failing_steps
                .iter()
                .any(|failing_steps| name.starts_with(failing_steps));
            self.trace.push(name.clone());
            if failed && !step.may_fail() {
                return Err(name);
            }
        }
        Ok(())
    }

    /// Applies a step to the fake; log steps do nothing.
    fn play(&mut self, step: &Step) -> Option<String> {
        let failing_steps = |name: &str| {
            self.failing_steps
                .iter()
                .any(|failing_steps| name.starts_with(failing_steps))
        };
        Some(match step {
            Step::Log(line) => {
                self.messages.push(line.clone());
                return None;
            }
            Step::ReportRestart(need) => {
                self.reported = Some(*need);
                return None;
            }
            Step::SaveCluster(uid) => {
                self.local.cluster = uid.clone();
                format!("save cluster {uid}")
            }
            Step::SaveDb(db) => {
                self.local.db = db.clone();
                format!(
                    "save '{}'{}",
                    db.uid,
                    if db.initializing { " initializing" } else { "" }
                )
            }
            Step::Stop => {
                self.running &= failing_steps("stop");
                "stop".into()
            }
            Step::PublishStopped(db) => {
                assert!(!self.running, "X-1.1: the end of a running instance is not known");
                if !failing_steps("publish") {
                    self.known.published_stopped = Some(db.clone());
                }
                format!("publish {db} stopped")
            }
            Step::AcceptOrder(order) => {
                if !failing_steps("accept") {
                    self.known.published_stopped = None;
                    self.known.accepted_order = Some(order.clone());
                }
                format!("accept {}", order.switchover)
            }
            Step::WithdrawStopped => {
                (self.known.published_stopped, self.known.accepted_order) = (None, None);
                "withdraw".into()
            }
            Step::Checkpoint(switchover) => {
                self.known.checkpoint_for = Some(switchover.clone());
                format!("checkpoint {switchover}")
            }
            Step::ClearData(clear) => {
                assert!(!self.running, "I4: never while the server runs");
                assert!(self.local.db.initializing, "I4: only after dbstate was saved");
                assert_eq!(clear.db, self.local.db.uid.as_str());
                assert!(
                    step.is_long(),
                    "W3: it may have to wait, and never starts under another desired state"
                );
                self.local.data = DataState::Absent;
                self.known.restored = None;
                "clear".into()
            }
            Step::KeepOriginalFiles => "keep files".into(),
            Step::ReadPreviousParameters => "read previous parameters".into(),
            Step::SaveAdopted(db) => {
                assert!(!self.running, "I1: the temporary server has ended");
                self.local.db = db.clone();
                format!("adopt '{}'", db.uid)
            }
            Step::RestoreBackup => {
                let is_master = matches!(self.desired().goal, Goal::Run(target) if target.role == TargetRole::Master);
                self.local.data = DataState::Present(if is_master { DataRole::Master } else { DataRole::Standby });
                self.known.restored = Some(self.local.db.uid.clone());
                self.known.unexamined = None;
                "restore".into()
            }
            Step::StartRecovery(_) => {
                assert!(self.known.restored.is_some(), "half-restored data are never started");
                self.running = true;
                "start recovery".into()
            }
            Step::WaitRecovered => "recover".into(),
            Step::Initdb(_) => {
                self.local.data = DataState::Present(DataRole::Master);
                "initdb".into()
            }
            Step::StartTemporarily(_) => {
                self.running = true;
                "start temporarily".into()
            }
            Step::WaitReady => "wait".into(),
            Step::ReadInitParameters => "read parameters".into(),
            Step::SetUpRoles => "roles".into(),
            Step::BaseBackup(from, _) => {
                self.local.data = DataState::Present(DataRole::Standby);
                format!("copy {}", from.db)
            }
            Step::Recover => {
                if !failing_steps("recover") {
                    let end = self.own_end.as_mut().expect("the data have an end");
                    (end.state, end.position) = (EndState::ShutDown, Lsn(end.position.0 + 0x1_0000));
                } else {
                    self.known.rewind_failed = Some(self.assigned());
                }
                "recover".into()
            }
            Step::CheckRewind(from, _) => {
                assert!(!self.local.db.initializing, "W10: nothing is marked before the check");
                if failing_steps("check rewind") {
                    self.known.rewind_failed = Some(self.assigned());
                }
                format!("check rewind {}", from.db)
            }
            Step::Rewind(from) => {
                assert!(
                    !self.running && self.local.db.initializing,
                    "I4: only after dbstate was saved"
                );
                if !failing_steps("rewind") {
                    self.local.data = DataState::Present(DataRole::Standby);
                    self.known.rewound = Some(self.assigned());
                }
                format!("rewind {}", from.db)
            }
            Step::WaitRewound(db) => {
                if failing_steps("ready") {
                    self.known.rejoin_failed = Some(db.clone());
                }
                "ready".into()
            }
            Step::MarkStandby => {
                self.local.data = DataState::Present(DataRole::Standby);
                "mark standby".into()
            }
            Step::MarkComplete(db) => {
                self.known.completed = Some(db.clone());
                return None;
            }
            Step::Permit => {
                assert_eq!(self.order, StoredOrder::Absent, "X-1.3: the store refuses it");
                (self.known.published_stopped, self.known.accepted_order) = (None, None);
                "permit".into()
            }
            Step::Start(role, config) => {
                let name = format!("start {role:?}");
                if !failing_steps(&name) {
                    self.running = true;
                    self.known.current = Some(config.clone());
                    self.known.logins_blocked = config.blocks_client_logins;
                }
                name + &following(config) + logins(config)
            }
            Step::WaitStreaming(db) => {
                if failing_steps("streams") {
                    self.known.rejoin_failed = Some(db.clone());
                }
                "streams".into()
            }
            Step::ConfirmStandbyNames(names) => format!("confirm '{names}'"),
            Step::CatchUp(ahead) => {
                self.known.catch_up_tried = Some(self.assigned());
                format!("catch up to {}", ahead.lsn)
            }
            Step::Promote(_) => {
                if !failing_steps("promote") {
                    self.local.data = DataState::Present(DataRole::Master);
                }
                "promote".into()
            }
            Step::Slot(SlotChange::Drop(name)) => {
                self.facts.slots.remove(name);
                self.facts.invalidated_slots.remove(name);
                format!("drop {name}")
            }
            Step::Slot(SlotChange::Create(name)) => {
                self.facts.slots.insert(name.clone());
                format!("create {name}")
            }
            Step::Reload(config) => {
                if !failing_steps("reload") {
                    self.known.current = Some(config.clone());
                    self.known.logins_blocked = config.blocks_client_logins;
                    self.known.reload_unconfirmed = false;
                }
                "reload".to_owned() + &following(config) + logins(config)
            }
            Step::Restart(_, config) => {
                self.facts.restart_pending = false;
                self.known.current = Some(config.clone());
                self.known.logins_blocked = config.blocks_client_logins;
                "restart".to_owned() + logins(config)
            }
            Step::SaveApplied(db) => {
                self.local.db = db.clone();
                format!("record {} {}", db.uid, db.generation)
            }
        })
    }
}

fn logins(config: &ServerConfig) -> &'static str {
    match config.blocks_client_logins {
        true => " without clients",
        false => "",
    }
}

fn following(config: &ServerConfig) -> String {
    config
        .upstream
        .as_ref()
        .map(|from| match from {
            Upstream::Member(from) => {
                let slot = if from.uses_slot { "" } else { " without a slot" };
                format!(" following {}:{}{slot}", from.host, from.port)
            }
            Upstream::External(from) => format!(" following {:?} outside", from.standby.primary_conninfo),
        })
        .unwrap_or_default()
}

fn upstream(port: &str) -> MemberUpstream {
    MemberUpstream {
        db: "B".into(),
        keeper: "k2".into(),
        host: "host-k2".into(),
        port: port.into(),
        uses_slot: true,
    }
}

/// Checks what one round does, and that a second round has nothing left to do if the first one completed.
#[track_caller]
fn check(mut fake: FakeKeeper, expected: &str) {
    assert_eq!(fake.round(), expected);
    if expected.ends_with("done") {
        assert_eq!(fake.round(), "done", "planning again after the first round settles");
    }
}

/// The row of the decision table: keeper T8 row 1.
#[test]
fn a_keeper_that_is_not_listed_changes_nothing() {
    let mut fake = fake();
    fake.data
        .as_mut()
        .expect("there")
        .keepers_mut()
        .remove(&KeeperUid::from(ME));
    check(fake, "hold NotListed");
}

/// The row of the decision table: keeper T8 row 2.
#[test]
fn without_a_db_the_instance_is_stopped_and_its_files_kept() {
    let mut fake = fake();
    fake.data.as_mut().expect("there").dbs_mut().remove(&DbUid::from("A"));
    check(fake, "stop; done");
}

/// The row of the decision table: keeper T8 row 3.
#[test]
fn an_unacknowledged_boot_uuid_stops_the_instance() {
    let mut fake = fake();
    let keepers = fake.data.as_mut().expect("there").keepers_mut();
    keepers.get_mut(&KeeperUid::from(ME)).expect("there").status.boot_uuid = "earlier".into();
    check(fake, "stop; done");
}

/// The row of the decision table: keeper T8 rows 4 and 5.
#[test]
fn lost_data_are_neither_created_nor_started() {
    check(fake().local_db("", false).no_data(), "hold DataLost");
    check(fake().local_db("", false).stopped(), "hold DataLost");
}

/// The row of the decision table: keeper T8 row 6.
#[test]
fn an_incomplete_copy_is_repeated_in_the_same_round() {
    let fake = fake()
        .standby()
        .own_db(|db| db.spec.init_mode = DbInitMode::Resync)
        .local_db("A", true)
        .stopped();
    check(
        fake,
        "ask B; save 'A' initializing; clear; copy B; \
         start Standby following host-k2:5432; reload following host-k2:5432; record A 3; done",
    );
}

/// The row of the decision table: keeper T8 row 7.
#[test]
fn unwanted_incomplete_data_are_removed() {
    check(fake().local_db("A", true).stopped(), "clear; save ''; hold DataLost");
}

/// The row of the decision table: keeper T8 row 8.
#[test]
fn a_stopped_master_is_started_with_a_permit() {
    let mut fake = fake().own_db(|db| db.generation = 4).stopped();
    fake.facts.slots = names(&["stolon_gone", "mine"]);
    check(
        fake,
        "permit; start Master; wait; drop stolon_gone; create stolon_B; record A 4; done",
    );
}

/// Rule: keeper 11.3.
#[test]
fn an_invalidated_slot_is_made_again_if_it_is_ours() {
    let mut fake = fake().own_db(|db| db.generation = 4);
    fake.facts.slots = names(&["stolon_B", "mine"]);
    fake.facts.invalidated_slots = names(&["stolon_B", "mine"]);
    check(fake, "drop stolon_B; create stolon_B; record A 4; done");
}

/// The row of the decision table: keeper T8 row 10.
#[test]
fn a_running_standby_is_promoted() {
    let mut fake = fake();
    fake.local.data = DataState::Present(DataRole::Standby);
    fake.known.current = fake.known.current.map(|config| ServerConfig {
        upstream: Some(Upstream::Member(upstream("5432"))),
        ..config
    });
    check(fake, "permit; promote; done");
}

#[test]
fn a_server_that_refuses_logins_is_left_running_configured_and_promoted() {
    let mut fake = fake();
    fake.refuses = true;
    fake.facts.slots.clear(); // the missing slot is unknown
    check(fake.clone(), "done");
    let changed = |fake: FakeKeeper| {
        fake.own_db(|db| {
            db.generation = 4;
            db.spec.pg_parameters = parameters(&[("work_mem", "8MB")]);
        })
    };
    check(changed(fake.clone()), "reload; record A 4; done");
    let standby = changed(fake.clone().standby());
    check(standby, "reload following host-k2:5432; record A 4; done");
    fake.local.data = DataState::Present(DataRole::Standby);
    check(fake, "permit; promote; done");
}

/// The row of the decision table: keeper T8 row 11.
#[test]
fn a_stopped_standby_starts_without_upstream_and_is_promoted() {
    let mut fake = fake().stopped();
    fake.local.data = DataState::Present(DataRole::Standby);
    check(fake, "permit; start Master; wait; permit; promote; done");
}

/// The row of the decision table: keeper T8 row 12.
#[test]
fn a_master_never_becomes_a_standby_in_place() {
    let mut running = fake().standby();
    running.local.data = DataState::Present(DataRole::Master);
    check(running.clone(), "hold MasterCannotFollow");
    check(running.stopped(), "hold MasterCannotFollow");
}

/// The row of the decision table: keeper T8 row 13.
#[test]
fn a_missing_followed_db_changes_nothing() {
    let lost = |fake: FakeKeeper| fake.own_db(|db| db.spec.follow_config = Some(FollowConfig::internal("gone".into())));
    check(lost(fake().standby()), "hold FollowedDbMissing");
    check(lost(fake().standby().stopped()), "hold FollowedDbMissing");
    check(
        lost(fake().standby().replaced_by_a2(DbInitMode::Resync)),
        "hold FollowedDbMissing",
    );
}

#[test]
fn a_spec_that_contradicts_itself_changes_nothing_and_is_named() {
    let without = |fake: FakeKeeper| fake.own_db(|db| db.spec.follow_config = None);
    check(without(fake().standby()), "hold InvalidSpec(NoFollowConfig)");
    let resync = || fake().standby().replaced_by_a2(DbInitMode::Resync);
    check(without(resync()), "hold InvalidSpec(NoFollowConfig)");
    let unknown = FollowConfig {
        kind: "far".into(),
        ..FollowConfig::internal("B".into())
    };
    let unknown = |fake: FakeKeeper| fake.own_db(|db| db.spec.follow_config = Some(unknown.clone()));
    check(
        unknown(fake().standby()),
        "hold InvalidSpec(UnknownFollowType(\"far\"))",
    );
    check(
        fake().replaced_by_a2(DbInitMode::Resync),
        "hold InvalidSpec(WrongRole { init_mode: \"resync\", role: \"a master\" })",
    );
}

/// The row of the decision table: keeper T8 row 14.
#[test]
fn a_started_standby_is_saved_even_if_not_ready() {
    let mut fake = fake().standby().own_db(|db| db.generation = 4).stopped();
    fake.answers = false;
    check(fake, "start Standby following host-k2:5432; record A 4; done");
}

/// The row of the decision table: keeper T8 row 15.
#[test]
fn a_moved_upstream_needs_one_reload() {
    let mut fake = fake().standby();
    let dbs = fake.data.as_mut().expect("there").dbs_mut();
    dbs.get_mut(&DbUid::from("B")).expect("there").status.port = "5433".into();
    check(fake, "reload following host-k2:5433; done");
}

/// The row of the decision table: keeper T8 rows 17 to 20.
#[test]
fn diverged_data_are_copied() {
    let copied = "ask B; save 'A2' initializing; clear; copy B; start Standby following host-k2:5432; \
                  reload following host-k2:5432; record A2 1; done";
    let resync = || fake().standby().replaced_by_a2(DbInitMode::Resync);
    check(resync().ends(EndState::ShutDown, 0x300_00a1), copied);
    check(resync().ends(EndState::Unclean, 0x300_0000), copied);
    check(resync().stopped(), copied);
    check(resync().no_data(), copied);
}

#[test]
fn an_old_master_with_a_clean_shutdown_follows_without_a_copy() {
    // keeper 6.7
    let mut fake = fake()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::ShutDown, 0x300_00a0);
    fake.local.data = DataState::Present(DataRole::Master);
    check(
        fake,
        "ask B; save 'A2' initializing; mark standby; start Standby following host-k2:5432; streams; \
         reload following host-k2:5432; record A2 1; done",
    );
}

#[test]
fn old_data_that_do_not_stream_are_copied_over() {
    let kept = fake()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::ShutDown, 0x300_00a0);
    let mut fake = kept.failing("streams");
    assert!(fake.round().ends_with("streams; failed at streams"), "{:?}", fake.trace);
    fake.failing_steps.clear();
    check(
        fake,
        "stop; ask B; save 'A2' initializing; clear; copy B; \
         start Standby following host-k2:5432; reload following host-k2:5432; record A2 1; done",
    );
}

/// An old master of keeper k1 that has to come back as a standby of B with pg_rewind.
fn to_rewind(state: EndState, position: u64) -> FakeKeeper {
    let mut fake = fake()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(state, position);
    fake.local.data = DataState::Present(DataRole::Master);
    fake.rewind = Some(RewindFacts {
        has_program: true,
        outside: None,
    });
    fake
}

const REWOUND: &str = "check rewind B; save 'A2' initializing; rewind B; start Standby following host-k2:5432; ready; \
                       streams; reload following host-k2:5432; record A2 1; done";
const COPIED: &str = "ask B; save 'A2' initializing; clear; copy B; start Standby following host-k2:5432; \
                      reload following host-k2:5432; record A2 1; done";

/// The row of the decision table: keeper T8 row 16.
#[test]
fn a_diverged_old_master_is_rewound_and_a_crashed_one_recovered_before() {
    check(to_rewind(EndState::ShutDown, 0x300_00a1), &format!("ask B; {REWOUND}"));
    check(
        to_rewind(EndState::Unclean, 0x300_0000),
        &format!("ask B; recover; ask B; {REWOUND}"),
    );
    // What is on the source's history needs neither.
    let kept = to_rewind(EndState::ShutDown, 0x300_00a0).round();
    assert!(
        kept.starts_with("ask B; save 'A2' initializing; mark standby"),
        "{kept}"
    );
}

/// The rows of the decision table: keeper T8 rows 17 and 20.
#[test]
fn data_that_cannot_be_rewound_are_copied_and_the_log_has_the_reason() {
    let copied = |mut fake: FakeKeeper, expected: Option<NoRewind>| {
        assert_eq!(fake.round(), COPIED);
        let reasons = fake.messages.iter().find_map(|message| match message {
            LogMessage::Copying { no_rewind, .. } => Some(*no_rewind),
            _ => None,
        });
        assert_eq!(reasons, Some(expected));
    };
    let diverged = || to_rewind(EndState::ShutDown, 0x300_00a1);
    let mut not_asked = diverged();
    not_asked.rewind = None;
    copied(not_asked, None);
    let mut other_system = diverged();
    other_system.own_end.as_mut().expect("there").system_id = "8".into();
    copied(other_system, None);
    let mut no_hints = diverged();
    no_hints.own_end.as_mut().expect("there").logs_hint_bits = false;
    copied(no_hints, Some(NoRewind::HintBitsNotLogged));
    let mut missing = diverged();
    missing.rewind.as_mut().expect("there").has_program = false;
    copied(missing, Some(NoRewind::NoProgram));
    let mut tablespace = to_rewind(EndState::Unclean, 0x300_0000);
    tablespace.rewind.as_mut().expect("there").outside = Some("/ts".into());
    copied(tablespace, Some(NoRewind::OutsidePgdata));
    let mut standby = to_rewind(EndState::Unclean, 0x300_0000);
    standby.local.data = DataState::Present(DataRole::Standby);
    copied(standby, Some(NoRewind::CrashedStandby));
    // Left by another process in the middle of a rewind, or of anything else.
    let mut incomplete = diverged().local_db("A2", true);
    incomplete.local.data = DataState::Present(DataRole::Standby);
    copied(incomplete, None);
}

/// The rows of the decision table: keeper T8 rows 20 and 21.
#[test]
fn whatever_fails_about_a_rewind_ends_in_a_copy_and_never_in_a_start() {
    for (state, failing, done) in [
        (EndState::Unclean, "recover", "ask B; recover"),
        (EndState::ShutDown, "check rewind", "ask B; check rewind B"),
        (
            EndState::ShutDown,
            "rewind",
            "ask B; check rewind B; save 'A2' initializing; rewind B",
        ),
    ] {
        let mut fake = to_rewind(state, 0x300_00a1).failing(failing);
        let result = fake.round();
        let failed = done.rsplit("; ").next().expect("there");
        assert_eq!(result, format!("{done}; failed at {failed}"));
        assert!(!fake.running);
        fake.failing_steps.clear();
        check(fake, COPIED);
    }
    for failing in ["ready", "streams"] {
        let mut fake = to_rewind(EndState::ShutDown, 0x300_00a1).failing(failing);
        assert!(
            fake.round().ends_with(&format!("failed at {failing}")),
            "{:?}",
            fake.trace
        );
        fake.failing_steps.clear();
        check(fake, &format!("stop; {COPIED}"));
    }
}

/// A changed desired state interrupts the wait; the server runs on.
#[test]
fn an_interrupted_wait_for_rewound_data_goes_on_without_another_start() {
    let mut fake = to_rewind(EndState::ShutDown, 0x300_00a1).local_db("A2", true);
    fake.local.data = DataState::Present(DataRole::Standby);
    fake.known.rewound = Some("A2".into());
    fake.running = true;
    check(fake, "ready; streams; record A2 1; done");
}

#[test]
fn nothing_unclaimed_is_rewound() {
    for state in [EndState::ShutDown, EndState::Unclean] {
        let mut fake = to_rewind(state, 0x300_00a1).local_db("", false);
        fake.local.unclaimed = Some("/d/x".into());
        check(fake, "ask B; hold Obstacle(\"/d/x\", Unclaimed)");
    }
}

#[test]
fn nothing_is_destroyed_before_the_source_answers() {
    // keeper W10
    let mut fake = fake()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::Unclean, 0x300_0000);
    // Data that did not stream, or were left incomplete by an earlier process, may be the only ones.
    for fake in [
        fake.clone(),
        fake.clone().local_db("A2", true),
        fake.clone().local_db("A", true),
    ] {
        let desired = fake.desired();
        let (server, config) = (ServerState::Down, fake.config());
        let observed = ObservedState {
            own_hba: &[],
            desired: &desired,
            order: &fake.order,
            local: &fake.local,
            server: &server,
            config: config.as_ref(),
            process: &fake.known,
            existing: None,
            copy: None,
            ahead: None,
        };
        let first = plan(&observed);
        assert_eq!(first.next, NextAction::ProbeSource(upstream("5432")));
        assert!(!first.steps.iter().any(Step::has_effect), "{:?}", first.steps);
    }
    fake.running = true;
    assert!(
        fake.round().starts_with("stop; ask B; save 'A2' initializing; clear"),
        "{:?}",
        fake.trace
    );
}

#[test]
fn a_source_that_is_another_instance_changes_nothing() {
    let resync = || {
        fake()
            .standby()
            .replaced_by_a2(DbInitMode::Resync)
            .ends(EndState::Unclean, 0x300_0000)
    };
    let held = |mut fake: FakeKeeper, expected: &str| {
        let before = fake.local.clone();
        let result = fake.round();
        assert_eq!(result, format!("ask B; hold {expected}"));
        assert_eq!(fake.local, before, "nothing is marked, nothing removed");
    };
    let upstream = format!("{:?}", upstream("5432"));
    let mut stranger = resync();
    stranger.source.system_id = "8".into();
    let why = r#"OtherSystem { recorded: "7", found: "8" }"#;
    held(stranger.clone(), &format!("WrongSource({upstream}, {why})"));
    held(
        stranger.local_db("A2", true),
        &format!("WrongSource({upstream}, {why})"),
    );
    let mut old = resync();
    old.source.timeline = 1;
    let why = "Behind { recorded: 2, found: 1 }";
    held(old, &format!("WrongSource({upstream}, {why})"));
    let mut unknown = resync();
    for db in unknown.data.as_mut().expect("there").dbs_mut().values_mut() {
        db.status.system_id.clear();
    }
    held(unknown, &format!("WrongSource({upstream}, NotRecorded)"));
    // A newer timeline may just not be published yet.
    let mut newer = resync();
    newer.source.timeline = 3;
    assert!(newer.round().contains("copy B"), "{:?}", newer.trace);
}

#[test]
fn a_shared_directory_holds_the_copy_before_anything_is_saved() {
    let mut fake = fake()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::Unclean, 0x300_0000);
    fake.external_dirs = vec![ExternalDir {
        path: "/x/ts".into(),
        kind: ExternalDirKind::Tablespace {
            directory: "PG_15_202209061".into(),
        },
        bytes: Some(0),
        found: ExternalDirFacts {
            holds_data: true,
            is_ours: true,
            is_source_dir: true,
            ..ExternalDirFacts::default()
        },
    }];
    let before = fake.local.clone();
    assert_eq!(fake.round(), "ask B; hold Obstacle(\"/x/ts\", UsedBySource)");
    assert_eq!(fake.local, before);
    // A rejoin does not need the directory.
    let kept = fake.clone().ends(EndState::ShutDown, 0x300_00a0).round();
    assert!(kept.contains("mark standby"), "{kept}");
    fake.external_dirs[0].found.is_source_dir = false;
    assert!(fake.round().contains("clear; copy B"), "{:?}", fake.trace);
}

#[test]
fn a_file_system_too_small_for_the_copy_holds_it_before_anything_is_removed() {
    let mut fake = fake()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::Unclean, 0x300_0000);
    fake.obstacle = Some(("/d".into(), Obstacle::NotEnoughSpace { needed: 9, free: 6 }));
    let before = fake.local.clone();
    let held = "hold Obstacle(\"/d\", NotEnoughSpace { needed: 9, free: 6 })";
    assert_eq!(fake.round(), format!("ask B; {held}"));
    assert_eq!(fake.local, before);
}

#[test]
fn data_without_a_dbstate_are_not_removed() {
    let held = "hold Obstacle(\"/d/x\", Unclaimed)";
    let unclaimed = |mut fake: FakeKeeper| {
        fake.local.unclaimed = Some("/d/x".into());
        fake.local.data = DataState::Absent;
        fake.local_db("", false).stopped()
    };
    let resync = fake().standby().replaced_by_a2(DbInitMode::Resync);
    check(unclaimed(resync), &format!("ask B; {held}"));
    check(unclaimed(fake().replaced_by_a2(DbInitMode::New)), held);
}

#[test]
fn failed_copies_wait_without_probing_the_source() {
    let mut fake = fake()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::Unclean, 0x300_0000);
    fake.known.copy_delay = Some(CopyDelay {
        failures: 1,
        delay: std::time::Duration::from_secs(5),
    });
    check(
        fake.clone().local_db("A2", true),
        "hold CopyFailed(CopyDelay { failures: 1, delay: 5s })",
    );
    assert!(
        fake.round().contains("copy B"),
        "data that are whole may be kept, which costs the source nothing: {:?}",
        fake.trace
    );
}

/// The row of the decision table: keeper T8 rows 22 and 23.
#[test]
fn unusable_cluster_data_change_nothing() {
    for (reading, expected) in [
        (ClusterDataState::Unavailable, "hold StoreUnavailable"),
        (ClusterDataState::Absent, "hold NoClusterData"),
        (ClusterDataState::UnsupportedFormat(2), "hold UnsupportedFormat(2)"),
        (ClusterDataState::Unusable("x".into()), "hold Unusable(\"x\")"),
    ] {
        for mut fake in [
            fake(),
            fake().stopped(),
            fake().local_db("A", true),
            fake().local_db("", false),
        ] {
            fake.reading = Some(reading.clone());
            check(fake, expected);
        }
    }
}

/// The row of the decision table: keeper T8 rows 24 and 25.
#[test]
fn a_changed_parameter_is_reloaded_and_saved_even_if_the_reload_fails() {
    let changed = || {
        fake().own_db(|db| {
            db.generation = 4;
            db.spec.pg_parameters = parameters(&[("work_mem", "8MB")]);
        })
    };
    let mut fake = changed();
    assert_eq!(fake.round(), "reload; record A 4; done");
    let change = ParameterChange {
        name: "work_mem".into(),
        old: Some("4MB".into()),
        new: Some("8MB".into()),
    };
    let result = [
        LogMessage::RoleMaster,
        LogMessage::AlreadyMaster,
        LogMessage::ParameterChanged(change),
        LogMessage::ParametersChanged,
    ];
    assert_eq!(
        fake.messages.iter().filter(|line| result.contains(line)).count(),
        5,
        "{:?}",
        fake.messages
    );
    assert_eq!(
        fake.messages.last(),
        Some(&LogMessage::HbaUnchanged),
        "keeper 15.0 rule 4: the summaries come last"
    );
    let mut failing = changed().failing("reload");
    assert_eq!(failing.round(), "reload; record A 4; done");
    assert_eq!(
        failing.round(),
        "reload; done",
        "what was not made known is tried again"
    );
}

#[test]
fn a_reload_is_repeated_before_anything_is_concluded_from_facts_that_may_be_older() {
    let mut fake = fake();
    fake.known.reload_unconfirmed = true;
    fake.refuses = true;
    check(fake.clone(), "done");
    fake.refuses = false;
    check(fake, "reload; done");
}

/// The row of the decision table: keeper T8 row 26.
#[test]
fn a_failed_promotion_is_retried() {
    let mut fake = fake().own_db(|db| db.generation = 4).failing("promote");
    fake.local.data = DataState::Present(DataRole::Standby);
    assert_eq!(fake.round(), "permit; promote; failed at promote");
    assert_eq!(fake.local.db.generation, 3);
    fake.failing_steps.clear();
    check(fake, "permit; promote; record A 4; done");
}

/// The row of the decision table: keeper T8 row 30.
#[test]
fn a_pending_restart_is_done_only_if_allowed() {
    let mut fake = fake();
    fake.facts.restart_pending = true;
    assert_eq!(fake.round(), "done");
    check(
        fake.cluster_spec(|spec| spec.automatic_pg_restart = Some(true)),
        "permit; restart; done",
    );
}

#[test]
fn slots_of_standbys_come_before_additional_ones_and_a_failure_does_not_stop_the_rest() {
    let mut fake = fake().own_db(|db| {
        db.spec.additional_replication_slots = Some(vec!["a".into(), "b".into(), "a".into()]);
        db.spec.followers = Some(vec!["Z".into(), "A".into()]);
    });
    fake.facts.slots = names(&["stolon_old", "by_hand"]);
    fake.failing_steps = vec!["create stolon_Z", "create stolon_a", "drop"];
    assert_eq!(
        fake.round(),
        "drop stolon_old; create stolon_Z; create stolon_a; create stolon_b; done"
    );
}

#[test]
fn an_instance_restarts_in_turn_unless_its_replay_is_paused() {
    let mut fake = fake().cluster_spec(|spec| spec.automatic_pg_restart = Some(true));
    fake.facts.restart_pending = true;
    fake.facts.turn = RestartTurn::After("k2".into());
    check(fake.clone(), "done");
    fake.facts.turn = RestartTurn::StandbysRefused;
    check(fake.clone(), "done");
    fake.facts.turn = RestartTurn::OthersUnknown;
    check(fake.clone(), "done");
    fake.facts.turn = RestartTurn::Announce;
    check(fake.clone(), "done");
    let mut announces = fake.clone();
    announces.round();
    assert_eq!(announces.reported, Some(RestartNeed::Pending));
    fake.facts.turn = RestartTurn::Now;
    check(fake.clone(), "permit; restart; done");

    let mut fake = fake.standby();
    fake.facts.restart_pending = true;
    fake.facts.turn = RestartTurn::After("k2".into());
    fake.facts.replay_paused = true;
    assert!(fake.round().contains("restart"), "{:?}", fake.trace);
}

#[test]
fn one_set_of_parameters_has_one_fingerprint_everywhere() {
    let target = |fake: FakeKeeper| match fake.desired().goal {
        Goal::Run(target) => *target,
        other => panic!("{other:?}"),
    };
    let one = target(fake());
    let mut other = one.clone();
    (other.db, other.role) = ("B".into(), TargetRole::NoUpstream);
    assert_eq!(fingerprint(&one), fingerprint(&other));
    other.spec.pg_parameters.insert("a".into(), "1".into());
    assert_ne!(fingerprint(&one), fingerprint(&other));
}

#[test]
fn unneeded_slots_alone_are_no_reason_to_restart() {
    let automatic = |can_wait| {
        let mut fake = fake().cluster_spec(|spec| spec.automatic_pg_restart = Some(true));
        fake.facts.restart_pending = true;
        fake.facts.restart_can_wait = can_wait;
        fake
    };
    check(automatic(true), "done");
    check(automatic(false), "permit; restart; done");

    // Other instances need not wait for the restart.
    let mut waits = automatic(true);
    waits.round();
    assert_eq!(waits.reported, Some(RestartNeed::CanWait));
}

#[test]
fn a_server_is_short_of_slots_when_desired_and_foreign_ones_exceed_the_maximum() {
    let fake = fake().own_db(|db| db.spec.additional_replication_slots = Some(vec!["a".into(), "b".into()]));
    let Goal::Run(target) = fake.desired().goal else {
        panic!("the world has a db")
    };
    // B follows
    let existing = names(&["by_hand", "stolon_old", "stolon_B"]);
    assert!(is_short_of_slots(&target, &existing, 3));
    assert!(!is_short_of_slots(&target, &existing, 4));
}

#[test]
fn a_standby_with_paused_replay_is_restarted_whatever_the_spec_says() {
    // keeper 8.7 (a)
    let mut fake = fake().standby();
    fake.facts = ServerFacts {
        restart_pending: true,
        replay_paused: true,
        ..ServerFacts::default()
    };
    check(fake, "restart; done");
}

/// The row of the decision table: keeper T8 row 31.
#[test]
fn a_former_master_is_kept_stopped_and_published_once() {
    check(fake().status_master("B").stopped(), "publish A stopped; done");
    check(fake().status_master("B"), "stop; publish A stopped; done");
    // Data of another db prove nothing about this one.
    check(fake().status_master("B").local_db("", false).no_data(), "done");
}

#[test]
fn a_new_cluster_is_remembered_before_anything_else() {
    let mut fake = fake();
    fake.local.cluster = ClusterUid::from("earlier");
    check(fake.clone(), "save cluster c1; done");
    fake.data.as_mut().expect("there").keepers_mut().clear();
    check(fake, "save cluster c1; hold NotListed");
}

#[test]
fn init_mode_new_creates_starts_and_saves() {
    let fresh = |previous| {
        let fake = fake().replaced_by_a2(DbInitMode::New).local_db("", false).no_data();
        fake.own_db(|db| {
            db.spec.include_previous_config = previous;
            db.spec.followers = Some(Vec::new());
        })
    };
    let mut with = fresh(true);
    with.facts.slots.clear();
    check(
        with,
        "save 'A2' initializing; clear; initdb; start temporarily; wait; read parameters; roles; stop; \
         permit; start Master; wait; reload; record A2 1; done",
    );
    let mut without = fresh(false);
    assert!(!without.round().contains("read parameters"));
}

#[test]
fn a_permit_refused_after_initialisation_does_not_discard_the_data() {
    let mut fake = fake()
        .replaced_by_a2(DbInitMode::New)
        .local_db("", false)
        .no_data()
        .failing("permit");
    assert!(fake.round().ends_with("permit; failed at permit"));
    fake.failing_steps.clear();
    fake.facts.slots = names(&["stolon_B"]);
    check(fake, "permit; start Master; wait; reload; record A2 1; done");
}

#[test]
fn an_unsupported_spec_leaves_the_instance_as_it_is() {
    let fake = fake().cluster_spec(|spec| {
        spec.init_mode = Some(InitMode::Pitr);
        spec.pitr_config = Some(PitrConfig {
            data_restore_command: "restore".into(),
            ..PitrConfig::default()
        });
        spec.role = Some(Role::Standby);
        spec.standby_config = Some(StandbyConfig::default());
    });
    for mut fake in [fake.clone(), fake.stopped()] {
        let result = fake.round();
        assert!(
            result.starts_with("hold NotSupported(\"role standby needs an upstream"),
            "{result}"
        );
    }
}

#[test]
fn only_changes_of_parameters_and_hba_lines_are_delayed() {
    let before = fake().desired();
    let parameters_only = fake().own_db(|db| {
        db.generation = 4;
        db.spec.pg_parameters = parameters(&[("work_mem", "8MB")]);
        db.spec.pg_hba = Some(Vec::new());
    });
    assert!(is_only_configuration(&before, &parameters_only.desired()));
    assert!(!is_only_configuration(&before, &before), "nothing changed");
    let followers = fake().own_db(|db| db.spec.followers = Some(Vec::new()));
    assert!(!is_only_configuration(&before, &followers.desired()));
    assert!(!is_only_configuration(&before, &fake().status_master("B").desired()));
}

/// Invariants keeper I1, I2, I4, I5.
#[test]
fn invariants_hold_in_every_situation() {
    let roles = [
        DataState::Absent,
        DataState::Present(DataRole::Master),
        DataState::Present(DataRole::Standby),
    ];
    let modes = [
        DbInitMode::None,
        DbInitMode::New,
        DbInitMode::Existing,
        DbInitMode::Pitr,
        DbInitMode::Resync,
    ];
    let uids = ["", "A", "other"];
    let mut observed = 0;
    for data in roles {
        for mode in &modes {
            for uid in uids {
                for (initializing, running, standby, master) in
                    (0..16).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0))
                {
                    let mut fake = if standby { fake().standby() } else { fake() };
                    fake = fake
                        .own_db(|db| db.spec.init_mode = mode.clone())
                        .local_db(uid, initializing);
                    if !master && !standby {
                        fake = fake.status_master("B");
                    }
                    fake.local.data = data;
                    fake.running = running && data != DataState::Absent;
                    let (before, was_running) = (fake.local.clone(), fake.running);
                    let result = fake.round(); // `act` asserts I4
                    observed += 1;
                    let starts_master = result.contains("start Master") || result.contains("promote");
                    if starts_master {
                        assert!(!standby && master, "I1, I20: {before:?} {result}");
                        assert!(result.contains("permit"), "X-1.3: {result}");
                    }
                    if *mode == DbInitMode::Existing {
                        assert!(!result.contains("clear"), "I4: {before:?} {result}");
                    }
                    if uid != "A" && *mode == DbInitMode::None && !(initializing) {
                        assert!(!result.contains("start") && !result.contains("clear"), "I5: {result}");
                    }
                    if before.data == DataState::Present(DataRole::Master) && uid == "A" && !initializing && standby {
                        assert!(!result.contains("start"), "I3: {result}");
                        assert_eq!(fake.running, was_running, "left as it is");
                    }
                }
            }
        }
    }
    assert_eq!(observed, 3 * 5 * 3 * 16);
}

#[test]
fn a_checked_document_always_has_a_cluster() {
    let checked: Result<CheckedClusterData, _> = ClusterData::default().check();
    assert!(checked.is_err());
    let boot = BootUuid::from(BOOT);
    assert_eq!(
        desired_state(&ClusterDataState::Absent, &ME.into(), &boot).cluster,
        None
    );
}

#[test]
fn changed_parameters_are_named_whichever_side_has_them() {
    // keeper T4
    let (old, new) = (
        parameters(&[("a", "1"), ("b", "2"), ("c", "3")]),
        parameters(&[("a", "9"), ("b", "2"), ("d", "4")]),
    );
    let changes = changed_parameters(&old, &new);
    let changes: Vec<_> = changes
        .iter()
        .map(|change| (change.name.as_str(), change.old.as_deref(), change.new.as_deref()))
        .collect();
    let expected = [
        ("a", Some("1"), Some("9")),
        ("c", Some("3"), None),
        ("d", None, Some("4")),
    ];
    assert_eq!(changes, expected);
}

#[test]
fn changed_fields_are_named_as_in_the_document() {
    let before = db("A", "k1", Role::Master, &["B"]).spec;
    let mut after = before.clone();
    after.pg_hba = Some(Vec::new());
    after.max_standbys = 3;
    after.pg_parameters.clear();
    assert_eq!(
        changed_fields(&before, &after),
        ["maxStandbys", "pgHBA", "pgParameters"]
    );
    assert_eq!(changed_fields(&before, &before), [""; 0]);
}

/// The rows of the decision table: keeper T8 rows 9 and 27.
#[test]
fn a_started_synchronous_master_blocks_client_logins_until_its_standbys_are_in_sync() {
    let mut fake = fake().synchronous(&["B"]).stopped();
    assert_eq!(fake.round(), "permit; start Master without clients; wait; done");
    assert_eq!(fake.known.current.as_ref().expect("it was started").hba, ["own"]);
    assert_eq!(fake.round(), "done", "B is not in sync");
    fake.facts.in_sync.insert("B".into());
    assert_eq!(fake.round(), "reload; done");
    assert_eq!(fake.known.current.as_ref().expect("it runs").hba, ["hba"]);
    fake.facts.in_sync.clear();
    assert_eq!(fake.round(), "done", "clients stay when B is gone again");
}

/// The row of the decision table: keeper T8 row 28.
#[test]
fn client_logins_stay_blocked_while_one_of_two_standbys_is_missing() {
    let mut fake = fake().synchronous(&["B", "C"]).logins_blocked(&["B"]);
    assert_eq!(fake.round(), "done");
    assert!(fake.messages.contains(&LogMessage::LoginsBlocked {
        missing: ["C".into()].into()
    }));
    fake.facts.in_sync.insert("C".into());
    fake.refuses = true;
    assert_eq!(fake.round(), "done", "who is in sync is unknown");
    assert!(fake.known.logins_blocked);
}

/// The row of the decision table: keeper T8 row 29.
#[test]
fn switching_synchronous_replication_off_empties_the_names_and_admits_clients_in_one_reload() {
    let off = |fake: FakeKeeper| {
        fake.cluster_spec(|spec| spec.synchronous_replication = Some(false))
            .own_db(|db| {
                db.generation = 4;
                db.spec.clear_synchronous();
            })
    };
    let mut fake = off(fake().synchronous(&["B"]).logins_blocked(&[]));
    assert_eq!(fake.round(), "reload; record A 4; done");
    assert!(fake.messages.contains(&LogMessage::LoginsAllowed { waits: false }));
    let current = fake.known.current.expect("it runs");
    assert_eq!(
        (current.parameters.get(SYNCHRONOUS_STANDBY_NAMES), current.hba),
        (None, vec!["hba".to_owned()])
    );
    assert!(!fake.known.logins_blocked);
}

/// Rule: synchronous SY-11. With no standby to wait for, everything visible stays.
#[test]
fn a_master_that_waits_for_no_standby_is_started_with_its_clients() {
    check(fake().synchronous(&[]).stopped(), "permit; start Master; wait; done");
}

/// Rule: synchronous SY-11, also for a restart for parameters.
#[test]
fn a_restarted_synchronous_master_blocks_client_logins() {
    let mut fake = fake()
        .synchronous(&["B"])
        .cluster_spec(|spec| spec.automatic_pg_restart = Some(true));
    fake.facts.restart_pending = true;
    assert_eq!(fake.round(), "permit; restart without clients; done");
    assert_eq!(fake.round(), "done");
    fake.facts.in_sync.insert("B".into());
    assert_eq!(fake.round(), "reload; done");
}

/// Rule: synchronous SY-7.
#[test]
fn a_standby_waits_for_its_new_names_before_it_is_promoted_and_follows_until_then() {
    let mut fake = fake().synchronous(&["B"]);
    fake.local.data = DataState::Present(DataRole::Standby);
    fake.known.current = fake.known.current.map(|mut config| {
        config
            .parameters
            .insert(SYNCHRONOUS_STANDBY_NAMES.to_owned(), "stolonfakestandby".to_owned());
        config.upstream = Some(Upstream::Member(upstream("5432")));
        config
    });
    let whole = "reload following host-k2:5432; confirm 'stolon_B'; permit; promote; done";
    assert_eq!(fake.clone().round(), whole);
    let failing = fake.clone().failing("confirm").round();
    assert!(failing.ends_with("failed at confirm 'stolon_B'"), "{failing}");
    let failing = fake.failing("reload").round();
    assert!(
        failing.contains("confirm 'stolon_B'; permit; promote; "),
        "the names may be in force: {failing}"
    );
}

/// Rule: synchronous SY-11 and SY-7 for a standby that was not running.
#[test]
fn a_stopped_standby_that_becomes_a_synchronous_master_blocks_client_logins() {
    let mut fake = fake().synchronous(&["B"]).stopped();
    fake.local.data = DataState::Present(DataRole::Standby);
    assert_eq!(
        fake.round(),
        "permit; start Master without clients; wait; confirm 'stolon_B'; permit; promote; done"
    );
    fake.facts.in_sync.insert("B".into());
    assert_eq!(fake.round(), "reload; done");
}

/// Rule: synchronous SY-7.
#[test]
fn a_standby_of_a_synchronous_cluster_runs_with_the_name_of_nobody() {
    let mut fake = fake()
        .standby()
        .cluster_spec(|spec| spec.synchronous_replication = Some(true));
    assert_eq!(fake.round(), "reload following host-k2:5432; done");
    let current = fake.known.current.expect("it runs");
    assert_eq!(
        current.parameters.get(SYNCHRONOUS_STANDBY_NAMES).map(String::as_str),
        Some("stolonfakestandby")
    );
}
