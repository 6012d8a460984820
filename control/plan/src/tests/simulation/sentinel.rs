//! The leading sentinel: its reads and writes, which take time and fail on demand, around the planner.

use std::time::Duration;

use base::clock::Boottime;
use model::{CheckedClusterData, ClusterData, KeeperUid, Timestamp};

use super::checks::broken_by;
use super::world::World;
use super::{SLEEP, TICK};
use crate::{Condition, Entropy, Memory, Observations, OrderFate, Plan, PlanError, PlanInput, RequestFate, Urgency};
use crate::{memory_after_failed_round, order_ttl, plan};

/// The leading sentinel.
#[derive(Debug, Clone)]
pub(super) struct SimSentinel {
    memory: Memory,
    leadership: u64,
    /// Ticks that a read takes.
    pub(super) reads_take: u32,
    reading: Option<PendingRead>,
    /// Ticks that a write takes.
    pub(super) writes_take: u32,
    writing: Option<PendingWrite>,
    /// Number of the next writes whose responses are lost.
    pub(super) lost_answers: u32,
    /// Number of the next writes that fail.
    pub(super) conflicts: u32,
    /// Duration of the last write, until the next read.
    own_requests: Duration,
    read_again_at: Boottime,
    refresh_at: Boottime,
    uids: u32,
    pub(super) last: Option<Plan>,
    /// Every invariant of several writes that was broken.
    pub(super) broken: Vec<String>,
}

/// A read in flight.
#[derive(Debug, Clone)]
struct PendingRead {
    sent: Boottime,
    answered_at: Boottime,
    data: ClusterData,
    seen: Observations,
}

/// A write in flight.
#[derive(Debug, Clone)]
struct PendingWrite {
    sent: Boottime,
    arrives_at: Boottime,
    answered_at: Boottime,
    read: ClusterData,
    plan: Plan,
    memory_after_failed_round: Memory,
    /// Whether its conditions held when it arrived.
    done: Option<bool>,
}

impl SimSentinel {
    pub(super) fn new(now: Boottime) -> Self {
        Self {
            memory: Memory::default(),
            leadership: 1,
            reads_take: 0,
            reading: None,
            writes_take: 0,
            writing: None,
            lost_answers: 0,
            conflicts: 0,
            own_requests: Duration::ZERO,
            read_again_at: now,
            refresh_at: now,
            uids: 0,
            last: None,
            broken: Vec::new(),
        }
    }

    /// Makes it another sentinel, which has become leader.
    pub(super) fn replace(&mut self) {
        self.leadership += 1;
        self.memory = Memory::default();
        // refused when it arrives later: the election key has changed
        self.writing = None;
    }

    /// Reads, and decides when the response arrives; the next read is sent after sleepInterval at most. While a write
    /// is in flight nothing else is sent.
    pub(super) fn run(&mut self, world: &mut World) {
        self.advance_write(world);
        if self.writing.is_some() {
            return;
        }
        let now = world.now;
        if self.reading.is_none() && (self.reads_take == 0 || now >= self.read_again_at) {
            self.reading = Some(PendingRead {
                sent: now,
                answered_at: now + TICK * self.reads_take,
                data: world.data.clone(),
                seen: world.observations(self.leadership),
            });
        }
        let Some(PendingRead {
            sent, data, mut seen, ..
        }) = self.reading.take_if(|read| read.answered_at <= now)
        else {
            return;
        };
        seen.latency = now.since(sent);
        seen.own_requests = std::mem::take(&mut self.own_requests);
        let ttl = order_lease(&data);
        if self.decide(data, &seen, now) {
            world.orders.renew(self.leadership, world.now, ttl);
        }
        let wake = self.last.as_ref().and_then(|plan| plan.wake_at);
        self.read_again_at = wake.map_or(now + SLEEP, |wake| wake.min(now + SLEEP));
        self.advance_write(world);
    }

    /// Executes the write once it has arrived, and processes its response.
    fn advance_write(&mut self, world: &mut World) {
        let Some(mut writing) = self.writing.take() else { return };
        if writing.done.is_none() && writing.arrives_at <= world.now {
            writing.done = Some(self.apply_write(&writing, world));
        }
        let Some(done) = writing.done.filter(|_| writing.answered_at <= world.now) else {
            self.writing = Some(writing);
            return;
        };
        self.own_requests = world.now.since(writing.sent);
        if self.lost_answers > 0 {
            self.lost_answers -= 1;
            self.memory = writing
                .memory_after_failed_round
                .keeping_election_of(&writing.plan.memory);
        } else if done {
            self.memory = writing.plan.memory.clone();
            self.refresh_at = world.now + SLEEP;
            self.last = Some(writing.plan);
        } else {
            self.memory = writing.memory_after_failed_round;
        }
    }

    /// Executes a write if its conditions hold. Returns whether they did.
    fn apply_write(&mut self, writing: &PendingWrite, world: &mut World) -> bool {
        if self.conflicts > 0 {
            self.conflicts -= 1;
            return false;
        }
        let holds = |condition: &Condition| match condition {
            Condition::KeeperInfo { key, revision } => world.info_revision(&KeeperUid::from(key.as_str())) == *revision,
            Condition::FailoverRequest { revision, .. } => {
                world.failover_request().is_some_and(|(_, at)| at == *revision)
            }
            Condition::Switchover { revision, .. } => world.switchover_request().is_some_and(|(_, at)| at == *revision),
            Condition::Order { keeper, revision, .. } => world.orders.revision(keeper, world.now) == *revision,
        };
        if world.data != writing.read || !writing.plan.conditions.iter().all(holds) {
            return false;
        }
        self.broken.extend(broken_by(&writing.plan, world));
        world.write(writing.plan.next.clone());
        for condition in &writing.plan.conditions {
            self.apply_fate(condition, &writing.read, world);
        }
        true
    }

    /// Does with a request or an order what the plan does.
    fn apply_fate(&self, condition: &Condition, data: &ClusterData, world: &mut World) {
        match condition {
            Condition::FailoverRequest {
                fate: RequestFate::Deleted,
                ..
            } => world.complete_failover(),
            Condition::Switchover {
                fate: RequestFate::Deleted,
                ..
            } => world.end_switchover(),
            Condition::Order { keeper, fate, .. } => match fate {
                OrderFate::Kept => {}
                OrderFate::Deleted => world.orders.delete(keeper),
                OrderFate::Put(order) => {
                    let (revision, end) = (world.next_revision(), world.now + order_lease(data));
                    world
                        .orders
                        .put(keeper.clone(), order.clone(), revision, self.leadership, end);
                }
            },
            _ => {}
        }
    }

    /// Decides. Returns whether an order of this leader stays.
    fn decide(&mut self, data: ClusterData, seen: &Observations, now: Boottime) -> bool {
        let checked: CheckedClusterData = data.clone().check().unwrap();
        let input = PlanInput {
            data: &checked,
            observations: seen,
            memory: &self.memory,
            leadership: self.leadership,
            now,
            wall: Timestamp::from_unix_nanos(i128::from(now.as_nanos())),
        };
        let mut number = self.uids;
        let mut uid = || {
            number += 1;
            format!("d{number}")
        };
        let mut entropy = Entropy {
            uid: &mut uid,
            number: 0,
        };
        let outcome = plan(&input, &mut entropy);
        let memory_after_failed_round = memory_after_failed_round(&input);
        self.uids = number;
        let keeps_order = outcome.as_ref().is_ok_and(|plan| plan.keeps_order);
        match outcome {
            Ok(plan) => {
                if plan.urgency == Urgency::Immediate || now >= self.refresh_at {
                    self.writing = Some(PendingWrite {
                        sent: now,
                        arrives_at: now + TICK * (self.writes_take / 2),
                        answered_at: now + TICK * self.writes_take,
                        read: data,
                        plan,
                        memory_after_failed_round,
                        done: None,
                    });
                } else {
                    self.memory = plan.memory.clone();
                    self.last = Some(plan);
                }
            }
            Err(PlanError::NoKeepers) => self.memory = memory_after_failed_round,
            Err(error) => self.broken.push(error.to_string()),
        }
        keeps_order
    }
}

/// Returns the lease of an order.
fn order_lease(data: &ClusterData) -> Duration {
    let checked: CheckedClusterData = data.clone().check().unwrap();
    order_ttl(checked.spec.fail_interval)
}
