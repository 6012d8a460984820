//! Problems found by observing the instance: rejected logins and a server in recovery. When to observe is left to
//! `monitor`.

use std::sync::Arc;
use std::time::Duration;

use base::clock::Boottime;
use model::Problem;
use tracing::info;

use crate::postgres::client::refusal::{LoginRole, ServerRefusal};
use crate::postgres::data::walker::Walker;
use crate::postgres::instance::Instance;
use crate::postgres::observe::LoginResults;
use crate::postgres::server::recovery;
use crate::problems::{KeeperProblemKind, Problems};

/// Interval of trying logins that no query needs.
const LOGIN_PAUSE: Duration = Duration::from_secs(15);
/// The same while one is rejected. Short, because an operator may be fixing it; limited, because each attempt is a line
/// in the server's log.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// Interval of observing a recovery.
const RECOVERY_PAUSE: Duration = Duration::from_secs(2);
/// Interval of logging a recovery.
const RECOVERY_LOG_PAUSE: Duration = Duration::from_secs(30);

/// Reports the problems of one instance.
#[derive(Debug)]
pub struct Health {
    instance: Arc<Instance>,
    problems: Arc<Problems>,
    logins: LoginAttempts,
    recovery: Option<RecoveryObservation>,
    walker: Walker,
}

/// Last result of each login.
#[derive(Debug, Default)]
struct LoginAttempts {
    at: Option<Boottime>,
    last: LoginResults,
}

#[derive(Debug)]
struct RecoveryObservation {
    since: Boottime,
    observed: Boottime,
    logged: Boottime,
}

impl Health {
    pub fn new(instance: Arc<Instance>, problems: Arc<Problems>) -> Self {
        Self {
            instance,
            problems,
            logins: LoginAttempts::default(),
            recovery: None,
            walker: Walker::default(),
        }
    }

    /// Whether the next observation tries the logins.
    pub fn is_login_due(&self, now: Boottime) -> bool {
        let last = &self.logins.last;
        let is_refused = [&last.superuser, &last.replication]
            .iter()
            .any(|login| matches!(login, Some(Err(_))));
        let pause = if is_refused { REFUSED_PAUSE } else { LOGIN_PAUSE };
        self.logins.at.is_none_or(|at| now.since(at) >= pause)
    }

    /// Whether the last login of the replication user was rejected.
    pub fn is_replication_refused(&self) -> bool {
        matches!(self.logins.last.replication, Some(Err(_)))
    }

    /// Makes the next observation try everything again, because a password may have changed.
    pub fn try_logins_again(&mut self) {
        self.logins.at = None;
        self.instance.sql().forget_refusals();
        self.instance.observer().forget_refusals();
    }

    /// Records results of logins. `were_due`: logins that no query needs were tried, too.
    pub fn record_logins(&mut self, logins: &LoginResults, were_due: bool, now: Boottime) {
        if were_due {
            self.logins.at = Some(now);
        }
        let config = self.instance.config();
        let last = &mut self.logins.last;
        let users = [
            (
                LoginRole::Superuser,
                &config.superuser.user,
                &logins.superuser,
                &mut last.superuser,
            ),
            (
                LoginRole::Replication,
                &config.replication.user,
                &logins.replication,
                &mut last.replication,
            ),
        ];
        for (role, user, tried, last) in users {
            let Some(tried) = tried else { continue };
            *last = Some(tried.clone());
            let problem = tried.as_ref().err().map(|refusal| login_problem(role, user, refusal));
            self.problems
                .set(KeeperProblemKind::Login, role.as_str(), problem.into_iter().collect());
        }
        if let Some(database) = &logins.database {
            let user = &config.superuser.user;
            let problem = database.as_ref().err().map(|refusal| {
                KeeperProblemKind::Login.problem(
                    &format!("the database postgres cannot be used: {refusal}"),
                    &refusal.remedy(LoginRole::Superuser, user),
                )
            });
            self.problems
                .set(KeeperProblemKind::Login, "database", problem.into_iter().collect());
        }
    }

    /// Observes a server that does not accept connections yet; `is_recovering` is whether there is one.
    pub async fn check_recovery(&mut self, is_recovering: bool, now: Boottime) {
        if !is_recovering {
            if let Some(recovery) = self.recovery.take() {
                if now.since(recovery.since) >= RECOVERY_PAUSE {
                    info!(after = ?now.since(recovery.since), "postgres is no longer starting or recovering");
                }
                self.problems
                    .set_quietly(KeeperProblemKind::Recovery, "instance", Vec::new());
            }
            return;
        }
        let recovery = self.recovery.get_or_insert(RecoveryObservation {
            since: now,
            observed: now,
            logged: now,
        });
        // A usual start takes less and is not logged.
        if now.since(recovery.observed) < RECOVERY_PAUSE {
            return;
        }
        recovery.observed = now;
        let config = self.instance.config();
        let (programs, limit) = (self.instance.programs(), config.request_timeout);
        let progress = recovery::progress(programs, &config.data, limit, &self.walker).await;
        let Some(progress) = progress else { return };
        let seconds = now.since(recovery.since).as_secs();
        if recovery.logged == recovery.since || now.since(recovery.logged) >= RECOVERY_LOG_PAUSE {
            recovery.logged = now;
            info!(%progress, seconds, "waiting for postgres to accept connections");
        }
        self.problems.set_quietly(
            KeeperProblemKind::Recovery,
            "instance",
            vec![recovery_problem(&progress, seconds)],
        );
    }
}

fn login_problem(role: LoginRole, user: &str, refusal: &ServerRefusal) -> Problem {
    let text = format!(
        "PostgreSQL refuses the login of the {} {user:?}: {refusal}",
        role.as_str()
    );
    KeeperProblemKind::Login.problem(&text, &refusal.remedy(role, user))
}

fn recovery_problem(progress: &recovery::RecoveryProgress, seconds: u64) -> Problem {
    let text = format!("PostgreSQL does not accept connections yet: {progress}, for {seconds} s");
    KeeperProblemKind::Recovery.problem(
        &text,
        "wait: the keeper does not stop it, and a restart would begin the recovery anew",
    )
}
