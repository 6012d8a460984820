//! Waking for a whole batch of a server's bulk stream instead of for each of its small sends: PostgreSQL's COPY sends
//! 8 KiB at a time, and a wake-up for each costs more than carrying it. It only moves the mark at which the kernel wakes
//! us (`SO_RCVLOWAT`, socket(7)); taking and giving is left to the paths, which read whatever is there.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::{Socket, Tally, sys};

/// Wake only for so many bytes. The kernel makes room for them if the receive buffer is smaller (tcp_set_rcvlowat in its
/// net/ipv4/tcp.c).
const BATCH_BYTES: usize = 256 * 1024;
/// A read that is part of a stream has at least so many.
const READ_BYTES_MIN: usize = 4 * 1024;
/// One of so many shows that a wake-up brings a lot already, and that there is nothing to batch.
const READ_BYTES_MAX: usize = 48 * 1024;
/// So many of the size between in a row make a stream, if the client says nothing meanwhile.
const READS: u32 = 32;
/// So many are asked for after streams that ended soon, each of which had its end delayed for little gain.
const READS_MAX: u32 = 4096;
/// A stream that was batched for fewer reads than this ended soon.
const READS_WORTH_IT: u32 = 64;
/// A stream that brought nothing for a whole one of these has stalled, or is slow: what it has sent waits below the mark.
const TICK: Duration = Duration::from_millis(1);
/// If at least so much has waited, it is slow: the mark goes up again, and what comes in a tick is taken together.
const SLOW_BYTES: usize = 16 * 1024;

/// Whether the stream from the master is batched. Off at first, and whenever the client has been heard.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Reads of a stream in a row.
    run: u32,
    /// Reads that are asked for, in doublings of `READS`.
    doublings: u8,
    off: bool,
    stream: Option<Box<Stream>>,
}

/// A stream that is batched.
#[derive(Debug)]
struct Stream {
    /// Ticks while the mark is up. Without it the mark is down for one read, to see what has waited.
    tick: Option<Pin<Box<Sleep>>>,
    heard_since_tick: bool,
    reads: u32,
}

impl Batch {
    /// One that never batches.
    pub(super) fn never() -> Self {
        Self {
            off: true,
            ..Self::default()
        }
    }

    fn reads_needed(&self) -> u32 {
        (READS << self.doublings).min(READS_MAX)
    }

    /// Notes a read of the master's stream, and puts the mark up when there have been enough.
    pub(super) fn took(&mut self, bytes: usize, master: &Socket, tally: &Tally) {
        if self.off {
            return;
        }
        if let Some(stream) = &mut self.stream {
            stream.heard_since_tick = true;
            stream.reads = stream.reads.saturating_add(1);
            if stream.tick.is_none() {
                if bytes >= SLOW_BYTES {
                    self.put_up(master);
                } else {
                    self.stalled();
                }
            }
            return;
        }
        self.run = if (READ_BYTES_MIN..READ_BYTES_MAX).contains(&bytes) {
            self.run + 1
        } else {
            0
        };
        if self.run < self.reads_needed() {
            return;
        }
        self.run = 0;
        self.stream = Some(Box::new(Stream {
            tick: None,
            heard_since_tick: false,
            reads: 0,
        }));
        self.put_up(master);
        if self.stream.is_some() {
            tally.batches.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that the client has been heard: what the master answers is waited for.
    pub(super) fn client_heard(&mut self, master: &Socket) {
        self.run = 0;
        if self.stream.as_ref().is_some_and(|stream| stream.tick.is_some()) {
            self.take_down(master);
        }
        self.stream = None;
    }

    /// Takes the mark down when the stream has stalled; until then leaves the task's waker with the clock.
    pub(super) fn poll_tick(&mut self, cx: &mut Context<'_>, master: &Socket) {
        let Some(stream) = &mut self.stream else { return };
        let Some(tick) = &mut stream.tick else { return };
        while tick.as_mut().poll(cx) == Poll::Ready(()) {
            if !std::mem::take(&mut stream.heard_since_tick) {
                return self.take_down(master);
            }
            tick.set(tokio::time::sleep(TICK));
        }
    }

    /// Counts what a stream was worth that is over.
    fn stalled(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if stream.reads >= READS_WORTH_IT {
            self.doublings = 0;
        } else if self.reads_needed() < READS_MAX {
            self.doublings += 1;
        }
    }

    fn put_up(&mut self, master: &Socket) {
        let Some(stream) = &mut self.stream else { return };
        if sys::wake_at(master, BATCH_BYTES).is_ok() {
            stream.tick = Some(Box::pin(tokio::time::sleep(TICK)));
            stream.heard_since_tick = false;
        } else {
            (self.off, self.stream) = (true, None);
        }
    }

    /// The kernel tells us at once of what waits below the mark (tcp_set_rcvlowat).
    fn take_down(&mut self, master: &Socket) {
        let Some(stream) = &mut self.stream else { return };
        stream.tick = None;
        if sys::wake_at(master, 1).is_err() {
            (self.off, self.stream) = (true, None); // never seen: the same call has put the mark up
        }
    }
}
