//! Waking for a whole batch of a server's bulk stream instead of for each of its small sends: PostgreSQL's COPY sends
//! 8 KiB at a time, and a wake-up for each costs more than carrying it. It only moves the mark at which the kernel wakes
//! us (`SO_RCVLOWAT`, socket(7)); taking and giving is left to the paths, which read whatever is there.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::{Tally, sys};

/// Wake only for so many bytes.
const BATCH_BYTES: usize = 128 * 1024;
/// A read that is part of a stream has at least so many.
const READ_BYTES_MIN: usize = 4 * 1024;
/// So many of them in a row make a stream, if the client says nothing meanwhile.
const READS: u32 = 32;
/// So many are asked for after streams that ended soon, each of which had its end delayed for little gain.
const READS_MAX: u32 = 4096;
/// A stream that was batched for fewer reads than this ended soon.
const READS_WORTH_IT: u32 = 64;
/// A stream that brought nothing for a whole one of these has stalled: what it has sent waits below the mark.
const TICK: Duration = Duration::from_millis(1);

/// Whether the stream from the master is batched. Off at first, and whenever the client has been heard.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Large reads in a row.
    run: u32,
    /// Large reads that are asked for, in doublings of `READS`.
    doublings: u8,
    off: bool,
    mark: Option<Box<Mark>>,
}

/// The mark is up.
#[derive(Debug)]
struct Mark {
    tick: Pin<Box<Sleep>>,
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
    pub(super) fn took(&mut self, bytes: usize, master: &TcpStream, tally: &Tally) {
        if let Some(mark) = &mut self.mark {
            mark.heard_since_tick = true;
            mark.reads = mark.reads.saturating_add(1);
            return;
        }
        if self.off {
            return;
        }
        self.run = if bytes >= READ_BYTES_MIN { self.run + 1 } else { 0 };
        if self.run < self.reads_needed() {
            return;
        }
        self.run = 0;
        if sys::wake_at(master, BATCH_BYTES).is_err() {
            self.off = true;
            return;
        }
        tally.batches.fetch_add(1, Ordering::Relaxed);
        self.mark = Some(Box::new(Mark {
            tick: Box::pin(tokio::time::sleep(TICK)),
            heard_since_tick: false,
            reads: 0,
        }));
    }

    /// Notes that the client has been heard: what the master answers is waited for.
    pub(super) fn client_heard(&mut self, master: &TcpStream) {
        self.run = 0;
        self.take_down(master);
    }

    /// Takes the mark down when the stream has stalled; until then leaves the task's waker with the clock.
    pub(super) fn poll_tick(&mut self, cx: &mut Context<'_>, master: &TcpStream) {
        let Some(mark) = &mut self.mark else { return };
        while mark.tick.as_mut().poll(cx) == Poll::Ready(()) {
            if std::mem::take(&mut mark.heard_since_tick) {
                mark.tick.set(tokio::time::sleep(TICK));
                continue;
            }
            let worth_it = mark.reads >= READS_WORTH_IT;
            self.doublings = if worth_it {
                0
            } else if self.reads_needed() < READS_MAX {
                self.doublings + 1
            } else {
                self.doublings
            };
            return self.take_down(master);
        }
    }

    /// The kernel tells us at once of what waits below the mark (tcp_set_rcvlowat in its net/ipv4/tcp.c).
    fn take_down(&mut self, master: &TcpStream) {
        if self.mark.take().is_some() && sys::wake_at(master, 1).is_err() {
            self.off = true; // never seen: the same call has put the mark up
        }
    }
}
