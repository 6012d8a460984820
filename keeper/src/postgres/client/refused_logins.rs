//! Recent refusals of logins, which are not retried immediately: each attempt is a line in the server's log. Logging
//! in is left to `sql_connection`.

use std::time::Duration;

use base::clock::Boottime;

use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::config::credentials::Secret;

/// Time after a refusal in which no login is tried.
const LOGIN_RETRY_DELAY: Duration = Duration::from_secs(10);

/// The last refusals of one connection.
#[derive(Debug, Default)]
pub(crate) struct RefusedLogins {
    login: Option<RefusedLogin>,
    /// Of the usual database.
    database: Option<(ServerRefusal, Boottime)>,
}

#[derive(Debug)]
struct RefusedLogin {
    refusal: ServerRefusal,
    at: Boottime,
    /// The refused password; a changed one is tried immediately.
    password: Option<Secret>,
}

impl RefusedLogins {
    /// Returns the refusal of a login with this password that is not retried yet.
    pub(crate) fn login(&self, password: Option<&str>, now: Boottime) -> Option<ServerRefusal> {
        let login = self.login.as_ref()?;
        let is_same = login.password.as_ref().map(Secret::reveal).as_deref() == password;
        (is_same && now.since(login.at) < LOGIN_RETRY_DELAY).then(|| login.refusal.clone())
    }

    /// Returns why the usual database is not used now.
    pub(crate) fn database(&self, now: Boottime) -> Option<ServerRefusal> {
        let (refusal, at) = self.database.as_ref()?;
        (now.since(*at) < LOGIN_RETRY_DELAY).then(|| refusal.clone())
    }

    /// Records the result of a login; `None` if it was not refused.
    pub(crate) fn note_login(&mut self, refusal: Option<ServerRefusal>, password: Option<Secret>, now: Boottime) {
        self.login = refusal.map(|refusal| RefusedLogin {
            refusal,
            at: now,
            password,
        });
    }

    /// Records that the usual database refused a login that another one accepted.
    pub(crate) fn note_database(&mut self, refusal: ServerRefusal, now: Boottime) {
        self.database = Some((refusal, now));
    }
}
