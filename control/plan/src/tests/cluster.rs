//! Builders of clusters for the planner's tests: what sentinel 15.1 calls the base, with infos that match the statuses;
//! and the checks of what is planned for them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::describe::{describe, details};
use crate::memory::{PendingGeneration, Stall};
use crate::{Entropy, Memory, Observations, Observed, Plan, PlanError, PlanInput, Urgency, plan};
use base::clock::Boottime;
use model::{
    CheckedClusterData, ClusterData, ClusterSpec, ClusterUid, Db, DbInitMode, DbSpec, DbStatus, DbUid, FollowConfig,
    GoDuration, InitMode, Keeper, KeeperInfo, KeeperStatus, KeeperUid, Lsn, Phase, PostgresState, ProxyInfo, ProxyUid,
    Role, Stopped, TimelineHistory, Timestamp,
};

pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const NOW: Boottime = Boottime::from_nanos(10_000 * 3_600 * 1_000_000_000);
pub(super) const WALL: Timestamp = Timestamp::from_unix_nanos(1_700_000_000_000_000_000);
/// The leadership of the tests. The memory holds it, so that rounds are not first runs.
pub(super) const LEADERSHIP: u64 = 1;

/// Rounds in which the same observations settle.
const ROUNDS_MAX: usize = 4;

/// A cluster with everything that a sentinel has read and remembers.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) data: ClusterData,
    pub(super) seen: Observations,
    pub(super) memory: Memory,
    pub(super) now: Boottime,
    pub(super) leadership: u64,
    /// Infos are derived from the statuses before each plan, unless a test sets them itself.
    pub(super) infos_follow: bool,
    /// New dbs have larger numbers than this, and than the number of dbs.
    pub(super) last_uid: usize,
}

pub(super) fn db_uid(uid: &str) -> DbUid {
    DbUid::from(uid)
}

pub(super) fn keeper_of(db: &str) -> KeeperUid {
    KeeperUid::from(db.replace("db", "keeper"))
}

/// The spec of sentinel 15.1, all defaults.
pub(super) fn spec() -> ClusterSpec {
    ClusterSpec {
        init_mode: Some(InitMode::New),
        ..ClusterSpec::default()
    }
}

/// Phase initializing, without keepers.
pub(super) fn initializing() -> Setup {
    let data = ClusterData::initial(ClusterUid::from("c1"), WALL, spec());
    let memory = Memory::for_leadership(LEADERSHIP, crate::History::default());
    Setup {
        data,
        seen: Observations::default(),
        memory,
        now: NOW,
        leadership: LEADERSHIP,
        infos_follow: true,
        last_uid: 0,
    }
}

/// The base of sentinel 15.1: db1 is master, the others follow; all healthy, converged, announced to the proxies.
pub(super) fn base(dbs: u32) -> Setup {
    let mut setup = initializing();
    setup.cluster().status.phase = Phase::Normal;
    setup.cluster().status.master = db_uid("db1");
    for number in 1..=dbs {
        let uid = db_uid(&format!("db{number}"));
        setup.keeper(&format!("keeper{number}"));
        let mut spec = DbSpec {
            keeper_uid: keeper_of(uid.as_str()),
            request_timeout: GoDuration::from_secs(10),
            max_standbys: 20,
            additional_wal_senders: 5,
            init_mode: DbInitMode::None,
            role: Role::Master,
            followers: Some((2..=dbs).map(|number| db_uid(&format!("db{number}"))).collect()),
            ..DbSpec::default()
        };
        if number > 1 {
            spec.role = Role::Standby;
            spec.followers = Some(Vec::new());
            spec.follow_config = Some(FollowConfig::internal(db_uid("db1")));
        }
        let status = DbStatus {
            healthy: true,
            current_generation: 1,
            ..DbStatus::default()
        };
        setup.data.dbs_mut().insert(
            uid.clone(),
            Db {
                uid,
                generation: 1,
                spec,
                status,
                ..Db::default()
            },
        );
    }
    let proxy = setup.proxy();
    proxy.generation = 1;
    proxy.spec.master_db_uid = db_uid("db1");
    setup
}

/// The base with synchronous replication: db1 waits for these standbys, which are known to be in sync.
pub(super) fn synchronous(dbs: u32, wanted: &[&str], known: &[&str]) -> Setup {
    let mut setup = base(dbs);
    setup.spec().synchronous_replication = Some(true);
    let master = setup.db("db1");
    master.spec.synchronous_replication = true;
    master.spec.synchronous_standbys = uids(wanted);
    master.spec.external_synchronous_standbys = Some(Vec::new());
    master.status.synchronous_standbys = uids(known);
    if wanted.is_empty() {
        master.spec.external_synchronous_standbys = Some(vec!["stolonfakestandby".to_owned()]);
    }
    setup
}

pub(super) fn uids(names: &[&str]) -> Option<Vec<DbUid>> {
    Some(names.iter().copied().map(DbUid::from).collect())
}

/// The base after an election of db2 (R5).
pub(super) fn db2_elected(wanted: &mut Setup) {
    wanted.cluster().status.master = db_uid("db2");
    wanted.db("db1").spec.followers = uids(&[]);
    wanted.db("db1").generation += 1;
    wanted.db("db2").spec.role = Role::Master;
    wanted.db("db2").spec.follow_config = None;
    wanted.db("db2").generation += 1;
    wanted.proxy().generation += 1;
    wanted.proxy().spec.master_db_uid = db_uid("");
}

impl Setup {
    pub(super) fn cluster(&mut self) -> &mut model::Cluster {
        self.data.cluster.as_mut().unwrap()
    }

    pub(super) fn spec(&mut self) -> &mut ClusterSpec {
        self.cluster().spec.as_mut().unwrap()
    }

    pub(super) fn proxy(&mut self) -> &mut model::ProxySection {
        self.data.proxy.get_or_insert_default()
    }

    /// Adds a healthy keeper without a db.
    pub(super) fn keeper(&mut self, uid: &str) -> &mut Keeper {
        let uid = KeeperUid::from(uid);
        let status = KeeperStatus {
            healthy: true,
            last_healthy_time: WALL,
            ..KeeperStatus::default()
        };
        let keeper = Keeper {
            uid: uid.clone(),
            generation: 1,
            status,
            ..Keeper::default()
        };
        self.data.keepers_mut().entry(uid).or_insert(keeper)
    }

    pub(super) fn db(&mut self, uid: &str) -> &mut Db {
        self.data.dbs_mut().get_mut(uid).unwrap()
    }

    /// Sets the timeline and position of a db.
    pub(super) fn at(&mut self, uid: &str, timeline: u64, position: u64) -> &mut Self {
        let status = &mut self.db(uid).status;
        (status.timeline_id, status.xlog_pos) = (timeline, Lsn(position));
        self
    }

    /// Makes a db unhealthy, since long ago.
    pub(super) fn unhealthy(&mut self, uid: &str) -> &mut Self {
        self.db(uid).status.healthy = false;
        self.memory.db_errors.insert(db_uid(uid), NOW.before(HOUR * 1_000));
        self
    }

    /// Makes a keeper silent, since long ago.
    pub(super) fn silent(&mut self, keeper: &str) -> &mut Self {
        self.keeper(keeper).status.healthy = false;
        self
    }

    /// Makes a keeper silent since before the time after which keepers without a db are removed.
    pub(super) fn dead(&mut self, keeper: &str) -> &mut Self {
        self.silent(keeper);
        let long_ago = Timestamp::from_unix_nanos(WALL.as_unix_nanos() - 49 * 3_600_000_000_000);
        self.keeper_status(keeper).last_healthy_time = long_ago;
        self
    }

    pub(super) fn keeper_status(&mut self, keeper: &str) -> &mut KeeperStatus {
        &mut self.data.keepers_mut().get_mut(keeper).unwrap().status
    }

    /// Gives a db a generation that was requested this long ago.
    pub(super) fn converging(&mut self, uid: &str, generation: i64, asked: Duration) -> &mut Self {
        self.db(uid).generation = generation;
        let since = NOW.before(asked);
        self.memory
            .pending
            .insert(db_uid(uid), PendingGeneration { generation, since });
        self
    }

    /// Sets where a db left timeline 1.
    pub(super) fn left_timeline_1(&mut self, uid: &str, at: u64) {
        self.db(uid).status.timelines_history = vec![TimelineHistory {
            timeline_id: 1,
            switch_point: Lsn(at),
            reason: String::new(),
        }];
    }

    /// Sets the position of a db, which it has already reported this many times.
    pub(super) fn stalled(&mut self, uid: &str, timeline: u64, position: u64, reports: u32) {
        self.at(uid, timeline, position);
        let position = Lsn(position);
        self.memory.stalls.insert(db_uid(uid), Stall { position, reports });
    }

    /// Returns a keeper's next info, for changes that no status holds.
    pub(super) fn info(&mut self, keeper: &str) -> &mut KeeperInfo {
        self.derive_infos();
        &mut self.seen.keepers.get_mut(keeper).unwrap().info
    }

    /// Derives the next infos from the statuses now, for changes that no status holds.
    pub(super) fn derive_infos(&mut self) {
        self.follow_statuses();
        self.infos_follow = false;
    }

    /// Returns the db state in a keeper's next info.
    pub(super) fn state(&mut self, keeper: &str) -> &mut PostgresState {
        self.info(keeper).postgres_state.as_mut().unwrap()
    }

    /// Makes a keeper's info report a clean stop.
    pub(super) fn stopped(&mut self, keeper: &str, timeline: u64, position: u64) -> &mut KeeperInfo {
        let info = self.info(keeper);
        info.stopped = Some(Stopped {
            clean: true,
            lsn: Some(Lsn(position)),
            timeline_id: timeline,
        });
        info.postgres_state.as_mut().unwrap().healthy = false;
        info
    }

    /// Adds a fenced proxy that has acknowledged a generation.
    pub(super) fn proxy_seen(&mut self, uid: &str, generation: i64) -> &mut ProxyInfo {
        let uid = ProxyUid::from(uid);
        let info = ProxyInfo {
            info_uid: format!("{uid}-{generation}").as_str().into(),
            uid: uid.clone(),
            generation,
            proxy_timeout: 15_000_000_000,
            fenced: true,
            stopped: false,
        };
        let observed = Observed {
            key: uid.to_string(),
            revision: 1,
            age: Duration::ZERO,
            info,
        };
        self.seen.proxies.insert(uid.clone(), observed);
        &mut self.seen.proxies.get_mut(&uid).unwrap().info
    }

    /// Derives every info from the statuses, and makes every generation that is not applied one requested since long
    /// ago (sentinel 15.1).
    fn follow_statuses(&mut self) {
        if !self.infos_follow {
            return;
        }
        self.seen.keepers.clear();
        let cluster_uid = self.data.cluster.as_ref().unwrap().uid.clone();
        let long_ago = NOW.before(HOUR * 1_000);
        for (uid, keeper) in self.data.keepers() {
            let status = &keeper.status;
            if !status.healthy {
                self.memory.never_published.insert(uid.clone(), long_ago);
                continue;
            }
            let info = KeeperInfo {
                info_uid: format!("{uid}-{}", self.now.as_nanos()).as_str().into(),
                uid: uid.clone(),
                cluster_uid: cluster_uid.clone(),
                boot_uuid: status.boot_uuid.clone(),
                postgres_state: Some(
                    self.data
                        .db_of_keeper(uid)
                        .map(|(_, db)| state_of(db))
                        .unwrap_or_default(),
                ),
                can_be_master: status.can_be_master,
                can_be_synchronous_replica: status.can_be_synchronous_replica,
                ..KeeperInfo::default()
            };
            let observed = Observed {
                key: uid.to_string(),
                revision: 7,
                age: Duration::ZERO,
                info,
            };
            self.seen.keepers.insert(uid.clone(), observed);
        }
        for (uid, db) in self.data.dbs() {
            let asked = PendingGeneration {
                generation: db.generation,
                since: long_ago,
            };
            self.memory.pending.entry(uid.clone()).or_insert(asked);
        }
    }

    pub(super) fn checked(&self) -> CheckedClusterData {
        self.data.clone().check().unwrap()
    }

    /// Plans once, with infos that have just arrived.
    pub(super) fn plan(&mut self) -> Result<Plan, PlanError> {
        self.follow_statuses();
        let checked = self.checked();
        // A read before this one, so that the infos have arrived since.
        if self.memory.history == crate::History::default() {
            let before = self.now.before(Duration::from_secs(1));
            let uid = &checked.cluster().uid;
            self.memory.history = self
                .memory
                .history
                .after(&Observations::default(), uid, &checked.spec, before);
        }
        let input = PlanInput {
            data: &checked,
            observations: &self.seen,
            memory: &self.memory,
            leadership: self.leadership,
            now: self.now,
            wall: WALL,
        };
        let mut number = self.data.dbs().len().max(self.last_uid);
        let mut uid = || {
            number += 1;
            format!("db{number}")
        };
        let entropy = &mut Entropy {
            uid: &mut uid,
            number: 0,
        };
        plan(&input, entropy)
    }

    /// Plans, writes and remembers. The infos then follow the new statuses, as working keepers would publish them.
    pub(super) fn round(&mut self) -> Plan {
        let plan = self.plan().unwrap();
        self.data = plan.next.clone();
        self.memory = plan.memory.clone();
        self.now = self.now + Duration::from_millis(100);
        plan
    }
}

/// Returns the state that a keeper reports for a db with this status.
pub(super) fn state_of(db: &Db) -> PostgresState {
    let status = &db.status;
    PostgresState {
        uid: db.uid.clone(),
        generation: status.current_generation,
        listen_address: status.listen_address.clone(),
        port: status.port.clone(),
        healthy: status.healthy,
        system_id: status.system_id.clone(),
        timeline_id: status.timeline_id,
        xlog_pos: status.xlog_pos,
        timelines_history: status.timelines_history.clone(),
        pg_parameters: status.pg_parameters.clone(),
        synchronous_standbys: None,
        older_wal_file: status.older_wal_file.clone(),
        sync_marked: false,
    }
}

/// Describes a plan, with the details that the expected text names.
pub(super) fn described(before: &ClusterData, plan: &Plan, now: Boottime, expected: &str) -> Vec<String> {
    let (does, why) = describe(before, plan);
    assert_eq!(plan.urgency == Urgency::Immediate, !does.is_empty(), "{does:?}");
    let details = details(plan, now).into_iter();
    let named = details
        .filter(|(word, _)| expected.contains(word))
        .map(|(_, text)| text);
    let text = [does, why, named.collect()].concat();
    if text.is_empty() {
        vec!["nothing".to_owned()]
    } else {
        text
    }
}

/// Checks what is planned for a cluster, see [`describe`], and what is decided when the same is read again: nothing,
/// unless the text goes on with `then`. Times and conditions of the plan are described where the text names them.
#[track_caller]
pub(super) fn check(setup: &mut Setup, expected: &str) -> Plan {
    let first = setup.plan().unwrap();
    let mut text = described(&setup.data, &first, setup.now, expected);
    let mut again = setup.clone();
    again.infos_follow = false;
    let (mut last, mut added) = (first.clone(), BTreeSet::new());
    for _ in 0..ROUNDS_MAX {
        let new = last
            .next
            .dbs()
            .keys()
            .filter(|uid| !again.data.dbs().contains_key(*uid));
        added.extend(new.map(ToString::to_string));
        (again.data, again.memory) = (last.next, last.memory);
        last = again.plan().unwrap();
        let (mut does, _) = describe(&again.data, &last);
        assert_eq!(last.urgency == Urgency::Immediate, !does.is_empty(), "{does:?}");
        // A db that was just added counts as healthy until failInterval has passed.
        does.retain(|text| !text.strip_suffix(" healthy").is_some_and(|uid| added.contains(uid)));
        if does.is_empty() {
            assert_eq!(text.join("; "), expected, "{:?}", first.notes);
            return first;
        }
        text.push(format!("then {}", does.join(", ")));
    }
    panic!("it does not settle: {}", text.join("; "));
}
