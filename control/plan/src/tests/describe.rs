//! What a plan does, in words: computed from the cluster data before and after, so that nothing it changes is missing.

use std::collections::{BTreeMap, BTreeSet};

use crate::propagate::without_routine_changes;
use crate::{Condition, Note, OrderFate, Plan};
use base::clock::Boottime;
use model::{
    ClusterData, Db, DbInitMode, DbSpec, DbUid, FollowConfig, FollowType, GoDuration, KeeperUid, Phase, ProxyUid, Role,
};
use serde_json::Value;

/// Describes what a plan changes in the cluster data, and what its notes give as reasons.
///
/// Left out is what follows by rule: a db and the proxies whose spec changes get the next generation (sentinel G-3,
/// P-6), the db that was master lists those that follow the master (N-25), and an election makes its db a master and
/// closes the proxies (N-9). Where that does not hold, and whatever else differs, is listed field by field.
pub(super) fn describe(before: &ClusterData, plan: &Plan) -> (Vec<String>, Vec<String>) {
    let next = &plan.next;
    let mut description = Description {
        data: before.clone(),
        text: Vec::new(),
    };
    description.health(next);
    description.master(before, next);
    description.removals(next, &plan.notes);
    description.registrations(next);
    description.additions(next);
    description.upstreams(next);
    description.synchronous(next);
    description.proxies(next);
    description.rules(before, next);
    description.rest(next);
    (description.text, plan.notes.iter().filter_map(reason).collect())
}

/// Describes what else a plan holds; the words by which a text names it come first.
pub(super) fn details(plan: &Plan, now: Boottime) -> Vec<(&'static str, String)> {
    let conditions = plan.conditions.iter().map(|condition| {
        let text = match condition {
            Condition::KeeperInfo { key, revision } => {
                let revision = revision.map_or("absent".to_owned(), |revision| format!("at {revision}"));
                format!("only while {key} is {revision}")
            }
            Condition::FailoverRequest { revision, fate } => {
                format!("only while the request is at {revision}, {fate:?}")
            }
            Condition::Switchover { revision, fate } => {
                format!("only while the switchover is at {revision}, {fate:?}")
            }
            Condition::Order { keeper, revision, fate } => {
                let at = revision.map_or("absent".to_owned(), |revision| format!("at {revision}"));
                let fate = match fate {
                    OrderFate::Put(order) => format!("put {}", order.order),
                    fate => format!("{fate:?}"),
                };
                format!("only while the order of {keeper} is {at}, {fate}")
            }
        };
        ("only while", text)
    });
    let wake = plan
        .wake_at
        .map(|at| ("wake in", format!("wake in {:?}", at.since(now))));
    conditions.chain(wake).collect()
}

/// Returns why something was decided or not, unless that is the decision itself in other words.
fn reason(note: &Note) -> Option<String> {
    Some(match note {
        Note::ElectionDelayed { .. } => "no election: delayed".to_owned(),
        Note::ElectionWaitsForProxies { proxies, .. } => format!("no election before {proxies} closed"),
        Note::MasterSeemsWell { db, .. } => format!("no election: {db} seems well"),
        Note::NoEligibleMasters {} => "no eligible master".to_owned(),
        Note::MissingWal { db, .. } => format!("{db} lacks WAL"),
        Note::NoCommonStandby { .. } => "nobody is in sync".to_owned(),
        Note::NoStandbyInSync { common, .. } => format!("only {common} was in sync"),
        Note::SyncSetPending { wanted, .. } => format!("until {wanted} are in sync"),
        Note::SyncStandbysMissing { missing, .. } => format!("{missing} missing"),
        Note::FailoverRefused { reason, .. } => format!("request refused: {reason}"),
        Note::ClosingAsRequested { db, .. } => format!("to elect {db} as requested"),
        Note::ElectingAsRequested { keeper, .. } => format!("as requested for {keeper}"),
        Note::ClosingForFormerMaster { db, .. } => format!("to go back to {db}"),
        Note::SwitchoverWaits { reason, .. } => format!("switchover waits: {reason}"),
        Note::SwitchoverRefused { reason, .. } => format!("switchover refused: {reason}"),
        Note::SwitchoverAborted { reason, .. } => format!("switchover given up: {reason}"),
        Note::SwitchoverDone { keeper, .. } => format!("switchover to {keeper} done"),
        Note::Ordering { keeper, order, .. } => format!("{keeper} is ordered to {order}"),
        Note::DeletingOrder { keeper } => format!("no order for {keeper} any more"),
        Note::MasterSlow { db, .. } => format!("{db} is slow"),
        Note::KeepingFormerMaster { db, .. } => format!("{db} is kept for now"),
        Note::WaitingForDb { db, .. } => format!("waits for {db}"),
        Note::WaitingForMaster { db, .. } => format!("{db} is not announced yet"),
        Note::WaitingForProxies { proxies, .. } => format!("{proxies} may still forward"),
        Note::NoKeeperInfo { keeper, .. } => format!("{keeper} is silent"),
        Note::NoDbState { keeper, .. } => format!("{keeper} reports no db"),
        Note::UnexpectedDb { received, keeper, .. } if received.is_empty() => format!("{keeper} has no db yet"),
        Note::UnexpectedDb { received, keeper, .. } => format!("{keeper} reports {received}"),
        _ => return None,
    })
}

/// Why a db is removed.
fn removal(note: &Note) -> Option<(&DbUid, &'static str)> {
    match note {
        Note::RemovingFormerMaster { db, .. } => Some((db, "old master")),
        Note::RemovingInvalid { db, .. } => Some((db, "invalid")),
        Note::RemovingLost { db, .. } => Some((db, "lost")),
        Note::RemovingUnsyncable { db, .. } => Some((db, "WAL gone")),
        Note::RemovingNotGood { db, .. } => Some((db, "not good")),
        Note::RemovingExcess { db, .. } => Some((db, "excess")),
        _ => None,
    }
}

/// The cluster data before a plan, with every change that the text describes.
struct Description {
    data: ClusterData,
    text: Vec<String>,
}

impl Description {
    fn add(&mut self, text: impl Into<String>) {
        self.text.push(text.into());
    }

    fn health(&mut self, next: &ClusterData) {
        let word = |healthy: bool| if healthy { "healthy" } else { "unhealthy" };
        for (uid, keeper) in self.data.keepers.iter_mut().flatten() {
            let healthy = next.keepers().get(uid).map(|keeper| keeper.status.healthy);
            if let Some(healthy) = healthy.filter(|healthy| *healthy != keeper.status.healthy) {
                keeper.status.healthy = healthy;
                self.text.push(format!("{uid} {}", word(healthy)));
            }
        }
        for (uid, db) in self.data.dbs.iter_mut().flatten() {
            let healthy = next.dbs().get(uid).map(|db| db.status.healthy);
            if let Some(healthy) = healthy.filter(|healthy| *healthy != db.status.healthy) {
                db.status.healthy = healthy;
                self.text.push(format!("{uid} {}", word(healthy)));
            }
        }
    }

    fn master(&mut self, before: &ClusterData, next: &ClusterData) {
        let (old, new) = (before.master_uid(), next.master_uid());
        match (old, new) {
            (None, Some(new)) if next.dbs().contains_key(new) => {
                let keeper = next.dbs()[new].spec.keeper_uid.clone();
                self.add(format!("initialises {new} on {keeper}"));
                let spec = DbSpec {
                    init_mode: DbInitMode::New,
                    include_previous_config: true,
                    ..db_spec(keeper)
                };
                self.data.dbs_mut().insert(new.clone(), new_db(new, spec));
                self.set_master(new.clone());
            }
            (Some(old), None) => {
                self.add(format!("gives up {old}"));
                self.data.dbs_mut().clear();
                self.set_master(DbUid::default());
            }
            (Some(old), Some(new)) if old != new => {
                self.add(format!("elects {new}"));
                self.set_master(new.clone());
                let db = self.data.dbs_mut().get_mut(new).expect("the elected db exists");
                (db.spec.role, db.spec.follow_config) = (Role::Master, None);
                if let Some(proxy) = &mut self.data.proxy {
                    proxy.spec.master_db_uid = DbUid::default();
                }
            }
            _ => {}
        }
        let phase = &mut self
            .data
            .cluster
            .as_mut()
            .expect("the data have a cluster")
            .status
            .phase;
        let ends = *phase == Phase::Initializing && phase_of(next) == Phase::Normal;
        if let (true, Some(new)) = (ends, new) {
            *phase = Phase::Normal;
            let spec = &mut self.data.dbs_mut().get_mut(new).expect("the master exists").spec;
            (spec.init_mode, spec.include_previous_config) = (DbInitMode::None, false);
            self.add(format!("{new} is initialised"));
        }
    }

    fn set_master(&mut self, master: DbUid) {
        self.data
            .cluster
            .as_mut()
            .expect("the data have a cluster")
            .status
            .master = master;
    }

    fn removals(&mut self, next: &ClusterData, notes: &[Note]) {
        let gone = |uid: &DbUid| !next.dbs().contains_key(uid);
        let dbs: Vec<DbUid> = self.data.dbs().keys().filter(|uid| gone(uid)).cloned().collect();
        for uid in dbs {
            let why = notes.iter().filter_map(removal).find(|(db, _)| **db == uid);
            self.add(format!("removes {uid} ({})", why.map_or("no reason", |(_, why)| why)));
            self.data.dbs_mut().remove(&uid);
        }
        let gone = |uid: &KeeperUid| !next.keepers().contains_key(uid);
        let keepers: Vec<KeeperUid> = self.data.keepers().keys().filter(|uid| gone(uid)).cloned().collect();
        for uid in keepers {
            self.add(format!("removes {uid}"));
            self.data.keepers_mut().remove(&uid);
        }
    }

    fn registrations(&mut self, next: &ClusterData) {
        for (uid, keeper) in next.keepers() {
            if !self.data.keepers().contains_key(uid) {
                let health = if keeper.status.healthy { "" } else { " as failed" };
                self.add(format!("registers {uid}{health}"));
                self.data.keepers_mut().insert(uid.clone(), keeper.clone());
            }
        }
    }

    fn additions(&mut self, next: &ClusterData) {
        for (uid, db) in next.dbs() {
            if !self.data.dbs().contains_key(uid) {
                let from = followed(db).cloned().unwrap_or_default();
                self.add(format!("adds {uid} on {}, a copy of {from}", db.spec.keeper_uid));
                let spec = DbSpec {
                    init_mode: DbInitMode::Resync,
                    role: Role::Standby,
                    follow_config: Some(FollowConfig::internal(from)),
                    ..db_spec(db.spec.keeper_uid.clone())
                };
                self.data.dbs_mut().insert(uid.clone(), new_db(uid, spec));
            }
        }
    }

    fn upstreams(&mut self, next: &ClusterData) {
        for (uid, db) in self.data.dbs.iter_mut().flatten() {
            let Some(next) = next.dbs().get(uid) else { continue };
            if let Some(from) = followed(next).filter(|from| followed(db) != Some(from)) {
                self.text.push(format!("{uid} follows {from}"));
                (db.spec.role, db.spec.followers) = (Role::Standby, Some(Vec::new()));
                db.spec.follow_config = Some(FollowConfig::internal(from.clone()));
            }
            if (&db.spec.init_mode, &next.spec.init_mode) == (&DbInitMode::Resync, &DbInitMode::None) {
                self.text.push(format!("{uid} is copied"));
                db.spec.init_mode = DbInitMode::None;
            }
        }
    }

    /// The sets of synchronous standbys, `null` told from empty.
    fn synchronous(&mut self, next: &ClusterData) {
        for (uid, db) in self.data.dbs.iter_mut().flatten() {
            let Some(next) = next.dbs().get(uid) else { continue };
            let (was, spec) = (&mut db.spec, &next.spec);
            let waits = |spec: &DbSpec| {
                let (wanted, external) = (&spec.synchronous_standbys, &spec.external_synchronous_standbys);
                (spec.synchronous_replication, wanted.clone(), external.clone())
            };
            if waits(was) != waits(spec) {
                self.text.push(match waits(spec) {
                    (false, None, None) => format!("{uid} waits no more"),
                    (true, Some(wanted), Some(external)) => {
                        let external = external.iter().map(String::as_str);
                        let names: Vec<&str> = wanted.iter().map(DbUid::as_str).chain(external).collect();
                        format!("{uid} waits for {}", or_nobody(&names))
                    }
                    odd => format!("{uid} has odd sets: {odd:?}"),
                });
                (
                    was.synchronous_replication,
                    was.synchronous_standbys,
                    was.external_synchronous_standbys,
                ) = waits(spec);
            }
            let (known, now) = (&mut db.status.synchronous_standbys, &next.status.synchronous_standbys);
            if known != now {
                if let Some(now) = now {
                    let names: Vec<&str> = now.iter().map(DbUid::as_str).collect();
                    self.text.push(format!("in sync with {uid}: {}", or_nobody(&names)));
                } else if spec.synchronous_replication {
                    self.text.push(format!("in sync with {uid}: null"));
                }
                known.clone_from(now);
            }
        }
    }

    fn proxies(&mut self, next: &ClusterData) {
        let Some(next) = &next.proxy else { return };
        let proxy = self.data.proxy.get_or_insert_default();
        let enabled = names(&next.spec.enabled_proxies);
        if proxy.spec.master_db_uid != next.spec.master_db_uid {
            let (was, master) = (&mut proxy.spec.master_db_uid, &next.spec.master_db_uid);
            match (was.is_empty(), master.is_empty()) {
                (true, _) => self.text.push(format!("announces {master} to {enabled}")),
                (false, true) => self.text.push("closes the proxies".to_owned()),
                (false, false) => self
                    .text
                    .push(format!("announces {master} instead of {was} to {enabled}")),
            }
            if was.is_empty() {
                proxy.spec.enabled_proxies.clone_from(&next.spec.enabled_proxies);
            }
            was.clone_from(master);
        } else if proxy.spec.enabled_proxies != next.spec.enabled_proxies {
            self.text.push(format!("enables {enabled}"));
            proxy.spec.enabled_proxies.clone_from(&next.spec.enabled_proxies);
        }
    }

    /// What follows by rule.
    fn rules(&mut self, before: &ClusterData, next: &ClusterData) {
        let old = before.master_uid().filter(|_| phase_of(before) == Phase::Normal);
        if let (Some(old), Some(master)) = (old, next.master_uid()) {
            let others = self.data.dbs().iter().filter(|(uid, _)| *uid != old);
            let follows = others.filter(|(_, db)| followed(db) == Some(master));
            let followers: Vec<DbUid> = follows.map(|(uid, _)| uid.clone()).collect();
            let listed = before.dbs().get(old).and_then(|db| db.spec.followers.as_ref());
            if self.text.is_empty() && listed != Some(&followers) {
                self.add(format!("{old} lists {} standbys", followers.len()));
            }
            if let Some(db) = self.data.dbs_mut().get_mut(old) {
                db.spec.followers = Some(followers);
            }
        }
        for (uid, db) in self.data.dbs.iter_mut().flatten() {
            if let (Some(old), Some(new)) = (before.dbs().get(uid), next.dbs().get(uid)) {
                db.generation = old.generation + i64::from(old.spec != new.spec);
            }
        }
        if let (Some(proxy), Some(new)) = (&mut self.data.proxy, &next.proxy) {
            let spec = before.proxy.as_ref().map(|proxy| proxy.spec.clone());
            proxy.generation += i64::from(spec.unwrap_or_default() != new.spec);
        }
    }

    /// Lists what differs from all that was description.
    fn rest(&mut self, next: &ClusterData) {
        let (description, next) = (without_routine_changes(&self.data), without_routine_changes(next));
        let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
        leaves("", &serde_json::to_value(&description).unwrap(), &mut old);
        leaves("", &serde_json::to_value(&next).unwrap(), &mut new);
        let mut changes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for path in paths.into_iter().filter(|path| old.get(*path) != new.get(*path)) {
            let (subject, field) = subject(path);
            let value = new.get(path).map_or("unset", String::as_str);
            changes.entry(subject).or_default().push(format!("{field} {value}"));
        }
        if changes.is_empty() && description != next {
            self.add("changes what JSON does not hold");
        }
        for (subject, fields) in changes {
            self.add(format!("{subject}: {}", fields.join(", ")));
        }
    }
}

fn phase_of(data: &ClusterData) -> Phase {
    data.cluster
        .as_ref()
        .map(|cluster| cluster.status.phase.clone())
        .unwrap_or_default()
}

/// Returns the db of this cluster that a db follows.
fn followed(db: &Db) -> Option<&DbUid> {
    let follow = db.spec.follow_config.as_ref()?;
    (follow.kind == FollowType::Internal).then_some(&follow.db_uid)
}

/// The spec of a db of sentinel 15.1: all defaults.
fn db_spec(keeper_uid: KeeperUid) -> DbSpec {
    DbSpec {
        keeper_uid,
        request_timeout: GoDuration::from_secs(10),
        max_standbys: 20,
        additional_wal_senders: 5,
        role: Role::Master,
        followers: Some(Vec::new()),
        ..DbSpec::default()
    }
}

fn new_db(uid: &DbUid, spec: DbSpec) -> Db {
    Db {
        uid: uid.clone(),
        generation: 1,
        spec,
        ..Db::default()
    }
}

fn or_nobody(names: &[&str]) -> String {
    if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.join(",")
    }
}

fn names(proxies: &[ProxyUid]) -> String {
    let names: Vec<String> = proxies.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "no proxy".to_owned()
    } else {
        names.join(",")
    }
}

/// Collects the values of a document by their path.
fn leaves(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(&format!("{path}.{name}"), value, found);
            }
        }
        Value::String(text) => drop(found.insert(path.to_owned(), text.clone())),
        other => drop(found.insert(path.to_owned(), other.to_string())),
    }
}

/// Splits the path of a value into the db, keeper or section it belongs to and the field.
fn subject(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('.');
    let (section, field) = path.split_once('.').unwrap_or(("data", path));
    let (subject, field) = match section {
        "dbs" | "keepers" => field.split_once('.').unwrap_or((field, "")),
        _ => (section, field),
    };
    let short = field.strip_prefix("spec.").or_else(|| field.strip_prefix("status."));
    (subject, short.unwrap_or(field))
}
