//! One direction of a connection: rounds of a path until there is nothing to do, and the end of the stream passed on
//! after everything before it (P-11). How a round moves bytes belongs to the path.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;

use rustix::net::Shutdown;
use tokio::net::TcpStream;

use super::copy::Copy;
use super::{Act, Gate};

/// Rounds of one direction before the other one, and the other connections of the thread, get their turn.
const ROUNDS_AT_ONCE: usize = 16;

/// What one round of a path came to, with the bytes that it gave.
///
/// Each but `Bytes` has left the task's waker where the next event will come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// All that was taken was given, and more may be there.
    Bytes(usize),
    /// Nothing to read: wait until the source is readable.
    SourceEmpty(usize),
    /// The path holds bytes that the sink does not take: wait until it is writable, read nothing meanwhile.
    SinkFull(usize),
    /// The source has finished and the path holds nothing.
    Eof(usize),
}

/// Why a direction cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The gate is closed; what was taken is dropped.
    Cut,
    /// The socket that is read from failed.
    Source(Act, io::Error),
    /// The socket that is written to failed.
    Sink(Act, io::Error),
}

/// One direction of one connection.
#[derive(Debug, Default)]
pub(super) struct Direction {
    copy: Copy,
    done: bool,
}

impl Direction {
    /// Whether the stream has ended and its end has been passed on.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing is being read, so that only an error event tells of the source's death (P-13).
    pub(super) fn is_deaf(&self) -> bool {
        self.done || self.copy.is_stalled()
    }

    /// Carries what there is; on return the task will be woken when there is more to do.
    pub(super) fn advance(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        gate: &Gate,
        carried: &AtomicU64,
    ) -> Result<(), Stop> {
        for _ in 0..ROUNDS_AT_ONCE {
            if self.done {
                return Ok(());
            }
            let moved = self.copy.round(cx, from, to, gate)?;
            let (Moved::Bytes(bytes) | Moved::SourceEmpty(bytes) | Moved::SinkFull(bytes) | Moved::Eof(bytes)) = moved;
            if bytes > 0 {
                carried.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            match moved {
                Moved::Bytes(_) => {}
                Moved::SourceEmpty(_) | Moved::SinkFull(_) => return Ok(()),
                Moved::Eof(_) => {
                    if !gate.admits() {
                        return Err(Stop::Cut);
                    }
                    rustix::net::shutdown(to, Shutdown::Write).map_err(|err| Stop::Sink(Act::Finish, err.into()))?;
                    self.done = true;
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }
}
