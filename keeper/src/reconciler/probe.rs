//! Probes before a plan: the local server, the local data, and the instance to copy from.

use std::collections::BTreeSet;
use std::time::Duration;

use base::Chain;
use model::{Stopped, stolon_name};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::postgres::client::sql_error::SqlError;
use crate::postgres::client::upstream::{self, UpstreamError};
use crate::postgres::config::conf::{SlotNeeds, StandbyMinimums};
use crate::postgres::config::conninfo::Address;
use crate::postgres::data::files;
use crate::postgres::data::history::{self, Ancestor};
use crate::postgres::instance::Instance;
use crate::postgres::programs::pg_control::{self as control_file, ControlError};
use crate::reconcile::{
    CopyFacts, DataEnd, DataState, Desired, EndState, Fork, Goal, MemberUpstream, RecordedIdentity, RestartTurn,
    ServerFacts, ServerProbe, SourceFacts, TargetDb, TargetRole, check_source, is_foreign_slot, is_short_of_slots,
};
use crate::reconciler::Reconciler;

/// Interval of probing a source that is not ready.
const SOURCE_POLL: Duration = Duration::from_millis(100);
/// Interval of probing a source that does not answer.
const SOURCE_AWAY_POLL: Duration = Duration::from_secs(1);

/// The parameter that limits the number of slots.
const SLOTS_PARAMETER: &str = "max_replication_slots";

impl Reconciler {
    /// Probes the local server. One that does not accept connections counts as not answering.
    pub(super) async fn probe_server(&self, desired: &Desired) -> ServerProbe {
        if !self.instance.reports_ready().unwrap_or(true) {
            return ServerProbe::NoAnswer;
        }
        let sql = self.instance.sql();
        let facts = async {
            let standby = sql.standby().await?;
            let slots: BTreeSet<String> = sql.slots().await?.into_iter().collect();
            let mut pending = sql.pending_restart().await?;
            pending.retain(|name| !is_of_recovery(name));
            let restart_can_wait = match (pending.as_slice(), &self.memory.target) {
                ([one], Some(target)) if one == SLOTS_PARAMETER => {
                    !is_short_of_slots(target, &slots, sql.slots_max().await?)
                }
                _ => false,
            };
            let turn = match &desired.goal {
                Goal::Run(target) if !pending.is_empty() && target.automatic_restart => self.restart_turn(target).await,
                _ => RestartTurn::Now,
            };
            self.report_held_restart(&turn);
            Ok::<_, SqlError>(ServerFacts {
                slots,
                restart_pending: !pending.is_empty(),
                restart_can_wait,
                turn,
                replay_paused: standby.is_some_and(|standby| standby.is_paused),
            })
        };
        match facts.await {
            Ok(facts) => ServerProbe::Answered(facts),
            Err(error) if error.refusal().is_some() => {
                tracing::debug!(error = %Chain(&error), "the server refuses");
                ServerProbe::Refused
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "the server does not answer");
                ServerProbe::NoAnswer
            }
        }
    }

    /// Waits until the source answers and has the slot for this db, which the source's keeper creates (keeper 6.4).
    /// Returns where the source's data and the local ones end.
    pub(super) async fn probe_source(&self, from: &MemberUpstream, desired: &Desired) -> CopyFacts {
        let slot = slot_of(desired);
        let mut logged = String::new();
        let mut log_waiting = |text: String| {
            if logged != text {
                info!(followedDB = %from.db, keeper = %from.keeper, why = %text, "waiting for the followed db");
                logged = text;
            }
        };
        let recorded = match &desired.goal {
            Goal::Run(target) => target.recorded.clone(),
            _ => RecordedIdentity::default(),
        };
        let (source, needs) = loop {
            match self.source(from) {
                Ok(source) => match source.probe(&slot).await {
                    Ok(facts) => {
                        let source_facts = source_facts(&facts);
                        // Another instance than the recorded one may never get the slot; the plan decides what that
                        // means.
                        if check_source(&recorded, &source_facts).is_err() {
                            break (source_facts, None);
                        }
                        if facts.has_slot {
                            match self.needs(&source).await {
                                Ok(needs) => break (source_facts, Some(needs)),
                                Err(error) => log_waiting(Chain(&error).to_string()),
                            }
                            sleep(SOURCE_AWAY_POLL).await;
                            continue;
                        }
                        log_waiting(format!("it has no replication slot {slot} yet"));
                        sleep(SOURCE_POLL).await;
                        continue;
                    }
                    Err(error) => log_waiting(Chain(&error).to_string()),
                },
                Err(error) => log_waiting(Chain(&error).to_string()),
            }
            sleep(SOURCE_AWAY_POLL).await;
        };
        let own = self.own_end().await;
        match needs {
            Some(needs) => CopyFacts {
                own,
                source,
                external_dirs: needs.external_dirs,
                bytes: needs.bytes,
                obstacle: needs.obstacle,
            },
            None => CopyFacts {
                own,
                source,
                external_dirs: Vec::new(),
                bytes: None,
                obstacle: None,
            },
        }
    }

    fn source(&self, from: &MemberUpstream) -> Result<upstream::UpstreamClient, UpstreamError> {
        let limit = self.instance.config().request_timeout;
        let source = upstream::UpstreamClient::new(
            &address(from),
            &self.config.superuser,
            &self.config.replication,
            limit,
            self.instance.clock().clone(),
        )?;
        Ok(source.for_programs(self.instance.programs()))
    }

    /// Returns the end of the local data; `None` when there are none or it cannot be determined.
    async fn own_end(&self) -> Option<DataEnd> {
        if !self.instance.is_initialised().unwrap_or(false) {
            return None;
        }
        let data = &self.instance.config().data;
        let limit = self.instance.config().request_timeout;
        let end = control_file::wal_end(self.instance.programs(), data, limit).await;
        let end = end
            .inspect_err(|error| warn!(error = %Chain(error), "could not find the end of our data"))
            .ok()?;
        let history = history::read_history(data, end.timeline);
        let history = history
            .inspect_err(|error| warn!(error = %Chain(error), "could not read our history"))
            .ok()??;
        Some(DataEnd {
            system_id: end.control.system_id.to_string(),
            state: match end.control.state {
                control_file::ControlState::ShutDown => EndState::ShutDown,
                control_file::ControlState::ShutDownInRecovery => EndState::ShutDownInRecovery,
                _ => EndState::Unclean,
            },
            timeline: end.timeline,
            position: end.position.unwrap_or_default(),
            history: history.iter().map(fork).collect(),
        })
    }

    /// Counts the slots in the data directory. A server does not start with `max_replication_slots` below that.
    pub(super) fn read_slots(&mut self, data: DataState) {
        if data == DataState::Absent {
            self.memory.slots = SlotNeeds::default();
            return;
        }
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        match files::slot_names(&self.instance.config().data) {
            Ok(names) => {
                self.memory.slots = SlotNeeds {
                    additional: 0,
                    foreign: count(names.iter().filter(|name| is_foreign_slot(name)).count()),
                    existing: count(names.len()),
                };
            }
            Err(error) => warn!(error = %Chain(&error), "could not look for replication slots"),
        }
    }

    /// Reads the minimum parameters of a standby from its control file: those of its master (keeper 8.7).
    pub(super) async fn read_minima(&mut self, target: &TargetDb, data: DataState) {
        if data == DataState::Absent || !matches!(target.role, TargetRole::Standby(_)) {
            self.memory.minimums = StandbyMinimums::default();
            return;
        }
        let limit = self.instance.config().request_timeout;
        match control_file::read(self.instance.programs(), &self.instance.config().data, limit).await {
            Ok(control) => self.memory.minimums = control.minimums,
            Err(error) => warn!(error = %Chain(&error), "could not read the control file"),
        }
    }
}

/// Returns the end of a stopped instance's data (extensions ).
pub async fn stopped(instance: &Instance) -> Result<Stopped, ControlError> {
    let config = instance.config();
    let end = control_file::wal_end(instance.programs(), &config.data, config.request_timeout).await?;
    Ok(Stopped {
        clean: end.is_clean(),
        lsn: end.position,
        timeline_id: end.timeline,
    })
}

/// A promoted server reports the recovery settings that left the file as pending restart.
fn is_of_recovery(parameter: &str) -> bool {
    parameter.starts_with("recovery_target")
}

pub(super) fn slot_of(desired: &Desired) -> String {
    match &desired.goal {
        Goal::Run(target) => stolon_name(target.db.as_str()),
        _ => String::new(),
    }
}

pub(super) fn address(from: &MemberUpstream) -> Address {
    Address {
        host: from.host.clone(),
        port: from.port.clone(),
    }
}

fn source_facts(facts: &upstream::UpstreamFacts) -> SourceFacts {
    SourceFacts {
        system_id: facts.system_id.to_string(),
        timeline: facts.timeline,
        position: facts.position,
        history: facts.history.iter().map(fork).collect(),
        oldest_segment: facts.oldest_wal.clone(),
    }
}

fn fork(ancestor: &Ancestor) -> Fork {
    Fork {
        timeline: ancestor.timeline,
        switch_point: ancestor.switch_point,
    }
}
