//! What a check-in consists of, as data: its steps, and what some of them return. Their order is in `sequence`; they are
//! performed by the check-in's loop.

use std::net::SocketAddr;
use std::time::Duration;

use base::clock::Boottime;
use model::DbUid;
use store::Revision;

use super::document::Document;
use super::timing::CheckInTiming;
use crate::address::MasterAddress;
use crate::route::{MasterEndpoint, Route};

/// One step of a check-in, to be performed before the next one is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CheckInStep {
    /// Close the route if the machine may have been paused (fencing section 1). Answered by `clocks_compared`.
    CompareClocks,
    /// Read the cluster data. Answered by `read`.
    Read,
    /// Start listening, unless that was done before. The store was read at this time (proxy P-5).
    Listen(Boottime),
    /// Stop forwarding to the open route's master, and end the connections.
    StopForwarding,
    /// Resolve the master's address; `None`: no master is named. Answered by `resolved`.
    Resolve(Option<(DbUid, MasterEndpoint)>),
    /// Ignore all responses to earlier requests that are still to come.
    DiscardRequests,
    /// Hold clients no longer for the next master.
    EndMasterChange,
    /// Read whether keepers exist: the log's advice about missing cluster data depends on it.
    ReadKeepersWithData,
    /// Log what was decided.
    Report(RouteReport),
    /// Publish the proxy info. Answered by `published`.
    Publish(InfoContent),
    /// Renew the lease of the route, or open it.
    Open(Box<GrantedRoute>),
    /// The check-in is over.
    Done(CheckInResult),
}

/// What was decided, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteReport {
    pub(super) route: Route,
    /// How the master's address was found; `None` if no master is named.
    pub(super) master: Option<MasterAddress>,
    /// The proxy generation that is published, if any.
    pub(super) generation: Option<i64>,
}

/// What a check-in publishes, and the revision of the cluster data that must not have changed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InfoContent {
    pub(super) revision: Revision,
    pub(super) generation: i64,
    /// The proxyTimeout in the info.
    pub(super) timeout: Duration,
}

/// A route with the lease that a good check-in grants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrantedRoute {
    pub(super) route: Route,
    /// The master's endpoint in the cluster data.
    pub(super) endpoint: Option<MasterEndpoint>,
    /// End of the lease of an address that this check-in has only kept, and not confirmed.
    pub(super) kept_until: Option<Boottime>,
    pub(super) lease_start: Boottime,
    /// The length of the lease.
    pub(super) timeout: Duration,
    /// The intervals that are in force from now on, if the cluster data have any.
    pub(super) timing: Option<CheckInTiming>,
}

/// The result of a check-in that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckInResult {
    /// The lease is renewed.
    Good,
    /// The cluster data must not be used; the lease is not renewed.
    Unusable,
}

/// What the open route leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenEndpoint {
    /// The master's endpoint in the cluster data.
    pub(super) endpoint: Option<MasterEndpoint>,
    pub(super) address: SocketAddr,
}

/// The result of publishing.
#[derive(Debug)]
pub(super) enum PublishOutcome {
    /// The store has the info. The check-in's lease begins at this time.
    Published(Boottime),
    /// Nothing was published, because the cluster data have changed to these.
    Changed(Document),
}

impl OpenEndpoint {
    /// Whether this route leads to the same address (proxy P-6).
    pub(super) fn is_target_of(&self, route: &Route) -> bool {
        matches!(route, Route::Open { master, .. } if *master == self.address)
    }
}
