//! Collects the state of the instance (keeper 3.5). What of it is published, and under which names, is the loop's to
//! say.

use std::path::Path;

use control::model::Lsn;
use control::telemetry::Chain;
use tracing::warn;

use crate::postgres::conf::{self, Parameters};
use crate::postgres::files::{self, FileError, OldestWal};
use crate::postgres::history::{self, Ancestor};
use crate::postgres::instance::Instance;
use crate::postgres::position::{self, PositionError, Timeline};
use crate::postgres::refusal::ServerRefusal;
use crate::postgres::sql::{SqlError, StandbyStatus};

/// How many ancestors of the timeline are published (keeper section 0).
const HISTORY_ENTRIES: usize = 2;

/// What the instance is now; what could not be learned stands as absent.
#[derive(Debug, Default)]
pub struct Observation {
    /// The server answered in this same collection, be it that it lets us not in (keeper I11).
    pub is_healthy: bool,
    /// The configured parameters, less the managed ones; `None` when they could not be asked for.
    pub parameters: Option<Parameters>,
    /// Application names of the standbys in sync; `None` when they could not be asked for.
    pub in_sync: Option<Vec<String>>,
    /// System identifier.
    pub system_id: Option<u64>,
    /// Timeline.
    pub timeline: Option<u64>,
    /// Position: flushed on a master, received or replayed on a standby.
    pub position: Option<Lsn>,
    /// The last two ancestors of the timeline.
    pub history: Vec<Ancestor>,
    /// Name of the oldest WAL segment, if segments are of 16 MiB.
    pub oldest_wal: Option<String>,
    /// What a standby says of itself; `None` on a master, or when it did not say.
    pub standby: Option<StandbyStatus>,
    /// What became of the logins that were tried.
    pub logins: LoginResults,
    /// What failed. `None` beside unhealthy: there is no database cluster.
    pub failed: Option<ObserveError>,
}

/// What became of logins; `None` for one that was not tried.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LoginResults {
    /// The superuser's.
    pub superuser: Option<Result<(), ServerRefusal>>,
    /// The replication user's.
    pub replication: Option<Result<(), ServerRefusal>>,
    /// The superuser's to the usual database.
    pub database: Option<Result<(), ServerRefusal>>,
}

/// What a collection asks for besides what decides about health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObserveScope {
    /// Parameters and standbys.
    pub details: bool,
    /// Whether one could log in: no question tells while the session for questions is open.
    pub logins: bool,
    /// Whether the replication user may be tried when the superuser is refused; not while it was refused lately.
    pub replication: bool,
}

impl ObserveScope {
    /// Everything.
    pub const ALL: Self = Self {
        details: true,
        logins: true,
        replication: true,
    };
}

/// The step of a collection that failed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// It could not be found out whether there is a database cluster.
    #[error("look at the data directory")]
    Data(#[source] FileError),
    /// The configured parameters.
    #[error("cannot get configured pg parameters")]
    Parameters(#[source] SqlError),
    /// What and where it is, or the standbys in sync.
    #[error("error getting pg state")]
    Sql(#[source] SqlError),
    /// Timeline and position by its files.
    #[error("error getting pg state")]
    Position(#[source] PositionError),
}

impl Instance {
    /// Collects the state of the instance. One collection at a time.
    ///
    /// The open session of the superuser answers all of it. A server that refuses lives: what it does not answer is
    /// asked of a replication connection, and of its files.
    pub async fn observe(&self, scope: ObserveScope) -> Observation {
        let mut seen = Observation::default();
        match self.is_initialised() {
            Ok(true) => {}
            Ok(false) => return seen,
            Err(source) => {
                seen.failed = Some(ObserveError::Data(source));
                return seen;
            }
        }
        match self.probe(&mut seen, scope).await {
            Ok(()) => {
                seen.oldest_wal = oldest_wal(&self.config().data);
                seen.is_healthy = true;
                if scope.logins {
                    self.try_logins(&mut seen.logins).await;
                }
            }
            Err(failed) => seen.failed = Some(failed),
        }
        seen
    }

    /// Identity, timeline and position, which decide about health, and then the rest.
    async fn probe(&self, seen: &mut Observation, scope: ObserveScope) -> Result<(), ObserveError> {
        let standing = match self.observer().position().await {
            Ok(standing) => standing,
            Err(failed) => {
                let refusal = failed.refusal().ok_or(ObserveError::Sql(failed))?;
                seen.logins.superuser = Some(Err(refusal));
                return self.probe_without_superuser(seen, scope).await;
            }
        };
        seen.system_id = Some(standing.system_id);
        let position = standing.position.unwrap_or_default();
        let data = &self.config().data;
        let timeline = position::timeline_at(data, standing.known_timeline, position, standing.layout);
        let timeline = timeline.map_err(ObserveError::Position)?;
        seen.position = Some(position);
        seen.set_timeline(&timeline);
        if scope.details {
            self.probe_details(seen, standing.is_in_recovery).await;
        }
        Ok(())
    }

    /// What does not decide about health.
    async fn probe_details(&self, seen: &mut Observation, is_standby: bool) {
        let sql = self.observer();
        match sql.configured().await {
            Ok(configured) => seen.parameters = Some(conf::published(&configured)),
            Err(failed) => seen.failed = Some(ObserveError::Parameters(failed)),
        }
        match sql.in_sync().await {
            Ok(names) => seen.in_sync = Some(names),
            Err(failed) => seen.failed = Some(ObserveError::Sql(failed)),
        }
        if is_standby {
            // What only our own readers know is not worth a word.
            seen.standby = sql.standby().await.ok().flatten();
        }
        seen.logins.database = Some(sql.database_refusal().map_or(Ok(()), Err));
    }

    /// The superuser is not let in: the replication user may be, and the files tell in any case.
    async fn probe_without_superuser(&self, seen: &mut Observation, scope: ObserveScope) -> Result<(), ObserveError> {
        let config = self.config();
        if scope.replication {
            match self.replication().identify().await {
                Ok(identity) => {
                    seen.logins.replication = Some(Ok(()));
                    let timeline =
                        position::timeline_by_id(&config.data, identity.timeline).map_err(ObserveError::Position)?;
                    seen.system_id = Some(identity.system_id);
                    seen.position = Some(identity.position);
                    seen.set_timeline(&timeline);
                    return Ok(());
                }
                Err(failed) => seen.logins.replication = failed.refusal().cloned().map(Err),
            }
        }
        let end = position::end_of_wal(self.programs(), &config.data, config.request_timeout).await;
        let (control, timeline, position) = end.map_err(ObserveError::Position)?;
        seen.system_id = Some(control.system_id);
        seen.position = Some(position);
        seen.set_timeline(&timeline);
        Ok(())
    }

    /// Whether those who are not connected now could log in.
    async fn try_logins(&self, logins: &mut LoginResults) {
        if logins.superuser.is_none() {
            logins.superuser = match self.observer().try_login().await {
                Ok(()) => Some(Ok(())),
                Err(failed) => failed.refusal().map(Err),
            };
        }
        if logins.replication.is_none() {
            logins.replication = match self.replication().identify().await {
                Ok(_) => Some(Ok(())),
                Err(failed) => failed.refusal().cloned().map(Err),
            };
        }
    }
}

impl Observation {
    /// Whether the server says that it cannot take connections now.
    pub fn is_not_accepting(&self) -> bool {
        matches!(&self.failed, Some(ObserveError::Sql(failed)) if failed.is_not_accepting())
    }

    /// Whether the server refused a login or a question.
    pub fn is_refused(&self) -> bool {
        let is_refusal = |failed: &ObserveError| match failed {
            ObserveError::Parameters(failed) | ObserveError::Sql(failed) => failed.refusal().is_some(),
            ObserveError::Data(_) | ObserveError::Position(_) => false,
        };
        matches!(self.logins.superuser, Some(Err(_))) || self.failed.as_ref().is_some_and(is_refusal)
    }

    fn set_timeline(&mut self, timeline: &Timeline) {
        self.timeline = Some(timeline.id);
        self.history = history::last(&timeline.history, HISTORY_ENTRIES).to_vec();
    }
}

fn oldest_wal(data: &Path) -> Option<String> {
    match files::oldest_wal(data) {
        Ok(OldestWal::File(name)) => Some(name),
        Ok(OldestWal::NoneThere) => None,
        Ok(OldestWal::OtherSize { bytes }) => {
            // Each collection would say it again, and it never changes.
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| warn!(bytes, "WAL segments are not of 16 MiB: the oldest one is not reported"));
            None
        }
        Err(failed) => {
            warn!(error = %Chain(&failed), "could not find the oldest WAL segment");
            None
        }
    }
}
