//! Details of observations that do not decide about health: when they are queried, and the last ones, kept meanwhile. Querying
//! them is left to `postgres::observe`.

use std::time::Duration;

use base::clock::Boottime;

use crate::postgres::config::conf::Parameters;
use crate::postgres::observe::{Observation, ObserveScope};
use crate::postgres::server::postmaster::ChildStatus;

/// Delay after a failed query of details: each attempt may take a request timeout.
const DETAILS_DELAY: Duration = Duration::from_secs(30);

/// Interval of querying the parameters without an event: the server reads its configuration files each time.
const PARAMETERS_INTERVAL: Duration = Duration::from_secs(60);

/// The details that were last queried, and whether the server was healthy.
#[derive(Debug, Default)]
pub(super) struct Details {
    /// The server's status at the last observation, if it was healthy.
    healthy_child: Option<ChildStatus>,
    /// The parameters. Only the keeper changes their files.
    parameters: Option<Parameters>,
    /// When they were queried; `None` if they have to be queried again.
    parameters_at: Option<Boottime>,
    /// When details could not be queried.
    failed_at: Option<Boottime>,
}

impl Details {
    pub(super) fn are_due(&self, now: Boottime) -> bool {
        self.failed_at.is_none_or(|at| now.since(at) >= DETAILS_DELAY)
    }

    pub(super) fn are_parameters_due(&self, now: Boottime) -> bool {
        self.parameters_at.is_none_or(|at| now.since(at) >= PARAMETERS_INTERVAL)
    }

    /// Begins an observation while the keeper's server has the status `child`; returns whether this server was healthy
    /// at the last observation. If it was not, or `query_again` is true, the parameters are due.
    pub(super) fn begin(&mut self, child: ChildStatus, query_again: bool) -> bool {
        let was_healthy = self.healthy_child == Some(child);
        if query_again || !was_healthy {
            self.parameters_at = None;
        }
        was_healthy
    }

    /// Records whether the server with the status `child` was healthy at this observation.
    pub(super) fn record_health(&mut self, child: ChildStatus, healthy: bool) {
        self.healthy_child = healthy.then_some(child);
    }

    /// Fills in parameters that were not queried this time.
    pub(super) fn fill_in(&mut self, observation: &mut Observation, scope: ObserveScope, now: Boottime) {
        if !observation.is_healthy {
            return;
        }
        if observation.parameters.is_none() && self.parameters.is_none() && !observation.is_refused() {
            // A new cluster adopts the parameters of its first master (sentinel I-4): missing ones must not be
            // published as none.
            observation.is_healthy = false;
            self.failed_at = None;
            return;
        }
        if scope.details {
            self.failed_at = observation.failed.as_ref().map(|_| now);
        }
        match &observation.parameters {
            Some(parameters) => {
                self.parameters = Some(parameters.clone());
                self.parameters_at = Some(now);
            }
            None => observation.parameters = self.parameters.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::client::refusal::ServerRefusal;
    use crate::postgres::client::sql_error::SqlError;
    use crate::postgres::observe::ObserveError;

    #[test]
    fn parameters_that_were_never_read_are_not_reported_as_none() {
        let unanswered = || Observation {
            is_healthy: true,
            failed: Some(ObserveError::Parameters(SqlError::Timeout {
                action: "read",
                limit: Duration::from_secs(1),
            })),
            ..Observation::default()
        };
        let now = Boottime::from_nanos(0);
        let mut read = Details::default();
        let mut first = unanswered();
        read.fill_in(&mut first, ObserveScope::ALL, now);
        assert!(!first.is_healthy && read.are_due(now));

        // A refused login proves that the server is alive, and must not cause a failover.
        let mut refused = unanswered();
        refused.failed = None;
        refused.logins.superuser = Some(Err(ServerRefusal::new("28P01", "no").unwrap()));
        read.fill_in(&mut refused, ObserveScope::ALL, now);
        assert!(refused.is_healthy);

        let mut whole = Observation {
            is_healthy: true,
            parameters: Some(Parameters::from([("a".into(), "1".into())])),
            ..Observation::default()
        };
        read.fill_in(&mut whole, ObserveScope::ALL, now);
        let mut later = unanswered();
        read.fill_in(&mut later, ObserveScope::ALL, now);
        assert!(later.is_healthy && !read.are_due(now));
        assert_eq!(later.parameters, whole.parameters);
    }

    #[test]
    fn parameters_are_queried_once_a_minute_and_after_events() {
        let at = |seconds: u64| Boottime::from_nanos(seconds * 1_000_000_000);
        let observe = |details: &mut Details, parameters: Option<&str>, now| {
            let mut observation = Observation {
                is_healthy: true,
                parameters: parameters.map(|value| Parameters::from([("a".into(), value.into())])),
                ..Observation::default()
            };
            details.fill_in(&mut observation, ObserveScope::ALL, now);
            observation
                .parameters
                .and_then(|parameters| parameters.get("a").cloned())
        };
        let mut details = Details::default();
        assert!(details.are_parameters_due(at(1)));
        observe(&mut details, Some("1"), at(1));
        assert!(!details.are_parameters_due(at(60)) && details.are_parameters_due(at(61)));
        assert_eq!(observe(&mut details, None, at(60)).as_deref(), Some("1"));
        assert!(details.are_parameters_due(at(61)));

        observe(&mut details, Some("1"), at(62));
        details.begin(ChildStatus::NotStarted, true);
        assert!(details.are_parameters_due(at(62)));
        assert_eq!(observe(&mut details, Some("2"), at(62)).as_deref(), Some("2"));
        assert!(!details.are_parameters_due(at(63)));
    }

    #[test]
    fn only_the_server_that_was_healthy_is_queried_before_its_files_are_read_and_keeps_its_parameters() {
        let now = Boottime::from_nanos(1);
        let (first, second) = (ChildStatus::Running { pid: 1 }, ChildStatus::Running { pid: 2 });
        let observe = |details: &mut Details, child, query_again, healthy| {
            let was_healthy = details.begin(child, query_again);
            let due = details.are_parameters_due(now);
            details.record_health(child, healthy);
            let mut observation = Observation {
                is_healthy: healthy,
                parameters: due.then(Parameters::default),
                ..Observation::default()
            };
            details.fill_in(&mut observation, ObserveScope::ALL, now);
            (was_healthy, due)
        };
        let mut details = Details::default();
        // Child, whether a query was requested, whether it is found healthy; expected: was healthy, parameters due.
        for (child, query_again, healthy, expected) in [
            (first, false, true, (false, true)),
            (first, false, true, (true, false)),
            (first, true, true, (true, true)),
            (first, false, false, (true, false)),
            (first, false, true, (false, true)),
            (second, false, true, (false, true)),
            (second, false, true, (true, false)),
            (ChildStatus::NotStarted, false, false, (false, true)),
            (second, false, true, (false, true)),
        ] {
            assert_eq!(
                observe(&mut details, child, query_again, healthy),
                expected,
                "{child:?}"
            );
        }
    }
}
