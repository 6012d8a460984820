//! Reports what observations find about logins and recoveries: problems and log messages. When to try and examine is
//! decided by `login_attempts` and `recovery_watch`, when to observe by `monitor`.

use std::sync::Arc;
use std::time::Duration;

use base::clock::Boottime;
use model::Problem;
use tracing::info;

use crate::health::login_attempts::LoginAttempts;
use crate::health::recovery_watch::{RecoveryAction, RecoveryWatch};
use crate::postgres::client::refusal::{LoginRole, ServerRefusal};
use crate::postgres::data::walker::Walker;
use crate::postgres::instance::Instance;
use crate::postgres::observe::LoginResults;
use crate::postgres::server::recovery;
use crate::problems::{KeeperProblemKind, Problems};

mod login_attempts;
mod recovery_watch;

/// Reports problems with logins and with the recovery of one instance.
#[derive(Debug)]
pub struct LoginRecoveryReporter {
    instance: Arc<Instance>,
    problems: Arc<Problems>,
    logins: LoginAttempts,
    recovery: RecoveryWatch,
    walker: Walker,
}

impl LoginRecoveryReporter {
    pub fn new(instance: Arc<Instance>, problems: Arc<Problems>) -> Self {
        Self {
            instance,
            problems,
            logins: LoginAttempts::default(),
            recovery: RecoveryWatch::default(),
            walker: Walker::default(),
        }
    }

    /// Whether the next observation tries the logins.
    pub fn is_login_due(&self, now: Boottime) -> bool {
        self.logins.are_due(now)
    }

    /// Whether the last login of the replication user was refused.
    pub fn is_replication_refused(&self) -> bool {
        self.logins.is_replication_refused()
    }

    /// Makes the next observation try everything again, because a password may have changed.
    pub fn try_logins_again(&mut self) {
        self.logins.try_again();
        self.instance.sql().forget_refusals();
        self.instance.observer().forget_refusals();
    }

    /// Records and reports results of logins. `were_due`: logins that no query needs were tried, too.
    pub fn report_logins(&mut self, logins: &LoginResults, were_due: bool, now: Boottime) {
        self.logins.record(logins, were_due, now);
        let config = self.instance.config();
        let (superuser, replication) = (&config.superuser.user, &config.replication.user);
        let role = LoginRole::Superuser;
        self.report_login(role.as_str(), logins.superuser.as_ref(), |refusal| {
            login_problem(role, superuser, refusal)
        });
        let role = LoginRole::Replication;
        self.report_login(role.as_str(), logins.replication.as_ref(), |refusal| {
            login_problem(role, replication, refusal)
        });
        self.report_login("database", logins.database.as_ref(), |refusal| {
            database_problem(superuser, refusal)
        });
    }

    /// Sets the problem of a refused login; one that was not tried changes nothing.
    fn report_login(
        &self,
        source: &'static str,
        tried: Option<&Result<(), ServerRefusal>>,
        problem: impl FnOnce(&ServerRefusal) -> Problem,
    ) {
        let Some(tried) = tried else { return };
        let problem = tried.as_ref().err().map(problem);
        self.problems
            .set(KeeperProblemKind::Login, source, problem.into_iter().collect());
    }

    /// Examines and reports a server that does not accept connections yet; `is_recovering` is whether there is one.
    pub async fn report_recovery(&mut self, is_recovering: bool, now: Boottime) {
        match self.recovery.record(is_recovering, now) {
            RecoveryAction::None => {}
            RecoveryAction::End(after) => {
                if let Some(after) = after {
                    info!(?after, "postgres is no longer starting or recovering");
                }
                self.problems
                    .set_quietly(KeeperProblemKind::Recovery, "instance", Vec::new());
            }
            RecoveryAction::Examine(after) => self.examine_recovery(after, now).await,
        }
    }

    async fn examine_recovery(&mut self, after: Duration, now: Boottime) {
        let config = self.instance.config();
        let (programs, limit) = (self.instance.programs(), config.request_timeout);
        let progress = recovery::progress(programs, &config.data, limit, &self.walker).await;
        let Some(progress) = progress else { return };
        let seconds = after.as_secs();
        if self.recovery.is_log_due(now) {
            info!(%progress, seconds, "waiting for postgres to accept connections");
        }
        self.problems.set_quietly(
            KeeperProblemKind::Recovery,
            "instance",
            vec![recovery_problem(&progress, seconds)],
        );
    }
}

fn database_problem(superuser: &str, refusal: &ServerRefusal) -> Problem {
    KeeperProblemKind::Login.problem(
        &format!("the database postgres cannot be used: {refusal}"),
        &refusal.remedy(LoginRole::Superuser, superuser),
    )
}

fn login_problem(role: LoginRole, user: &str, refusal: &ServerRefusal) -> Problem {
    let text = format!(
        "PostgreSQL refuses the login of the {} {user:?}: {refusal}",
        role.as_str()
    );
    KeeperProblemKind::Login.problem(&text, &refusal.remedy(role, user))
}

fn recovery_problem(progress: &recovery::RecoveryProgress, seconds: u64) -> Problem {
    let left = progress
        .replayed
        .and_then(|replayed| replayed.seconds_left(Duration::from_secs(seconds)))
        .map_or_else(String::new, |left| format!(", at most about {left} s left"));
    let text = format!("PostgreSQL does not accept connections yet: {progress}, for {seconds} s{left}");
    KeeperProblemKind::Recovery.problem(
        &text,
        "wait: the keeper does not stop it, and a restart would begin the recovery anew",
    )
}
