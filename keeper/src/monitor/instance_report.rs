//! Reports what observations find to metrics, pages and systemd. What is published to the store is left to
//! `published_state`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Clock;
use model::{DbUid, strip_stolon_name};

use crate::metrics::{InstanceSample, MetricRole, Metrics, StandbyLag, UpstreamLag};
use crate::postgres::client::replication_state::{StandbyStatus, WalSender};
use crate::postgres::observe::Observation;
use crate::status::KeeperHealth;

/// Reports the state of one instance.
#[derive(Debug)]
pub struct InstanceReporter {
    status: KeeperHealth,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl InstanceReporter {
    pub fn new(status: KeeperHealth, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { status, metrics, clock }
    }

    /// Returns the keeper of a db.
    pub(super) fn keeper_of(&self, db: &DbUid) -> Option<String> {
        self.status.keeper_of(db).map(|keeper| keeper.to_string())
    }

    /// Reports an observation; `healthy` is what is published.
    pub(super) fn report(&self, observation: &Observation, healthy: bool) {
        let sample = self.sample(observation, healthy);
        self.metrics.instance.set(&sample, self.clock.wall());
        self.status.set_sample(sample);
    }

    fn sample(&self, observation: &Observation, healthy: bool) -> InstanceSample {
        let role = |is_standby| {
            if is_standby {
                MetricRole::Standby
            } else {
                MetricRole::Master
            }
        };
        InstanceSample {
            healthy,
            role: observation.is_in_recovery.map(role),
            timeline: observation.timeline,
            position: observation.position.map(|position| position.0),
            standbys: observation.senders.as_ref().map(|senders| self.standbys(senders)),
            upstream: observation.standby.as_ref().map(upstream_lag),
        }
    }

    /// Returns the keepers' standbys; other receivers, such as a running copy, have other names.
    fn standbys(&self, senders: &[WalSender]) -> BTreeMap<String, StandbyLag> {
        let standby = |sender: &WalSender| {
            let db = strip_stolon_name(&sender.application_name)?;
            let keeper = self.status.keeper_of(&db.into())?;
            let lag = StandbyLag {
                is_streaming: sender.is_streaming,
                flush_bytes: sender.flush_lag,
                replay_bytes: sender.replay_lag,
                replay_seconds: Some(sender.replay_seconds),
            };
            Some((keeper.to_string(), lag))
        };
        senders.iter().filter_map(standby).collect()
    }
}

fn upstream_lag(standby: &StandbyStatus) -> UpstreamLag {
    let is_streaming = standby.receiver.as_ref().is_some_and(|receiver| receiver.is_streaming);
    // Without a WAL receiver nothing is known about the upstream.
    let end = standby.upstream_end.max(standby.received).filter(|_| is_streaming);
    let behind = |position: Option<model::Lsn>| Some(end?.0.saturating_sub(position?.0));
    let has_wal_to_replay = standby.replayed < standby.received;
    UpstreamLag {
        is_streaming,
        receive_bytes: behind(standby.received),
        replay_bytes: behind(standby.replayed),
        replay_seconds: standby.replayed_age.filter(|_| has_wal_to_replay).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::client::replication_state::WalReceiver;
    use model::Lsn;

    fn standby(replayed: u64, received: Option<u64>, upstream_end: Option<u64>) -> StandbyStatus {
        StandbyStatus {
            replayed: Some(Lsn(replayed)),
            received: received.map(Lsn),
            is_paused: false,
            upstream_end: upstream_end.map(Lsn),
            replayed_age: Some(17.5),
            receiver: Some(WalReceiver {
                pid: 1,
                is_streaming: true,
                host: String::new(),
                port: String::new(),
                timeline: None,
                slot: String::new(),
            }),
        }
    }

    #[test]
    fn a_standby_is_behind_what_its_upstream_last_reported() {
        let lag = |standby: &StandbyStatus| {
            let lag = upstream_lag(standby);
            (lag.receive_bytes, lag.replay_bytes, lag.replay_seconds)
        };
        assert_eq!(lag(&standby(70, Some(90), Some(100))), (Some(10), Some(30), 17.5));
        assert_eq!(
            lag(&standby(90, Some(90), Some(100))),
            (Some(10), Some(10), 0.0),
            "nothing to replay"
        );
        // The upstream reports its end before the WAL up to it, and less than was received since.
        assert_eq!(lag(&standby(90, Some(90), Some(80))), (Some(0), Some(0), 0.0));
        assert_eq!(lag(&standby(90, None, None)), (None, None, 0.0));
        let mut silent = standby(70, Some(90), Some(100));
        silent.receiver = None;
        assert_eq!(
            lag(&silent),
            (None, None, 17.5),
            "the upstream may have written anything since"
        );
    }
}
