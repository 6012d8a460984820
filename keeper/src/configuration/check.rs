//! Finds the parts of the desired configuration that PostgreSQL refuses: before they are used where PostgreSQL can be
//! queried, otherwise by a failed start. What is used instead is decided by `settings`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use model::DbUid;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::configuration::generate::ConfigGenerator;
use crate::context::KeeperContext;
use crate::local::state::LocalState;
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::config::conf::{self, Parameters};
use crate::postgres::config::files::ConfigFiles;
use crate::postgres::config::hba::OtherUsers;
use crate::postgres::data::file_error::FileError;
use crate::postgres::instance::Instance;
use crate::postgres::programs::parameter_check;
use crate::problems::{KeeperProblemKind, Problems};
use crate::reconcile::{
    ClientLogins, DataRole, DataState, ServerConfig, ServerFacts, ServerProbe, ServerState, TargetDb,
};
use crate::settings::{FailedStart, LastGoodConfFile, Refusals, RefusedLine, Settings, StartDiagnosis};

/// Checks of one configuration; each refusal leads to another check.
const CHECKS_MAX: usize = 3;
/// Time limit until a reload is visible in the keeper's session.
pub const RELOAD_LIMIT: Duration = Duration::from_secs(5);
/// Interval of checking for it.
const RELOAD_POLL: Duration = Duration::from_millis(20);

const REFUSED_REMEDY: &str =
    "change it with stolonctl update; if the cause lies on the host, fix it and restart this keeper";

/// The desired configuration without the parts that PostgreSQL refuses, and the results of its checks.
#[derive(Debug)]
pub struct ConfigCheck {
    generator: ConfigGenerator,
    /// The keeper's data directory, with the last good configurations.
    data_dir: PathBuf,
    instance: Arc<Instance>,
    local: Arc<LocalState>,
    problems: Arc<Problems>,
    /// The last good configurations; `None` until read.
    last_good: Option<LastGoodConfFile>,
    refusals: Refusals,
    /// The settings last found usable.
    usable: Settings,
    /// The parameters last checked with `postgres -C`.
    checked_parameters: Option<Parameters>,
    /// The hba lines last checked by the server.
    checked_hba: Option<Vec<String>>,
    /// Settings of a started server that has not answered yet.
    unconfirmed: Option<Settings>,
}

/// Effect of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadEffect {
    /// The server has read its files.
    Read,
    /// It has not read them within [`RELOAD_LIMIT`].
    None,
    /// It refuses the keeper's login.
    Refused,
    /// It did not answer.
    Unknown,
}

impl From<SqlError> for ReloadEffect {
    fn from(error: SqlError) -> Self {
        match error.refusal() {
            Some(_) => Self::Refused,
            None => Self::Unknown,
        }
    }
}

impl ConfigCheck {
    pub fn new(context: &KeeperContext) -> Self {
        Self {
            generator: ConfigGenerator::new(context),
            data_dir: context.config.data_dir.clone(),
            instance: Arc::clone(&context.instance),
            local: Arc::clone(&context.local),
            problems: Arc::clone(&context.problems),
            last_good: None,
            refusals: Refusals::default(),
            usable: Settings::default(),
            checked_parameters: None,
            checked_hba: None,
            unconfirmed: None,
        }
    }

    /// Reads from the data of a stopped instance what its next start requires of the parameters.
    pub async fn read_requirements(&mut self, target: &TargetDb, data: DataState) {
        self.generator.read_requirements(target, data).await;
    }

    /// Returns `config`, planned while the server was up, with the parameters that its stopped data require.
    pub async fn for_restart(&mut self, config: &ServerConfig, target: &TargetDb, data: DataState) -> ServerConfig {
        self.read_requirements(target, data).await;
        ServerConfig {
            parameters: self.server_config(target).parameters,
            ..config.clone()
        }
    }

    /// Checks the parts of the desired configuration that were not checked yet. `current` is the configuration that the
    /// server last read, `logins` whether client logins are allowed.
    pub async fn check(
        &mut self,
        target: &TargetDb,
        server: &ServerState,
        current: Option<&ServerConfig>,
        logins: &ClientLogins,
    ) {
        self.load_last_good().await;
        let wanted = self.generator.wanted(target).0;
        self.refusals.forget_unwanted(&wanted);
        self.check_parameters(&wanted).await;
        if let ServerState::Up(ServerProbe::Answered(facts)) = server {
            self.save_started().await;
            self.retry_reverted().await;
            self.update_minimums(target, &wanted, current, facts).await;
            // A check writes the file, which any reload would read: while client logins are blocked, it stays.
            if *logins == ClientLogins::Allowed {
                self.check_hba(target, &wanted, current).await;
            }
        } else if let ServerState::Up(ServerProbe::Refused) = server {
            self.refusals.retry_hba();
        }
    }

    /// Returns the desired configuration (keeper 8, 9) without the parts that PostgreSQL refuses.
    pub fn server_config(&mut self, target: &TargetDb) -> ServerConfig {
        let (wanted, left_out) = self.generator.wanted(target);
        let left_out = left_out.iter().map(|(name, why)| {
            let text = format!("parameter {name:?} is left out: {why}");
            KeeperProblemKind::Configuration.problem(&text, "remove it from pgParameters")
        });
        self.problems
            .set(KeeperProblemKind::Configuration, "left out", left_out.collect());
        let last = self.last_accepted();
        self.refusals.forget_unwanted(&wanted);
        let generated = self.generator.hba(target, &other_users(wanted.hba.as_ref()));
        self.refusals.forget_own_lines(&generated);
        let usable = self.refusals.usable(&wanted, last.as_ref());
        let refused = usable.refused.iter();
        let refused = refused.map(|text| KeeperProblemKind::Configuration.problem(text, REFUSED_REMEDY));
        self.problems
            .set(KeeperProblemKind::Configuration, "refused", refused.collect());
        self.usable.clone_from(&usable.settings);
        let mut parameters = usable.settings.parameters;
        self.generator.raise_to_minimums(target, &mut parameters);
        self.generator.set_synchronous(target, &mut parameters);
        ServerConfig {
            parameters,
            hba: self.accepted_hba(target, &other_users(usable.settings.hba.as_ref())),
            upstream: None,
            blocks_client_logins: false,
        }
    }

    /// Returns the generated files for the server of `db`.
    pub fn files(&self, db: &DbUid, config: &ServerConfig) -> ConfigFiles {
        self.generator.files(db, config)
    }

    /// Returns the hba lines that admit only the keepers' own users.
    pub fn own_hba(&self, target: &TargetDb) -> Vec<String> {
        self.accepted_hba(target, &OtherUsers::Nobody)
    }

    /// Whether parameters are reverted until a restart.
    pub fn has_reverted(&self) -> bool {
        self.refusals.has_reverted()
    }

    /// Records that a server was started with the settings last found usable.
    pub fn record_started(&mut self) {
        self.unconfirmed = Some(self.usable.clone());
    }

    /// Whether a started server has not answered yet.
    pub fn is_start_unconfirmed(&self) -> bool {
        self.unconfirmed.is_some()
    }

    /// Diagnoses a failed start. Returns whether another start with less of the configuration is worth trying.
    pub fn diagnose_failed_start(
        &mut self,
        target: &TargetDb,
        files: &ConfigFiles,
        output: &[String],
    ) -> StartDiagnosis {
        let wanted = self.generator.wanted(target).0;
        let cluster = self.local.cluster();
        let started = self.last_good.as_ref();
        let started = started.and_then(|kept| kept.started(cluster.as_str()).cloned());
        let is_base_proven = started.is_some();
        let base = started.unwrap_or_else(|| Settings {
            parameters: self.generator.own_parameters(target),
            hba: Some(Vec::new()),
        });
        let last_hba = self
            .last_accepted()
            .map_or_else(|| base.hba.clone(), |accepted| accepted.hba);
        self.unconfirmed = None;
        self.refusals.diagnose_start(&FailedStart {
            wanted: &wanted,
            tried: &self.usable,
            base: &base,
            is_base_proven,
            last_hba: &last_hba,
            hba_file: &files.hba,
            output,
        })
    }

    /// Waits after a reload until the server has read its files, and finds the parameters that had no effect.
    pub async fn check_reload(&mut self, target: &TargetDb, before: Result<String, SqlError>) -> ReloadEffect {
        let sql = self.instance.sql();
        let before = match before {
            Ok(before) => before,
            Err(error) => return error.into(),
        };
        let done = async {
            loop {
                match sql.conf_load_time().await {
                    Ok(now) if now == before => sleep(RELOAD_POLL).await,
                    answer => return answer.map(|_| ()),
                }
            }
        };
        match timeout(RELOAD_LIMIT, done).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return ReloadEffect::None,
        }
        let refused = match sql.refused_parameters().await {
            Ok(refused) => refused,
            Err(error) => return error.into(),
        };
        let cluster = self.local.cluster();
        if refused.is_empty() {
            let usable = self.usable.clone();
            let saved = self.save_last_good(move |kept| kept.save_accepted(cluster.as_str(), &usable));
            if let Err(error) = saved.await {
                warn!(error = %Chain(&error), "could not save the configuration that postgres took");
            }
            return ReloadEffect::Read;
        }
        let last = self.last_accepted();
        let wanted = self.generator.wanted(target).0;
        self.refusals.refuse_parameters(&refused, &wanted, last.as_ref());
        ReloadEffect::Read
    }

    /// Returns the configuration that a server last accepted.
    fn last_accepted(&self) -> Option<Settings> {
        let cluster = self.local.cluster();
        self.last_good.as_ref()?.accepted(cluster.as_str()).cloned()
    }

    /// Reads the last good configurations unless they were read before. If their file system hangs, the next round tries
    /// again.
    async fn load_last_good(&mut self) {
        if self.last_good.is_some() {
            return;
        }
        let dir = self.data_dir.clone();
        let load = move |_: &Path| Ok::<_, FileError>(LastGoodConfFile::load(&dir));
        let error_text = match self.instance.access().read(load).await {
            Ok((kept, error_text)) => {
                self.last_good = Some(kept);
                error_text
            }
            Err(error) => Some(Chain(&error).to_string()),
        };
        if let Some(error) = error_text {
            warn!(error, "cannot read the last good configuration, going on without it");
        }
    }

    async fn save_last_good(
        &mut self,
        save: impl FnOnce(&mut LastGoodConfFile) -> Result<(), FileError> + Send + 'static,
    ) -> Result<(), FileError> {
        let Some(mut kept) = self.last_good.clone() else {
            return Ok(()); // it could not be read, and is not overwritten
        };
        let save = move |_: &Path| save(&mut kept).map(|()| kept);
        self.last_good = Some(self.instance.access().write(save).await?);
        Ok(())
    }

    async fn check_parameters(&mut self, wanted: &Settings) {
        let last = self.last_accepted();
        for _ in 0..CHECKS_MAX {
            let candidate = self.refusals.usable(wanted, last.as_ref()).settings.parameters;
            if self.checked_parameters.as_ref() == Some(&candidate) {
                return;
            }
            let limit = self.instance.config().request_timeout;
            let refused = parameter_check::refused_parameters(
                self.instance.programs(),
                self.instance.access(),
                &self.data_dir,
                &candidate,
                limit,
            )
            .await;
            self.checked_parameters = Some(candidate);
            match refused {
                Ok(refused) if refused.is_empty() => return,
                Ok(refused) => self.refusals.refuse_parameters(&refused, wanted, last.as_ref()),
                Err(error) => {
                    warn!(error = %Chain(&error), "could not check the parameters with postgres, using them unchecked");
                    return;
                }
            }
        }
    }

    /// Reads the minimums of a running standby again where they may have changed and matter: its parameters are raised to
    /// them or shall be changed, or its replay is paused because they are lower (keeper 8.7 (c)).
    async fn update_minimums(
        &mut self,
        target: &TargetDb,
        wanted: &Settings,
        current: Option<&ServerConfig>,
        facts: &ServerFacts,
    ) {
        let last = self.last_accepted();
        let usable = self.refusals.usable(wanted, last.as_ref()).settings.parameters;
        let changes = |current: &ServerConfig| conf::changes_minimum_parameters(&current.parameters, &usable);
        if facts.replay_paused || current.is_none_or(changes) {
            let data = DataState::Present(DataRole::Standby);
            self.generator.read_minimums(target, data).await;
        }
    }

    /// Finds the hba lines that the server refuses. It parses `pg_hba.conf` on disk in `pg_hba_file_rules` without
    /// using it; it uses the file after a reload.
    async fn check_hba(&mut self, target: &TargetDb, wanted: &Settings, current: Option<&ServerConfig>) {
        let last = self.last_accepted();
        for _ in 0..CHECKS_MAX {
            let usable = self.refusals.usable(wanted, last.as_ref()).settings;
            let generated = self.generator.hba(target, &other_users(usable.hba.as_ref()));
            self.refusals.forget_own_lines(&generated);
            let lines = self.without_refused(generated);
            let current = current.map(|current| &current.hba);
            if current == Some(&lines) || self.checked_hba.as_ref() == Some(&lines) {
                return;
            }
            let refused = match self.query_refused_hba(&lines).await {
                Ok(refused) => refused,
                Err(error) => {
                    warn!(error = %Chain(error.as_ref()), "could not check pg_hba.conf with postgres");
                    return;
                }
            };
            self.checked_hba = Some(lines);
            if refused.is_empty() {
                return;
            }
            let is_from_user = |refused: &RefusedLine| wanted.hba.iter().flatten().any(|one| *one == refused.line);
            let (of_user, own): (Vec<_>, Vec<_>) = refused.into_iter().partition(is_from_user);
            self.refusals.refuse_lines(of_user);
            self.refusals.refuse_own_lines(own);
            // Until the next reload the file must be the one that the server has read.
            if let Some(current) = current
                && let Err(error) = self.instance.write_hba(current).await
            {
                warn!(error = %Chain(&error), "could not write pg_hba.conf");
            }
        }
    }

    async fn query_refused_hba(
        &self,
        lines: &[String],
    ) -> Result<Vec<RefusedLine>, Box<dyn std::error::Error + Send + Sync>> {
        self.instance.write_hba(lines).await?;
        let refused = self.instance.sql().refused_hba_lines().await?;
        let text = |number: usize| number.checked_sub(1).and_then(|at| lines.get(at)).cloned();
        Ok(refused
            .into_iter()
            .filter_map(|(number, why)| {
                Some(RefusedLine {
                    line: text(number)?,
                    why,
                })
            })
            .collect())
    }

    async fn save_started(&mut self) {
        let Some(unconfirmed) = self.unconfirmed.take() else {
            return;
        };
        let cluster = self.local.cluster();
        let saved = self.save_last_good(move |kept| kept.save_started(cluster.as_str(), &unconfirmed));
        if let Err(error) = saved.await {
            warn!(error = %Chain(&error), "could not save the configuration with which postgres started");
        }
    }

    /// Tries settings again that were reverted together after a failed start, except those that are read only at a start:
    /// a reload tries them again.
    async fn retry_reverted(&mut self) {
        if !self.refusals.needs_retry() {
            return;
        }
        let names = self.refusals.reverted_parameters();
        match self.instance.sql().read_at_start_only(&names).await {
            Ok(for_restart) => {
                info!("postgres runs with the configuration with which it last started");
                self.refusals.retry(&for_restart);
            }
            Err(error) => warn!(error = %Chain(&error), "could not read which parameters need a restart"),
        }
    }

    /// Returns the hba lines without refused ones.
    fn accepted_hba(&self, target: &TargetDb, users: &OtherUsers) -> Vec<String> {
        self.without_refused(self.generator.hba(target, users))
    }

    /// Removes refused lines: a single unreadable one, such as one with a malformed peer address, would prevent the
    /// server from reading all others.
    fn without_refused(&self, mut lines: Vec<String>) -> Vec<String> {
        lines.retain(|line| !self.refusals.refuses_line(line));
        lines
    }
}

/// Converts the user's hba lines; `None` admits every user with a password.
fn other_users(lines: Option<&Vec<String>>) -> OtherUsers {
    match lines {
        None => OtherUsers::Everybody,
        Some(lines) => OtherUsers::Lines(lines.clone()),
    }
}
