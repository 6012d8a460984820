//! One check-in without I/O: which step comes next, given what the earlier ones returned (fencing F-1, F-2). What the
//! cluster data mean is decided in `route`; the steps are performed by the check-in's loop.

use std::net::IpAddr;

use base::clock::Boottime;
use model::{DbUid, ProxyUid};

use super::document::Document;
use super::error::CheckInError;
use super::step::{CheckInResult, CheckInStep, GrantedRoute, InfoContent, OpenEndpoint, PublishOutcome, RouteReport};
use super::timing::CheckInTiming;
use crate::address::MasterAddress;
use crate::route::{MasterEndpoint, NetworkFacts, PublishInfo, Route, RouteDecision, StoredClusterData, decide};

/// How far a round has come. That cluster data were read, decided on and published shows in the other fields of
/// [`Round`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Stage {
    #[default]
    Start,
    ClocksCompared,
    Listening,
    RequestsDiscarded,
    MasterChangeEnded,
    KeepersWithDataRead,
    Reported,
    ClocksComparedAgain,
    Opened,
}

impl Stage {
    /// Moves to this stage. Returns whether it had not been reached before.
    fn reach(&mut self, stage: Self) -> bool {
        let first = *self < stage;
        *self = stage.max(*self);
        first
    }
}

/// A check-in: rounds that decide on one version of the cluster data each, until one of them is published while that
/// version is still the current one.
#[derive(Debug)]
pub(super) struct CheckInSequence {
    me: ProxyUid,
    cluster_data_key: String,
    /// The intervals of the last good check-in; `None` before the first one that read cluster data.
    applied: Option<CheckInTiming>,
    /// `None` also once this check-in has closed it.
    open: Option<OpenEndpoint>,
    /// The cluster data that the next round decides on; `None`: they are read.
    document: Option<Document>,
    /// The cluster data that the next check-in may decide on.
    reusable: Option<Document>,
    round: Round,
}

/// What one round has done and found out.
#[derive(Debug, Default)]
struct Round {
    stage: Stage,
    found: Option<Found>,
    decided: Option<Decided>,
    lease_start: Option<Boottime>,
}

/// The cluster data of a round.
#[derive(Debug)]
struct Found {
    document: Document,
    stored: StoredClusterData,
    endpoint: Option<MasterEndpoint>,
}

#[derive(Debug)]
struct Decided {
    decision: RouteDecision,
    master: Option<MasterAddress>,
}

impl CheckInSequence {
    /// Returns a check-in that starts from the cached cluster data: if they have changed, the transaction that
    /// publishes fails and returns the current ones. Only when there is nothing to publish are they read.
    pub(super) fn new(
        me: ProxyUid,
        cluster_data_key: String,
        applied: Option<CheckInTiming>,
        open: Option<OpenEndpoint>,
        cached: Option<Document>,
    ) -> Self {
        Self {
            me,
            cluster_data_key,
            applied,
            open,
            document: cached,
            reusable: None,
            round: Round::default(),
        }
    }

    /// Returns the next step: the first one of this order that the round has not done yet. Forwarding stops before
    /// anything is published, and a route opens only after (fencing F-1).
    pub(super) fn next_step(&mut self) -> CheckInStep {
        let Round {
            stage,
            found,
            decided,
            lease_start,
        } = &mut self.round;
        // Before every decision: a pause that the boottime clock has not counted may have outlasted the lease.
        if stage.reach(Stage::ClocksCompared) {
            return CheckInStep::CompareClocks;
        }
        let Some(found) = found else { return CheckInStep::Read };
        let read_at = found.document.read_at;
        if let Some(read_at) = read_at.filter(|_| stage.reach(Stage::Listening)) {
            return CheckInStep::Listen(read_at);
        }
        // A lookup may take long, and a route to a master that is not named any more must not wait for it.
        if self.open.take_if(|open| found.has_new_name(open)).is_some() {
            return CheckInStep::StopForwarding;
        }
        let Some(decided) = decided else {
            return CheckInStep::Resolve(found.master());
        };
        let decision = &decided.decision;
        if self.open.take_if(|open| !open.is_target_of(&decision.route)).is_some() {
            return CheckInStep::StopForwarding; // before anything is published (fencing F-1)
        }
        if let Some(step) = decided.next_before_publishing(stage, &found.stored) {
            return step;
        }
        let lease_start = match (*lease_start, decision.publish, read_at) {
            (Some(published_at), _, _) => published_at,
            // Without a transaction only a read proves that the cached data are current.
            (None, PublishInfo::No, None) => {
                self.start_round(None);
                return self.next_step();
            }
            _ if !decision.renews_lease => return CheckInStep::Done(CheckInResult::Unusable),
            (None, PublishInfo::No, Some(read_at)) => read_at,
            (None, PublishInfo::Try(generation) | PublishInfo::Must(generation), _) => {
                return CheckInStep::Publish(found.info_content(generation, self.applied));
            }
        };
        // A pause since the request was sent may have outlasted the lease as well.
        if stage.reach(Stage::ClocksComparedAgain) {
            return CheckInStep::CompareClocks;
        }
        if stage.reach(Stage::Opened) {
            if decision.publish != PublishInfo::No {
                self.reusable = Some(found.document.without_read_time());
            }
            return CheckInStep::Open(Box::new(found.grant(decided, lease_start, self.applied)));
        }
        CheckInStep::Done(CheckInResult::Good)
    }

    /// Begins another round, with these cluster data or by reading them.
    fn start_round(&mut self, document: Option<Document>) {
        self.document = document;
        self.round = Round::default();
    }

    /// Continues after both clocks were compared. If they had jumped, the route has been closed.
    ///
    /// # Errors
    /// They jumped after the request was sent, or the cluster data to decide on cannot be decoded.
    pub(super) fn clocks_compared(&mut self, jumped: bool) -> Result<(), CheckInError> {
        if jumped {
            self.open = None;
        }
        if self.round.stage >= Stage::ClocksComparedAgain {
            return if jumped { Err(CheckInError::ClockJumped) } else { Ok(()) };
        }
        match self.document.take() {
            Some(document) => self.read(document),
            None => Ok(()),
        }
    }

    /// Continues with the cluster data.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub(super) fn read(&mut self, document: Document) -> Result<(), CheckInError> {
        let decoded = StoredClusterData::parse(document.value());
        let stored = decoded.map_err(|source| CheckInError::Decode {
            key: self.cluster_data_key.clone(),
            source,
        })?;
        let endpoint = stored.master_endpoint().map(|(_, endpoint)| endpoint);
        self.round.found = Some(Found {
            document,
            stored,
            endpoint,
        });
        Ok(())
    }

    /// Continues with the network facts: decides.
    pub(super) fn resolved(&mut self, network: &NetworkFacts, master: Option<MasterAddress>) {
        if let Some(found) = &self.round.found {
            let decision = decide(&found.stored, network, &self.me);
            self.round.decided = Some(Decided { decision, master });
        }
    }

    /// Continues after publishing. Returns the error of a failure that is only logged.
    ///
    /// # Errors
    /// Publishing failed, and had to succeed. The next check-in decides on the same cluster data.
    pub(super) fn published(
        &mut self,
        outcome: Result<PublishOutcome, CheckInError>,
    ) -> Result<Option<CheckInError>, CheckInError> {
        let round = &mut self.round;
        let (Some(found), Some(decided)) = (&round.found, &round.decided) else {
            return Ok(None); // nothing was to be published
        };
        let must_succeed = !matches!(decided.decision.publish, PublishInfo::Try(_));
        match (outcome, found.document.read_at) {
            (Ok(PublishOutcome::Published(sent_at)), _) => round.lease_start = Some(sent_at),
            // Conflict: decide again from the current data.
            (Ok(PublishOutcome::Changed(newer)), _) => self.start_round(Some(newer)),
            (Err(err), _) if must_succeed => {
                self.reusable = Some(found.document.without_read_time());
                return Err(err);
            }
            (Err(err), Some(read_at)) => {
                round.lease_start = Some(read_at);
                return Ok(Some(err));
            }
            (Err(_), None) => self.start_round(None),
        }
        Ok(None)
    }

    /// Returns the cluster data that the next check-in may decide on.
    pub(super) fn into_reusable(self) -> Option<Document> {
        self.reusable
    }
}

impl Found {
    /// Returns the db that is named as the master, and its endpoint.
    fn master(&self) -> Option<(DbUid, MasterEndpoint)> {
        self.stored
            .master_endpoint()
            .map(|(db, endpoint)| (db.clone(), endpoint))
    }

    /// Whether the master's endpoint has changed from the open route's to one with a name, which has to be looked up
    /// (proxy P-6).
    fn has_new_name(&self, open: &OpenEndpoint) -> bool {
        let is_name = |endpoint: &MasterEndpoint| endpoint.host.parse::<IpAddr>().is_err();
        self.endpoint.as_ref().is_some_and(is_name) && open.endpoint != self.endpoint
    }

    /// Returns the intervals of the cluster data, or those in force if they have none.
    fn timing(&self, applied: Option<CheckInTiming>) -> CheckInTiming {
        match &self.stored {
            StoredClusterData::Usable(data) => CheckInTiming {
                check_interval: data.spec.proxy_check_interval,
                timeout: data.spec.proxy_timeout,
            },
            StoredClusterData::Absent | StoredClusterData::Unusable(_) => applied.unwrap_or_default(),
        }
    }

    fn info_content(&self, generation: i64, applied: Option<CheckInTiming>) -> InfoContent {
        let timeout = self.timing(applied).timeout;
        InfoContent {
            revision: self.document.revision,
            generation,
            // The greater of the old and the new timeout (fencing F-2). Without an old one nothing has been forwarded
            // yet, so the new one will do.
            timeout: applied.map_or(timeout, |applied| timeout.max(applied.timeout)),
        }
    }

    fn grant(&self, decided: &Decided, lease_start: Boottime, applied: Option<CheckInTiming>) -> GrantedRoute {
        let timing = self.timing(applied);
        GrantedRoute {
            route: decided.decision.route.clone(),
            endpoint: self.endpoint.clone(),
            // An address that was only kept must not be renewed by this check-in, which has not confirmed it.
            kept_until: match &decided.master {
                Some(MasterAddress::Kept { until, .. }) => Some(*until),
                _ => None,
            },
            lease_start,
            timeout: timing.timeout,
            timing: matches!(self.stored, StoredClusterData::Usable(_)).then_some(timing),
        }
    }
}

impl Decided {
    /// Returns the next step between the end of an old route and the publication of the new decision.
    fn next_before_publishing(&self, stage: &mut Stage, stored: &StoredClusterData) -> Option<CheckInStep> {
        // A late response to an earlier request must not renew the lease after a decision that publishes nothing.
        if self.decision.publish == PublishInfo::No && stage.reach(Stage::RequestsDiscarded) {
            return Some(CheckInStep::DiscardRequests);
        }
        let no_master_is_expected =
            matches!(&self.decision.route, Route::Closed(reason) if !reason.may_be_master_change());
        if no_master_is_expected && stage.reach(Stage::MasterChangeEnded) {
            return Some(CheckInStep::EndMasterChange);
        }
        if *stored == StoredClusterData::Absent && stage.reach(Stage::KeepersWithDataRead) {
            return Some(CheckInStep::ReadKeepersWithData);
        }
        stage.reach(Stage::Reported).then(|| CheckInStep::Report(self.report()))
    }

    fn report(&self) -> RouteReport {
        RouteReport {
            route: self.decision.route.clone(),
            master: self.master.clone(),
            generation: match self.decision.publish {
                PublishInfo::Try(generation) | PublishInfo::Must(generation) => Some(generation),
                PublishInfo::No => None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
