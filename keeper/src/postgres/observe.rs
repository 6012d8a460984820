//! Observes the state of the instance (keeper 3.5). What of it is published is decided by `monitor`.

use std::path::Path;

use base::Chain;
use model::Lsn;
use tracing::warn;

use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::client::replication_state::{StandbyStatus, WalSender};
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::config::conf::{self, Parameters};
use crate::postgres::data::access::DataAccess;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::history::{self, Ancestor, HistoryFileError};
use crate::postgres::data::wal_segments;
use crate::postgres::data::wal_segments::OldestWal;
use crate::postgres::instance::{Instance, LocalRole};
use crate::postgres::programs::wal_end::WalEndError;
use crate::postgres::server::position::{self, PositionError, Timeline};

/// Number of published ancestors of the timeline (keeper section 0).
const HISTORY_ENTRIES: usize = 2;

/// Observed state of the instance; what could not be determined is `None`.
#[derive(Debug, Default)]
pub struct Observation {
    /// The server answered during this observation, even with a refused login (keeper I11).
    pub is_healthy: bool,
    /// The configured parameters without managed ones; `None` when they were not or could not be queried.
    pub parameters: Option<Parameters>,
    /// The WAL senders; `None` when they could not be queried.
    pub senders: Option<Vec<WalSender>>,
    /// Whether the server is in recovery; `None` when it could not be queried.
    pub is_in_recovery: Option<bool>,
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
    /// Replication status of a standby; `None` on a master or when it could not be queried.
    pub standby: Option<StandbyStatus>,
    /// Results of the logins that were tried.
    pub logins: LoginResults,
    /// What failed. `None` and unhealthy: there is no database cluster.
    pub failed: Option<ObserveError>,
}

/// Results of logins; `None` for those that were not tried.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LoginResults {
    /// The superuser's.
    pub superuser: Option<Result<(), ServerRefusal>>,
    /// The replication user's.
    pub replication: Option<Result<(), ServerRefusal>>,
    /// The superuser's to the usual database.
    pub database: Option<Result<(), ServerRefusal>>,
}

/// What an observation queries besides what decides about health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObserveScope {
    /// WAL senders, and the replication status of a standby.
    pub details: bool,
    /// The configured parameters; not without `details`.
    pub parameters: bool,
    /// Try to log in: queries use an open session and do not show it.
    pub logins: bool,
    /// Try the replication user when the superuser is refused, unless it was refused recently.
    pub replication: bool,
}

impl ObserveScope {
    /// Everything.
    pub const ALL: Self = Self {
        details: true,
        parameters: true,
        logins: true,
        replication: true,
    };
}

/// What is read of `pg_wal` at once.
type WalRead = (Timeline, Result<OldestWal, FileError>);

/// The failed step of an observation.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Whether there is a database cluster could not be determined.
    #[error("read PGDATA")]
    Data(#[source] FileError),
    /// The configured parameters.
    #[error("cannot get configured pg parameters")]
    Parameters(#[source] SqlError),
    /// Identity and position, or replication.
    #[error("error getting pg state")]
    Sql(#[source] SqlError),
    /// Timeline and position from its files.
    #[error("error getting pg state")]
    Position(#[source] PositionError),
}

/// Observes the instance. Calls must not overlap.
pub async fn observe(instance: &Instance, scope: ObserveScope) -> Observation {
    match instance.is_initialised().await {
        Ok(is_initialised) => observe_data(instance, is_initialised, scope).await,
        Err(source) => Observation::failed(ObserveError::Data(source)),
    }
}

/// Observes an instance of which it is known whether there is a database cluster. Calls must not overlap.
///
/// The superuser's open session is used for all queries. A server that refuses it is alive: the rest is read over a
/// replication connection and from its files.
pub async fn observe_data(instance: &Instance, is_initialised: bool, scope: ObserveScope) -> Observation {
    let mut observation = Observation::default();
    if !is_initialised {
        return observation;
    }
    match probe(instance, &mut observation, scope).await {
        Ok(()) => {
            observation.is_healthy = true;
            if scope.logins {
                try_logins(instance, &mut observation.logins).await;
            }
        }
        Err(failed) => observation.failed = Some(failed),
    }
    observation
}

/// Observes identity, timeline and position, which decide about health, then the rest.
async fn probe(instance: &Instance, observation: &mut Observation, scope: ObserveScope) -> Result<(), ObserveError> {
    let instance_position = match instance.observer().position().await {
        Ok(instance_position) => instance_position,
        Err(failed) => {
            let refusal = failed.refusal().ok_or(ObserveError::Sql(failed))?;
            observation.logins.superuser = Some(Err(refusal));
            return probe_without_superuser(instance, observation, scope).await;
        }
    };
    observation.system_id = Some(instance_position.system_id);
    observation.is_in_recovery = Some(instance_position.is_in_recovery);
    let position = instance_position.position.unwrap_or_default();
    let (known, layout) = (instance_position.known_timeline, instance_position.layout);
    let wal = move |data: &Path| {
        let names = wal_segments::wal_files(data)?;
        let timeline = position::timeline_at(data, &names, known, position, layout)?;
        Ok((timeline, wal_segments::oldest_among(data, &names)))
    };
    observation.read_wal(instance.access(), wal).await?;
    observation.position = Some(position);
    if scope.details {
        probe_details(instance, observation, scope).await;
    }
    Ok(())
}

/// Observes what does not decide about health.
async fn probe_details(instance: &Instance, observation: &mut Observation, scope: ObserveScope) {
    let sql = instance.observer();
    if scope.parameters {
        match sql.configured().await {
            Ok(configured) => observation.parameters = Some(conf::published(&configured)),
            Err(failed) => observation.failed = Some(ObserveError::Parameters(failed)),
        }
    }
    let replication = if observation.is_in_recovery == Some(true) {
        sql.wal_senders_and_standby().await
    } else {
        sql.wal_senders().await.map(|senders| (senders, None))
    };
    match replication {
        Ok((senders, standby)) => (observation.senders, observation.standby) = (Some(senders), standby),
        Err(failed) => observation.failed = Some(ObserveError::Sql(failed)),
    }
    observation.logins.database = Some(sql.database_refusal().map_or(Ok(()), Err));
}

/// Observes without the superuser: by the replication user, otherwise from the files.
async fn probe_without_superuser(
    instance: &Instance,
    observation: &mut Observation,
    scope: ObserveScope,
) -> Result<(), ObserveError> {
    let config = instance.config();
    observation.is_in_recovery = match instance.local_role().await {
        Ok(LocalRole::Master) => Some(false),
        Ok(LocalRole::Standby) => Some(true),
        Ok(LocalRole::Undefined) | Err(_) => None,
    };
    if scope.replication {
        match instance.replication().identify().await {
            Ok(identity) => {
                observation.logins.replication = Some(Ok(()));
                let wal = move |data: &Path| {
                    let timeline = position::timeline_by_id(data, identity.timeline)?;
                    Ok((timeline, wal_segments::oldest_wal(data)))
                };
                observation.read_wal(instance.access(), wal).await?;
                observation.system_id = Some(identity.system_id);
                observation.position = Some(identity.position);
                return Ok(());
            }
            Err(failed) => observation.logins.replication = failed.refusal().cloned().map(Err),
        }
    }
    let end = position::end_of_wal(instance.programs(), instance.access(), config.request_timeout).await;
    let (control, timeline, position) = end.map_err(ObserveError::Position)?;
    let wal = move |data: &Path| Ok((timeline, wal_segments::oldest_wal(data)));
    observation.read_wal(instance.access(), wal).await?;
    observation.system_id = Some(control.system_id);
    observation.position = Some(position);
    Ok(())
}

/// Tries to log in as the users that are not connected.
async fn try_logins(instance: &Instance, logins: &mut LoginResults) {
    if logins.superuser.is_none() {
        logins.superuser = match instance.observer().try_login().await {
            Ok(()) => Some(Ok(())),
            Err(failed) => failed.refusal().map(Err),
        };
    }
    if logins.replication.is_none() {
        logins.replication = match instance.replication().identify().await {
            Ok(_) => Some(Ok(())),
            Err(failed) => failed.refusal().cloned().map(Err),
        };
    }
}

impl ObserveError {
    /// Returns the path whose file system does not answer, if that is the reason.
    pub fn unanswered(&self) -> Option<&Path> {
        match self {
            Self::Data(failed)
            | Self::Position(
                PositionError::File(failed)
                | PositionError::WalEnd(WalEndError::File(failed))
                | PositionError::History {
                    source: HistoryFileError::File(failed),
                    ..
                },
            ) => failed.unanswered(),
            Self::Parameters(_) | Self::Sql(_) | Self::Position(_) => None,
        }
    }
}

impl Observation {
    /// Returns the observation of an instance about which nothing could be determined.
    pub fn failed(why: ObserveError) -> Self {
        Self {
            failed: Some(why),
            ..Self::default()
        }
    }

    /// Whether the server reports that it does not accept connections now.
    pub fn is_not_accepting(&self) -> bool {
        matches!(&self.failed, Some(ObserveError::Sql(failed)) if failed.is_not_accepting())
    }

    /// Whether the server refused a login or a query.
    pub fn is_refused(&self) -> bool {
        let is_refusal = |failed: &ObserveError| match failed {
            ObserveError::Parameters(failed) | ObserveError::Sql(failed) => failed.refusal().is_some(),
            ObserveError::Data(_) | ObserveError::Position(_) => false,
        };
        matches!(self.logins.superuser, Some(Err(_))) || self.failed.as_ref().is_some_and(is_refusal)
    }

    /// Sets the timeline and the oldest WAL segment, which are read at once: each read wakes another thread.
    async fn read_wal(
        &mut self,
        access: &DataAccess,
        read: impl FnOnce(&Path) -> Result<WalRead, PositionError> + Send + 'static,
    ) -> Result<(), ObserveError> {
        let (timeline, oldest) = access.read(read).await.map_err(ObserveError::Position)?;
        self.timeline = Some(timeline.id);
        self.history = history::last(&timeline.history, HISTORY_ENTRIES).to_vec();
        self.oldest_wal = published_segment(oldest);
        Ok(())
    }
}

/// Returns the name to publish of the oldest WAL segment.
fn published_segment(oldest: Result<OldestWal, FileError>) -> Option<String> {
    match oldest {
        Ok(OldestWal::File(name)) => Some(name),
        Ok(OldestWal::NoneThere) => None,
        Ok(OldestWal::OtherSize { bytes }) => {
            // Logged once, because it never changes.
            static LOGGED: std::sync::Once = std::sync::Once::new();
            LOGGED.call_once(|| warn!(bytes, "WAL segments are not of 16 MiB: the oldest one is not reported"));
            None
        }
        Err(failed) => {
            warn!(error = %Chain(&failed), "could not find the oldest WAL segment");
            None
        }
    }
}
