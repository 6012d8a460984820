//! Restarts for changed parameters, in turn with the other instances: what they report, and what ours does.

use control::model::{KeeperInfo, RestartState, SettingsInfo, from_slice};
use control::telemetry::Chain;
use tracing::warn;

use crate::converge::{Be, Orders, Peer, RestartNeed, Target, TargetRole, Turn, fingerprint, restart_turn};
use crate::pass::Engine;
use crate::problems::Kind;
use crate::publish::Due;

impl Engine {
    /// Whether our instance may restart now for parameters. Without the store it waits.
    pub(super) async fn turn(&self, target: &Target) -> Turn {
        let prefix = self.store.keys().keeper_infos();
        let entries = match self.store.list(&prefix).await {
            Ok(entries) => entries,
            Err(error) => {
                warn!(error = %Chain(&error), "could not read what other keepers report, not restarting yet");
                return Turn::After(self.me.clone());
            }
        };
        // An info that cannot be read reports nothing.
        let infos: Vec<KeeperInfo> = entries
            .iter()
            .filter_map(|entry| from_slice(&entry.value).ok())
            .collect();
        let peer = |(keeper, is_standby): &(_, bool)| {
            let info = infos.iter().find(|info| info.uid == *keeper)?;
            Some(Peer {
                keeper: info.uid.clone(),
                is_standby: *is_standby,
                is_healthy: info.postgres_state.as_ref().is_some_and(|state| state.healthy),
                settings: info.settings.clone(),
            })
        };
        let peers: Vec<Peer> = target.others.iter().filter_map(peer).collect();
        let is_master = target.role == TargetRole::Master;
        restart_turn(&self.me, is_master, &fingerprint(target), &peers)
    }

    /// Reports whether parameters wait for a restart, to operators and to the other keepers.
    pub(super) fn note_restart(&mut self, need: RestartNeed, orders: &Orders) {
        let state = match need {
            RestartNeed::NotAsked => return,
            RestartNeed::Pending => RestartState::Pending,
            RestartNeed::Nothing | RestartNeed::CanWait if self.memory.judge.verdicts.went_back() => {
                RestartState::Refused
            }
            RestartNeed::Nothing | RestartNeed::CanWait => RestartState::Applied,
        };
        self.metrics.set_needs_restart(need != RestartNeed::Nothing);
        self.report_settings(orders, state);
    }

    /// Reports how far our instance is with the wanted parameters.
    pub(super) fn report_settings(&self, orders: &Orders, state: RestartState) {
        let Be::Db(target) = &orders.be else { return };
        let settings = Some(SettingsInfo {
            fingerprint: fingerprint(target),
            state,
        });
        if self.publisher.report().settings != settings {
            self.publisher.change(Due::Now, |report| report.settings = settings);
        }
    }

    /// Reports that a wanted restart is not done, because no standby started with the parameters.
    pub(super) fn report_held_restart(&self, turn: &Turn) {
        let problems = match turn {
            Turn::Never => vec![Kind::Configuration.problem(
                "parameters wait for a restart of the master, and no standby started with them",
                "fix the standbys' hosts and restart their keepers, or change the parameters",
            )],
            Turn::Now | Turn::After(_) => Vec::new(),
        };
        self.problems.set(Kind::Configuration, "restart", problems);
    }
}
