//! The copy path: bytes go through a buffer of this thread, borrowed only while a read is being forwarded. It is the
//! path of small messages; it leaves the ends of a stream to `direction`.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, SendFlags};

use super::transfer::{Transfer, TransferError, TransferStatus};
use super::{Gate, Socket, SocketOperation};

/// Bytes read at once. 64 KiB is the worst size on loopback, one segment of it and a runt; 48 KiB measured 1.5 to 2
/// times as fast.
pub(super) const BUFFER_BYTES: usize = 48 * 1024;

thread_local! {
    /// One buffer a thread: nothing that is borrowed from it outlives a poll.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
}

/// What the copy path keeps for one direction between polls: nothing, unless a write was cut short.
#[derive(Debug, Default)]
pub(super) struct CopyMethod {
    pending: Option<Box<PendingBytes>>,
}

/// The rest of a write that the receiving socket did not take. Nothing more is read until it is gone.
#[derive(Debug)]
struct PendingBytes {
    bytes: Vec<u8>,
    written: usize,
}

impl CopyMethod {
    /// Whether reading waits for a rest to be given.
    pub(super) fn is_stalled(&self) -> bool {
        self.pending.is_some()
    }

    /// Takes once from `from`, asks the gate, and gives to `to`; or goes on giving what an earlier round had to keep.
    pub(super) fn transfer(
        &mut self,
        cx: &mut Context<'_>,
        source: &Socket,
        sink: &Socket,
        gate: &Gate,
    ) -> Result<Transfer, TransferError> {
        let mut written = 0;
        if let Some(pending) = &mut self.pending {
            match pending.flush(cx, sink, gate)? {
                Flushed::All(bytes) => {
                    written = bytes;
                    self.pending = None;
                }
                Flushed::Part(bytes) => return Ok(Transfer::new(0, bytes, TransferStatus::SinkFull)),
            }
        }
        let mut transfer = BUFFER.with_borrow_mut(|buffer| self.read_and_write(cx, source, sink, gate, buffer))?;
        transfer.written += written;
        Ok(transfer)
    }

    fn read_and_write(
        &mut self,
        cx: &mut Context<'_>,
        source: &Socket,
        sink: &Socket,
        gate: &Gate,
        buffer: &mut [u8],
    ) -> Result<Transfer, TransferError> {
        let read = loop {
            match source.poll_read_ready(cx) {
                Poll::Pending => return Ok(Transfer::new(0, 0, TransferStatus::SourceEmpty)),
                Poll::Ready(ready) => ready.map_err(|err| TransferError::Source(SocketOperation::Read, err))?,
            }
            match read_once(source, buffer).map_err(|err| TransferError::Source(SocketOperation::Read, err))? {
                Some(0) => return Ok(Transfer::new(0, 0, TransferStatus::Eof)),
                Some(bytes) => break bytes,
                None => {} // stale readiness, cleared now: ask again, which leaves our waker there
            }
        };
        if !gate.admits() {
            return Err(TransferError::GateClosed);
        }
        let written =
            write_once(sink, &buffer[..read]).map_err(|err| TransferError::Sink(SocketOperation::Write, err))?;
        if written == read {
            return Ok(Transfer::new(read, read, TransferStatus::More));
        }
        let pending = self.pending.insert(Box::new(PendingBytes {
            bytes: buffer[written..read].to_vec(),
            written: 0,
        }));
        match pending.flush(cx, sink, gate)? {
            Flushed::All(bytes) => {
                self.pending = None;
                Ok(Transfer::new(read, written + bytes, TransferStatus::More))
            }
            Flushed::Part(bytes) => Ok(Transfer::new(read, written + bytes, TransferStatus::SinkFull)),
        }
    }
}

/// Carries what a socket still holds that has failed, and gives how many bytes were given. A server that is stopped says
/// why and closes with unread bytes before it, which is a reset: then the first to fail may be our writing to it, with its
/// words still to be read. Nothing comes after them, so neither events nor wakers are needed, and where the other side
/// takes no more they end, as at any reset.
pub(super) fn drain_after_error(source: &Socket, sink: &Socket, gate: &Gate) -> usize {
    BUFFER.with_borrow_mut(|buffer| {
        let mut total = 0;
        while let Ok((read @ 1.., _)) =
            rustix::io::retry_on_intr(|| rustix::net::recv(source, &mut **buffer, RecvFlags::DONTWAIT))
        {
            let mut written = 0;
            while written < read && gate.admits() {
                let send =
                    || rustix::net::send(sink, &buffer[written..read], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                match rustix::io::retry_on_intr(send) {
                    Ok(bytes) => written += bytes,
                    Err(_) => return total + written, // told as the end of the connection already
                }
            }
            total += written;
            if written < read {
                break;
            }
        }
        total
    })
}

enum Flushed {
    /// The rest is gone; this many bytes went now.
    All(usize),
    /// The socket is full again, our waker is with it if it is wide; this many bytes went now.
    Part(usize),
}

impl PendingBytes {
    fn flush(&mut self, cx: &mut Context<'_>, sink: &Socket, gate: &Gate) -> Result<Flushed, TransferError> {
        let before = self.written;
        while self.written < self.bytes.len() {
            match sink.poll_write_ready(cx) {
                Poll::Pending => return Ok(Flushed::Part(self.written - before)),
                Poll::Ready(ready) => ready.map_err(|err| TransferError::Sink(SocketOperation::Write, err))?,
            }
            if !gate.admits() {
                return Err(TransferError::GateClosed);
            }
            let written = write_once(sink, &self.bytes[self.written..])
                .map_err(|err| TransferError::Sink(SocketOperation::Write, err))?;
            self.written += written;
            if written == 0 && !sink.watches_writable() {
                return Ok(Flushed::Part(self.written - before));
            }
        }
        Ok(Flushed::All(self.written - before))
    }
}

/// Reads once. `None`: there was nothing to read. A read that does not fill the buffer has emptied the socket
/// (epoll(7)): readiness is cleared without the second read that would say so. But not where it may have stopped short
/// of an urgent byte (tcp(7)), of which no further event would tell.
fn read_once(source: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut count = None;
    let result = source.try_read(|| {
        let (bytes, _) = rustix::io::retry_on_intr(|| rustix::net::recv(source, &mut *buffer, RecvFlags::empty()))?;
        count = Some(bytes);
        if 0 < bytes && bytes < buffer.len() && !source.is_urgent() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    });
    match result {
        Err(err) if err.kind() != io::ErrorKind::WouldBlock => Err(err),
        Err(_) if count.is_none() => {
            source.clear_urgent();
            Ok(None)
        }
        _ => Ok(count),
    }
}

/// Writes once and gives how many bytes were accepted, 0 when the socket is full. A write cut short clears readiness,
/// as a short read does.
fn write_once(sink: &Socket, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    let result = sink.try_write(|| {
        written = rustix::io::retry_on_intr(|| rustix::net::send(sink, bytes, SendFlags::NOSIGNAL))?;
        if written < bytes.len() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    });
    match result {
        Err(err) if err.kind() != io::ErrorKind::WouldBlock => Err(err),
        _ => Ok(written),
    }
}
