//! Finds out what of the wanted configuration PostgreSQL refuses: before it is used where it can be asked, else by a
//! start that fails. What is done about it is `settings`' to say.

use std::collections::BTreeMap;
use std::time::Duration;

use control::telemetry::Chain;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::converge::{Asked, Server, Target};
use crate::pass::Engine;
use crate::pass::configuration::users;
use crate::postgres::conf::Parameters;
use crate::postgres::instance::Files;
use crate::postgres::sql::SqlError;
use crate::postgres::trial;
use crate::settings::{Attempt, Blame, KeptFile, Settings, Verdicts};

/// How often verdicts lead to another question in one look.
const ROUNDS_MAX: usize = 3;
/// How long a reload may take to be seen in our session.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);
/// From look to look at it.
const RELOAD_POLL: Duration = Duration::from_millis(20);

/// What is known of the configuration, from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// The last good configurations; absent until they were read.
    kept: Option<KeptFile>,
    pub(super) verdicts: Verdicts,
    /// What was last found usable.
    pub(super) usable: Settings,
    /// The parameters that `postgres -C` was last asked about.
    tried: Option<Parameters>,
    /// The hba lines that the server was last asked about.
    asked: Option<Vec<String>>,
    /// With this a server was started that has not answered yet.
    begun: Option<Settings>,
}

impl Engine {
    /// Asks about whatever of the wanted configuration was not asked about yet.
    pub(super) async fn judge(&mut self, target: &Target, server: &Server) {
        let wanted = self.wanted(target).0;
        self.memory.judge.verdicts.forget_unwanted(&wanted);
        self.try_parameters(&wanted).await;
        if let Server::Up(Asked::Answered(_)) = server {
            self.save_started();
            self.release_held().await;
            self.try_hba(target, &wanted).await;
        } else if let Server::Up(Asked::Refused) = server {
            self.memory.judge.verdicts.release_hba();
        }
    }

    /// The configuration that a server last took.
    pub(super) fn last_taken(&mut self) -> Option<Settings> {
        let cluster = self.local.cluster();
        self.kept().taken(cluster.as_str()).cloned()
    }

    fn kept(&mut self) -> &mut KeptFile {
        let dir = &self.config.data_dir;
        self.memory.judge.kept.get_or_insert_with(|| {
            let (kept, complaint) = KeptFile::load(dir);
            if let Some(error) = complaint {
                warn!(error, "cannot read the last good configuration, going on without it");
            }
            kept
        })
    }

    async fn try_parameters(&mut self, wanted: &Settings) {
        let last = self.last_taken();
        for _ in 0..ROUNDS_MAX {
            let candidate = self
                .memory
                .judge
                .verdicts
                .usable(wanted, last.as_ref())
                .settings
                .parameters;
            if self.memory.judge.tried.as_ref() == Some(&candidate) {
                return;
            }
            let limit = self.instance.config().request_timeout;
            let asked = trial::refused(self.instance.programs(), &self.config.data_dir, &candidate, limit).await;
            self.memory.judge.tried = Some(candidate);
            match asked {
                Ok(refused) if refused.is_empty() => return,
                Ok(refused) => self
                    .memory
                    .judge
                    .verdicts
                    .refuse_parameters(&refused, wanted, last.as_ref()),
                Err(error) => {
                    warn!(error = %Chain(&error), "could not check the parameters with postgres, using them unchecked");
                    return;
                }
            }
        }
    }

    /// The server reads `pg_hba.conf` for us without using it: it does that at a reload only.
    async fn try_hba(&mut self, target: &Target, wanted: &Settings) {
        let last = self.last_taken();
        for _ in 0..ROUNDS_MAX {
            let usable = self.memory.judge.verdicts.usable(wanted, last.as_ref()).settings;
            let made = self.made_hba(target, &users(usable.hba.as_ref()));
            self.memory.judge.verdicts.forget_own_lines(&made);
            let lines = self.without_refused(made);
            let current = self.memory.known.current.as_ref().map(|current| current.hba.clone());
            if current.as_ref() == Some(&lines) || self.memory.judge.asked.as_ref() == Some(&lines) {
                return;
            }
            let refused = match self.ask_hba(&lines).await {
                Ok(refused) => refused,
                Err(error) => {
                    warn!(error = %Chain(error.as_ref()), "could not check pg_hba.conf with postgres");
                    return;
                }
            };
            self.memory.judge.asked = Some(lines);
            if refused.is_empty() {
                return;
            }
            let is_user_s = |(line, _): &(String, String)| wanted.hba.iter().flatten().any(|one| one == line);
            let (of_user, own): (Vec<_>, Vec<_>) = refused.into_iter().partition(is_user_s);
            self.memory.judge.verdicts.refuse_lines(of_user);
            self.memory.judge.verdicts.refuse_own_lines(own);
            // Until the next reload the file is the one that the server has read.
            if let Some(current) = current
                && let Err(error) = self.instance.write_hba(&current)
            {
                warn!(error = %Chain(&error), "could not write pg_hba.conf");
            }
        }
    }

    async fn ask_hba(
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
        let Some(begun) = self.memory.judge.begun.take() else {
            return;
        };
        let cluster = self.local.cluster();
        if let Err(error) = self.kept().save_started(cluster.as_str(), &begun) {
            warn!(error = %Chain(&error), "could not save the configuration with which postgres started");
        }
    }

    /// What was held back together after a failed start, and is no matter of a start, is tried again by a reload.
    async fn release_held(&mut self) {
        if !self.memory.judge.verdicts.needs_release() {
            return;
        }
        let names = self.memory.judge.verdicts.held_parameters();
        match self.instance.sql().read_at_start_only(&names).await {
            Ok(for_restart) => {
                info!("postgres runs with the configuration with which it last started");
                self.memory.judge.verdicts.release(&for_restart);
            }
            Err(error) => warn!(error = %Chain(&error), "could not read which parameters need a restart"),
        }
    }

    /// A server was started with what was last found usable.
    pub(super) fn note_begun(&mut self) {
        self.memory.judge.begun = Some(self.memory.judge.usable.clone());
    }

    /// Whether a server was started that has not answered yet.
    pub(super) fn is_begun(&self) -> bool {
        self.memory.judge.begun.is_some()
    }

    /// A server ended instead of starting. Returns whether a start with less of the configuration is worth a try.
    pub(super) fn blame_start(&mut self, files: &Files, output: &[String]) -> Blame {
        let Some(target) = self.memory.target.clone() else {
            return Blame::Nothing;
        };
        let wanted = self.wanted(&target).0;
        let cluster = self.local.cluster();
        let started = self.kept().started(cluster.as_str()).cloned();
        let is_base_proven = started.is_some();
        let base = started.unwrap_or_else(|| Settings {
            parameters: self.own_parameters(&target),
            hba: Some(Vec::new()),
        });
        let last_hba = self.last_taken().map_or_else(|| base.hba.clone(), |taken| taken.hba);
        let judge = &mut self.memory.judge;
        judge.begun = None;
        judge.verdicts.blame_start(&Attempt {
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
            let usable = self.memory.judge.usable.clone();
            if let Err(error) = self.kept().save_taken(cluster.as_str(), &usable) {
                warn!(error = %Chain(&error), "could not save the configuration that postgres took");
            }
            return;
        }
        let (Some(target), last) = (self.memory.target.clone(), self.last_taken()) else {
            return;
        };
        let wanted = self.wanted(&target).0;
        self.memory
            .judge
            .verdicts
            .refuse_parameters(&refused, &wanted, last.as_ref());
    }
}
