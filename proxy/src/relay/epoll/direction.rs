//! One direction of a connection: transfers until there is nothing to do, and passes the end of the stream on after
//! everything before it (proxy P-11). How bytes are moved is left to `copy` and `splice`, which of them is used to
//! `method`.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Context;

use rustix::net::Shutdown;

use super::batching::StreamBatching;
use super::copy::CopyMethod;
use super::method::{Method, MethodPolicy, MethodSelector};
use super::socket::Socket;
use super::splice::SpliceMethod;
use super::transfer::{Transfer, TransferError, TransferStatus};
use crate::relay::counters::ByteCounters;
use crate::relay::gate::Gate;
use crate::relay::outcome::{Side, SocketOperation};

/// Transfers of one direction before the other direction, and other connections of the thread, run.
const TRANSFERS_MAX: usize = 16;
/// The same in bytes, approximately: they take a bit more than 100 µs.
const BYTES_MAX: usize = 1024 * 1024;

/// The two ends of a direction, with the gate between them and what is shared with the connection.
pub(super) struct Endpoints<'a> {
    /// Bytes are read from here.
    pub(super) source: &'a Socket,
    /// Bytes are written to here.
    pub(super) sink: &'a Socket,
    /// Which side the sink is.
    pub(super) sink_side: Side,
    /// Checked between reading and writing.
    pub(super) gate: &'a Gate,
    pub(super) counters: &'a ByteCounters,
    /// Whether the other direction is done. Then both sockets are closed after this one, which passes its end on. A
    /// reset that arrives together with this end goes unnoticed, which is right: both streams have ended.
    pub(super) is_last: bool,
    /// Which methods may be used.
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
    /// Returns a direction that batches streams, or never does.
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

    /// Whether the stream has ended and its end was passed on, or will be by the close that follows at once.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing is being read, so that only an error event reports that the source has failed (proxy P-13).
    pub(super) fn not_reading(&self) -> bool {
        self.done || self.is_stalled()
    }

    /// Whether it holds bytes that the sink does not accept.
    pub(super) fn is_stalled(&self) -> bool {
        self.copy.is_stalled() || self.splice.is_stalled()
    }

    /// Records that its sink has sent something, so that the response of the source must not be delayed.
    pub(super) fn note_reverse_data(&mut self, source: &Socket) {
        self.batching.note_reverse_data(source);
    }

    /// Does what is due by the clock, and registers the task's waker for what comes next.
    pub(super) fn tick(&mut self, cx: &mut Context<'_>, source: &Socket) {
        let is_full = self.is_stalled();
        if !self.done {
            self.batching.poll_tick(cx, source, is_full);
        }
    }

    /// Forwards what is there. On return the task's waker is registered for more.
    ///
    /// Returns whether bytes, or the end of the stream, were read from the source.
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
        // Yields instead of waking the task at once: the runtime polls its sockets only after some dozens of such
        // wake-ups.
        let _pending = pin!(tokio::task::yield_now()).poll(cx);
        Ok(received)
    }

    /// Returns the method of the next transfer: first of all the one that still holds bytes, so that none overtake
    /// them.
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
