//! The splice path: bytes go through a pipe and are never copied. It is the path of bulk; which direction takes it is
//! left to `flow`, and the ends of a stream to `direction`.

use std::io;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::pipes::Pipe;
use super::transfer::{Transfer, TransferError, TransferStatus};
use super::{Gate, Socket, SocketOperation};

/// What the splice path keeps for one direction between polls: nothing, unless the sink is full.
#[derive(Debug, Default)]
pub(super) struct SpliceMethod {
    pending: Option<Box<PendingPipe>>,
}

/// A pipe with bytes that the receiving socket did not take. Nothing more is read until it is empty; if the connection
/// ends before that, it is closed with what it holds.
#[derive(Debug)]
struct PendingPipe {
    pipe: Pipe,
    bytes: usize,
}

/// What came of filling an empty pipe.
enum FillResult {
    Bytes(usize),
    /// The end of the stream, or of what can be spliced of it.
    Nothing,
    /// Nothing to read, and as the pipe was empty it cannot have been that which was full.
    SocketEmpty,
    /// The kernel does not splice here.
    Unsupported,
}

impl SpliceMethod {
    /// Whether reading waits for a pipe to be emptied.
    pub(super) fn is_stalled(&self) -> bool {
        self.pending.is_some()
    }

    /// Fills a pipe once from `from`, asks the gate, and empties it into `to`; or goes on emptying one.
    ///
    /// Where there is nothing to splice although urgent bytes have been told of, the other path has to look: splice(2)
    /// does not get past them. It does so at the end of a stream, too.
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
                FillResult::SocketEmpty => {} // readiness is cleared now: ask again, which leaves our waker there
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
    /// Gives what the pipe holds until it is empty or the socket is full, and then has left our waker with it if it is wide.
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

/// Not `MORE`: it measured no gain.
const SPLICE_FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Splices once from a socket into an empty pipe. A short count does not say that the socket is empty, since a pipe
/// fills by slots: only `EAGAIN` does, and then readiness is cleared, unless it is an urgent byte that is in the way.
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

/// Splices once from a pipe that holds `bytes` into a socket, and gives how many went; 0 when the socket is full, and
/// then readiness is cleared. The pipe cannot be what says `EAGAIN`, as it is not empty.
///
/// splice(2) raises SIGPIPE like write(2) and has no flag against it; Rust programs start with it ignored.
fn drain_pipe(pipe: &Pipe, sink: &Socket, bytes: usize) -> io::Result<usize> {
    let emptied = sink.try_write(|| {
        let splice = || rustix::pipe::splice(pipe.read_end(), None, sink, None, bytes, SPLICE_FLAGS);
        match rustix::io::retry_on_intr(splice)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        }
    });
    match emptied {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(0),
        emptied => emptied,
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

    /// Lets splicing on this thread fail as if the kernel did not offer it.
    pub(in super::super) fn refuse(refusal: Option<Errno>) {
        REFUSAL.set(refusal);
    }
}
