//! When the logins that no query needs are tried, from the last results. Trying and reporting them is left to others.

use std::time::Duration;

use base::clock::Boottime;

use crate::postgres::observe::LoginResults;

/// Interval of trying logins that no query needs. A login with a password costs as much as many queries.
const INTERVAL: Duration = Duration::from_secs(60);
/// The same while one is refused. Short, because an operator may be fixing it; limited, because each attempt is a line
/// in the server's log.
const REFUSED_INTERVAL: Duration = Duration::from_secs(10);

/// Last result of each login.
#[derive(Debug, Default)]
pub(super) struct LoginAttempts {
    at: Option<Boottime>,
    last: LoginResults,
}

impl LoginAttempts {
    /// Whether the next observation tries the logins.
    pub(super) fn are_due(&self, now: Boottime) -> bool {
        let is_refused = [&self.last.superuser, &self.last.replication]
            .iter()
            .any(|login| matches!(login, Some(Err(_))));
        let interval = if is_refused { REFUSED_INTERVAL } else { INTERVAL };
        self.at.is_none_or(|at| now.since(at) >= interval)
    }

    /// Whether the last login of the replication user was refused.
    pub(super) fn is_replication_refused(&self) -> bool {
        matches!(self.last.replication, Some(Err(_)))
    }

    /// Makes them due now.
    pub(super) fn try_again(&mut self) {
        self.at = None;
    }

    /// Records results. `were_due`: logins that no query needs were tried, too.
    pub(super) fn record(&mut self, results: &LoginResults, were_due: bool, now: Boottime) {
        if were_due {
            self.at = Some(now);
        }
        let tried = [
            (&results.superuser, &mut self.last.superuser),
            (&results.replication, &mut self.last.replication),
        ];
        for (result, last) in tried {
            if result.is_some() {
                last.clone_from(result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::client::refusal::ServerRefusal;

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_refused_login_is_tried_again_sooner_than_an_accepted_one() {
        let mut logins = LoginAttempts::default();
        assert!(logins.are_due(at(0)));
        let accepted = LoginResults {
            superuser: Some(Ok(())),
            replication: Some(Ok(())),
            database: None,
        };
        logins.record(&accepted, true, at(0));
        assert!(!logins.are_due(at(59)) && logins.are_due(at(60)));
        let refused = LoginResults {
            replication: Some(Err(ServerRefusal::new("28P01", "no").unwrap())),
            ..LoginResults::default()
        };
        logins.record(&refused, true, at(60));
        assert!(!logins.are_due(at(69)) && logins.are_due(at(70)));
        assert!(logins.is_replication_refused());
        logins.record(&LoginResults::default(), false, at(70));
        assert!(
            logins.is_replication_refused(),
            "a login that was not tried changes nothing"
        );
        logins.try_again();
        assert!(logins.are_due(at(61)));
    }
}
