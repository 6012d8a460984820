//! The copy path: bytes go through a buffer of this thread, borrowed only while a read is being forwarded. It is the
//! path of small messages; it leaves the ends of a stream to `direction`.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, SendFlags};

use super::round::{Round, Stop, Then};
use super::{Act, Gate, Socket};

/// Bytes read at once. 64 KiB is the worst size on loopback, one segment of it and a runt; 48 KiB measured 1.5 to 2
/// times as fast.
pub(super) const BUFFER_BYTES: usize = 48 * 1024;

thread_local! {
    /// One buffer a thread: nothing that is borrowed from it outlives a poll.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
}

/// What the copy path keeps for one direction between polls: nothing, unless a write was cut short.
#[derive(Debug, Default)]
pub(super) struct Copy {
    kept: Option<Box<Kept>>,
}

/// The rest of a write that the receiving socket did not take. Nothing more is read until it is gone.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    given: usize,
}

impl Copy {
    /// Whether reading waits for a rest to be given.
    pub(super) fn is_stalled(&self) -> bool {
        self.kept.is_some()
    }

    /// Takes once from `from`, asks the gate, and gives to `to`; or goes on giving what an earlier round had to keep.
    pub(super) fn round(
        &mut self,
        cx: &mut Context<'_>,
        from: &Socket,
        to: &Socket,
        gate: &Gate,
    ) -> Result<Round, Stop> {
        let mut given = 0;
        if let Some(kept) = &mut self.kept {
            match kept.give_on(cx, to, gate)? {
                Given::All(bytes) => {
                    given = bytes;
                    self.kept = None;
                }
                Given::Part(bytes) => return Ok(Round::new(0, bytes, Then::SinkFull)),
            }
        }
        let mut round = BUFFER.with_borrow_mut(|buffer| self.take_and_give(cx, from, to, gate, buffer))?;
        round.given += given;
        Ok(round)
    }

    fn take_and_give(
        &mut self,
        cx: &mut Context<'_>,
        from: &Socket,
        to: &Socket,
        gate: &Gate,
        buffer: &mut [u8],
    ) -> Result<Round, Stop> {
        let taken = loop {
            match from.poll_read_ready(cx) {
                Poll::Pending => return Ok(Round::new(0, 0, Then::SourceEmpty)),
                Poll::Ready(ready) => ready.map_err(|err| Stop::Source(Act::Read, err))?,
            }
            match take(from, buffer).map_err(|err| Stop::Source(Act::Read, err))? {
                Some(0) => return Ok(Round::new(0, 0, Then::Eof)),
                Some(bytes) => break bytes,
                None => {} // stale readiness, cleared now: ask again, which leaves our waker there
            }
        };
        if !gate.admits() {
            return Err(Stop::Cut);
        }
        let given = give(to, &buffer[..taken]).map_err(|err| Stop::Sink(Act::Write, err))?;
        if given == taken {
            return Ok(Round::new(taken, taken, Then::More));
        }
        let kept = self.kept.insert(Box::new(Kept {
            bytes: buffer[given..taken].to_vec(),
            given: 0,
        }));
        match kept.give_on(cx, to, gate)? {
            Given::All(bytes) => {
                self.kept = None;
                Ok(Round::new(taken, given + bytes, Then::More))
            }
            Given::Part(bytes) => Ok(Round::new(taken, given + bytes, Then::SinkFull)),
        }
    }
}

/// Carries what a socket still holds that has failed, and gives how many bytes were given. A server that is stopped says
/// why and closes with unread bytes before it, which is a reset: then the first to fail may be our writing to it, with its
/// words still to be read. Nothing comes after them, so neither events nor wakers are needed, and where the other side
/// takes no more they end, as at any reset.
pub(super) fn last_words(from: &Socket, to: &Socket, gate: &Gate) -> usize {
    BUFFER.with_borrow_mut(|buffer| {
        let mut all = 0;
        while let Ok((taken @ 1.., _)) =
            rustix::io::retry_on_intr(|| rustix::net::recv(from, &mut **buffer, RecvFlags::DONTWAIT))
        {
            let mut given = 0;
            while given < taken && gate.admits() {
                let send = || rustix::net::send(to, &buffer[given..taken], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                match rustix::io::retry_on_intr(send) {
                    Ok(bytes) => given += bytes,
                    Err(_) => return all + given, // told as the end of the connection already
                }
            }
            all += given;
            if given < taken {
                break;
            }
        }
        all
    })
}

enum Given {
    /// The rest is gone; this many bytes went now.
    All(usize),
    /// The socket is full again, our waker is with it if it is wide; this many bytes went now.
    Part(usize),
}

impl Kept {
    fn give_on(&mut self, cx: &mut Context<'_>, to: &Socket, gate: &Gate) -> Result<Given, Stop> {
        let before = self.given;
        while self.given < self.bytes.len() {
            match to.poll_room(cx) {
                Poll::Pending => return Ok(Given::Part(self.given - before)),
                Poll::Ready(ready) => ready.map_err(|err| Stop::Sink(Act::Write, err))?,
            }
            if !gate.admits() {
                return Err(Stop::Cut);
            }
            let given = give(to, &self.bytes[self.given..]).map_err(|err| Stop::Sink(Act::Write, err))?;
            self.given += given;
            if given == 0 && !to.is_wide() {
                return Ok(Given::Part(self.given - before));
            }
        }
        Ok(Given::All(self.given - before))
    }
}

/// Reads once. `None`: there was nothing to read. A read that does not fill the buffer has emptied the socket
/// (epoll(7)): readiness is cleared without the second read that would say so. But not where it may have stopped short
/// of an urgent byte (tcp(7)), of which no further event would tell.
fn take(from: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut taken = None;
    let read = from.try_read(|| {
        let (bytes, _) = rustix::io::retry_on_intr(|| rustix::net::recv(from, &mut *buffer, RecvFlags::empty()))?;
        taken = Some(bytes);
        if 0 < bytes && bytes < buffer.len() && !from.is_urgent() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    });
    match read {
        Err(err) if err.kind() != io::ErrorKind::WouldBlock => Err(err),
        Err(_) if taken.is_none() => {
            from.forget_urgent();
            Ok(None)
        }
        _ => Ok(taken),
    }
}

/// Writes once and gives how many bytes were accepted, 0 when the socket is full. A write cut short clears readiness,
/// as a short read does.
fn give(to: &Socket, bytes: &[u8]) -> io::Result<usize> {
    let mut given = 0;
    let written = to.try_write(|| {
        given = rustix::io::retry_on_intr(|| rustix::net::send(to, bytes, SendFlags::NOSIGNAL))?;
        if given < bytes.len() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    });
    match written {
        Err(err) if err.kind() != io::ErrorKind::WouldBlock => Err(err),
        _ => Ok(given),
    }
}
