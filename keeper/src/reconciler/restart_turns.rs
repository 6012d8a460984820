//! Whether this instance may restart for changed parameters now, from what the other keepers publish. The order itself
//! is decided by `reconcile`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::clock::Boottime;
use base::{Chain, Clock};
use model::{KeeperInfo, KeeperUid, RestartState, SettingsInfo, from_slice};
use store::Store;
use tracing::warn;

use crate::context::KeeperContext;
use crate::problems::{KeeperProblemKind, Problems};
use crate::reconcile::{OtherKeeper, Peer, RestartTurn, TargetDb, TargetRole, fingerprint, restart_turn};

/// Minimum limit, for specs without a limit or with a very short one.
const RESTART_LIMIT_MIN: Duration = Duration::from_secs(60);

/// Reads what the other keepers publish about their restarts.
#[derive(Debug)]
pub(super) struct RestartTurns {
    store: Store,
    me: KeeperUid,
    problems: Arc<Problems>,
    clock: Clock,
    peers: PeerHistory,
}

/// What the other keepers published while the local instance waits.
#[derive(Debug, Default)]
struct PeerHistory {
    /// Restarts that are under way.
    restarts: BTreeMap<KeeperUid, PeerRestart>,
    /// Since when instances are not reported as healthy.
    unhealthy_since: BTreeMap<KeeperUid, Boottime>,
}

/// How long other instances are waited for.
#[derive(Debug, Clone, Copy)]
struct WaitLimits {
    /// A restart.
    restart: Duration,
    /// An instance that is not reported as healthy, or not at all.
    unhealthy: Duration,
}

/// A restart under way.
#[derive(Debug)]
struct PeerRestart {
    since: Boottime,
    /// As last reported.
    settings: SettingsInfo,
}

impl RestartTurns {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            store: context.store.clone(),
            me: context.me.clone(),
            problems: Arc::clone(&context.problems),
            clock: context.clock.clone(),
            peers: PeerHistory::default(),
        }
    }

    /// Returns whether the local instance may restart for parameters now. Without the store it waits.
    pub(super) async fn turn(&mut self, target: &TargetDb) -> RestartTurn {
        let prefix = self.store.keys().keeper_infos();
        let entries = match self.store.list(&prefix).await {
            Ok(entries) => entries,
            Err(error) => {
                warn!(error = %Chain(&error), "could not read what other keepers report, not restarting yet");
                return RestartTurn::OthersUnknown;
            }
        };
        // Undecodable infos count as missing.
        let infos: Vec<KeeperInfo> = entries
            .iter()
            .filter_map(|entry| from_slice(&entry.value).ok())
            .collect();
        let own = infos.iter().find(|info| info.uid == self.me);
        let published = own.and_then(|info| info.settings.as_ref());
        let peers = self
            .peers
            .peers(&infos, &target.other_keepers, self.clock.now(), wait_limits(target));
        let is_master = target.role == TargetRole::Master;
        restart_turn(&self.me, is_master, &fingerprint(target), published, &peers)
    }

    /// Drops what is known of other instances: nothing is pending here, so it would only grow old.
    pub(super) fn forget(&mut self) {
        self.peers = PeerHistory::default();
    }

    /// Reports that the master is not restarted because no standby started with the parameters.
    pub(super) fn report(&self, turn: &RestartTurn) {
        let problems = match turn {
            RestartTurn::StandbysRefused => vec![KeeperProblemKind::Configuration.problem(
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
            RestartTurn::Now | RestartTurn::After(_) | RestartTurn::Announce | RestartTurn::OthersUnknown => Vec::new(),
        };
        self.problems.set(KeeperProblemKind::Configuration, "restart", problems);
    }
}

impl PeerHistory {
    /// Returns what these infos report about the other `members` of the cluster.
    fn peers(&mut self, infos: &[KeeperInfo], members: &[OtherKeeper], now: Boottime, limits: WaitLimits) -> Vec<Peer> {
        self.update(infos, members, now);
        let peer = |OtherKeeper { keeper, is_standby }: &OtherKeeper| {
            let info = infos.iter().find(|info| info.uid == *keeper);
            let restart = self.restarts.get(keeper);
            let settings = match restart {
                Some(restart) => Some(restart.settings.clone()),
                None => info.and_then(restart_progress),
            };
            // Without an info it is not known whether its keeper publishes its progress.
            let is_awaited = restart.is_none() && (info.is_none() || settings.is_some());
            let unhealthy_since = self.unhealthy_since.get(keeper);
            Peer {
                keeper: keeper.clone(),
                is_standby: *is_standby,
                is_healthy: unhealthy_since.is_none(),
                is_recently_unhealthy: is_awaited
                    && unhealthy_since.is_some_and(|since| now.since(*since) < limits.unhealthy),
                settings,
                is_overdue: restart.is_some_and(|restart| now.since(restart.since) >= limits.restart),
            }
        };
        members.iter().map(peer).collect()
    }

    /// Updates the restarts from these infos. A restart is over once its keeper reports another state or its orderly
    /// end, or was removed from the cluster. It goes on while its keeper's info is missing or cannot be decoded, for
    /// example because its lease ended on a busy host: the server may still not have started (keeper R24.4).
    fn update(&mut self, infos: &[KeeperInfo], members: &[OtherKeeper], now: Boottime) {
        let is_member = |keeper: &KeeperUid| members.iter().any(|member| member.keeper == *keeper);
        self.restarts.retain(|keeper, _| is_member(keeper));
        let is_healthy = |keeper: &KeeperUid| infos.iter().any(|info| info.uid == *keeper && is_healthy(info));
        self.unhealthy_since
            .retain(|keeper, _| is_member(keeper) && !is_healthy(keeper));
        for OtherKeeper { keeper, .. } in members.iter().filter(|member| !is_healthy(&member.keeper)) {
            self.unhealthy_since.entry(keeper.clone()).or_insert(now);
        }
        for info in infos.iter().filter(|info| is_member(&info.uid)) {
            match restart_progress(info).filter(SettingsInfo::is_restarting) {
                Some(settings) => {
                    let since = self.restarts.get(&info.uid).map_or(now, |restart| restart.since);
                    self.restarts.insert(info.uid.clone(), PeerRestart { since, settings });
                }
                None => {
                    self.restarts.remove(&info.uid);
                }
            }
        }
    }
}

/// Returns the progress that an info reports. That of a keeper that ends in order does not count: it stops its server.
/// A keeper with a liveness key publishes its progress, but not before its first round with a running server, for
/// example after a copy: until then its instance has no parameters applied.
fn restart_progress(info: &KeeperInfo) -> Option<SettingsInfo> {
    if info.is_leaving_or_stopped() {
        return None;
    }
    let not_yet_known = || {
        info.liveness_key.then(|| SettingsInfo {
            fingerprint: String::new(),
            state: RestartState::Pending,
        })
    };
    info.settings.clone().or_else(not_yet_known)
}

fn is_healthy(info: &KeeperInfo) -> bool {
    info.postgres_state.as_ref().is_some_and(|state| state.healthy)
}

/// Limits before an instance continues without others. That of a restart is the time until an instance that does not
/// start counts as unhealthy, plus the time that it may take to accept connections.
fn wait_limits(target: &TargetDb) -> WaitLimits {
    WaitLimits {
        restart: target
            .ready_timeout
            .max(RESTART_LIMIT_MIN)
            .saturating_add(target.fail_interval),
        unhealthy: target.fail_interval,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: WaitLimits = WaitLimits {
        restart: Duration::from_secs(60),
        unhealthy: Duration::from_secs(20),
    };

    fn standby(keeper: &str) -> OtherKeeper {
        OtherKeeper {
            keeper: keeper.into(),
            is_standby: true,
        }
    }

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

    /// Returns the keepers with an overdue restart after infos were read in which these are restarting.
    fn overdue(restarts: &mut PeerHistory, restarting: &[&str], seconds: u64) -> Vec<String> {
        let state = |keeper: &str| match restarting.contains(&keeper) {
            true => RestartState::Restarting,
            false => RestartState::Applied,
        };
        let infos = ["a", "b"].map(|keeper| info(keeper, state(keeper)));
        let members = ["a", "b"].map(standby);
        let now = Boottime::from_nanos(0) + Duration::from_secs(seconds);
        let peers = restarts.peers(&infos, &members, now, LIMITS).into_iter();
        peers
            .filter(|peer| peer.is_overdue)
            .map(|peer| peer.keeper.to_string())
            .collect()
    }

    /// Returns the keepers that are restarting, with a mark on overdue ones, after these infos were read.
    fn restarting(restarts: &mut PeerHistory, infos: &[KeeperInfo], seconds: u64) -> Vec<String> {
        let members = ["a", "b"].map(standby);
        let now = Boottime::from_nanos(0) + Duration::from_secs(seconds);
        let peers = restarts.peers(infos, &members, now, LIMITS).into_iter();
        let is_restarting = |peer: &Peer| peer.settings.as_ref().is_some_and(SettingsInfo::is_restarting);
        let mark = |peer: Peer| format!("{}{}", peer.keeper, if peer.is_overdue { " overdue" } else { "" });
        peers.filter(is_restarting).map(mark).collect()
    }

    #[test]
    fn a_restart_goes_on_while_the_info_of_its_keeper_is_missing() {
        // Rule: keeper R24.4. The info is missing once its lease has ended, and when it cannot be decoded.
        let mut restarts = PeerHistory::default();
        let info_of_a = [info("a", RestartState::Restarting)];
        assert_eq!(restarting(&mut restarts, &info_of_a, 0), ["a"]);
        assert_eq!(restarting(&mut restarts, &[], 30), ["a"], "it is still waited for");
        assert_eq!(
            restarting(&mut restarts, &info_of_a, 60),
            ["a overdue"],
            "its time went on"
        );
        assert_eq!(restarting(&mut restarts, &[], 61), ["a overdue"]);
        assert_eq!(
            restarting(&mut restarts, &[info("a", RestartState::Applied)], 62),
            [""; 0]
        );
        assert_eq!(restarting(&mut restarts, &[], 63), [""; 0], "it is over");
    }

    #[test]
    fn the_restart_of_a_keeper_that_left_the_cluster_is_over() {
        let mut restarts = PeerHistory::default();
        restarting(&mut restarts, &[info("a", RestartState::Restarting)], 0);
        let others = [standby("b")];
        let now = Boottime::from_nanos(0) + LIMITS.restart;
        let peers = restarts.peers(&[], &others, now, LIMITS);
        assert_eq!(peers.iter().map(|peer| peer.keeper.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(restarting(&mut restarts, &[], 61), [""; 0]);
    }

    #[test]
    fn the_restart_of_a_keeper_that_ends_in_order_is_over() {
        let mut restarts = PeerHistory::default();
        let restarting_info = info("a", RestartState::Restarting);
        assert_eq!(
            restarting(&mut restarts, std::slice::from_ref(&restarting_info), 0),
            ["a"]
        );
        let leaving = KeeperInfo {
            leaving: true,
            ..restarting_info
        };
        assert_eq!(restarting(&mut restarts, &[leaving], 1), [""; 0]);
        assert_eq!(restarting(&mut restarts, &[], 2), [""; 0], "its info has expired");
    }

    #[test]
    fn a_restart_is_overdue_once_it_was_seen_for_the_limit() {
        let mut restarts = PeerHistory::default();
        assert_eq!(overdue(&mut restarts, &["a"], 0), [""; 0]);
        assert_eq!(overdue(&mut restarts, &["a", "b"], 59), [""; 0]);
        assert_eq!(overdue(&mut restarts, &["a", "b"], 60), ["a"]);
        assert_eq!(overdue(&mut restarts, &["b"], 61), [""; 0]);
        assert_eq!(overdue(&mut restarts, &["b"], 119), ["b"]);
    }

    #[test]
    fn a_keeper_that_has_not_published_its_progress_yet_is_waited_for() {
        // Rule: keeper R24.3. Its standby may just have been copied, and be healthy already.
        let state = Some(model::PostgresState {
            healthy: true,
            ..model::PostgresState::default()
        });
        let new_keeper = KeeperInfo {
            uid: "a".into(),
            liveness_key: true,
            postgres_state: state.clone(),
            ..KeeperInfo::default()
        };
        let go_stolon = KeeperInfo {
            uid: "b".into(),
            postgres_state: state,
            ..KeeperInfo::default()
        };
        let turn = |infos: &[KeeperInfo]| {
            let members = ["a", "b"].map(standby);
            let peers = PeerHistory::default().peers(infos, &members, Boottime::from_nanos(0), LIMITS);
            restart_turn(&"c".into(), true, "new", None, &peers)
        };
        let infos = [new_keeper, go_stolon];
        assert_eq!(turn(&infos), RestartTurn::After("a".into()));
        let applied = KeeperInfo {
            settings: info("a", RestartState::Applied).settings,
            ..infos[0].clone()
        };
        assert_eq!(turn(&[applied, infos[1].clone()]), RestartTurn::Now);
    }

    /// Returns the keepers whose instances are waited for although they are not reported as healthy.
    fn recently_unhealthy(history: &mut PeerHistory, infos: &[KeeperInfo], seconds: u64) -> Vec<String> {
        let members = ["a", "b"].map(standby);
        let now = Boottime::from_nanos(0) + Duration::from_secs(seconds);
        let peers = history.peers(infos, &members, now, LIMITS).into_iter();
        let awaited = peers.filter(|peer| peer.is_recently_unhealthy);
        awaited.map(|peer| peer.keeper.to_string()).collect()
    }

    #[test]
    fn an_instance_that_is_not_reported_as_healthy_is_waited_for_until_its_limit() {
        let healthy = |keeper: &str| KeeperInfo {
            postgres_state: Some(model::PostgresState {
                healthy: true,
                ..model::PostgresState::default()
            }),
            ..info(keeper, RestartState::Applied)
        };
        let mut history = PeerHistory::default();
        let b = healthy("b");
        assert_eq!(recently_unhealthy(&mut history, &[healthy("a"), b.clone()], 0), [""; 0]);
        let unhealthy = info("a", RestartState::Applied);
        assert_eq!(
            recently_unhealthy(&mut history, &[unhealthy.clone(), b.clone()], 10),
            ["a"]
        );
        assert_eq!(
            recently_unhealthy(&mut history, std::slice::from_ref(&b), 29),
            ["a"],
            "its info is missing"
        );
        assert_eq!(recently_unhealthy(&mut history, std::slice::from_ref(&b), 30), [""; 0]);
        assert_eq!(
            recently_unhealthy(&mut history, &[healthy("a"), b.clone()], 40),
            [""; 0]
        );
        assert_eq!(recently_unhealthy(&mut history, &[unhealthy, b.clone()], 50), ["a"]);
        // A keeper that publishes no progress (Go stolon) would not be waited for after it is healthy again either.
        let silent = KeeperInfo {
            uid: "a".into(),
            ..KeeperInfo::default()
        };
        assert_eq!(recently_unhealthy(&mut history, &[silent, b], 51), [""; 0]);
    }
}
