//! Details of observations that do not decide about health, kept while they cannot be queried. Querying them is left to
//! `postgres::observe`.

use std::time::Duration;

use base::clock::Boottime;

use crate::postgres::config::conf::Parameters;
use crate::postgres::observe::{Observation, ObserveScope};

/// Delay after a failed query of details: each attempt may take a request timeout.
const DETAILS_DELAY: Duration = Duration::from_secs(30);

/// The details that were last queried.
#[derive(Debug, Default)]
pub(super) struct Details {
    /// The parameters. Only the keeper's own reloads change them.
    parameters: Option<Parameters>,
    /// When details could not be queried.
    failed_at: Option<Boottime>,
}

impl Details {
    pub(super) fn are_due(&self, now: Boottime) -> bool {
        self.failed_at.is_none_or(|at| now.since(at) >= DETAILS_DELAY)
    }

    /// Fills in parameters that could not be queried this time.
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
            Some(parameters) => self.parameters = Some(parameters.clone()),
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
}
