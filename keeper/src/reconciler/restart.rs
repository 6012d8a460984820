//! Restarts for changed parameters, coordinated with the other instances through the published infos.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::Chain;
use base::clock::Boottime;
use model::{KeeperInfo, KeeperUid, RestartState, SettingsInfo, from_slice};
use tracing::warn;

use crate::problems::KeeperProblemKind;
use crate::publish::Due;
use crate::reconcile::{
    Desired, Goal, Peer, RestartNeed, RestartTurn, TargetDb, TargetRole, fingerprint, restart_turn,
};
use crate::reconciler::Reconciler;

/// Since when other instances have been restarting.
#[derive(Debug, Default)]
pub struct PeerRestarts(BTreeMap<KeeperUid, Boottime>);

impl PeerRestarts {
    /// Returns the restarting keepers that have been restarting for at least `limit`.
    fn overdue<'a>(
        &mut self,
        restarting: impl Iterator<Item = &'a KeeperUid>,
        now: Boottime,
        limit: Duration,
    ) -> BTreeSet<KeeperUid> {
        let since = |keeper: &KeeperUid| self.0.get(keeper).copied().unwrap_or(now);
        self.0 = restarting.map(|keeper| (keeper.clone(), since(keeper))).collect();
        let is_overdue = |(_, since): &(&KeeperUid, &Boottime)| now.since(**since) >= limit;
        self.0
            .iter()
            .filter(is_overdue)
            .map(|(keeper, _)| keeper.clone())
            .collect()
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

/// Minimum limit, for specs without a limit or with a very short one.
const RESTART_LIMIT_MIN: Duration = Duration::from_secs(60);

impl Reconciler {
    /// Whether the local instance may restart for parameters now. Without the store it waits.
    #[expect(
        clippy::disallowed_methods,
        reason = "how long another instance restarts is measured here"
    )]
    pub(super) async fn restart_turn(&self, target: &TargetDb) -> RestartTurn {
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
        let is_restarting = |info: &&KeeperInfo| info.settings.as_ref().is_some_and(SettingsInfo::is_restarting);
        let overdue = self
            .restarts
            .lock()
            .expect("no thread panics while holding the restarts")
            .overdue(
                infos.iter().filter(is_restarting).map(|info| &info.uid),
                Boottime::now(),
                restart_limit(target),
            );
        let peer = |(keeper, is_standby): &(_, bool)| {
            let info = infos.iter().find(|info| info.uid == *keeper)?;
            Some(Peer {
                keeper: info.uid.clone(),
                is_standby: *is_standby,
                is_healthy: info.postgres_state.as_ref().is_some_and(|state| state.healthy),
                settings: info.settings.clone(),
                is_overdue: overdue.contains(&info.uid),
            })
        };
        let peers: Vec<Peer> = target.other_keepers.iter().filter_map(peer).collect();
        let is_master = target.role == TargetRole::Master;
        restart_turn(&self.me, is_master, &fingerprint(target), &peers)
    }

    /// Publishes whether parameters are pending restart, for operators and the other keepers.
    pub(super) fn report_restart(&mut self, need: RestartNeed, desired: &Desired) {
        let state = match need {
            RestartNeed::NotProbed => return,
            RestartNeed::Pending => RestartState::Pending,
            RestartNeed::Nothing | RestartNeed::CanWait if self.memory.config_check.refusals.has_held_back() => {
                RestartState::Refused
            }
            RestartNeed::Nothing | RestartNeed::CanWait => RestartState::Applied,
        };
        self.metrics.set_needs_restart(need != RestartNeed::Nothing);
        self.report_settings(desired, state);
    }

    /// Publishes the progress of applying the desired parameters.
    pub(super) fn report_settings(&self, desired: &Desired, state: RestartState) {
        let Goal::Run(target) = &desired.goal else { return };
        let settings = Some(SettingsInfo {
            fingerprint: fingerprint(target),
            state,
        });
        if self.publisher.report().settings != settings {
            self.publisher.change(Due::Now, |report| report.settings = settings);
        }
    }

    /// Reports that the master is not restarted because no standby started with the parameters.
    pub(super) fn report_held_restart(&self, turn: &RestartTurn) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_overdue_once_it_was_seen_for_the_limit() {
        let limit = Duration::from_secs(60);
        let at = |seconds| Boottime::from_nanos(0) + Duration::from_secs(seconds);
        let keepers: [KeeperUid; 2] = ["a".into(), "b".into()];
        let [a, b] = &keepers;
        let mut restarts = PeerRestarts::default();
        let names = |of: BTreeSet<KeeperUid>| of.into_iter().map(|keeper| keeper.to_string()).collect::<Vec<_>>();
        assert!(restarts.overdue([a].into_iter(), at(0), limit).is_empty());
        assert!(restarts.overdue([a, b].into_iter(), at(59), limit).is_empty());
        assert_eq!(names(restarts.overdue([a, b].into_iter(), at(60), limit)), ["a"]);
        assert!(restarts.overdue([b].into_iter(), at(61), limit).is_empty());
        assert_eq!(names(restarts.overdue([a, b].into_iter(), at(119), limit)), ["b"]);
    }
}
