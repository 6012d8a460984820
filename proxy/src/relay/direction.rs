//! One direction of a connection: rounds of a path until there is nothing to do, and the end of the stream passed on
//! after everything before it (P-11). How a round moves bytes belongs to the paths, which one is next to `flow`.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Context;

use rustix::net::Shutdown;

use super::batch::Batch;
use super::copy::Copy;
use super::flow::{Flow, Way};
use super::round::{Round, Stop, Then};
use super::splice::Splice;
use super::{Act, Gate, Paths, Side, Socket, Tally};

/// Rounds of one direction before the other one, and the other connections of the thread, get their turn.
const ROUNDS_AT_ONCE: usize = 16;
/// The same in bytes, more or less: bulk takes a good hundred microseconds for so many.
const BYTES_AT_ONCE: usize = 1024 * 1024;

/// What a direction lies between, and who keeps count.
pub(super) struct Road<'a> {
    /// The source.
    pub(super) from: &'a Socket,
    /// The sink.
    pub(super) to: &'a Socket,
    /// Whose the sink is.
    pub(super) toward: Side,
    /// Asked between taking and giving.
    pub(super) gate: &'a Gate,
    /// Where bytes are counted.
    pub(super) tally: &'a Tally,
    /// Whether the other direction is done, so that both sockets are closed after this one, which passes the end on. Then
    /// a reset that comes together with this end goes untold: both streams have ended.
    pub(super) is_last: bool,
    /// Which paths may be taken.
    pub(super) paths: Paths,
}

/// One direction of one connection.
#[derive(Debug, Default)]
pub(super) struct Direction {
    copy: Copy,
    splice: Splice,
    flow: Flow,
    batch: Batch,
    done: bool,
}

impl Direction {
    /// One that waits for batches of a stream, or never does.
    pub(super) fn new(batching: bool) -> Self {
        Self {
            batch: if batching { Batch::default() } else { Batch::never() },
            ..Self::default()
        }
    }

    /// Whether the stream has ended and its end has been passed on, or will be by the close that follows at once.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing is being read, so that only an error event tells of the source's death (P-13).
    pub(super) fn is_deaf(&self) -> bool {
        self.done || self.is_stalled()
    }

    /// Whether it holds bytes that the sink does not take.
    pub(super) fn is_stalled(&self) -> bool {
        self.copy.is_stalled() || self.splice.is_stalled()
    }

    /// Notes that its sink was heard: what the source answers is waited for.
    pub(super) fn sink_heard(&mut self, source: &Socket) {
        self.batch.other_heard(source);
    }

    /// Does what is due by the clock; until then the task will be woken by it.
    pub(super) fn tick(&mut self, cx: &mut Context<'_>, source: &Socket) {
        let is_full = self.is_stalled();
        if !self.done {
            self.batch.poll_tick(cx, source, is_full);
        }
    }

    /// Carries what there is; on return the task will be woken when there is more to do.
    ///
    /// Gives whether the source was heard: bytes or its end.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, road: &Road<'_>) -> Result<bool, Stop> {
        let mut heard = false;
        let mut given = 0;
        for _ in 0..ROUNDS_AT_ONCE {
            if self.done {
                return Ok(heard);
            }
            if given >= BYTES_AT_ONCE {
                break;
            }
            let way = self.way(road.paths);
            let mut round = match way {
                Way::Copy => self.copy.round(cx, road.from, road.to, road.gate)?,
                Way::Splice => self.splice.round(cx, road.from, road.to, road.gate)?,
            };
            count(&round, way, road);
            match round.then {
                Then::Unspliceable | Then::NoPipe | Then::Refused => {
                    match round.then {
                        Then::NoPipe => self.flow.out_of_pipes(),
                        Then::Refused => self.flow.refused(),
                        _ => {}
                    }
                    if round.then != Then::Unspliceable {
                        road.tally.splice_refused.fetch_add(1, Ordering::Relaxed);
                    }
                    round = self.copy.round(cx, road.from, road.to, road.gate)?;
                    count(&round, Way::Copy, road);
                }
                _ if round.taken > 0 => self.flow.took(way, round.taken, road.paths),
                _ => {}
            }
            if round.taken > 0 {
                heard = true;
                self.batch.took(round.taken, road.from, road.tally);
            }
            given += round.given;
            match round.then {
                Then::SourceEmpty | Then::SinkFull => return Ok(heard),
                Then::Eof => {
                    if !road.gate.admits() {
                        return Err(Stop::Cut);
                    }
                    if !road.is_last {
                        rustix::net::shutdown(road.to, Shutdown::Write)
                            .map_err(|err| Stop::Sink(Act::Finish, err.into()))?;
                    }
                    (self.done, heard) = (true, true);
                }
                Then::More | Then::Unspliceable | Then::NoPipe | Then::Refused => {}
            }
        }
        // Not woken at once: the runtime would look at its sockets only after some tens of such turns.
        let _pending = pin!(tokio::task::yield_now()).poll(cx);
        Ok(heard)
    }

    /// The path of the next round: the one that still holds something, before any other.
    fn way(&self, paths: Paths) -> Way {
        if self.copy.is_stalled() {
            Way::Copy
        } else if self.splice.is_stalled() {
            Way::Splice
        } else {
            self.flow.way(paths)
        }
    }
}

fn count(round: &Round, way: Way, road: &Road<'_>) {
    if round.given == 0 {
        return;
    }
    let given = round.given as u64;
    let carried = match road.toward {
        Side::Client => &road.tally.to_client,
        Side::Master => &road.tally.to_master,
    };
    carried.fetch_add(given, Ordering::Relaxed);
    if way == Way::Splice {
        road.tally.spliced.fetch_add(given, Ordering::Relaxed);
    }
}
