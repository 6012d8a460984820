//! Synchronous replication: the names that commits wait for, and whether client logins are blocked (keeper 10).
//! Taking the mark is left to `sync_marker`, querying the WAL senders to `postgres::observe`.

use std::collections::BTreeSet;

use model::{CheckedClusterData, Db, DbUid, FAKE_STANDBY, stolon_name};

use crate::reconcile::{ProcessState, ServerConfig, ServerProbe, ServerState, TargetDb, TargetRole};

/// Parameter that the keeper sets after refused settings were reverted: none of them may bring back an earlier value.
pub const SYNCHRONOUS_STANDBY_NAMES: &str = "synchronous_standby_names";
/// A server that restarts by itself would show commits that still waited, without a permit and with client logins
/// allowed (synchronous SY-11).
pub const RESTART_AFTER_CRASH: &str = "restart_after_crash";

/// Whether client logins are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientLogins {
    /// By the hba lines of the spec.
    Allowed,
    /// Only the superuser and the replication user can connect, until these standbys are in sync.
    Blocked { missing: BTreeSet<DbUid> },
}

impl TargetDb {
    /// Whether commits on this instance as a master wait for standbys.
    pub fn is_synchronous_master(&self) -> bool {
        self.role == TargetRole::Master && self.spec.synchronous_replication
    }

    /// Whether the instance is configured for synchronous replication, as a master or to become one.
    pub fn is_synchronous(&self) -> bool {
        self.spec.synchronous_replication || self.synchronous_cluster
    }

    /// Returns the standbys of this cluster that commits wait for; empty on a standby.
    pub fn wanted_standbys(&self) -> BTreeSet<DbUid> {
        let listed = self.spec.synchronous_standbys.iter().flatten();
        match self.is_synchronous_master() {
            true => listed.cloned().collect(),
            false => BTreeSet::new(),
        }
    }

    /// Returns the value of `synchronous_standby_names` (keeper 10.2 to 10.5): on a master all listed names, on a standby
    /// the placeholder, so that its first commit after a promotion waits.
    pub fn standby_names(&self) -> String {
        if self.role != TargetRole::Master {
            let placeholder = if self.is_synchronous() { FAKE_STANDBY } else { "" };
            return placeholder.to_owned();
        }
        if !self.spec.synchronous_replication {
            return String::new();
        }
        let listed = self.spec.synchronous_standbys.iter().flatten();
        let external = self.spec.external_synchronous_standbys.iter().flatten();
        let names: Vec<String> = listed
            .map(|uid| stolon_name(uid.as_str()))
            .chain(external.cloned())
            .map(|name| as_name(&name))
            .collect();
        match names.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            // All of them, so that each has every acknowledged commit (keeper I13).
            all => format!("{} ({})", all.len(), all.join(",")),
        }
    }
}

/// Returns a name as one element of the list: unchanged if PostgreSQL reads it as one name (syncrep_scanner.l: an
/// identifier, a quoted identifier or `*`), otherwise quoted. One that no list can hold becomes the placeholder: commits
/// wait rather than be acknowledged without it.
fn as_name(name: &str) -> String {
    if name.is_empty() || name == "\"\"" || name.chars().any(|c| c.is_control() || c == '\\') {
        return FAKE_STANDBY.to_owned();
    }
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let is_identifier = name.starts_with(is_letter)
        && name.chars().all(|c| is_letter(c) || c.is_ascii_digit() || c == '$')
        && !["any", "first"].contains(&name.to_ascii_lowercase().as_str());
    let inner = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let is_quoted = inner.is_some_and(|inner| !inner.is_empty() && !inner.replace("\"\"", "").contains('"'));
    match is_identifier || is_quoted || name == "*" {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// Whether commits on the cluster's master wait for this db (synchronous SY-13).
pub fn lists_as_synchronous(checked: &CheckedClusterData, db: &DbUid) -> bool {
    let master = checked.data.dbs().get(&checked.cluster().status.master);
    let lists = |master: &Db| {
        master
            .spec
            .synchronous_standbys
            .iter()
            .flatten()
            .any(|listed| listed == db)
    };
    master.is_some_and(|master| master.spec.synchronous_replication && lists(master))
}

/// Returns whether client logins to a running server are allowed (synchronous SY-11).
///
/// After a start of the master, what waited for standbys before is visible although it was never acknowledged. A client
/// must not read it before each listed standby has it, because a failover could lose it.
pub fn client_logins(target: &TargetDb, process: &ProcessState, server: &ServerState) -> ClientLogins {
    let wanted = target.wanted_standbys();
    if !process.logins_blocked || wanted.is_empty() {
        return ClientLogins::Allowed;
    }
    let missing: BTreeSet<DbUid> = match server {
        ServerState::Up(ServerProbe::Answered(facts)) => wanted.difference(&facts.in_sync).cloned().collect(),
        // Who is in sync is unknown.
        ServerState::Down | ServerState::Up(_) => wanted,
    };
    match missing.is_empty() {
        true => ClientLogins::Allowed,
        false => ClientLogins::Blocked { missing },
    }
}

/// Returns the configuration that blocks client logins; `own_hba` are the lines that admit the keepers' users.
pub(crate) fn with_logins_blocked(config: ServerConfig, own_hba: &[String]) -> ServerConfig {
    ServerConfig {
        hba: own_hba.to_vec(),
        blocks_client_logins: true,
        ..config
    }
}

#[cfg(test)]
mod tests;
