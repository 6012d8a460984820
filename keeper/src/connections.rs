//! Whether the server answers new connections. The keeper's own session may still work when no new one does. Connecting
//! is left to `monitor`.

use std::time::Duration;

use base::clock::Boottime;
use model::Problem;

use crate::problems::KeeperProblemKind;

/// Results of connection attempts.
#[derive(Debug, Default, Clone, Copy)]
pub struct ConnectionAttempts {
    failing_since: Option<Boottime>,
}

impl ConnectionAttempts {
    /// Records an attempt that began at `began`; `None` when the server was not expected to answer.
    pub fn record(&mut self, answered: Option<bool>, began: Boottime) {
        match answered {
            Some(false) => _ = self.failing_since.get_or_insert(began),
            Some(true) | None => self.failing_since = None,
        }
    }

    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        self.failing_since.is_some()
    }

    /// Whether all attempts have failed for at least `limit`.
    pub fn is_silent(&self, now: Boottime, limit: Duration) -> bool {
        self.failing_since.is_some_and(|since| now.since(since) >= limit)
    }
}

/// Returns the problem to report meanwhile.
pub fn problem() -> Problem {
    KeeperProblemKind::Login.problem(
        "PostgreSQL answers no new connections, although its postmaster runs",
        "look at the postmaster process: whether it is stopped or hangs, and whether it can start processes (limits of \
         processes and memory)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_silent_after_the_limit_without_any_answer() {
        let limit = Duration::from_secs(10);
        let start = Boottime::from_nanos(0);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut connections = ConnectionAttempts::default();
        assert!(!connections.is_silent(at(100), limit));
        connections.record(Some(false), at(0));
        connections.record(Some(false), at(5));
        assert!(connections.is_failing() && !connections.is_silent(at(9), limit));
        assert!(connections.is_silent(at(10), limit));
        connections.record(Some(true), at(10));
        assert!(!connections.is_failing() && !connections.is_silent(at(60), limit));
        connections.record(Some(false), at(60));
        connections.record(None, at(65)); // the server is being restarted
        assert!(!connections.is_silent(at(100), limit));
    }
}
