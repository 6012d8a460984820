//! Finds out what of the wanted configuration PostgreSQL refuses: before it is used where it can be asked, else by a
//! start that fails. What is done about it is `settings`' to say.

use std::collections::BTreeMap;
use std::time::Duration;

use control::telemetry::Chain;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::postgres::conf::Parameters;
use crate::postgres::instance::ConfigFiles;
use crate::postgres::parameter_check;
use crate::postgres::sql::SqlError;
use crate::reconcile::{ServerProbe, ServerState, TargetDb};
use crate::reconciler::Reconciler;
use crate::reconciler::configuration::users;
use crate::settings::{FailedStart, LastGoodConfFile, Refusals, Settings, StartDiagnosis};

/// How often verdicts lead to another question in one look.
const ROUNDS_MAX: usize = 3;
/// How long a reload may take to be seen in our session.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);
/// From look to look at it.
const RELOAD_POLL: Duration = Duration::from_millis(20);

/// What is known of the configuration, from pass to pass.
#[derive(Debug, Default)]
pub(super) struct ConfigCheck {
    /// The last good configurations; absent until they were read.
    last_good: Option<LastGoodConfFile>,
    pub(super) refusals: Refusals,
    /// What was last found usable.
    pub(super) usable: Settings,
    /// The parameters that `postgres -C` was last asked about.
    tried: Option<Parameters>,
    /// The hba lines that the server was last asked about.
    asked: Option<Vec<String>>,
    /// With this a server was started that has not answered yet.
    unconfirmed: Option<Settings>,
}

impl Reconciler {
    /// Asks about whatever of the wanted configuration was not asked about yet.
    pub(super) async fn check_config(&mut self, target: &TargetDb, server: &ServerState) {
        let wanted = self.wanted(target).0;
        self.memory.config_check.refusals.forget_unwanted(&wanted);
        self.check_parameters(&wanted).await;
        if let ServerState::Up(ServerProbe::Answered(_)) = server {
            self.save_started();
            self.release_held().await;
            self.check_hba(target, &wanted).await;
        } else if let ServerState::Up(ServerProbe::Refused) = server {
            self.memory.config_check.refusals.release_hba();
        }
    }

    /// The configuration that a server last took.
    pub(super) fn last_accepted(&mut self) -> Option<Settings> {
        let cluster = self.local.cluster();
        self.last_good().accepted(cluster.as_str()).cloned()
    }

    fn last_good(&mut self) -> &mut LastGoodConfFile {
        let dir = &self.config.data_dir;
        self.memory.config_check.last_good.get_or_insert_with(|| {
            let (kept, complaint) = LastGoodConfFile::load(dir);
            if let Some(error) = complaint {
                warn!(error, "cannot read the last good configuration, going on without it");
            }
            kept
        })
    }

    async fn check_parameters(&mut self, wanted: &Settings) {
        let last = self.last_accepted();
        for _ in 0..ROUNDS_MAX {
            let candidate = self
                .memory
                .config_check
                .refusals
                .usable(wanted, last.as_ref())
                .settings
                .parameters;
            if self.memory.config_check.tried.as_ref() == Some(&candidate) {
                return;
            }
            let limit = self.instance.config().request_timeout;
            let asked =
                parameter_check::refused_parameters(self.instance.programs(), &self.config.data_dir, &candidate, limit)
                    .await;
            self.memory.config_check.tried = Some(candidate);
            match asked {
                Ok(refused) if refused.is_empty() => return,
                Ok(refused) => self
                    .memory
                    .config_check
                    .refusals
                    .refuse_parameters(&refused, wanted, last.as_ref()),
                Err(error) => {
                    warn!(error = %Chain(&error), "could not check the parameters with postgres, using them unchecked");
                    return;
                }
            }
        }
    }

    /// The server reads `pg_hba.conf` for us without using it: it does that at a reload only.
    async fn check_hba(&mut self, target: &TargetDb, wanted: &Settings) {
        let last = self.last_accepted();
        for _ in 0..ROUNDS_MAX {
            let usable = self.memory.config_check.refusals.usable(wanted, last.as_ref()).settings;
            let made = self.made_hba(target, &users(usable.hba.as_ref()));
            self.memory.config_check.refusals.forget_own_lines(&made);
            let lines = self.without_refused(made);
            let current = self.memory.process.current.as_ref().map(|current| current.hba.clone());
            if current.as_ref() == Some(&lines) || self.memory.config_check.asked.as_ref() == Some(&lines) {
                return;
            }
            let refused = match self.query_refused_hba(&lines).await {
                Ok(refused) => refused,
                Err(error) => {
                    warn!(error = %Chain(error.as_ref()), "could not check pg_hba.conf with postgres");
                    return;
                }
            };
            self.memory.config_check.asked = Some(lines);
            if refused.is_empty() {
                return;
            }
            let is_user_s = |(line, _): &(String, String)| wanted.hba.iter().flatten().any(|one| one == line);
            let (of_user, own): (Vec<_>, Vec<_>) = refused.into_iter().partition(is_user_s);
            self.memory.config_check.refusals.refuse_lines(of_user);
            self.memory.config_check.refusals.refuse_own_lines(own);
            // Until the next reload the file is the one that the server has read.
            if let Some(current) = current
                && let Err(error) = self.instance.write_hba(&current)
            {
                warn!(error = %Chain(&error), "could not write pg_hba.conf");
            }
        }
    }

    async fn query_refused_hba(
        &self,
        lines: &[String],
    ) -> Result<Vec<(String, String)>, Box<dyn std::error::Error + Send + Sync>> {
        self.instance.write_hba(lines)?;
        let refused = self.instance.sql().refused_hba_lines().await?;
        let text = |number: usize| number.checked_sub(1).and_then(|at| lines.get(at)).cloned();
        Ok(refused
            .into_iter()
            .filter_map(|(number, why)| Some((text(number)?, why)))
            .collect())
    }

    fn save_started(&mut self) {
        let Some(begun) = self.memory.config_check.unconfirmed.take() else {
            return;
        };
        let cluster = self.local.cluster();
        if let Err(error) = self.last_good().save_started(cluster.as_str(), &begun) {
            warn!(error = %Chain(&error), "could not save the configuration with which postgres started");
        }
    }

    /// What was held back together after a failed start, and is no matter of a start, is tried again by a reload.
    async fn release_held(&mut self) {
        if !self.memory.config_check.refusals.needs_release() {
            return;
        }
        let names = self.memory.config_check.refusals.held_parameters();
        match self.instance.sql().read_at_start_only(&names).await {
            Ok(for_restart) => {
                info!("postgres runs with the configuration with which it last started");
                self.memory.config_check.refusals.release(&for_restart);
            }
            Err(error) => warn!(error = %Chain(&error), "could not read which parameters need a restart"),
        }
    }

    /// A server was started with what was last found usable.
    pub(super) fn note_started(&mut self) {
        self.memory.config_check.unconfirmed = Some(self.memory.config_check.usable.clone());
    }

    /// Whether a server was started that has not answered yet.
    pub(super) fn is_start_unconfirmed(&self) -> bool {
        self.memory.config_check.unconfirmed.is_some()
    }

    /// A server ended instead of starting. Returns whether a start with less of the configuration is worth a try.
    pub(super) fn diagnose_failed_start(&mut self, files: &ConfigFiles, output: &[String]) -> StartDiagnosis {
        let Some(target) = self.memory.target.clone() else {
            return StartDiagnosis::Unknown;
        };
        let wanted = self.wanted(&target).0;
        let cluster = self.local.cluster();
        let started = self.last_good().started(cluster.as_str()).cloned();
        let is_base_proven = started.is_some();
        let base = started.unwrap_or_else(|| Settings {
            parameters: self.own_parameters(&target),
            hba: Some(Vec::new()),
        });
        let last_hba = self.last_accepted().map_or_else(|| base.hba.clone(), |taken| taken.hba);
        let judge = &mut self.memory.config_check;
        judge.unconfirmed = None;
        judge.refusals.diagnose_start(&FailedStart {
            wanted: &wanted,
            tried: &judge.usable,
            base: &base,
            is_base_proven,
            last_hba: &last_hba,
            hba_file: &files.hba,
            output,
        })
    }

    /// After a reload: waits until the server has done it, and finds out what of it had no effect.
    pub(super) async fn check_reload(&mut self, before: Result<String, SqlError>) {
        let sql = self.instance.sql();
        let Ok(before) = before else { return };
        let done = async {
            while sql.conf_load_time().await.is_ok_and(|now| now == before) {
                sleep(RELOAD_POLL).await;
            }
        };
        if timeout(RELOAD_LIMIT, done).await.is_err() {
            warn!(limit = ?RELOAD_LIMIT, "postgres did not reload its configuration in time");
            return;
        }
        // A server that does not answer has nothing to say about its files; the next reload asks again.
        let Ok(refused) = sql.refused_parameters().await else {
            return;
        };
        let refused: BTreeMap<String, String> = refused.into_iter().collect();
        let cluster = self.local.cluster();
        if refused.is_empty() {
            let usable = self.memory.config_check.usable.clone();
            if let Err(error) = self.last_good().save_accepted(cluster.as_str(), &usable) {
                warn!(error = %Chain(&error), "could not save the configuration that postgres took");
            }
            return;
        }
        let (Some(target), last) = (self.memory.target.clone(), self.last_accepted()) else {
            return;
        };
        let wanted = self.wanted(&target).0;
        self.memory
            .config_check
            .refusals
            .refuse_parameters(&refused, &wanted, last.as_ref());
    }
}
