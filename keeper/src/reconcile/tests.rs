//! The decision table of a pass (keeper T8) and its invariants (keeper 17), played against a fake instance.

use std::collections::{BTreeMap, BTreeSet};

use control::model::{
    BootUuid, Checked, Cluster, ClusterData, ClusterSpec, ClusterStatus, ClusterUid, Db, DbInitMode, DbSpec, DbStatus,
    DbUid, FollowConfig, FollowType, InitMode, Keeper, KeeperStatus, KeeperUid, Lsn, Phase, Role,
};

use super::*;
use crate::external_dirs::{ExternalDir, ExternalDirFacts, ExternalDirKind, Obstacle};

const ME: &str = "k1";
const BOOT: &str = "boot1";
const PASSES_MAX: usize = 12;

/// A keeper, its instance and the cluster data; a case changes what matters to it.
#[derive(Clone)]
struct World {
    data: Option<ClusterData>,
    reading: Option<ClusterDataState>,
    local: LocalFacts,
    running: bool,
    answers: bool,
    refuses: bool,
    facts: ServerFacts,
    known: ProcessState,
    own_end: Option<DataEnd>,
    source: SourceFacts,
    places: Vec<ExternalDir>,
    in_the_way: Option<(std::path::PathBuf, Obstacle)>,
    fails: Vec<&'static str>,
    trace: Vec<String>,
    noted: Option<RestartNeed>,
    lines: Vec<LogMessage>,
}

/// Keeper `k1` with db `A` of generation 3 applied, running as the cluster's master; `k2` has standby `B`.
fn world() -> World {
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
    let sets = ServerConfig {
        parameters: parameters(&[("work_mem", "4MB")]),
        hba: vec!["hba".into()],
        upstream: None,
    };
    World {
        data: Some(data),
        reading: None,
        local: LocalFacts {
            cluster: "c1".into(),
            db: LocalDb {
                uid: "A".into(),
                generation: 3,
                initializing: false,
            },
            data: DataState::Present(DataRole::Master),
            unclaimed: None,
        },
        running: true,
        answers: true,
        refuses: false,
        facts: ServerFacts {
            slots: names(&["stolon_B"]),
            ..ServerFacts::default()
        },
        known: ProcessState {
            current: Some(sets),
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
        places: Vec::new(),
        in_the_way: None,
        fails: Vec::new(),
        noted: None,
        trace: Vec::new(),
        lines: Vec::new(),
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

impl World {
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

    /// Our db is asked to be a standby of B, which is the master.
    fn standby(self) -> Self {
        let mut world = self.status_master("B").own_db(|db| {
            db.spec.role = Role::Standby;
            db.spec.follow_config = Some(FollowConfig::internal("B".into()));
            db.spec.followers = Some(Vec::new());
        });
        world.local.data = DataState::Present(DataRole::Standby);
        world.facts.slots.clear();
        world.known.current = world.known.current.map(|sets| ServerConfig {
            upstream: Some(upstream("5432")),
            ..sets
        });
        world
    }

    /// The keeper gets a new db A2 instead of A, to be made in this way.
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

    /// The instance stopped here, on timeline 1.
    fn ends(mut self, state: EndState, position: u64) -> Self {
        let end = DataEnd {
            system_id: "7".into(),
            state,
            timeline: 1,
            position: Lsn(position),
            history: Vec::new(),
        };
        self.own_end = Some(end);
        self.stopped()
    }

    fn failing(mut self, step: &'static str) -> Self {
        self.fails.push(step);
        self
    }

    fn orders(&self) -> Desired {
        let reading = match (&self.reading, &self.data) {
            (Some(reading), _) => reading.clone(),
            (None, Some(data)) => ClusterDataState::Valid(Box::new(data.clone().check().expect("the case is valid"))),
            (None, None) => ClusterDataState::Absent,
        };
        desired_state(&reading, &ME.into(), &BOOT.into())
    }

    fn sets(&self) -> Option<ServerConfig> {
        match self.orders().goal {
            Goal::Run(target) => Some(ServerConfig {
                parameters: target.spec.pg_parameters,
                hba: vec!["hba".into()],
                upstream: None,
            }),
            _ => None,
        }
    }

    /// Plays one pass and tells what was done and how it ended.
    fn pass(&mut self) -> String {
        self.trace.clear();
        self.lines.clear();
        let (mut asked, mut copy) = (false, None);
        for _ in 0..PASSES_MAX {
            let (orders, sets) = (self.orders(), self.sets());
            let server = match (self.running, asked) {
                (false, _) => ServerState::Down,
                (true, false) => ServerState::Up(ServerProbe::NotProbed),
                (true, true) if self.refuses => ServerState::Up(ServerProbe::Refused),
                (true, true) if !self.answers => ServerState::Up(ServerProbe::NoAnswer),
                (true, true) => ServerState::Up(ServerProbe::Answered(self.facts.clone())),
            };
            let seen = Observed {
                desired: &orders,
                local: &self.local,
                server: &server,
                config: sets.as_ref(),
                process: &self.known,
                copy: copy.as_ref(),
            };
            let plan = plan(&seen);
            if let Err(step) = self.act(&plan.steps) {
                self.trace.push(format!("failed at {step}"));
                return self.trace.join("; ");
            }
            match plan.next {
                NextAction::PlanAgain => (asked, copy) = (false, None),
                NextAction::ProbeServer => asked = true,
                NextAction::ProbeSource(from) => {
                    self.trace.push(format!("ask {}", from.db));
                    copy = Some(CopyFacts {
                        own: self.own_end.clone(),
                        source: self.source.clone(),
                        external_dirs: self.places.clone(),
                        bytes: None,
                        obstacle: self.in_the_way.clone(),
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
        panic!("the pass does not settle: {:?}", self.trace);
    }

    fn act(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            let name = self.play(step);
            let Some(name) = name else { continue };
            let failed = self.fails.iter().any(|fails| name.starts_with(fails));
            self.trace.push(name.clone());
            if failed && !step.may_fail() {
                return Err(name);
            }
        }
        Ok(())
    }

    /// What a step does to the fake; nothing to tell for what only talks.
    fn play(&mut self, step: &Step) -> Option<String> {
        let fails = |name: &str| self.fails.iter().any(|fails| name.starts_with(fails));
        Some(match step {
            Step::Log(line) => {
                self.lines.push(line.clone());
                return None;
            }
            Step::ReportRestart(need) => {
                self.noted = Some(*need);
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
                self.running = false;
                "stop".into()
            }
            Step::PublishStopped(db) => {
                self.known.published_stopped = Some(db.clone());
                format!("say {db} stopped")
            }
            Step::ClearData(clear) => {
                assert!(!self.running, "I4: never while the server runs");
                assert!(self.local.db.initializing, "I4: only after dbstate was saved");
                assert_eq!(clear.db, self.local.db.uid.as_str());
                self.local.data = DataState::Absent;
                "clear".into()
            }
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
            Step::MarkStandby => {
                self.local.data = DataState::Present(DataRole::Standby);
                "mark standby".into()
            }
            Step::MarkComplete(db) => {
                self.known.completed = Some(db.clone());
                return None;
            }
            Step::Permit => "permit".into(),
            Step::Start(role, sets) => {
                let name = format!("start {role:?}");
                if !fails(&name) {
                    self.running = true;
                    self.known.current = Some(sets.clone());
                }
                name + &following(sets)
            }
            Step::WaitStreaming(db) => {
                if fails("streams") {
                    self.known.rejoin_failed = Some(db.clone());
                }
                "streams".into()
            }
            Step::Promote => {
                if !fails("promote") {
                    self.local.data = DataState::Present(DataRole::Master);
                }
                "promote".into()
            }
            Step::Slot(SlotChange::Drop(name)) => {
                self.facts.slots.remove(name);
                format!("drop {name}")
            }
            Step::Slot(SlotChange::Create(name)) => {
                self.facts.slots.insert(name.clone());
                format!("create {name}")
            }
            Step::Reload(sets) => {
                if !fails("reload") {
                    self.known.current = Some(sets.clone());
                }
                "reload".to_owned() + &following(sets)
            }
            Step::Restart(_, sets) => {
                self.facts.restart_pending = false;
                self.known.current = Some(sets.clone());
                "restart".into()
            }
            Step::SaveApplied(db) => {
                self.local.db = db.clone();
                format!("record {} {}", db.uid, db.generation)
            }
        })
    }
}

fn following(sets: &ServerConfig) -> String {
    sets.upstream
        .as_ref()
        .map(|from| format!(" following {}:{}", from.host, from.port))
        .unwrap_or_default()
}

fn upstream(port: &str) -> Upstream {
    Upstream {
        db: "B".into(),
        keeper: "k2".into(),
        host: "host-k2".into(),
        port: port.into(),
    }
}

/// One pass does this; a second one has nothing left to do when the first came to its end.
#[track_caller]
fn check(mut world: World, expected: &str) {
    assert_eq!(world.pass(), expected);
    if expected.ends_with("done") {
        assert_eq!(
            world.pass(),
            "done",
            "planning again on what the first pass made settles"
        );
    }
}

#[test]
fn t8_1_not_listed_changes_nothing() {
    let mut world = world();
    world
        .data
        .as_mut()
        .expect("there")
        .keepers_mut()
        .remove(&KeeperUid::from(ME));
    check(world, "hold NotListed");
}

#[test]
fn t8_2_without_a_db_the_instance_is_stopped_and_its_files_kept() {
    let mut world = world();
    world.data.as_mut().expect("there").dbs_mut().remove(&DbUid::from("A"));
    check(world, "stop; done");
}

#[test]
fn t8_3_an_unacknowledged_boot_uuid_stops_the_instance() {
    let mut world = world();
    let keepers = world.data.as_mut().expect("there").keepers_mut();
    keepers.get_mut(&KeeperUid::from(ME)).expect("there").status.boot_uuid = "earlier".into();
    check(world, "stop; done");
}

#[test]
fn t8_4_and_5_lost_data_are_neither_made_nor_started() {
    check(world().local_db("", false).no_data(), "hold DataLost");
    check(world().local_db("", false).stopped(), "hold DataLost");
}

#[test]
fn t8_6_a_half_made_copy_is_made_again_in_the_same_pass() {
    let world = world()
        .standby()
        .own_db(|db| db.spec.init_mode = DbInitMode::Resync)
        .local_db("A", true)
        .stopped();
    check(
        world,
        "ask B; save 'A' initializing; clear; copy B; \
         start Standby following host-k2:5432; reload following host-k2:5432; record A 3; done",
    );
}

#[test]
fn t8_7_half_made_data_that_nobody_asks_for_are_removed() {
    check(world().local_db("A", true).stopped(), "clear; save ''; hold DataLost");
}

#[test]
fn t8_8_a_stopped_master_is_started_with_a_permit() {
    let mut world = world().own_db(|db| db.generation = 4).stopped();
    world.facts.slots = names(&["stolon_gone", "mine"]);
    check(
        world,
        "permit; start Master; wait; drop stolon_gone; create stolon_B; record A 4; done",
    );
}

#[test]
fn t8_10_a_running_standby_is_promoted() {
    let mut world = world();
    world.local.data = DataState::Present(DataRole::Standby);
    world.known.current = world.known.current.map(|sets| ServerConfig {
        upstream: Some(upstream("5432")),
        ..sets
    });
    check(world, "permit; promote; done");
}

#[test]
fn a_server_that_lets_nobody_in_is_left_running_configured_and_promoted() {
    let mut world = world();
    world.refuses = true;
    world.facts.slots.clear(); // that the slot is missing is not known
    check(world.clone(), "done");
    let changed = |world: World| {
        world.own_db(|db| {
            db.generation = 4;
            db.spec.pg_parameters = parameters(&[("work_mem", "8MB")]);
        })
    };
    check(changed(world.clone()), "reload; record A 4; done");
    let standby = changed(world.clone().standby());
    check(standby, "reload following host-k2:5432; record A 4; done");
    world.local.data = DataState::Present(DataRole::Standby);
    check(world, "permit; promote; done");
}

#[test]
fn t8_11_a_stopped_standby_starts_without_upstream_and_is_promoted() {
    let mut world = world().stopped();
    world.local.data = DataState::Present(DataRole::Standby);
    check(world, "permit; start Master; wait; permit; promote; done");
}

#[test]
fn t8_12_a_master_never_becomes_a_standby_in_place() {
    let mut running = world().standby();
    running.local.data = DataState::Present(DataRole::Master);
    check(running.clone(), "hold MasterCannotFollow");
    check(running.stopped(), "hold MasterCannotFollow");
}

#[test]
fn t8_13_a_missing_followed_db_changes_nothing() {
    let lost = |world: World| world.own_db(|db| db.spec.follow_config = Some(FollowConfig::internal("gone".into())));
    check(lost(world().standby()), "hold FollowedDbMissing");
    check(lost(world().standby().stopped()), "hold FollowedDbMissing");
    check(
        lost(world().standby().replaced_by_a2(DbInitMode::Resync)),
        "hold FollowedDbMissing",
    );
}

#[test]
fn t8_14_a_stopped_standby_is_recorded_even_if_not_ready() {
    let mut world = world().standby().own_db(|db| db.generation = 4).stopped();
    world.answers = false;
    check(world, "start Standby following host-k2:5432; record A 4; done");
}

#[test]
fn t8_15_a_moved_upstream_needs_one_reload() {
    let mut world = world().standby();
    let dbs = world.data.as_mut().expect("there").dbs_mut();
    dbs.get_mut(&DbUid::from("B")).expect("there").status.port = "5433".into();
    check(world, "reload following host-k2:5433; done");
}

#[test]
fn t8_17_to_20_what_has_diverged_is_copied() {
    let copied = "ask B; save 'A2' initializing; clear; copy B; start Standby following host-k2:5432; \
                  reload following host-k2:5432; record A2 1; done";
    let resync = || world().standby().replaced_by_a2(DbInitMode::Resync);
    check(resync().ends(EndState::ShutDown, 0x300_00a1), copied);
    check(resync().ends(EndState::Unclean, 0x300_0000), copied);
    check(resync().stopped(), copied);
    check(resync().no_data(), copied);
}

#[test]
fn an_old_master_that_stopped_in_order_follows_without_a_copy() {
    // keeper 6.7
    let mut world = world()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::ShutDown, 0x300_00a0);
    world.local.data = DataState::Present(DataRole::Master);
    check(
        world,
        "ask B; save 'A2' initializing; mark standby; start Standby following host-k2:5432; streams; \
         reload following host-k2:5432; record A2 1; done",
    );
}

#[test]
fn kept_data_that_do_not_stream_are_copied_over() {
    let kept = world()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::ShutDown, 0x300_00a0);
    let mut world = kept.failing("streams");
    assert!(
        world.pass().ends_with("streams; failed at streams"),
        "{:?}",
        world.trace
    );
    world.fails.clear();
    check(
        world,
        "stop; ask B; save 'A2' initializing; clear; copy B; \
         start Standby following host-k2:5432; reload following host-k2:5432; record A2 1; done",
    );
}

#[test]
fn nothing_is_destroyed_before_the_source_answers() {
    // keeper W10
    let mut world = world()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::Unclean, 0x300_0000);
    // Also what was tried in vain, or left half made by an earlier process, may be all that there is.
    for world in [
        world.clone(),
        world.clone().local_db("A2", true),
        world.clone().local_db("A", true),
    ] {
        let orders = world.orders();
        let (server, sets) = (ServerState::Down, world.sets());
        let seen = Observed {
            desired: &orders,
            local: &world.local,
            server: &server,
            config: sets.as_ref(),
            process: &world.known,
            copy: None,
        };
        let first = plan(&seen);
        assert_eq!(first.next, NextAction::ProbeSource(upstream("5432")));
        assert!(!first.steps.iter().any(Step::has_effect), "{:?}", first.steps);
    }
    world.running = true;
    assert!(
        world.pass().starts_with("stop; ask B; save 'A2' initializing; clear"),
        "{:?}",
        world.trace
    );
}

#[test]
fn a_source_that_is_another_instance_changes_nothing() {
    let resync = || {
        world()
            .standby()
            .replaced_by_a2(DbInitMode::Resync)
            .ends(EndState::Unclean, 0x300_0000)
    };
    let held = |mut world: World, expected: &str| {
        let before = world.local.clone();
        let told = world.pass();
        assert_eq!(told, format!("ask B; hold {expected}"));
        assert_eq!(world.local, before, "nothing is marked, nothing removed");
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
    // One that went on to a newer timeline has only not been reported yet.
    let mut newer = resync();
    newer.source.timeline = 3;
    assert!(newer.pass().contains("copy B"), "{:?}", newer.trace);
}

#[test]
fn a_place_that_is_not_ours_alone_stops_the_copy_before_anything_is_marked() {
    let mut world = world()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::Unclean, 0x300_0000);
    world.places = vec![ExternalDir {
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
    let before = world.local.clone();
    assert_eq!(world.pass(), "ask B; hold Obstacle(\"/x/ts\", UsedBySource)");
    assert_eq!(world.local, before);
    // Data that only need to follow leave it alone.
    let kept = world.clone().ends(EndState::ShutDown, 0x300_00a0).pass();
    assert!(kept.contains("mark standby"), "{kept}");
    world.places[0].found.is_source_dir = false;
    assert!(world.pass().contains("clear; copy B"), "{:?}", world.trace);
}

#[test]
fn a_file_system_too_small_for_the_copy_holds_it_before_anything_is_removed() {
    let mut world = world()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::Unclean, 0x300_0000);
    world.in_the_way = Some(("/d".into(), Obstacle::NoRoom { needed: 9, free: 6 }));
    let before = world.local.clone();
    let held = "hold Obstacle(\"/d\", NoRoom { needed: 9, free: 6 })";
    assert_eq!(world.pass(), format!("ask B; {held}"));
    assert_eq!(world.local, before);
}

#[test]
fn data_that_no_dbstate_claims_are_not_removed() {
    let held = "hold Obstacle(\"/d/x\", Unclaimed)";
    let unclaimed = |mut world: World| {
        world.local.unclaimed = Some("/d/x".into());
        world.local.data = DataState::Absent;
        world.local_db("", false).stopped()
    };
    let resync = world().standby().replaced_by_a2(DbInitMode::Resync);
    check(unclaimed(resync), &format!("ask B; {held}"));
    check(unclaimed(world().replaced_by_a2(DbInitMode::New)), held);
}

#[test]
fn failed_copies_wait_without_asking_the_source() {
    let mut world = world()
        .standby()
        .replaced_by_a2(DbInitMode::Resync)
        .ends(EndState::Unclean, 0x300_0000);
    world.known.copy_pause = Some(CopyPause {
        failures: 1,
        pause: std::time::Duration::from_secs(5),
    });
    check(
        world.clone().local_db("A2", true),
        "hold CopyFailed(CopyPause { failures: 1, pause: 5s })",
    );
    assert!(
        world.pass().contains("copy B"),
        "data that are whole may be kept, which costs the source nothing: {:?}",
        world.trace
    );
}

#[test]
fn t8_22_and_23_data_that_cannot_be_used_change_nothing() {
    for (reading, expected) in [
        (ClusterDataState::Unavailable, "hold StoreUnavailable"),
        (ClusterDataState::Absent, "hold NoClusterData"),
        (ClusterDataState::UnsupportedFormat(2), "hold UnsupportedFormat(2)"),
        (ClusterDataState::Unusable("x".into()), "hold Unusable(\"x\")"),
    ] {
        for mut world in [
            world(),
            world().stopped(),
            world().local_db("A", true),
            world().local_db("", false),
        ] {
            world.reading = Some(reading.clone());
            check(world, expected);
        }
    }
}

#[test]
fn t8_24_and_25_a_changed_parameter_is_reloaded_and_recorded_even_if_the_reload_fails() {
    let changed = || {
        world().own_db(|db| {
            db.generation = 4;
            db.spec.pg_parameters = parameters(&[("work_mem", "8MB")]);
        })
    };
    let mut world = changed();
    assert_eq!(world.pass(), "reload; record A 4; done");
    let change = ParameterChange {
        name: "work_mem".into(),
        old: Some("4MB".into()),
        new: Some("8MB".into()),
    };
    let told = [
        LogMessage::RoleMaster,
        LogMessage::AlreadyMaster,
        LogMessage::ParameterChanged(change),
        LogMessage::ParametersChanged,
    ];
    assert_eq!(
        world.lines.iter().filter(|line| told.contains(line)).count(),
        5,
        "{:?}",
        world.lines
    );
    assert_eq!(
        world.lines.last(),
        Some(&LogMessage::HbaUnchanged),
        "keeper 15.0 rule 4: the summaries come last"
    );
    let mut failing = changed().failing("reload");
    assert_eq!(failing.pass(), "reload; record A 4; done");
    assert_eq!(failing.pass(), "reload; done", "what was not made known is tried again");
}

#[test]
fn t8_26_a_failed_promotion_is_tried_again() {
    let mut world = world().own_db(|db| db.generation = 4).failing("promote");
    world.local.data = DataState::Present(DataRole::Standby);
    assert_eq!(world.pass(), "permit; promote; failed at promote");
    assert_eq!(world.local.db.generation, 3);
    world.fails.clear();
    check(world, "permit; promote; record A 4; done");
}

#[test]
fn t8_30_a_pending_restart_is_done_only_where_it_is_wanted() {
    let mut world = world();
    world.facts.restart_pending = true;
    assert_eq!(world.pass(), "done");
    check(
        world.cluster_spec(|spec| spec.automatic_pg_restart = Some(true)),
        "permit; restart; done",
    );
}

#[test]
fn slots_of_standbys_come_before_additional_ones_and_none_holds_back_the_rest() {
    let mut world = world().own_db(|db| {
        db.spec.additional_replication_slots = Some(vec!["a".into(), "b".into(), "a".into()]);
        db.spec.followers = Some(vec!["Z".into(), "A".into()]);
    });
    world.facts.slots = names(&["stolon_old", "by_hand"]);
    world.fails = vec!["create stolon_Z", "create stolon_a", "drop"];
    assert_eq!(
        world.pass(),
        "drop stolon_old; create stolon_Z; create stolon_a; create stolon_b; done"
    );
}

#[test]
fn an_instance_restarts_when_it_is_its_turn_unless_its_replay_stands_still() {
    let mut world = world().cluster_spec(|spec| spec.automatic_pg_restart = Some(true));
    world.facts.restart_pending = true;
    world.facts.turn = RestartTurn::After("k2".into());
    check(world.clone(), "done");
    world.facts.turn = RestartTurn::Never;
    check(world.clone(), "done");
    world.facts.turn = RestartTurn::Now;
    check(world.clone(), "permit; restart; done");

    let mut world = world.standby();
    world.facts.restart_pending = true;
    world.facts.turn = RestartTurn::After("k2".into());
    world.facts.replay_paused = true;
    assert!(world.pass().contains("restart"), "{:?}", world.trace);
}

#[test]
fn one_set_of_parameters_has_one_fingerprint_everywhere() {
    let target = |world: World| match world.orders().goal {
        Goal::Run(target) => *target,
        other => panic!("{other:?}"),
    };
    let one = target(world());
    let mut other = one.clone();
    (other.db, other.role) = ("B".into(), TargetRole::NoUpstream);
    assert_eq!(fingerprint(&one), fingerprint(&other));
    other.spec.pg_parameters.insert("a".into(), "1".into());
    assert_ne!(fingerprint(&one), fingerprint(&other));
}

#[test]
fn room_for_slots_that_nobody_needs_yet_is_worth_no_restart() {
    let automatic = |can_wait| {
        let mut world = world().cluster_spec(|spec| spec.automatic_pg_restart = Some(true));
        world.facts.restart_pending = true;
        world.facts.restart_can_wait = can_wait;
        world
    };
    check(automatic(true), "done");
    check(automatic(false), "permit; restart; done");

    // Nor has anybody to wait for the restart.
    let mut waits = automatic(true);
    waits.pass();
    assert_eq!(waits.noted, Some(RestartNeed::CanWait));
}

#[test]
fn a_server_is_short_of_slots_when_what_is_wanted_and_what_others_made_does_not_fit() {
    let world = world().own_db(|db| db.spec.additional_replication_slots = Some(vec!["a".into(), "b".into()]));
    let Goal::Run(target) = world.orders().goal else {
        panic!("the world has a db")
    };
    // B follows
    let existing = names(&["by_hand", "stolon_old", "stolon_B"]);
    assert!(is_short_of_slots(&target, &existing, 3));
    assert!(!is_short_of_slots(&target, &existing, 4));
}

#[test]
fn a_standby_whose_replay_is_stuck_is_restarted_whatever_the_spec_says() {
    // keeper 8.7 (a)
    let mut world = world().standby();
    world.facts = ServerFacts {
        restart_pending: true,
        replay_paused: true,
        ..ServerFacts::default()
    };
    check(world, "restart; done");
}

#[test]
fn t8_31_an_old_master_is_kept_down_and_says_so_once() {
    check(world().status_master("B").stopped(), "say A stopped; done");
    check(world().status_master("B"), "stop; say A stopped; done");
    // Data that belong to another db say nothing about this one.
    check(world().status_master("B").local_db("", false).no_data(), "done");
}

#[test]
fn a_new_cluster_is_remembered_before_anything_else() {
    let mut world = world();
    world.local.cluster = ClusterUid::from("earlier");
    check(world.clone(), "save cluster c1; done");
    world.data.as_mut().expect("there").keepers_mut().clear();
    check(world, "save cluster c1; hold NotListed");
}

#[test]
fn init_mode_new_makes_starts_and_records() {
    let fresh = |previous| {
        let world = world().replaced_by_a2(DbInitMode::New).local_db("", false).no_data();
        world.own_db(|db| {
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
    assert!(!without.pass().contains("read parameters"));
}

#[test]
fn a_permit_refused_after_initialisation_does_not_throw_the_data_away() {
    let mut world = world()
        .replaced_by_a2(DbInitMode::New)
        .local_db("", false)
        .no_data()
        .failing("permit");
    assert!(world.pass().ends_with("permit; failed at permit"));
    world.fails.clear();
    world.facts.slots = names(&["stolon_B"]);
    check(world, "permit; start Master; wait; reload; record A2 1; done");
}

#[test]
fn what_is_not_supported_yet_leaves_the_instance_as_it_is() {
    let unsupported: [World; 4] = [
        world().cluster_spec(|spec| spec.synchronous_replication = Some(true)),
        world().own_db(|db| db.spec.synchronous_replication = true),
        world().replaced_by_a2(DbInitMode::Pitr),
        world().standby().own_db(|db| {
            db.spec.follow_config = Some(FollowConfig {
                kind: FollowType::External,
                ..FollowConfig::default()
            });
        }),
    ];
    for world in unsupported {
        for mut world in [world.clone(), world.stopped()] {
            let told = world.pass();
            assert!(told.starts_with("hold NotSupported"), "{told}");
        }
    }
}

#[test]
fn only_parameters_and_hba_lines_may_wait_for_more_of_their_kind() {
    let before = world().orders();
    let parameters_only = world().own_db(|db| {
        db.generation = 4;
        db.spec.pg_parameters = parameters(&[("work_mem", "8MB")]);
        db.spec.pg_hba = Some(Vec::new());
    });
    assert!(is_only_configuration(&before, &parameters_only.orders()));
    assert!(!is_only_configuration(&before, &before), "nothing changed");
    let followers = world().own_db(|db| db.spec.followers = Some(Vec::new()));
    assert!(!is_only_configuration(&before, &followers.orders()));
    assert!(!is_only_configuration(&before, &world().status_master("B").orders()));
}

#[test]
fn i1_i2_i4_i5_hold_in_every_situation() {
    let roles = [
        DataState::Absent,
        DataState::Present(DataRole::Master),
        DataState::Present(DataRole::Standby),
    ];
    let modes = [DbInitMode::None, DbInitMode::New, DbInitMode::Resync];
    let uids = ["", "A", "other"];
    let mut seen = 0;
    for data in roles {
        for mode in &modes {
            for uid in uids {
                for (initializing, running, standby, master) in
                    (0..16).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0))
                {
                    let mut world = if standby { world().standby() } else { world() };
                    world = world
                        .own_db(|db| db.spec.init_mode = mode.clone())
                        .local_db(uid, initializing);
                    if !master && !standby {
                        world = world.status_master("B");
                    }
                    world.local.data = data;
                    world.running = running && data != DataState::Absent;
                    let (before, was_running) = (world.local.clone(), world.running);
                    let told = world.pass(); // `act` asserts I4
                    seen += 1;
                    let starts_master = told.contains("start Master") || told.contains("promote");
                    if starts_master {
                        assert!(!standby && master, "I1, I20: {before:?} {told}");
                        assert!(told.contains("permit"), "X-1.3: {told}");
                    }
                    if uid != "A" && *mode == DbInitMode::None && !(initializing) {
                        assert!(!told.contains("start") && !told.contains("clear"), "I5: {told}");
                    }
                    if before.data == DataState::Present(DataRole::Master) && uid == "A" && !initializing && standby {
                        assert!(!told.contains("start"), "I3: {told}");
                        assert_eq!(world.running, was_running, "left as it is");
                    }
                }
            }
        }
    }
    assert_eq!(seen, 3 * 3 * 3 * 16);
}

#[test]
fn a_checked_document_always_has_a_cluster() {
    let checked: Result<Checked, _> = ClusterData::default().check();
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
