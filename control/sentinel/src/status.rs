//! What the sentinel reports about itself over HTTP and to systemd. What the loop does is left to `sentinel`.

use std::sync::{Arc, Mutex, PoisonError};

use daemon::health::ServiceStatus;
use serde_json::json;
use store::election::Leadership;
use tokio::sync::watch;

use crate::overview::ClusterOverview;

/// What the last round found. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoundStatus(Arc<Mutex<LastRound>>);

/// What a round found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum LastRound {
    /// None has ended yet.
    #[default]
    Pending,
    /// The store did not answer.
    NoStore(String),
    /// There are no usable cluster data.
    NoData(&'static str),
    /// The cluster as it was read.
    Cluster(ClusterOverview),
}

impl RoundStatus {
    pub(crate) fn set_no_store(&self, error: String) {
        self.set(LastRound::NoStore(error));
    }

    pub(crate) fn set_no_data(&self, reason: &'static str) {
        self.set(LastRound::NoData(reason));
    }

    pub(crate) fn set_cluster(&self, cluster: ClusterOverview) {
        self.set(LastRound::Cluster(cluster));
    }

    fn set(&self, last: LastRound) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// Returns what the program reports, given the election.
    pub(crate) fn service_status(&self, election: &watch::Receiver<Leadership>) -> ServiceStatus {
        let is_leader = election.borrow().leader().is_some();
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status(is_leader, &last)
    }
}

fn status(is_leader: bool, last: &LastRound) -> ServiceStatus {
    let role = if is_leader { "leader" } else { "follower" };
    let (summary, not_ready) = match last {
        LastRound::Pending => (role.to_owned(), Some("the store has not been read yet".to_owned())),
        LastRound::NoStore(error) => (role.to_owned(), Some(format!("the store does not answer: {error}"))),
        LastRound::NoData(reason) => (role.to_owned(), Some((*reason).to_owned())),
        LastRound::Cluster(cluster) => (format!("{role}, {cluster}"), None),
    };
    ServiceStatus {
        is_started: *last != LastRound::Pending,
        summary,
        not_ready,
        details: json!({ "leader": is_leader }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(is_leader: bool, last: &LastRound) -> String {
        let status = status(is_leader, last);
        let reason = status.not_ready.map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{} {}{reason}", status.is_started, status.summary)
    }

    #[test]
    fn a_sentinel_is_ready_once_it_has_read_usable_cluster_data() {
        let cluster = LastRound::Cluster(ClusterOverview {
            announced: Some("keeper0".into()),
            healthy_standbys: 1,
            proxies: 2,
            ..ClusterOverview::default()
        });
        assert_eq!(
            line(true, &cluster),
            "true leader, master keeper0, 1 healthy standby, 2 proxies"
        );
        assert_eq!(
            line(false, &LastRound::Pending),
            "false follower: the store has not been read yet"
        );
        assert_eq!(
            line(false, &LastRound::NoStore("timed out".to_owned())),
            "true follower: the store does not answer: timed out"
        );
        assert_eq!(
            line(true, &LastRound::Cluster(ClusterOverview::default())),
            "true leader, no announced master, 0 healthy standbys, 0 proxies"
        );
    }
}
