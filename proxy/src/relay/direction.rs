//! One direction of a connection: rounds of a path until there is nothing to do, and the end of the stream passed on
//! after everything before it (P-11). How a round moves bytes belongs to the paths, which one is next to `flow`.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Context;

use rustix::net::Shutdown;

use super::batching::StreamBatching;
use super::copy::CopyMethod;
use super::method::{Method, MethodSelector};
use super::splice::SpliceMethod;
use super::transfer::{Transfer, TransferError, TransferStatus};
use super::{ByteCounters, Gate, MethodPolicy, Side, Socket, SocketOperation};

/// Rounds of one direction before the other one, and the other connections of the thread, get their turn.
const TRANSFERS_MAX: usize = 16;
/// The same in bytes, more or less: bulk takes a good hundred microseconds for so many.
const BYTES_MAX: usize = 1024 * 1024;

/// What a direction lies between, and who keeps count.
pub(super) struct Endpoints<'a> {
    /// The source.
    pub(super) source: &'a Socket,
    /// The sink.
    pub(super) sink: &'a Socket,
    /// Whose the sink is.
    pub(super) sink_side: Side,
    /// Asked between taking and giving.
    pub(super) gate: &'a Gate,
    /// Where bytes are counted.
    pub(super) counters: &'a ByteCounters,
    /// Whether the other direction is done, so that both sockets are closed after this one, which passes the end on. Then
    /// a reset that comes together with this end goes untold: both streams have ended.
    pub(super) is_last: bool,
    /// Which paths may be taken.
    pub(super) methods: MethodPolicy,
}

/// One direction of one connection.
#[derive(Debug, Default)]
pub(super) struct Direction {
    copy: CopyMethod,
    splice: SpliceMethod,
    selector: MethodSelector,
    batching: StreamBatching,
    done: bool,
}

impl Direction {
    /// One that waits for batches of a stream, or never does.
    pub(super) fn new(batching: bool) -> Self {
        Self {
            batching: if batching {
                StreamBatching::default()
            } else {
                StreamBatching::disabled()
            },
            ..Self::default()
        }
    }

    /// Whether the stream has ended and its end has been passed on, or will be by the close that follows at once.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing is being read, so that only an error event tells of the source's death (P-13).
    pub(super) fn not_reading(&self) -> bool {
        self.done || self.is_stalled()
    }

    /// Whether it holds bytes that the sink does not take.
    pub(super) fn is_stalled(&self) -> bool {
        self.copy.is_stalled() || self.splice.is_stalled()
    }

    /// Notes that its sink was heard: what the source answers is waited for.
    pub(super) fn note_reverse_data(&mut self, source: &Socket) {
        self.batching.note_reverse_data(source);
    }

    /// Does what is due by the clock; until then the task will be woken by it.
    pub(super) fn tick(&mut self, cx: &mut Context<'_>, source: &Socket) {
        let is_full = self.is_stalled();
        if !self.done {
            self.batching.poll_tick(cx, source, is_full);
        }
    }

    /// Carries what there is; on return the task will be woken when there is more to do.
    ///
    /// Gives whether the source was heard: bytes or its end.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, endpoints: &Endpoints<'_>) -> Result<bool, TransferError> {
        let mut received = false;
        let mut written = 0;
        for _ in 0..TRANSFERS_MAX {
            if self.done {
                return Ok(received);
            }
            if written >= BYTES_MAX {
                break;
            }
            let method = self.next_method(endpoints.methods);
            let mut transfer = match method {
                Method::Copy => self
                    .copy
                    .transfer(cx, endpoints.source, endpoints.sink, endpoints.gate)?,
                Method::Splice => self
                    .splice
                    .transfer(cx, endpoints.source, endpoints.sink, endpoints.gate)?,
            };
            count(&transfer, method, endpoints);
            match transfer.status {
                TransferStatus::Unspliceable | TransferStatus::NoPipe | TransferStatus::SpliceUnsupported => {
                    match transfer.status {
                        TransferStatus::NoPipe => self.selector.note_no_pipe(),
                        TransferStatus::SpliceUnsupported => self.selector.note_splice_unsupported(),
                        _ => {}
                    }
                    if transfer.status != TransferStatus::Unspliceable {
                        endpoints.counters.splice_refused.fetch_add(1, Ordering::Relaxed);
                    }
                    transfer = self
                        .copy
                        .transfer(cx, endpoints.source, endpoints.sink, endpoints.gate)?;
                    count(&transfer, Method::Copy, endpoints);
                }
                _ if transfer.read > 0 => self.selector.note_read(method, transfer.read, endpoints.methods),
                _ => {}
            }
            if transfer.read > 0 {
                received = true;
                self.batching
                    .note_read(transfer.read, endpoints.source, endpoints.counters);
            }
            written += transfer.written;
            match transfer.status {
                TransferStatus::SourceEmpty | TransferStatus::SinkFull => return Ok(received),
                TransferStatus::Eof => {
                    if !endpoints.gate.admits() {
                        return Err(TransferError::GateClosed);
                    }
                    if !endpoints.is_last {
                        rustix::net::shutdown(endpoints.sink, Shutdown::Write)
                            .map_err(|err| TransferError::Sink(SocketOperation::Shutdown, err.into()))?;
                    }
                    (self.done, received) = (true, true);
                }
                TransferStatus::More
                | TransferStatus::Unspliceable
                | TransferStatus::NoPipe
                | TransferStatus::SpliceUnsupported => {}
            }
        }
        // Not woken at once: the runtime would look at its sockets only after some tens of such turns.
        let _pending = pin!(tokio::task::yield_now()).poll(cx);
        Ok(received)
    }

    /// The path of the next round: the one that still holds something, before any other.
    fn next_method(&self, methods: MethodPolicy) -> Method {
        if self.copy.is_stalled() {
            Method::Copy
        } else if self.splice.is_stalled() {
            Method::Splice
        } else {
            self.selector.method(methods)
        }
    }
}

fn count(transfer: &Transfer, method: Method, endpoints: &Endpoints<'_>) {
    if transfer.written == 0 {
        return;
    }
    let written = transfer.written as u64;
    let counter = match endpoints.sink_side {
        Side::Client => &endpoints.counters.to_client,
        Side::Server => &endpoints.counters.to_server,
    };
    counter.fetch_add(written, Ordering::Relaxed);
    if method == Method::Splice {
        endpoints.counters.spliced.fetch_add(written, Ordering::Relaxed);
    }
}
