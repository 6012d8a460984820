//! Whether this instance may restart for changed parameters now, from what the other keepers publish. The order itself is
//! decided by `reconcile`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::clock::Boottime;
use base::{Chain, Clock};
use model::{KeeperInfo, KeeperUid, SettingsInfo, from_slice};
use store::Store;
use tracing::warn;

use crate::context::KeeperContext;
use crate::problems::{KeeperProblemKind, Problems};
use crate::reconcile::{Peer, RestartTurn, TargetDb, TargetRole, fingerprint, restart_turn};

/// Minimum limit, for specs without a limit or with a very short one.
const RESTART_LIMIT_MIN: Duration = Duration::from_secs(60);

/// Reads what the other keepers publish about their restarts.
#[derive(Debug)]
pub(super) struct RestartTurns {
    store: Store,
    me: KeeperUid,
    problems: Arc<Problems>,
    clock: Clock,
    restarts: PeerRestarts,
}

/// Since when other instances have been restarting.
#[derive(Debug, Default)]
struct PeerRestarts(BTreeMap<KeeperUid, Boottime>);

impl RestartTurns {
    /// Has read nothing yet.
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            store: context.store.clone(),
            me: context.me.clone(),
            problems: Arc::clone(&context.problems),
            clock: context.clock.clone(),
            restarts: PeerRestarts::default(),
        }
    }

    /// Whether the local instance may restart for parameters now. Without the store it waits.
    pub(super) async fn turn(&mut self, target: &TargetDb) -> RestartTurn {
        let prefix = self.store.keys().keeper_infos();
        let entries = match self.store.list(&prefix).await {
            Ok(entries) => entries,
            Err(error) => {
                warn!(error = %Chain(&error), "could not read what other keepers report, not restarting yet");
                return RestartTurn::After(self.me.clone());
            }
        };
        // Undecodable infos are ignored.
        let infos: Vec<KeeperInfo> = entries
            .iter()
            .filter_map(|entry| from_slice(&entry.value).ok())
            .collect();
        let peers = self
            .restarts
            .peers(&infos, &target.other_keepers, self.clock.now(), restart_limit(target));
        let is_master = target.role == TargetRole::Master;
        restart_turn(&self.me, is_master, &fingerprint(target), &peers)
    }

    /// Reports that the master is not restarted because no standby started with the parameters.
    pub(super) fn report(&self, turn: &RestartTurn) {
        let problems = match turn {
            RestartTurn::Never => vec![KeeperProblemKind::Configuration.problem(
                "parameters wait for a restart of the master, and no standby started with them",
                "fix the standbys' hosts and restart their keepers, or change the parameters",
            )],
            RestartTurn::Stuck(keeper) => vec![KeeperProblemKind::Configuration.problem(
                &format!(
                    "parameters wait for a restart of the master, and the standby of keeper {keeper} has not come back \
                     from its own restart"
                ),
                "see that keeper's log and fix its host, or change the parameters; if it is gone for good, remove it with \
                 stolonctl removekeeper",
            )],
            RestartTurn::Now | RestartTurn::After(_) => Vec::new(),
        };
        self.problems.set(KeeperProblemKind::Configuration, "restart", problems);
    }
}

impl PeerRestarts {
    /// Returns what these infos report about the other `members` of the cluster. A restart that was reported for `limit`
    /// is overdue.
    fn peers(
        &mut self,
        infos: &[KeeperInfo],
        members: &[(KeeperUid, bool)],
        now: Boottime,
        limit: Duration,
    ) -> Vec<Peer> {
        let is_restarting = |info: &&KeeperInfo| info.settings.as_ref().is_some_and(SettingsInfo::is_restarting);
        let since = |info: &KeeperInfo| self.0.get(&info.uid).copied().unwrap_or(now);
        let restarting = infos.iter().filter(is_restarting);
        self.0 = restarting.map(|info| (info.uid.clone(), since(info))).collect();
        let peer = |(keeper, is_standby): &(KeeperUid, bool)| {
            let info = infos.iter().find(|info| info.uid == *keeper)?;
            Some(Peer {
                keeper: info.uid.clone(),
                is_standby: *is_standby,
                is_healthy: info.postgres_state.as_ref().is_some_and(|state| state.healthy),
                settings: info.settings.clone(),
                is_overdue: self.0.get(keeper).is_some_and(|since| now.since(*since) >= limit),
            })
        };
        members.iter().filter_map(peer).collect()
    }
}

/// Time limit of a restart before other instances continue without it: the time until an instance that does not start
/// counts as unhealthy, plus the time that it may take to accept connections.
fn restart_limit(target: &TargetDb) -> Duration {
    target
        .ready_timeout
        .max(RESTART_LIMIT_MIN)
        .saturating_add(target.fail_interval)
}

#[cfg(test)]
mod tests {
    use model::RestartState;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn info(keeper: &str, state: RestartState) -> KeeperInfo {
        KeeperInfo {
            uid: keeper.into(),
            settings: Some(SettingsInfo {
                fingerprint: "new".to_owned(),
                state,
            }),
            ..KeeperInfo::default()
        }
    }

    /// Returns the keepers with an overdue restart after these infos were read.
    fn overdue(restarts: &mut PeerRestarts, restarting: &[&str], seconds: u64) -> Vec<String> {
        let infos: Vec<KeeperInfo> = restarting
            .iter()
            .map(|keeper| info(keeper, RestartState::Restarting))
            .collect();
        let members = [("a".into(), true), ("b".into(), true)];
        let now = Boottime::from_nanos(0) + Duration::from_secs(seconds);
        let peers = restarts.peers(&infos, &members, now, LIMIT).into_iter();
        peers
            .filter(|peer| peer.is_overdue)
            .map(|peer| peer.keeper.to_string())
            .collect()
    }

    #[test]
    fn a_restart_is_overdue_once_it_was_seen_for_the_limit() {
        let mut restarts = PeerRestarts::default();
        assert_eq!(overdue(&mut restarts, &["a"], 0), [""; 0]);
        assert_eq!(overdue(&mut restarts, &["a", "b"], 59), [""; 0]);
        assert_eq!(overdue(&mut restarts, &["a", "b"], 60), ["a"]);
        assert_eq!(overdue(&mut restarts, &["b"], 61), [""; 0]);
        assert_eq!(overdue(&mut restarts, &["b"], 119), ["b"]);
    }
}
