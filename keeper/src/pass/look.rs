//! What a pass asks before it plans: the own server, the own data, the instance to copy from.

use std::collections::BTreeSet;
use std::time::Duration;

use control::model::{Stopped, stolon_name};
use control::telemetry::Chain;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::converge::{
    Asked, Be, Copy, Data, End, EndState, Facts, Fork, Orders, Recorded, Source, Target, TargetRole, Turn, Upstream,
    is_foreign_slot, is_short_of_slots, judge_source,
};
use crate::pass::Engine;
use crate::postgres::conf::{Minima, SlotNeeds};
use crate::postgres::conninfo::Address;
use crate::postgres::control::{self as control_file, ControlError};
use crate::postgres::files;
use crate::postgres::history::{self, Ancestor};
use crate::postgres::instance::Instance;
use crate::postgres::source::{self, SourceError};
use crate::postgres::sql::SqlError;

/// From question to question while the source of a copy is not ready.
const SOURCE_POLL: Duration = Duration::from_millis(100);
/// The same when it does not answer at all.
const SOURCE_AWAY_POLL: Duration = Duration::from_secs(1);

/// The parameter that limits the number of slots.
const SLOTS_PARAMETER: &str = "max_replication_slots";

impl Engine {
    /// What the server says of itself; a server that does not take connections is silent.
    pub(super) async fn ask(&self, orders: &Orders) -> Asked {
        if !self.instance.says_ready().unwrap_or(true) {
            return Asked::Silent;
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
            let turn = match &orders.be {
                Be::Db(target) if !pending.is_empty() && target.automatic_restart => self.turn(target).await,
                _ => Turn::Now,
            };
            self.report_held_restart(&turn);
            Ok::<_, SqlError>(Facts {
                slots,
                restart_pending: !pending.is_empty(),
                restart_can_wait,
                turn,
                replay_paused: standby.is_some_and(|standby| standby.is_paused),
            })
        };
        match facts.await {
            Ok(facts) => Asked::Answered(facts),
            Err(error) if error.refusal().is_some() => {
                tracing::debug!(error = %Chain(&error), "the server refuses");
                Asked::Refused
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "the server does not answer");
                Asked::Silent
            }
        }
    }

    /// Waits until the instance to copy from answers and has our slot, which its keeper makes (keeper 6.4), and tells
    /// where it and we are.
    pub(super) async fn ask_source(&self, from: &Upstream, orders: &Orders) -> Copy {
        let slot = slot_of(orders);
        let mut said = String::new();
        let mut say = |text: String| {
            if said != text {
                info!(followedDB = %from.db, keeper = %from.keeper, why = %text, "waiting for the followed db");
                said = text;
            }
        };
        let recorded = match &orders.be {
            Be::Db(target) => target.recorded.clone(),
            _ => Recorded::default(),
        };
        let (source, needs) = loop {
            match self.source(from) {
                Ok(source) => match source.ask(&slot).await {
                    Ok(told) => {
                        let found = found(&told);
                        // Another instance than ours may never have the slot; what that means the plan decides.
                        if judge_source(&recorded, &found).is_err() {
                            break (found, None);
                        }
                        if told.has_slot {
                            match self.needs(&source).await {
                                Ok(needs) => break (found, Some(needs)),
                                Err(error) => say(Chain(&error).to_string()),
                            }
                            sleep(SOURCE_AWAY_POLL).await;
                            continue;
                        }
                        say(format!("it has no replication slot {slot} yet"));
                        sleep(SOURCE_POLL).await;
                        continue;
                    }
                    Err(error) => say(Chain(&error).to_string()),
                },
                Err(error) => say(Chain(&error).to_string()),
            }
            sleep(SOURCE_AWAY_POLL).await;
        };
        let own = self.own_end().await;
        match needs {
            Some(needs) => Copy {
                own,
                source,
                places: needs.places,
                bytes: needs.bytes,
                in_the_way: needs.in_the_way,
            },
            None => Copy {
                own,
                source,
                places: Vec::new(),
                bytes: None,
                in_the_way: None,
            },
        }
    }

    fn source(&self, from: &Upstream) -> Result<source::Source, SourceError> {
        let limit = self.instance.config().request_timeout;
        let source = source::Source::new(&address(from), &self.config.superuser, &self.config.replication, limit)?;
        Ok(source.for_programs(self.instance.programs()))
    }

    /// Where the own data end; nothing when there are none, or when that cannot be found out.
    async fn own_end(&self) -> Option<End> {
        if !self.instance.is_initialised().unwrap_or(false) {
            return None;
        }
        let data = &self.instance.config().data;
        let limit = self.instance.config().request_timeout;
        let end = control_file::end(self.instance.programs(), data, limit).await;
        let end = end
            .inspect_err(|error| warn!(error = %Chain(error), "could not find the end of our data"))
            .ok()?;
        let history = history::of_data(data, end.timeline);
        let history = history
            .inspect_err(|error| warn!(error = %Chain(error), "could not read our history"))
            .ok()??;
        Some(End {
            system_id: end.control.system_id.to_string(),
            state: match end.control.state {
                control_file::State::ShutDown => EndState::ShutDown,
                control_file::State::ShutDownInRecovery => EndState::ShutDownInRecovery,
                _ => EndState::Unclean,
            },
            timeline: end.timeline,
            position: end.position.unwrap_or_default(),
            history: history.iter().map(fork).collect(),
        })
    }

    /// A server does not start with fewer slots than lie in its data directory.
    pub(super) fn read_slots(&mut self, data: Data) {
        if data == Data::Absent {
            self.memory.slots = SlotNeeds::default();
            return;
        }
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        match files::slots(&self.instance.config().data) {
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

    /// A standby needs at least what its master had: what its control file says (keeper 8.7).
    pub(super) async fn read_minima(&mut self, target: &Target, data: Data) {
        if data == Data::Absent || !matches!(target.role, TargetRole::Standby(_)) {
            self.memory.minima = Minima::default();
            return;
        }
        let limit = self.instance.config().request_timeout;
        match control_file::read(self.instance.programs(), &self.instance.config().data, limit).await {
            Ok(control) => self.memory.minima = control.minima,
            Err(error) => warn!(error = %Chain(&error), "could not read the control file"),
        }
    }
}

/// Where the stopped instance stands (beyond ).
pub async fn stopped(instance: &Instance) -> Result<Stopped, ControlError> {
    let config = instance.config();
    let end = control_file::end(instance.programs(), &config.data, config.request_timeout).await?;
    Ok(Stopped {
        clean: end.is_clean(),
        lsn: end.position,
        timeline_id: end.timeline,
    })
}

/// A server that was promoted counts the settings of its recovery, which left the file, as waiting for a restart.
fn is_of_recovery(parameter: &str) -> bool {
    parameter.starts_with("recovery_target")
}

pub(super) fn slot_of(orders: &Orders) -> String {
    match &orders.be {
        Be::Db(target) => stolon_name(target.db.as_str()),
        _ => String::new(),
    }
}

pub(super) fn address(from: &Upstream) -> Address {
    Address {
        host: from.host.clone(),
        port: from.port.clone(),
    }
}

fn found(told: &source::Told) -> Source {
    Source {
        system_id: told.system_id.to_string(),
        timeline: told.timeline,
        position: told.position,
        history: told.history.iter().map(fork).collect(),
        oldest_segment: told.oldest_wal.clone(),
    }
}

fn fork(ancestor: &Ancestor) -> Fork {
    Fork {
        timeline: ancestor.timeline,
        switch_point: ancestor.switch_point,
    }
}
