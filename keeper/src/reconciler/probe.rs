//! Probes before a plan: the local server, the end of the local data, and the instance to copy from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use model::{DbUid, KeeperUid};
use tokio::time::sleep;
use tracing::{debug, info};

use crate::args::Config;
use crate::configuration::address;
use crate::context::KeeperContext;
use crate::executor::{StepError, slot_of};
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::client::upstream::{self, UpstreamError};
use crate::postgres::instance::Instance;
use crate::reconcile::{
    AheadStandby, ClusterDataState, CopyFacts, Desired, Goal, MemberUpstream, RecordedIdentity, RestartTurn,
    ServerFacts, ServerProbe, ServerState, SourceFacts, TargetDb, ahead_standby, check_source, is_short_of_slots,
};
use crate::reconciler::copy_needs::{CopyNeeds, CopySurvey};
use crate::reconciler::own_data::{fork, own_end};
use crate::reconciler::restart_turns::RestartTurns;
use crate::synchronous::{InSync, SyncReplication};

/// Interval of probing a source that is not ready.
const SOURCE_POLL: Duration = Duration::from_millis(100);
/// Interval of probing a source that does not answer.
const SOURCE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The parameter that limits the number of slots.
const SLOTS_PARAMETER: &str = "max_replication_slots";

/// Probes the local instance, and the one to copy from.
#[derive(Debug)]
pub(super) struct Probe {
    config: Arc<Config>,
    instance: Arc<Instance>,
    synchronous: Arc<SyncReplication>,
    restart_turns: RestartTurns,
    copy_survey: CopySurvey,
}

/// Why nothing can be copied from the source yet.
struct SourceNotReady {
    why: String,
    /// Until it is probed again.
    delay: Duration,
}

impl From<UpstreamError> for SourceNotReady {
    fn from(error: UpstreamError) -> Self {
        Self {
            why: Chain(&error).to_string(),
            delay: SOURCE_RETRY_DELAY,
        }
    }
}

impl Probe {
    pub(super) fn new(context: &KeeperContext) -> Self {
        Self {
            config: Arc::clone(&context.config),
            instance: Arc::clone(&context.instance),
            synchronous: Arc::clone(&context.synchronous),
            restart_turns: RestartTurns::new(context),
            copy_survey: CopySurvey::new(context),
        }
    }

    /// Probes the local server. One that does not accept connections counts as not answering; `reports_ready` is what its
    /// lock file shows, if it was just read. Who is in sync matters while client logins are blocked.
    pub(super) async fn server(
        &mut self,
        desired: &Desired,
        logins_blocked: bool,
        reports_ready: Option<bool>,
    ) -> ServerProbe {
        let reports_ready = match reports_ready {
            Some(known) => known,
            None => self.instance.reports_ready().await.unwrap_or(true),
        };
        if !reports_ready {
            return ServerProbe::NoAnswer;
        }
        match self.server_facts(desired, logins_blocked).await {
            Ok(facts) => ServerProbe::Answered(facts),
            Err(error) if error.refusal().is_some() => {
                debug!(error = %Chain(&error), "the server refuses");
                ServerProbe::Refused
            }
            Err(error) => {
                debug!(error = %Chain(&error), "the server does not answer");
                ServerProbe::NoAnswer
            }
        }
    }

    /// Waits until the source answers and has the slot for this db, which the source's keeper creates (keeper 6.4).
    /// Returns where the source's data and the local ones end. Waits without limit: another desired state aborts the
    /// round.
    ///
    /// # Errors
    ///
    /// The local data cannot be read, which decides nothing about them.
    pub(super) async fn source(&self, from: &MemberUpstream, target: &TargetDb) -> Result<CopyFacts, StepError> {
        let slot = slot_of(target);
        let mut logged = String::new();
        let mut log_waiting = |text: String| {
            if logged != text {
                info!(followedDB = %from.db, keeper = %from.keeper, why = %text, "waiting for the followed db");
                logged = text;
            }
        };
        let (source, needs) = loop {
            match self.try_source(from, &slot, &target.recorded).await {
                Ok(found) => break found,
                Err(SourceNotReady { why, delay }) => {
                    log_waiting(why);
                    sleep(delay).await;
                }
            }
        };
        let own = own_end(&self.instance).await?;
        let rewind = match target.spec.use_pgrewind && own.is_some() {
            true => {
                let programs = self.instance.programs();
                Some(self.copy_survey.rewind_facts(programs, &needs).await?)
            }
            false => None,
        };
        Ok(CopyFacts {
            own,
            source,
            rewind,
            external_dirs: needs.external_dirs,
            bytes: needs.bytes,
            obstacle: needs.obstacle,
        })
    }

    async fn try_source(
        &self,
        from: &MemberUpstream,
        slot: &str,
        recorded: &RecordedIdentity,
    ) -> Result<(SourceFacts, CopyNeeds), SourceNotReady> {
        let client = self.client(from)?;
        let facts = client.probe(slot).await?;
        let source = source_facts(&facts);
        // Another instance than the recorded one may never get the slot. What follows is left to the plan.
        if check_source(recorded, &source).is_err() {
            return Ok((source, CopyNeeds::default()));
        }
        if !facts.has_slot {
            return Err(SourceNotReady {
                why: format!("it has no replication slot {slot} yet"),
                delay: SOURCE_POLL,
            });
        }
        Ok((source, self.copy_survey.needs(&client).await?))
    }

    /// Returns a standby with WAL that our server, which is to be promoted, lacks by now. A server that does not report
    /// what it has is promoted without that.
    pub(super) async fn ahead_of_server(
        &self,
        state: &ClusterDataState,
        me: &KeeperUid,
        server: &ServerState,
    ) -> Option<AheadStandby> {
        let ServerState::Up(ServerProbe::Answered(_)) = server else {
            return None;
        };
        let ahead = ahead_standby(state, me)?;
        let standby = self.instance.sql().standby().await.ok()??;
        Some(ahead).filter(|ahead| !ahead.is_reached(standby.flushed()))
    }

    async fn server_facts(&mut self, desired: &Desired, logins_blocked: bool) -> Result<ServerFacts, SqlError> {
        let sql = self.instance.sql();
        let state = sql.round_state().await?;
        let (slots, mut pending) = (state.slots, state.pending_restart);
        pending.retain(|name| !is_recovery_setting(name));
        let target = target(desired);
        let restart_can_wait = match (pending.as_slice(), target) {
            ([one], Some(target)) if one == SLOTS_PARAMETER => {
                !is_short_of_slots(target, &slots, sql.slots_max().await?)
            }
            _ => false,
        };
        let turn = match target {
            Some(target) if !pending.is_empty() && target.automatic_restart => self.restart_turns.turn(target).await,
            _ => {
                self.restart_turns.forget();
                RestartTurn::Now
            }
        };
        self.restart_turns.report(&turn);
        Ok(ServerFacts {
            slots,
            invalidated_slots: state.invalidated_slots,
            restart_pending: !pending.is_empty(),
            restart_can_wait,
            turn,
            replay_paused: state.is_replay_paused,
            in_sync: match logins_blocked {
                true => self.in_sync().await?,
                false => BTreeSet::new(),
            },
        })
    }

    async fn in_sync(&self) -> Result<BTreeSet<DbUid>, SqlError> {
        let mark = self.synchronous.mark();
        let senders = self.instance.sql().wal_senders().await?;
        Ok(match self.synchronous.in_sync(mark, &senders) {
            InSync::Marked(in_sync) => in_sync,
            InSync::Unchecked | InSync::Unmarked => BTreeSet::new(),
        })
    }

    fn client(&self, from: &MemberUpstream) -> Result<upstream::UpstreamClient, UpstreamError> {
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
}

/// Returns whether this is a recovery setting. A promoted server reports those that are no longer in its configuration
/// as pending restart.
fn is_recovery_setting(parameter: &str) -> bool {
    parameter.starts_with("recovery_target")
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

fn target(desired: &Desired) -> Option<&TargetDb> {
    match &desired.goal {
        Goal::Run(target) => Some(target),
        Goal::Stop(_) | Goal::Hold(_) => None,
    }
}
