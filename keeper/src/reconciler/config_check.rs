//! Finds the parts of the desired configuration that PostgreSQL rejects: before they are used where PostgreSQL can be
//! queried, otherwise by a failed start. What is used instead is decided by `settings`.

use std::collections::BTreeMap;
use std::time::Duration;

use base::Chain;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::postgres::client::sql_error::SqlError;
use crate::postgres::config::conf::Parameters;
use crate::postgres::config::files::ConfigFiles;
use crate::postgres::programs::parameter_check;
use crate::reconcile::{ServerProbe, ServerState, TargetDb};
use crate::reconciler::Reconciler;
use crate::reconciler::configuration::users;
use crate::settings::{FailedStart, LastGoodConfFile, Refusals, Settings, StartDiagnosis};

/// Checks per round; each rejection leads to another check.
const ROUNDS_MAX: usize = 3;
/// Time limit until a reload is visible in the keeper's session.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);
/// Interval of checking for it.
const RELOAD_POLL: Duration = Duration::from_millis(20);

/// Results of configuration checks, kept between rounds.
#[derive(Debug, Default)]
pub(super) struct ConfigCheck {
    /// The last good configurations; `None` until read.
    last_good: Option<LastGoodConfFile>,
    pub(super) refusals: Refusals,
    /// The settings last found usable.
    pub(super) usable: Settings,
    /// The parameters last checked with `postgres -C`.
    checked_parameters: Option<Parameters>,
    /// The hba lines last checked by the server.
    checked_hba: Option<Vec<String>>,
    /// Settings of a started server that has not answered yet.
    unconfirmed: Option<Settings>,
}

impl Reconciler {
    /// Checks the parts of the desired configuration that were not checked yet.
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

    /// Returns the configuration that a server last accepted.
    pub(super) fn last_accepted(&mut self) -> Option<Settings> {
        let cluster = self.local.cluster();
        self.last_good().accepted(cluster.as_str()).cloned()
    }

    fn last_good(&mut self) -> &mut LastGoodConfFile {
        let dir = &self.config.data_dir;
        self.memory.config_check.last_good.get_or_insert_with(|| {
            let (kept, error_text) = LastGoodConfFile::load(dir);
            if let Some(error) = error_text {
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
            if self.memory.config_check.checked_parameters.as_ref() == Some(&candidate) {
                return;
            }
            let limit = self.instance.config().request_timeout;
            let checked_hba =
                parameter_check::refused_parameters(self.instance.programs(), &self.config.data_dir, &candidate, limit)
                    .await;
            self.memory.config_check.checked_parameters = Some(candidate);
            match checked_hba {
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

    /// The server parses `pg_hba.conf` on disk in `pg_hba_file_rules` without using it; it uses the file after a
    /// reload.
    async fn check_hba(&mut self, target: &TargetDb, wanted: &Settings) {
        let last = self.last_accepted();
        for _ in 0..ROUNDS_MAX {
            let usable = self.memory.config_check.refusals.usable(wanted, last.as_ref()).settings;
            let generated = self.generated_hba(target, &users(usable.hba.as_ref()));
            self.memory.config_check.refusals.forget_own_lines(&generated);
            let lines = self.without_refused(generated);
            let current = self.memory.process.current.as_ref().map(|current| current.hba.clone());
            if current.as_ref() == Some(&lines) || self.memory.config_check.checked_hba.as_ref() == Some(&lines) {
                return;
            }
            let refused = match self.query_refused_hba(&lines).await {
                Ok(refused) => refused,
                Err(error) => {
                    warn!(error = %Chain(error.as_ref()), "could not check pg_hba.conf with postgres");
                    return;
                }
            };
            self.memory.config_check.checked_hba = Some(lines);
            if refused.is_empty() {
                return;
            }
            let is_from_user = |(line, _): &(String, String)| wanted.hba.iter().flatten().any(|one| one == line);
            let (of_user, own): (Vec<_>, Vec<_>) = refused.into_iter().partition(is_from_user);
            self.memory.config_check.refusals.refuse_lines(of_user);
            self.memory.config_check.refusals.refuse_own_lines(own);
            // Until the next reload the file must be the one that the server has read.
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
        let Some(unconfirmed) = self.memory.config_check.unconfirmed.take() else {
            return;
        };
        let cluster = self.local.cluster();
        if let Err(error) = self.last_good().save_started(cluster.as_str(), &unconfirmed) {
            warn!(error = %Chain(&error), "could not save the configuration with which postgres started");
        }
    }

    /// Settings that were held back together after a failed start, and that are not read only at a start, are tried
    /// again by a reload.
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

    /// Records that a server was started with the settings last found usable.
    pub(super) fn note_started(&mut self) {
        self.memory.config_check.unconfirmed = Some(self.memory.config_check.usable.clone());
    }

    /// Whether a started server has not answered yet.
    pub(super) fn is_start_unconfirmed(&self) -> bool {
        self.memory.config_check.unconfirmed.is_some()
    }

    /// Diagnoses a failed start. Returns whether another start with less of the configuration is worth trying.
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

    /// After a reload: waits until the server has read its files, and finds the parameters that had no effect.
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
        // Without an answer nothing can be concluded; the next reload checks again.
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
