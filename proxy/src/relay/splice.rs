//! The splice path: bytes go through a pipe and are never copied. It is the path of bulk; which direction takes it is
//! left to `flow`, and the ends of a stream to `direction`.

use std::io;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::pipes::Pipe;
use super::round::{Round, Stop, Then};
use super::{Act, Gate, Socket};

/// What the splice path keeps for one direction between polls: nothing, unless the sink is full.
#[derive(Debug, Default)]
pub(super) struct Splice {
    held: Option<Box<Held>>,
}

/// A pipe with bytes that the receiving socket did not take. Nothing more is read until it is empty; if the connection
/// ends before that, it is closed with what it holds.
#[derive(Debug)]
struct Held {
    pipe: Pipe,
    bytes: usize,
}

/// What came of filling an empty pipe.
enum Filled {
    Bytes(usize),
    /// The end of the stream, or of what can be spliced of it.
    Nothing,
    /// Nothing to read, and as the pipe was empty it cannot have been that which was full.
    SocketEmpty,
    /// The kernel does not splice here.
    Refused,
}

impl Splice {
    /// Whether reading waits for a pipe to be emptied.
    pub(super) fn is_stalled(&self) -> bool {
        self.held.is_some()
    }

    /// Fills a pipe once from `from`, asks the gate, and empties it into `to`; or goes on emptying one.
    ///
    /// Where there is nothing to splice although urgent bytes have been told of, the other path has to look: splice(2)
    /// does not get past them. It does so at the end of a stream, too.
    pub(super) fn round(
        &mut self,
        cx: &mut Context<'_>,
        from: &Socket,
        to: &Socket,
        gate: &Gate,
    ) -> Result<Round, Stop> {
        let mut given = 0;
        if let Some(mut held) = self.held.take() {
            given = held.empty_into(cx, to, gate)?;
            if held.bytes > 0 {
                self.held = Some(held);
                return Ok(Round::new(0, given, Then::SinkFull));
            }
            held.pipe.give_back();
        }
        let mut held: Option<Held> = None;
        let then = loop {
            match from.poll_read_ready(cx) {
                Poll::Pending => break Then::SourceEmpty,
                Poll::Ready(ready) => ready.map_err(|err| Stop::Source(Act::Read, err))?,
            }
            let filled = match &mut held {
                Some(held) => held,
                None => match Pipe::borrow() {
                    Some(pipe) => held.insert(Held { pipe, bytes: 0 }),
                    None => break Then::NoPipe,
                },
            };
            match fill(from, &filled.pipe).map_err(|err| Stop::Source(Act::Read, err))? {
                Filled::Bytes(bytes) => {
                    filled.bytes = bytes;
                    break Then::More;
                }
                Filled::Nothing => break Then::Unspliceable,
                Filled::SocketEmpty => {} // readiness is cleared now: ask again, which leaves our waker there
                Filled::Refused => break Then::Refused,
            }
        };
        let Some(mut held) = held else {
            return Ok(Round::new(0, given, then));
        };
        let taken = held.bytes;
        if taken > 0 {
            given += held.empty_into(cx, to, gate)?;
            if held.bytes > 0 {
                self.held = Some(Box::new(held));
                return Ok(Round::new(taken, given, Then::SinkFull));
            }
        }
        held.pipe.give_back();
        Ok(Round::new(taken, given, then))
    }
}

impl Held {
    /// Gives what the pipe holds until it is empty or the socket is full, and then has left our waker with it if it is wide.
    fn empty_into(&mut self, cx: &mut Context<'_>, to: &Socket, gate: &Gate) -> Result<usize, Stop> {
        let before = self.bytes;
        while self.bytes > 0 {
            match to.poll_room(cx) {
                Poll::Pending => break,
                Poll::Ready(ready) => ready.map_err(|err| Stop::Sink(Act::Write, err))?,
            }
            if !gate.admits() {
                return Err(Stop::Cut);
            }
            let given = empty(&self.pipe, to, self.bytes).map_err(|err| Stop::Sink(Act::Write, err))?;
            self.bytes -= given;
            if given == 0 && !to.is_wide() {
                break;
            }
        }
        Ok(before - self.bytes)
    }
}

/// Not `MORE`: it measured no gain.
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Splices once from a socket into an empty pipe. A short count does not say that the socket is empty, since a pipe
/// fills by slots: only `EAGAIN` does, and then readiness is cleared, unless it is an urgent byte that is in the way.
fn fill(from: &Socket, pipe: &Pipe) -> io::Result<Filled> {
    let mut filled = Filled::SocketEmpty;
    let spliced = from.try_read(|| {
        let splice = || rustix::pipe::splice(from, None, pipe.inlet(), None, pipe.bytes_max, FLAGS);
        filled = match refusal().map_or_else(|| rustix::io::retry_on_intr(splice), Err) {
            Ok(0) => Filled::Nothing,
            Ok(bytes) => Filled::Bytes(bytes),
            Err(Errno::AGAIN) if from.is_urgent() => Filled::Nothing,
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP) => Filled::Refused,
            Err(err) => return Err(err.into()),
        };
        Ok(())
    });
    match spliced {
        Err(err) if err.kind() != io::ErrorKind::WouldBlock => Err(err),
        _ => Ok(filled),
    }
}

/// Splices once from a pipe that holds `bytes` into a socket, and gives how many went; 0 when the socket is full, and
/// then readiness is cleared. The pipe cannot be what says `EAGAIN`, as it is not empty.
///
/// splice(2) raises SIGPIPE like write(2) and has no flag against it; Rust programs start with it ignored.
fn empty(pipe: &Pipe, to: &Socket, bytes: usize) -> io::Result<usize> {
    let emptied = to.try_write(|| {
        let splice = || rustix::pipe::splice(pipe.outlet(), None, to, None, bytes, FLAGS);
        match rustix::io::retry_on_intr(splice)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            given => Ok(given),
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
