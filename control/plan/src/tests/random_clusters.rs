//! Random clusters: cluster data, reports and memories of every shape, in a few rounds with reports that are lost, late
//! or repeated. The planner checks the invariants of sentinel 17 in every plan; what holds over several rounds is
//! checked here.
//!
//! The number of cases is small by default; `PLAN_CASES=1000000` asks for more (`make test-plan`). A failure names its
//! seed; `PLAN_SEED=n` runs that case alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cluster::{NOW, Setup, base, db_uid, keeper_of, state_of, synchronous, uids};
use super::switchover;
use crate::{Condition, Note, Plan, PlanError, RequestFate, Urgency};
use model::{
    ClusterData, Db, DbInitMode, DbUid, FailoverRequest, FollowConfig, KeeperOrder, Lsn, OrderKind,
    PostgresBinaryVersion, Role, Stopped, SwitchoverRequest, TimelineHistory, Timestamp,
};

const CASES: u64 = 3_000;
const ROUNDS: usize = 4;

/// What is noted when an info only repeats another one in a settled cluster.
const REPETITION: &str = "an info needs no round";

/// Decisions that are among the cases, by their notes.
const REACHED: [&str; 30] = [
    REPETITION,
    "a standby becomes electable",
    "electing db as the new master",
    "no eligible masters",
    "ignoring keeper since its db cannot be elected",
    "ignoring an operator's request for a failover",
    "closing proxies before electing the db that an operator asked for",
    "electing the db that an operator asked for: what it lacks is lost",
    "master db stopped cleanly and its keeper left",
    "master db stopped and its keeper left",
    "cannot choose synchronous standby since there's not match between the possible masters and the usable synchronousStandbys",
    "waiting for proxies to close before another election",
    "removing old master db",
    "keeping former master db as a fallback",
    "master announced to the proxies",
    "removing invalid db",
    "added new standby db",
    "synchronousStandbys changed",
    "one of the new synchronousStandbys is not in good state",
    "removing failed synchronous standby",
    "removing synchronous standby in excess",
    "adding previous synchronous standby to reach MinSynchronousStandbys",
    "waiting for new defined synchronous standbys to be in sync",
    "the switchover waits",
    "refusing a switchover",
    "giving up a switchover",
    "ordering the keeper of the master",
    "deleting the order of a keeper",
    "closing proxies for a switchover",
    "master db stopped cleanly, as a switchover ordered",
];

/// Pseudo-random numbers (SplitMix64): a seed always makes the same case.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// Some of these.
    fn subset(&mut self, of: &[String]) -> Vec<String> {
        of.iter().filter(|_| self.once_in(2)).cloned().collect()
    }
}

/// Names of dbs as a list.
fn list(names: &[String]) -> Option<Vec<DbUid>> {
    uids(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Returns a random cluster in phase normal: up to five keepers, most of them well.
fn cluster(random: &mut Random) -> Setup {
    let dbs = u32::try_from(1 + random.below(4)).unwrap();
    let mut setup = base(dbs);
    if random.once_in(3) {
        setup.keeper(&format!("keeper{}", dbs + 1));
    }
    spec(random, &mut setup);
    let names: Vec<String> = (1..=dbs).map(|number| format!("db{number}")).collect();
    let master = random.pick(&names).clone();
    setup.cluster().status.master = db_uid(&master);
    for name in &names {
        role(random, &mut setup, name, &master);
        status(random, &mut setup, name);
    }
    let others: Vec<String> = names.iter().filter(|name| **name != master).cloned().collect();
    setup.db(&master).spec.followers = list(&others);
    for name in &names {
        // a former master keeps its sets
        if *name == master || setup.db(name).spec.role == Role::Master {
            sets(random, &mut setup, name, &names);
        }
    }
    proxies(random, &mut setup, &master);
    setup
}

/// Returns a steady cluster in which a switchover has reached some step.
fn under_way(random: &mut Random) -> Setup {
    let dbs = u32::try_from(2 + random.below(2)).unwrap();
    let cluster = if random.once_in(2) {
        base(dbs)
    } else {
        synchronous(dbs, &["db2"], &["db2"])
    };
    let to = random.once_in(2).then_some("keeper2");
    let steps: [fn(Setup) -> Setup; 5] = [
        switchover::checkpointed,
        switchover::closed,
        switchover::ordered,
        switchover::stopped,
        switchover::stopped,
    ];
    let setup = random.pick(&steps)(switchover::ask(cluster, to));
    switchover::received(setup, "db2", 1_050 + 50 * random.below(3))
}

fn spec(random: &mut Random, setup: &mut Setup) {
    let (min, max) = *random.pick(&[(0, 1), (1, 1), (1, 2), (2, 2), (0, 3), (2, 3)]);
    let spec = setup.spec();
    spec.synchronous_replication = Some(!random.once_in(4));
    spec.min_synchronous_standbys = Some(min);
    spec.max_synchronous_standbys = Some(max);
    spec.max_standbys_per_sender = Some(u16::try_from(1 + random.below(4)).unwrap());
    spec.max_standby_lag = Some(u32::try_from(random.below(3) * 100).unwrap());
}

fn role(random: &mut Random, setup: &mut Setup, name: &str, master: &str) {
    let is_former = random.once_in(6);
    let db = setup.db(name);
    let spec = &mut db.spec;
    if name == master || is_former {
        (spec.role, spec.follow_config) = (Role::Master, None);
    } else {
        spec.role = Role::Standby;
        spec.follow_config = Some(FollowConfig::internal(db_uid(master)));
    }
    spec.followers = Some(Vec::new());
    if random.once_in(5) {
        spec.init_mode = DbInitMode::Resync;
    }
}

fn status(random: &mut Random, setup: &mut Setup, name: &str) {
    let timeline = *random.pick(&[1, 1, 1, 2, 2, 3]);
    setup.at(name, timeline, 900 + 50 * random.below(6));
    let db = setup.db(name);
    db.generation = i64::try_from(1 + random.below(3)).unwrap();
    db.status.current_generation = if random.once_in(4) {
        db.generation - 1
    } else {
        db.generation
    };
    db.status.timelines_history = (1..timeline)
        .map(|timeline_id| TimelineHistory {
            timeline_id,
            switch_point: Lsn(900 + 50 * random.below(3)),
            reason: String::new(),
        })
        .collect();
    if random.once_in(12) {
        db.status.system_id = "other".to_owned();
    }
    if random.once_in(4) {
        setup.unhealthy(name);
    }
    let asked = NOW.before(Duration::from_secs(random.below(60)));
    if random.once_in(2) {
        let generation = setup.db(name).generation;
        let pending = crate::memory::PendingGeneration {
            generation,
            since: asked,
        };
        setup.memory.pending.insert(db_uid(name), pending);
    }
    let keeper = keeper_of(name);
    if random.once_in(6) {
        setup.silent(keeper.as_str());
    }
    let status = setup.keeper_status(keeper.as_str());
    let flag = |random: &mut Random| *random.pick(&[None, Some(true), Some(true), Some(false)]);
    (status.can_be_master, status.can_be_synchronous_replica) = (flag(random), flag(random));
    status.force_fail = random.once_in(20);
    if random.once_in(20) {
        status.postgres_binary_version = PostgresBinaryVersion { major: 9, minor: 5 };
    }
}

fn sets(random: &mut Random, setup: &mut Setup, name: &str, names: &[String]) {
    if random.once_in(5) {
        return;
    }
    let others: Vec<String> = names.iter().filter(|other| *other != name).cloned().collect();
    let mut wanted = random.subset(&others);
    if random.once_in(10) {
        wanted.push("gone".to_owned());
    }
    let known = if random.once_in(2) {
        wanted.clone()
    } else {
        random.subset(&others)
    };
    let external = if wanted.is_empty() {
        vec!["stolonfakestandby".to_owned()]
    } else {
        Vec::new()
    };
    let db = setup.db(name);
    db.spec.synchronous_replication = true;
    db.spec.synchronous_standbys = list(&wanted);
    db.spec.external_synchronous_standbys = Some(external);
    db.status.synchronous_standbys = list(&known);
}

fn proxies(random: &mut Random, setup: &mut Setup, master: &str) {
    let section = setup.proxy();
    section.generation = 5;
    section.spec.master_db_uid = if random.once_in(3) { db_uid("") } else { db_uid(master) };
    for name in ["p1", "p2"] {
        if random.once_in(2) {
            setup.proxy_seen(name, if random.once_in(2) { 5 } else { 4 });
        }
    }
}

/// Publishes the next reports: some are lost, some are those of before, the rest follow the statuses with some
/// progress.
fn reports(random: &mut Random, setup: &mut Setup, round: usize) {
    setup.derive_infos();
    let keepers: Vec<_> = setup.seen.keepers.keys().cloned().collect();
    for keeper in keepers {
        if random.once_in(12) {
            setup.seen.keepers.remove(&keeper);
            continue;
        }
        if random.once_in(3) {
            continue;
        }
        let db = setup.data.db_of_keeper(&keeper).map(|(_, db)| db.clone());
        let observed = setup.seen.keepers.get_mut(&keeper).unwrap();
        observed.revision += 1;
        let info = &mut observed.info;
        info.info_uid = format!("{keeper}-{round}").as_str().into();
        info.liveness_key = random.once_in(2);
        if info.liveness_key && !random.once_in(6) {
            let boot = info.boot_uuid.clone();
            setup.seen.liveness_keys.insert(keeper.clone(), boot);
        }
        let Some(db) = db else { continue };
        let late = random.once_in(4);
        let mut state = state_of(&db);
        if !late {
            state.generation = db.generation;
            state.healthy = !random.once_in(6);
            state.xlog_pos = Lsn(db.status.xlog_pos.0 + 50 * random.below(3));
        }
        let listed: Vec<String> = setup.data.dbs().keys().map(ToString::to_string).collect();
        state.synchronous_standbys = match random.below(4) {
            0 => None,
            1 => db.spec.synchronous_standbys.clone(),
            _ => list(&random.subset(&listed)),
        };
        state.sync_marked = random.once_in(2);
        info.postgres_state = Some(state);
        info.leaving = random.once_in(8);
        info.orders = !random.once_in(8);
        let id = || switchover::ID.to_owned();
        info.checkpointed = if random.once_in(2) { id() } else { String::new() };
        for uid in setup.data.dbs().keys() {
            if random.once_in(2) {
                info.checkpoint_received.insert(uid.clone(), !random.once_in(4));
            }
        }
        info.stopping = if random.once_in(12) { id() } else { String::new() };
        info.stopped = random.once_in(8).then(|| Stopped {
            clean: random.once_in(2),
            lsn: Some(Lsn(900 + 50 * random.below(6))),
            timeline_id: *random.pick(&[1, 1, 2]),
        });
        if random.once_in(20) {
            info.data_lost = db.uid.clone();
        }
    }
}

/// An operator asks for a failover to some keeper, mostly in place of the present master; or the request expires.
fn request(random: &mut Random, setup: &mut Setup, round: usize) {
    if random.once_in(4) {
        setup.seen.failover = None;
    }
    if setup.seen.failover.is_some() || !random.once_in(3) {
        return;
    }
    let master = setup.data.master_uid().cloned().unwrap_or_default();
    let request = FailoverRequest {
        id: round.to_string(),
        to: keeper_of(&format!("db{}", 1 + random.below(5))),
        master: if random.once_in(8) { db_uid("db1") } else { master },
        accept_data_loss: !random.once_in(12),
        requested_at: Timestamp::default(),
    };
    setup.seen.failover = Some((request, 100 + round as i64));
}

/// An operator asks for a switchover, mostly in a cluster in which one is possible, or the request expires; the leader
/// before has given some orders.
fn switchover(random: &mut Random, setup: &mut Setup, round: usize) {
    if random.once_in(6) {
        setup.seen.switchover = None;
    }
    if setup.seen.switchover.is_none() && random.once_in(4) {
        let to = random
            .once_in(2)
            .then(|| keeper_of(&format!("db{}", 1 + random.below(5))));
        let request = SwitchoverRequest {
            id: switchover::ID.to_owned(),
            to,
            requested_at: Timestamp::default(),
        };
        setup.seen.switchover = Some((request, 200 + round as i64));
    }
    if !random.once_in(4) {
        return;
    }
    let master = setup.data.master_uid().cloned().unwrap_or_default();
    let of_master = setup.data.dbs().get(&master).map(|db| db.spec.keeper_uid.clone());
    let keeper = of_master.filter(|_| !random.once_in(6));
    let order = KeeperOrder {
        switchover: if random.once_in(8) { "s0" } else { switchover::ID }.to_owned(),
        db: if random.once_in(8) { db_uid("db1") } else { master },
        order: random
            .pick(&[OrderKind::Checkpoint, OrderKind::Stop, OrderKind::Stop, "other".into()])
            .clone(),
    };
    let order = (!random.once_in(12)).then_some(order);
    let keeper = keeper.unwrap_or_else(|| keeper_of("db2"));
    switchover::put(setup, keeper.as_str(), order, !random.once_in(4));
}

/// The standbys that are electable in place of the master, and the master.
fn electable(data: &ClusterData) -> (DbUid, BTreeSet<DbUid>) {
    let master = data.master_uid().cloned().unwrap_or_default();
    let set = |list: &Option<Vec<DbUid>>| list.iter().flatten().cloned().collect::<BTreeSet<_>>();
    let found = data.dbs().get(&master).map_or_else(BTreeSet::new, |db| {
        let (wanted, known) = (&db.spec.synchronous_standbys, &db.status.synchronous_standbys);
        set(wanted).intersection(&set(known)).cloned().collect()
    });
    (master, found)
}

/// Checks what the planner's own check does not: whole histories.
#[derive(Default)]
struct Historian {
    /// Every db that was announced to the proxies, and the masters that were replaced since.
    replaced_since_announced: BTreeSet<DbUid>,
    generations: BTreeMap<DbUid, i64>,
}

impl Historian {
    fn watch(&mut self, before: &ClusterData, plan: &Plan) {
        let next = &plan.next;
        let announced = |data: &ClusterData| data.proxy.clone().unwrap_or_default().spec.master_db_uid;
        for (uid, db) in next.dbs() {
            let known = self.generations.insert(uid.clone(), db.generation);
            assert!(known.is_none_or(|known| known <= db.generation), "{uid} goes back");
        }
        let ((old, was_electable), (new, _)) = (electable(before), electable(next));
        if !announced(next).is_empty() {
            self.replaced_since_announced.clear();
        }
        if old != new {
            let replaced = &before.dbs()[&old];
            let back_to = self.replaced_since_announced.contains(&new);
            let by_stop = plan
                .notes
                .iter()
                .any(|note| matches!(note, Note::MasterLeft { .. } | Note::MasterStoppedByOrder { .. }));
            let by_request = plan.conditions.iter().any(deletes_request);
            let is_safe = was_electable.contains(&new) || by_stop || back_to || is_former(before, &new) || by_request;
            assert!(
                is_safe || !replaced.spec.synchronous_replication,
                "{new} replaces {old} and was not in sync"
            );
            self.replaced_since_announced.insert(old);
        }
    }
}

/// Whether a condition is about a request that the write completes.
fn deletes_request(condition: &Condition) -> bool {
    matches!(
        condition,
        Condition::FailoverRequest {
            fate: RequestFate::Deleted,
            ..
        }
    )
}

fn is_former(data: &ClusterData, uid: &DbUid) -> bool {
    data.dbs().get(uid).is_some_and(Db::is_master_type)
}

/// Runs a case: a few rounds, of which some are not written. Returns what the plans noted.
fn run(seed: u64) -> BTreeSet<&'static str> {
    let mut noted = BTreeSet::new();
    let random = &mut Random(seed);
    let mut setup = if random.once_in(4) {
        under_way(random)
    } else {
        cluster(random)
    };
    setup.leadership = 1 + u64::from(random.once_in(10));
    let mut historian = Historian::default();
    for round in 0..ROUNDS {
        reports(random, &mut setup, round);
        request(random, &mut setup, round);
        switchover(random, &mut setup, round);
        // a removed db and a new one never have the same uid
        setup.last_uid = 100 * (round + 1);
        setup.now = setup.now + Duration::from_millis(random.below(30_000));
        let plan = match setup.plan() {
            Ok(plan) => plan,
            Err(error @ PlanError::BrokenInvariants(_)) => panic!("round {round}: {error}"),
            Err(PlanError::Undecidable(_) | PlanError::NoKeepers | PlanError::ExistingKeeperMissing { .. }) => {
                return noted;
            }
        };
        noted.extend(plan.notes.iter().map(Note::message));
        explains_every_db(&setup.data, &plan);
        if !electable(&plan.next).1.is_subset(&electable(&setup.data).1) {
            noted.insert("a standby becomes electable");
        }
        // a plan whose write is lost; the memory of before is kept
        if random.once_in(5) {
            continue;
        }
        historian.watch(&setup.data, &plan);
        if plan.conditions.iter().any(deletes_request) {
            setup.seen.failover = None;
        }
        switchover::apply(&mut setup, &plan);
        setup.data = plan.next.clone();
        setup.memory = plan.memory;
    }
    settles(&mut setup);
    if repetitions_decide_nothing(random, &mut setup) {
        noted.insert(REPETITION);
    }
    noted
}

/// Checks that a plan that finds no eligible master notes a reason for each db.
fn explains_every_db(data: &ClusterData, plan: &Plan) {
    if !plan.notes.contains(&Note::NoEligibleMasters {}) {
        return;
    }
    let others = data.dbs().keys().filter(|uid| Some(*uid) != data.master_uid());
    for uid in others {
        let is_explained = plan.notes.iter().any(|note| ineligible_db(note) == Some(uid));
        assert!(is_explained, "no reason for {uid}: {:?}", plan.notes);
    }
}

/// The db that cannot be elected for the reason in this note.
fn ineligible_db(note: &Note) -> Option<&DbUid> {
    match note {
        Note::NotEligible { db, .. }
        | Note::TooFarBehind { db, .. }
        | Note::MissingWal { db, .. }
        | Note::MayNotBeMaster { db, .. }
        | Note::CandidateLeaving { db, .. } => Some(db),
        _ => None,
    }
}

/// Checks that infos which need no round would have decided nothing in one (sentinel E-1). Returns whether there are any.
fn repetitions_decide_nothing(random: &mut Random, setup: &mut Setup) -> bool {
    let Ok(settled) = setup.plan() else { return false };
    let routine = settled.routine_infos();
    (setup.data, setup.memory) = (settled.next, settled.memory);
    let mut is_repeated = false;
    for observed in setup.seen.keepers.values_mut() {
        let mut info = observed.info.clone();
        info.info_uid = "repeated".into();
        if let Some(state) = &mut info.postgres_state {
            state.xlog_pos = Lsn(700 + 50 * random.below(12));
        }
        if routine.is_keeper_repetition(&observed.key, &info) {
            (observed.info, observed.revision) = (info, observed.revision + 1);
            is_repeated = true;
        }
    }
    for observed in setup.seen.proxies.values_mut() {
        let mut info = observed.info.clone();
        info.info_uid = "repeated".into();
        if routine.is_proxy_repetition(&observed.key, &info) {
            (observed.info, observed.revision) = (info, observed.revision + 1);
            is_repeated = true;
        }
    }
    if is_repeated {
        let plan = setup.plan().unwrap();
        assert_eq!((plan.urgency, &plan.notes), (Urgency::Periodic, &Vec::new()));
    }
    is_repeated
}

/// Checks that the same reports, read again and again, stop to cause decisions.
fn settles(setup: &mut Setup) {
    for round in 0..8 {
        setup.last_uid = 1_000 + 100 * round;
        let Ok(plan) = setup.plan() else { return };
        if plan.urgency == Urgency::Periodic && plan.notes == setup.plan().unwrap().notes {
            return;
        }
        if plan.conditions.iter().any(deletes_request) {
            setup.seen.failover = None;
        }
        switchover::apply(setup, &plan);
        setup.data = plan.next.clone();
        setup.memory = plan.memory;
    }
    panic!("it does not settle");
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

#[test]
fn no_plan_for_any_cluster_breaks_an_invariant() {
    if let Some(seed) = number("PLAN_SEED") {
        run(seed);
        return;
    }
    let mut noted = BTreeSet::new();
    for seed in 0..number("PLAN_CASES").unwrap_or(CASES) {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(notes) => noted.extend(notes),
            Err(_) => panic!("run it alone with PLAN_SEED={seed}"),
        }
    }
    // the cases reach what they are about
    for message in REACHED {
        assert!(noted.contains(message), "never: {message}");
    }
}
