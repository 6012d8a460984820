//! The splice method: forwards bytes through a pipe, without copying them. For bulk; which direction uses it is left to
//! `method`, and the end of a stream to `direction`.

use std::io;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::pipes::Pipe;
use super::socket::Socket;
use super::transfer::{Transfer, TransferError, TransferStatus};
use crate::relay::gate::Gate;
use crate::relay::outcome::SocketOperation;

/// The state of the splice method for one direction between polls: empty, unless the sink is full.
#[derive(Debug, Default)]
pub(super) struct SpliceMethod {
    pending: Option<Box<PendingPipe>>,
}

/// A pipe with bytes that the sink did not accept. Nothing more is read until it is empty. If the connection ends
/// before, the pipe is closed with its contents.
#[derive(Debug)]
struct PendingPipe {
    pipe: Pipe,
    bytes: usize,
}

/// The result of filling an empty pipe.
enum FillResult {
    Bytes(usize),
    /// The end of the stream, or an urgent byte that cannot be spliced.
    Nothing,
    /// Nothing to read. The pipe was empty, so `EAGAIN` cannot mean that it is full.
    SocketEmpty,
    /// The kernel does not splice this socket.
    Unsupported,
}

impl SpliceMethod {
    /// Whether reading has to wait until the pipe is empty.
    pub(super) fn is_stalled(&self) -> bool {
        self.pending.is_some()
    }

    /// Empties the pipe of an earlier transfer, if there is one. Then fills a pipe once from `source`, checks the gate,
    /// and empties it into `sink`.
    ///
    /// If there is nothing to splice although urgent bytes were announced, or at the end of a stream, the copy method
    /// has to read: splice(2) does not get past urgent bytes.
    pub(super) fn transfer(
        &mut self,
        cx: &mut Context<'_>,
        source: &Socket,
        sink: &Socket,
        gate: &Gate,
    ) -> Result<Transfer, TransferError> {
        let mut written = 0;
        if let Some(mut pending) = self.pending.take() {
            written = pending.drain_into(cx, sink, gate)?;
            if pending.bytes > 0 {
                self.pending = Some(pending);
                return Ok(Transfer::new(0, written, TransferStatus::SinkFull));
            }
            pending.pipe.release();
        }
        let mut pending: Option<PendingPipe> = None;
        let status = loop {
            match source.poll_read_ready(cx) {
                Poll::Pending => break TransferStatus::SourceEmpty,
                Poll::Ready(ready) => ready.map_err(|err| TransferError::Source(SocketOperation::Read, err))?,
            }
            let filling = match &mut pending {
                Some(pending) => pending,
                None => match Pipe::acquire() {
                    Some(pipe) => pending.insert(PendingPipe { pipe, bytes: 0 }),
                    None => break TransferStatus::NoPipe,
                },
            };
            match fill_pipe(source, &filling.pipe).map_err(|err| TransferError::Source(SocketOperation::Read, err))? {
                FillResult::Bytes(bytes) => {
                    filling.bytes = bytes;
                    break TransferStatus::More;
                }
                FillResult::Nothing => break TransferStatus::Unspliceable,
                FillResult::SocketEmpty => {} // readiness is cleared now; polling again registers our waker
                FillResult::Unsupported => break TransferStatus::SpliceUnsupported,
            }
        };
        let Some(mut pending) = pending else {
            return Ok(Transfer::new(0, written, status));
        };
        let read = pending.bytes;
        if read > 0 {
            written += pending.drain_into(cx, sink, gate)?;
            if pending.bytes > 0 {
                self.pending = Some(Box::new(pending));
                return Ok(Transfer::new(read, written, TransferStatus::SinkFull));
            }
        }
        pending.pipe.release();
        Ok(Transfer::new(read, written, status))
    }
}

impl PendingPipe {
    /// Writes what the pipe holds until it is empty or the socket is full. In the latter case our waker is registered,
    /// if the socket is watched for being writable.
    fn drain_into(&mut self, cx: &mut Context<'_>, sink: &Socket, gate: &Gate) -> Result<usize, TransferError> {
        let before = self.bytes;
        while self.bytes > 0 {
            match sink.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(ready) => ready.map_err(|err| TransferError::Sink(SocketOperation::Write, err))?,
            }
            if !gate.admits() {
                return Err(TransferError::GateClosed);
            }
            let written = drain_pipe(&self.pipe, sink, self.bytes)
                .map_err(|err| TransferError::Sink(SocketOperation::Write, err))?;
            self.bytes -= written;
            if written == 0 && !sink.watches_writable() {
                break;
            }
        }
        Ok(before - self.bytes)
    }
}

/// Without `MORE`, which measured no gain.
const SPLICE_FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Splices once from a socket into an empty pipe. A short count does not mean that the socket is empty, since a pipe
/// fills by slots. Only `EAGAIN` does; then readiness is cleared, unless an urgent byte is in the way.
fn fill_pipe(source: &Socket, pipe: &Pipe) -> io::Result<FillResult> {
    let mut filling = FillResult::SocketEmpty;
    let spliced = source.try_read(|| {
        let splice = || rustix::pipe::splice(source, None, pipe.write_end(), None, pipe.bytes_max, SPLICE_FLAGS);
        filling = match refusal().map_or_else(|| rustix::io::retry_on_intr(splice), Err) {
            Ok(0) => FillResult::Nothing,
            Ok(bytes) => FillResult::Bytes(bytes),
            Err(Errno::AGAIN) if source.is_urgent() => FillResult::Nothing,
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP) => FillResult::Unsupported,
            Err(err) => return Err(err.into()),
        };
        Ok(())
    });
    match spliced {
        Err(err) if err.kind() != io::ErrorKind::WouldBlock => Err(err),
        _ => Ok(filling),
    }
}

/// Splices once from a pipe that holds `bytes` into a socket, and returns the number of bytes moved; 0 if the socket is
/// full, and then readiness is cleared. `EAGAIN` cannot come from the pipe, because it is not empty.
///
/// splice(2) raises SIGPIPE like write(2) and has no flag against it; Rust programs ignore that signal.
fn drain_pipe(pipe: &Pipe, sink: &Socket, bytes: usize) -> io::Result<usize> {
    let moved = sink.try_write(|| {
        let splice = || rustix::pipe::splice(pipe.read_end(), None, sink, None, bytes, SPLICE_FLAGS);
        match rustix::io::retry_on_intr(splice)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        }
    });
    match moved {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(0),
        moved => moved,
    }
}

#[cfg(not(test))]
fn refusal() -> Option<Errno> {
    None
}

#[cfg(test)]
pub(super) use for_tests::{refusal, refuse};

#[cfg(test)]
mod for_tests {
    use std::cell::Cell;

    use super::Errno;

    thread_local! {
        static REFUSAL: Cell<Option<Errno>> = const { Cell::new(None) };
    }

    pub(in super::super) fn refusal() -> Option<Errno> {
        REFUSAL.get()
    }

    /// Makes splicing on this thread fail as if the kernel did not support it.
    pub(in super::super) fn refuse(refusal: Option<Errno>) {
        REFUSAL.set(refusal);
    }
}
