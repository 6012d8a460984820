//! The order of restarts for changed parameters (keeper R24.3): standbys first, one at a time by uid; then the master,
//! which waits for all healthy standbys. Each keeper computes it from what the others publish.
//!
//! Keepers that do not publish how far their restarts are (Go stolon's restart immediately) are not waited for, nor are
//! instances that have been unhealthy for failInterval.

use model::{KeeperUid, RestartState, SettingsInfo};

use crate::reconcile::TargetDb;

/// Another instance of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its keeper.
    pub keeper: KeeperUid,
    pub is_standby: bool,
    /// Its keeper reports it as healthy.
    pub is_healthy: bool,
    /// It is not reported as healthy, but has not been so for long: it may come back any moment.
    pub is_recently_unhealthy: bool,
    /// Its progress in applying the parameters; `None` when its keeper does not publish it.
    pub settings: Option<SettingsInfo>,
    /// It has been restarting for longer than a start may take.
    pub is_overdue: bool,
}

/// Whether an instance that needs a restart may do it now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RestartTurn {
    #[default]
    Now,
    /// The instance of the named keeper restarts first.
    After(KeeperUid),
    /// The other keepers still read that these parameters are in force here: not before they read that a restart is
    /// pending.
    Announce,
    /// What the other keepers report could not be read: not yet.
    OthersUnknown,
    /// The instance of the named keeper has not come back from its restart in time.
    Stuck(KeeperUid),
    /// No standby started with the parameters, so the master would not either.
    StandbysRefused,
}

/// Returns a hash of the parameters that is the same on all keepers of a cluster (FNV-1a, 64 bits).
pub fn fingerprint(target: &TargetDb) -> String {
    let spec = &target.spec;
    let numbers = [
        u32::from(spec.max_standbys),
        u32::from(spec.additional_wal_senders),
        target.additional_slots,
        u32::from(spec.use_pgrewind),
    ];
    let parameters = spec
        .pg_parameters
        .iter()
        .flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    let numbers = numbers.map(|number| number.to_string());
    let texts = parameters.chain(numbers.iter().map(String::as_str));
    let bytes = texts.flat_map(|text| text.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Returns whether the instance of `me` may restart for the parameters with this fingerprint. A standby that does not
/// come back from its restart never delays other standbys, and delays the master only until another standby has come
/// back with the parameters. `published` is what the other keepers read about this instance.
pub fn restart_turn(
    me: &KeeperUid,
    is_master: bool,
    fingerprint: &str,
    published: Option<&SettingsInfo>,
    peers: &[Peer],
) -> RestartTurn {
    // A standby restarts once more for the same parameters when its control file has come down (keeper 8.7). All standbys find
    // that out at about the same time, and none waits for a restart that it does not know of.
    let is_published_as_done = published.is_some_and(|settings| {
        settings.fingerprint == fingerprint && matches!(settings.state, RestartState::Applied | RestartState::Refused)
    });
    if is_published_as_done {
        return RestartTurn::Announce;
    }
    let is_restarting = |peer: &&Peer| peer.settings.as_ref().is_some_and(SettingsInfo::is_restarting);
    // Overdue restarts are looked at separately: they must not block other standbys forever.
    let (stuck, restarting): (Vec<&Peer>, Vec<&Peer>) =
        peers.iter().filter(is_restarting).partition(|peer| peer.is_overdue);
    if let Some(peer) = restarting.first() {
        return RestartTurn::After(peer.keeper.clone());
    }
    let mut reporting: Vec<&Peer> = peers
        .iter()
        .filter(|peer| peer.is_standby && peer.is_healthy && peer.settings.is_some())
        .collect();
    reporting.sort_by(|a, b| a.keeper.cmp(&b.keeper));
    // An earlier fingerprint does not count as applied or refused.
    let has = |peer: &Peer, wanted: RestartState| {
        let settings = peer.settings.as_ref();
        settings.is_some_and(|settings| settings.fingerprint == fingerprint && settings.state == wanted)
    };
    // One late response must not let the master restart with parameters that no standby has started with.
    let recently_unhealthy = peers
        .iter()
        .filter(|peer| peer.is_standby && peer.is_recently_unhealthy);
    if let Some(peer) = recently_unhealthy
        .min_by(|a, b| a.keeper.cmp(&b.keeper))
        .filter(|peer| is_master || peer.keeper < *me)
    {
        return RestartTurn::After(peer.keeper.clone());
    }
    let is_done = |peer: &Peer| has(peer, RestartState::Applied) || has(peer, RestartState::Refused);
    // Standbys restart in the order of their uids, so that all keepers agree without a lock; the master goes last.
    let before_us = |peer: &&&Peer| is_master || peer.keeper < *me;
    if let Some(peer) = reporting.iter().filter(before_us).find(|peer| !is_done(peer)) {
        return RestartTurn::After(peer.keeper.clone());
    }
    // With an overdue standby the master restarts only if another standby has come back with the parameters.
    let came_back = reporting.iter().any(|peer| has(peer, RestartState::Applied));
    if let Some(peer) = stuck.first().filter(|_| is_master && !came_back) {
        return RestartTurn::Stuck(peer.keeper.clone());
    }
    let refused = reporting.iter().all(|peer| has(peer, RestartState::Refused));
    if is_master && !reporting.is_empty() && refused {
        return RestartTurn::StandbysRefused;
    }
    RestartTurn::Now
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        let words: Vec<&str> = text.split(' ').collect();
        let [keeper, role, health, rest @ ..] = words.as_slice() else {
            panic!("{text}")
        };
        let settings = match rest {
            [fingerprint, state, ..] => Some(SettingsInfo {
                fingerprint: (*fingerprint).to_owned(),
                state: RestartState::from(*state),
            }),
            _ => None,
        };
        Peer {
            keeper: (*keeper).into(),
            is_standby: *role == "standby",
            is_healthy: *health == "healthy",
            is_recently_unhealthy: *health == "recently-unhealthy",
            settings,
            is_overdue: rest.last() == Some(&"overdue"),
        }
    }

    fn check(me: &str, peers: &[&str], wanted: &str) {
        let (me, role) = me.split_once(' ').unwrap();
        let peers: Vec<Peer> = peers.iter().map(|text| peer(text)).collect();
        let turn = match restart_turn(&me.into(), role == "master", "new", None, &peers) {
            RestartTurn::Now => "now".to_owned(),
            RestartTurn::After(keeper) => format!("after {keeper}"),
            RestartTurn::Stuck(keeper) => format!("stuck {keeper}"),
            RestartTurn::StandbysRefused => "standbys refused".to_owned(),
            turn @ (RestartTurn::OthersUnknown | RestartTurn::Announce) => panic!("{turn:?} is not decided here"),
        };
        assert_eq!(turn, wanted, "{me} {role}: {peers:?}");
    }

    #[test]
    fn standbys_restart_one_after_the_other() {
        let master = "k0 master healthy new pending";
        check("k1 standby", &[master, "k2 standby healthy new pending"], "now");
        check("k2 standby", &[master, "k1 standby healthy new pending"], "after k1");
        check("k2 standby", &[master, "k1 standby healthy old applied"], "after k1");
        check(
            "k2 standby",
            &[master, "k1 standby unhealthy new restarting"],
            "after k1",
        );
        check(
            "k1 standby",
            &[master, "k2 standby unhealthy new restarting"],
            "after k2",
        );
        check("k2 standby", &[master, "k1 standby healthy new applied"], "now");
        check("k2 standby", &[master, "k1 standby healthy new refused"], "now");
        check("k2 standby", &["k0 master unhealthy new restarting"], "after k0");
    }

    #[test]
    fn the_master_restarts_after_all_standbys_once_one_has_come_back() {
        check("k0 master", &["k1 standby healthy new pending"], "after k1");
        check("k0 master", &["k1 standby healthy old applied"], "after k1");
        check("k0 master", &["k1 standby unhealthy new restarting"], "after k1");
        check("k0 master", &["k1 standby healthy new applied"], "now");
        check(
            "k0 master",
            &["k2 standby healthy new pending", "k1 standby healthy new applied"],
            "after k2",
        );
        check(
            "k0 master",
            &["k1 standby healthy new applied", "k2 standby healthy new refused"],
            "now",
        );
    }

    #[test]
    fn the_master_keeps_running_when_no_standby_started_with_the_parameters() {
        check("k0 master", &["k1 standby healthy new refused"], "standbys refused");
        check(
            "k0 master",
            &["k1 standby healthy new refused", "k2 standby healthy"],
            "standbys refused",
        );
        check("k0 master", &["k1 standby healthy old refused"], "after k1");
    }

    #[test]
    fn an_overdue_standby_delays_the_master_but_no_other_standby() {
        let stuck = "k1 standby unhealthy new restarting overdue";
        check("k2 standby", &["k0 master healthy new pending", stuck], "now");
        check("k0 master", &[stuck], "stuck k1");
        check("k0 master", &[stuck, "k2 standby healthy new pending"], "after k2");
        check("k0 master", &[stuck, "k2 standby healthy new refused"], "stuck k1");
        check("k0 master", &[stuck, "k2 standby healthy new applied"], "now");
        check("k0 master", &[stuck, "k2 standby healthy new restarting"], "after k2");
    }

    #[test]
    fn instances_that_publish_nothing_or_are_down_are_not_waited_for() {
        check("k0 master", &[], "now");
        check("k0 master", &["k1 standby healthy"], "now");
        check("k0 master", &["k1 standby unhealthy new pending"], "now");
        check("k2 standby", &["k0 master healthy", "k1 standby healthy"], "now");
        check("k2 standby", &["k1 standby unhealthy old applied"], "now");
        check(
            "k0 master",
            &["k1 standby healthy", "k2 standby healthy new pending"],
            "after k2",
        );
    }

    #[test]
    fn a_standby_that_was_healthy_a_moment_ago_is_waited_for() {
        check("k0 master", &["k1 standby recently-unhealthy new pending"], "after k1");
        check("k0 master", &["k1 standby recently-unhealthy"], "after k1");
        check(
            "k0 master",
            &["k1 standby healthy new applied", "k2 standby recently-unhealthy"],
            "after k2",
        );
        check(
            "k2 standby",
            &["k0 master healthy", "k1 standby recently-unhealthy old applied"],
            "after k1",
        );
        check(
            "k1 standby",
            &["k0 master healthy", "k2 standby recently-unhealthy old applied"],
            "now",
        );
        check("k1 standby", &["k0 master recently-unhealthy new pending"], "now");
    }

    /// Rule: keeper 8.7 (e). The second restart for one set of parameters: both standbys find their control files lowered.
    #[test]
    fn a_second_restart_for_the_same_parameters_is_announced_first() {
        let turn = |me: &str, state: &str, peers: &[&str]| {
            let (fingerprint, state) = state.split_once(' ').unwrap();
            let published = SettingsInfo {
                fingerprint: fingerprint.to_owned(),
                state: RestartState::from(state),
            };
            let peers: Vec<Peer> = peers.iter().map(|text| peer(text)).collect();
            restart_turn(&me.into(), false, "new", Some(&published), &peers)
        };
        let (k1, k2) = ("k1 standby healthy new applied", "k2 standby healthy new applied");
        assert_eq!(turn("k1", "new applied", &[k2]), RestartTurn::Announce);
        assert_eq!(turn("k2", "new applied", &[k1]), RestartTurn::Announce);
        assert_eq!(turn("k2", "new refused", &[k1]), RestartTurn::Announce);
        let (k1, k2) = ("k1 standby healthy new pending", "k2 standby healthy new pending");
        assert_eq!(turn("k1", "new pending", &[k2]), RestartTurn::Now);
        assert_eq!(turn("k2", "new pending", &[k1]), RestartTurn::After("k1".into()));
        // The parameters have changed since: every keeper knows that a restart may be needed.
        assert_eq!(turn("k1", "old applied", &[k2]), RestartTurn::Now);
    }

    #[test]
    fn exactly_one_instance_may_restart_until_all_are_done() {
        let mut states = ["pending"; 4];
        for _ in 0..states.len() {
            let name = |at: usize| {
                if at == 0 {
                    "k0 master"
                } else {
                    ["k1 standby", "k2 standby", "k3 standby"][at - 1]
                }
            };
            let turns: Vec<usize> = (0..states.len())
                .filter(|me| states[*me] == "pending")
                .filter(|me| {
                    let others = (0..states.len()).filter(|other| other != me);
                    let peers: Vec<Peer> = others
                        .map(|at| peer(&format!("{} healthy new {}", name(at), states[at])))
                        .collect();
                    let uid = name(*me).split(' ').next().unwrap();
                    restart_turn(&uid.into(), *me == 0, "new", None, &peers) == RestartTurn::Now
                })
                .collect();
            assert_eq!(turns.len(), 1, "{states:?}");
            states[turns[0]] = "applied";
        }
        assert_eq!(states, ["applied"; 4]);
    }
}
