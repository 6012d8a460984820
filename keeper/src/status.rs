//! What the keeper reports over HTTP and to systemd: the role that the cluster data assign, and the state of the instance
//! in it (extensions X-7). Reading the cluster data and observing the instance are left to the loop and the monitor.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::clock::Boottime;
use base::{Clock, counted};
use daemon::health::{ServiceStatus, check_page};
use daemon::http::{HttpPage, HttpQuery, HttpStatus};
use daemon::telemetry::MetricsServer;
use model::{CheckedClusterData, DbUid, KeeperUid};
use serde_json::{Value, json};
use store::Revision;

use crate::metrics::{InstanceSample, MetricRole, UpstreamLag};
use crate::reconcile::{Desired, Goal, HoldReason, StopReason, TargetRole, Upstream};
use crate::status::byte_limit::{LIMIT_FORM, parse_bytes};

mod byte_limit;

/// The state of the keeper, shared by its parts and its pages. Clones share it.
#[derive(Debug, Clone)]
pub struct KeeperHealth {
    clock: Clock,
    state: Arc<Mutex<StatusState>>,
}

#[derive(Debug, Clone, Default)]
struct StatusState {
    phase: KeeperPhase,
    assigned: Option<Assignment>,
    /// The keepers of all dbs.
    keepers: BTreeMap<DbUid, KeeperUid>,
    sample: InstanceSample,
}

/// Where the keeper is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum KeeperPhase {
    /// Its loop does not run yet.
    #[default]
    Starting,
    /// Its loop runs.
    Running,
    /// It stops its instance.
    Stopping,
}

/// What the cluster data ask of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assignment {
    role: AssignedRole,
    /// Of the cluster data.
    revision: Revision,
    /// When it was recorded.
    recorded: Boottime,
    /// When the last read that brought it was sent; the watch confirms nothing, since its events may be late.
    read: Boottime,
    /// How long a read counts.
    limit: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum AssignedRole {
    Master,
    /// Of this keeper, if it is known.
    Standby(Option<KeeperUid>),
    /// It must not run, or nothing is known about it, and why.
    Nothing(&'static str),
}

/// Where a desired state comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DesiredSource {
    /// Revision of the cluster data.
    pub revision: Revision,
    /// When their read was sent; `None` for an event of the watch.
    pub sent: Option<Boottime>,
}

impl KeeperHealth {
    /// Returns the status of a keeper that starts.
    pub fn new(clock: Clock) -> Self {
        let state = Arc::default();
        Self { clock, state }
    }

    fn state(&self) -> MutexGuard<'_, StatusState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the loop runs.
    pub fn set_running(&self) {
        self.state().phase = KeeperPhase::Running;
    }

    /// Whether the loop runs.
    pub fn is_running(&self) -> bool {
        self.state().phase == KeeperPhase::Running
    }

    /// Records that the keeper stops: it is not ready from now on.
    pub fn set_stopping(&self) {
        self.state().phase = KeeperPhase::Stopping;
    }

    /// Records what the cluster data ask for. What was read earlier than what is known changes nothing.
    pub fn set_desired(&self, desired: &Desired, source: DesiredSource) {
        let (now, mut state) = (self.clock.now(), self.state());
        state.assigned = assignment(desired, source, state.assigned.take(), now);
    }

    /// Records which keepers have which dbs.
    pub fn set_keepers(&self, data: &CheckedClusterData) {
        let dbs = data.data.dbs().iter();
        self.state().keepers = dbs.map(|(uid, db)| (uid.clone(), db.spec.keeper_uid.clone())).collect();
    }

    /// Returns the keeper of a db; `None` if it is not in the cluster data.
    pub fn keeper_of(&self, db: &DbUid) -> Option<KeeperUid> {
        self.state().keepers.get(db).cloned()
    }

    /// Records an observation of the instance.
    pub fn set_sample(&self, sample: InstanceSample) {
        self.state().sample = sample;
    }

    /// Records how far a standby is behind, between two observations.
    pub fn set_upstream(&self, lag: UpstreamLag) {
        self.state().sample.upstream = Some(lag);
    }

    /// Records that the server has ended: it is not healthy before the next observation.
    pub fn server_ended(&self) {
        self.state().sample = InstanceSample::default();
    }

    /// Returns what the program reports.
    pub fn service_status(&self) -> ServiceStatus {
        let (now, state) = (self.clock.now(), self.state());
        state.service_status(state.why_not_ready(now))
    }

    /// Adds `/primary` and `/standby`.
    pub fn add_pages(&self, server: &MetricsServer) {
        let status = self.clone();
        server.add_page("/primary", move |_| {
            let (now, state) = (status.clock.now(), status.state().clone());
            state.page(state.why_not_primary(now))
        });
        let status = self.clone();
        server.add_page("/standby", move |query| status.standby_page(query));
    }

    fn standby_page(&self, query: HttpQuery<'_>) -> HttpPage {
        let limit = match query.get("lag").map(|text| parse_bytes(text).ok_or(text)) {
            None => None,
            Some(Ok(limit)) => Some(limit),
            Some(Err(text)) => {
                let reason = format!("lag={text} is no size: {LIMIT_FORM}");
                return HttpPage::json(HttpStatus::BadRequest, &json!({ "status": "error", "reason": reason }));
            }
        };
        let state = self.state().clone();
        state.page(state.why_not_standby(limit))
    }
}

/// Returns the assignment after a desired state from this source.
fn assignment(
    desired: &Desired,
    source: DesiredSource,
    known: Option<Assignment>,
    now: Boottime,
) -> Option<Assignment> {
    let Some((role, limit)) = assigned_role(desired) else {
        return known; // the store did not answer: what is known ages
    };
    let is_outdated = known.as_ref().is_some_and(|known| match source.sent {
        // A read that was sent after an event had arrived sees at least that event, unless the store was set up again.
        Some(sent) => sent < known.recorded && source.revision < known.revision,
        None => source.revision <= known.revision,
    });
    if is_outdated {
        return known;
    }
    let before = known.as_ref();
    Some(Assignment {
        role,
        revision: source.revision,
        recorded: now,
        read: source.sent.or(before.map(|known| known.read)).unwrap_or_default(),
        limit: limit.or(before.map(|known| known.limit)).unwrap_or_default(),
    })
}

/// Returns the role that is asked for, and how long a read of it counts: the sentinel may replace a master whose keeper
/// is silent after failInterval. `None` if the cluster data could not be read.
fn assigned_role(desired: &Desired) -> Option<(AssignedRole, Option<Duration>)> {
    let nothing = |why| Some((AssignedRole::Nothing(why), None));
    let target = match &desired.goal {
        Goal::Run(target) => target,
        Goal::Hold(HoldReason::StoreUnavailable) => return None,
        Goal::Hold(HoldReason::NoClusterData) => return nothing("there are no cluster data"),
        Goal::Hold(HoldReason::NotListed) => return nothing("the cluster data do not list this keeper yet"),
        Goal::Hold(_) => return nothing("the cluster data cannot be followed, see stolonctl status and the log"),
        Goal::Stop(StopReason::NoDb) => return nothing("no db is assigned to this keeper"),
        Goal::Stop(StopReason::BootNotAcknowledged) => {
            return nothing("the sentinel has not acknowledged this process yet");
        }
        Goal::Stop(StopReason::FormerMaster { .. }) => return nothing("the db is a former master"),
        Goal::Stop(StopReason::Ordered(_)) => return nothing("a switchover has it stopped"),
    };
    let role = match &target.role {
        TargetRole::Master => AssignedRole::Master,
        TargetRole::Standby(Upstream::Member(upstream)) => AssignedRole::Standby(Some(upstream.keeper.clone())),
        TargetRole::Standby(Upstream::External(_)) | TargetRole::NoUpstream | TargetRole::UndefinedUpstream(_) => {
            AssignedRole::Standby(None)
        }
        TargetRole::Other(_) => return nothing("the cluster data ask for an unknown role"),
    };
    Some((role, Some(target.fail_interval)))
}

impl StatusState {
    /// Returns why no client should write to this instance; `None` for the master.
    fn why_not_primary(&self, now: Boottime) -> Option<String> {
        let assigned = match self.assigned_while_running() {
            Ok(assigned) => assigned,
            Err(reason) => return Some(reason),
        };
        match &assigned.role {
            AssignedRole::Master => {}
            AssignedRole::Standby(_) => return Some("the cluster data have it as a standby".to_owned()),
            AssignedRole::Nothing(why) => return Some((*why).to_owned()),
        }
        let age = now.since(assigned.read);
        if age >= assigned.limit {
            let seconds = age.as_secs();
            return Some(format!(
                "the cluster data were last read {seconds} s ago: there may be another master"
            ));
        }
        self.why_not_in_role(MetricRole::Master)
    }

    /// Returns why no client should read from this instance as a standby; `limit` are the bytes that it may be behind.
    fn why_not_standby(&self, limit: Option<u64>) -> Option<String> {
        match self.assigned_while_running().map(|assigned| &assigned.role) {
            Ok(AssignedRole::Standby(_)) => {}
            Ok(AssignedRole::Master) => return Some("the cluster data have it as the master".to_owned()),
            Ok(AssignedRole::Nothing(why)) => return Some((*why).to_owned()),
            Err(reason) => return Some(reason),
        }
        if let Some(reason) = self.why_not_in_role(MetricRole::Standby) {
            return Some(reason);
        }
        let Some(upstream) = self.sample.upstream.filter(|upstream| upstream.is_streaming) else {
            return Some("it does not stream".to_owned());
        };
        let limit = limit?;
        match upstream.replay_bytes {
            Some(lag) if lag <= limit => None,
            Some(lag) => Some(format!("it is {lag} bytes behind, more than {limit}")),
            None => Some("how far it is behind is not known yet".to_owned()),
        }
    }

    /// Returns why the instance does not do what the cluster data ask for.
    fn why_not_ready(&self, now: Boottime) -> Option<String> {
        match self.assigned_while_running().map(|assigned| &assigned.role) {
            Ok(AssignedRole::Master) => self.why_not_primary(now),
            Ok(AssignedRole::Standby(_)) => self.why_not_in_role(MetricRole::Standby),
            Ok(AssignedRole::Nothing(why)) => Some((*why).to_owned()),
            Err(reason) => Some(reason),
        }
    }

    fn assigned_while_running(&self) -> Result<&Assignment, String> {
        match self.phase {
            KeeperPhase::Starting => Err("the keeper starts".to_owned()),
            KeeperPhase::Stopping => Err("the keeper stops".to_owned()),
            KeeperPhase::Running => {
                let assigned = self.assigned.as_ref();
                assigned.ok_or_else(|| "the cluster data could not be read yet".to_owned())
            }
        }
    }

    fn why_not_in_role(&self, role: MetricRole) -> Option<String> {
        let reason = match self.sample.role {
            _ if !self.sample.healthy => "the instance does not answer",
            Some(found) if found == role => return None,
            Some(MetricRole::Master) => "the instance is still a master",
            Some(MetricRole::Standby) => "the instance is still in recovery",
            Some(MetricRole::Undefined) | None => "the role of the instance is unknown",
        };
        Some(reason.to_owned())
    }

    fn page(&self, reason: Option<String>) -> HttpPage {
        check_page(self.service_status(reason.clone()), reason)
    }

    fn service_status(&self, not_ready: Option<String>) -> ServiceStatus {
        let sample = &self.sample;
        let role = sample.role.filter(|_| sample.healthy);
        let assigned = self.assigned.as_ref().map(|assigned| assigned.role.name());
        let mut details = json!({
            "role": role.map_or("none", MetricRole::label),
            "assignedRole": assigned.unwrap_or("none"),
            "healthy": sample.healthy,
            "timeline": sample.timeline,
        });
        if let Some(upstream) = sample.upstream {
            details["streaming"] = upstream.is_streaming.into();
            details["lag"] = upstream.replay_bytes.into();
        }
        if role == Some(MetricRole::Master) {
            details["lag"] = Value::from(0);
            details["streamingStandbys"] = sample.streaming_standbys().into();
        }
        ServiceStatus {
            is_started: self.phase == KeeperPhase::Running,
            summary: self.to_string(),
            not_ready,
            details,
        }
    }
}

impl AssignedRole {
    fn name(&self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Standby(_) => "standby",
            Self::Nothing(_) => "none",
        }
    }
}

/// The line for operators, such as `standby of keeper0, 0 bytes behind`.
impl fmt::Display for StatusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sample = &self.sample;
        match sample.role.filter(|_| sample.healthy) {
            Some(MetricRole::Master) => {
                let standbys = counted(sample.streaming_standbys(), "standby", "standbys");
                write!(f, "master, {standbys} streaming")
            }
            Some(MetricRole::Standby) => {
                f.write_str("standby")?;
                if let Some(AssignedRole::Standby(Some(keeper))) = self.assigned.as_ref().map(|assigned| &assigned.role)
                {
                    write!(f, " of {keeper}")?;
                }
                match sample.upstream {
                    Some(upstream) if upstream.is_streaming => match upstream.replay_bytes {
                        Some(lag) => write!(f, ", {lag} bytes behind"),
                        None => f.write_str(", streaming"),
                    },
                    _ => f.write_str(", not streaming"),
                }
            }
            Some(MetricRole::Undefined) | None => f.write_str("no instance answers"),
        }
    }
}

#[cfg(test)]
mod tests;
