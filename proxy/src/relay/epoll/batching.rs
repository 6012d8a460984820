//! Batches the wake-ups of a bulk stream. PostgreSQL's COPY sends 8 KiB at a time, and one wake-up for each costs more
//! than forwarding it. Batching only raises the low-water mark from which on the kernel reports the socket as readable
//! (`SO_RCVLOWAT`, socket(7)), to the amount that arrives in a fraction of a millisecond; reading and writing is left
//! to the methods, which take what is there. More than proxy section 4 requires, both directions are batched: a
//! client's COPY is a stream as well.

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::socket::Socket;
use crate::relay::counters::ByteCounters;
use crate::relay::sys;

/// Lowest and highest low-water mark of a batched stream. The kernel enlarges the receive buffer for it if necessary,
/// and limits it to half of the largest buffer (tcp_set_rcvlowat in net/ipv4/tcp.c).
const LOW_WATER_BYTES: [usize; 2] = [64 * 1024, 4 * 1024 * 1024];
/// Mark of a stream that is not batched: any byte wakes the task.
const LOW_WATER_DEFAULT: usize = 1;
/// How often a stream may reach its mark in a tick. Below the range the mark is halved, above it doubled, so that a
/// batch is what arrives in a part of a tick.
const MARKS_PER_TICK: RangeInclusive<usize> = 2..=7;
/// The same for marks of `LARGE_BYTES` and more. Streams of that rate arrive in large pieces, and twice the amount is
/// forwarded in the time that the thread's other connections have to wait.
const LARGE_MARKS_PER_TICK: RangeInclusive<usize> = 1..=3;
const LARGE_BYTES: usize = 1024 * 1024;
/// Smallest read that counts as part of a stream.
const READ_BYTES_MIN: usize = 4 * 1024;
/// Number of such reads in a row, without data in the other direction, from which on a stream is batched.
const STREAM_READS: u32 = 32;
/// Highest number required. The number doubles after each stream that ended soon, since batching delayed its end for
/// little gain.
const STREAM_READS_MAX: u32 = 4096;
/// A stream that was batched for fewer reads ended soon.
const LONG_STREAM_READS: u32 = 64;
/// Without data for a whole tick a stream has stalled or is slow: what it has sent may be waiting below the mark.
const TICK: Duration = Duration::from_millis(1);
/// If at least this much was waiting, the stream is slow: the mark is raised again, so that the data of a tick are read
/// together.
const SLOW_BYTES: usize = 16 * 1024;

/// The batching of one source's stream. Off at first, and whenever data arrives in the other direction.
#[derive(Debug, Default)]
pub(super) struct StreamBatching {
    /// Stream reads in a row.
    reads_in_a_row: u32,
    /// Required reads, as doublings of `STREAM_READS`.
    doublings: u8,
    disabled: bool,
    stream: Option<Box<BatchedStream>>,
}

/// A stream that is being batched.
#[derive(Debug)]
struct BatchedStream {
    /// Runs while the mark is raised. `None` while the sink has been full for longer than a tick, so that nothing is
    /// read.
    tick: Option<Pin<Box<Sleep>>>,
    bytes_since_tick: usize,
    /// The current mark; `LOW_WATER_DEFAULT` for one read, to find out how much was waiting.
    mark: usize,
    reads: u32,
}

impl BatchedStream {
    fn is_raised(&self) -> bool {
        self.mark > LOW_WATER_DEFAULT
    }
}

impl StreamBatching {
    /// Returns one that never batches.
    pub(super) fn disabled() -> Self {
        Self {
            disabled: true,
            ..Self::default()
        }
    }

    fn reads_needed(&self) -> u32 {
        (STREAM_READS << self.doublings).min(STREAM_READS_MAX)
    }

    /// Records a read of the stream. Raises the mark after enough of them.
    pub(super) fn note_read(&mut self, bytes: usize, source: &Socket, counters: &ByteCounters) {
        if self.disabled {
            return;
        }
        if let Some(stream) = &mut self.stream {
            stream.bytes_since_tick = stream.bytes_since_tick.saturating_add(bytes);
            stream.reads = stream.reads.saturating_add(1);
            if !stream.is_raised() {
                if bytes >= SLOW_BYTES {
                    self.raise_mark(source);
                } else {
                    self.end_stream();
                }
            }
            return;
        }
        self.reads_in_a_row = if bytes >= READ_BYTES_MIN {
            self.reads_in_a_row + 1
        } else {
            0
        };
        if self.reads_in_a_row < self.reads_needed() {
            return;
        }
        self.reads_in_a_row = 0;
        self.stream = Some(Box::new(BatchedStream {
            tick: None,
            bytes_since_tick: 0,
            mark: LOW_WATER_DEFAULT,
            reads: 0,
        }));
        self.raise_mark(source);
        if self.stream.is_some() {
            counters.batches.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records data in the other direction: its sender waits for the response, which must not be delayed.
    pub(super) fn note_reverse_data(&mut self, source: &Socket) {
        self.reads_in_a_row = 0;
        if self.stream.as_ref().is_some_and(|stream| stream.is_raised()) {
            self.reset_mark(source);
        }
        self.end_stream();
    }

    /// Resets the mark if the stream has stalled, otherwise adapts it to the stream's rate. Registers the task's waker
    /// for the next tick. While the sink `is_full` nothing is read, which is no sign of a stalled stream.
    pub(super) fn poll_tick(&mut self, cx: &mut Context<'_>, source: &Socket, is_full: bool) {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.is_raised()) else {
            return;
        };
        if stream.tick.is_none() && is_full {
            return;
        }
        let tick = stream.tick.get_or_insert_with(|| Box::pin(tokio::time::sleep(TICK)));
        while tick.as_mut().poll(cx) == Poll::Ready(()) {
            let mark = match std::mem::take(&mut stream.bytes_since_tick) {
                0 if is_full => {
                    stream.tick = None;
                    return;
                }
                0 => return self.reset_mark(source),
                read => next_mark(stream.mark, read),
            };
            tick.set(tokio::time::sleep(TICK));
            if mark != stream.mark && !set_mark(&mut stream.mark, source, mark) {
                return self.disable();
            }
        }
    }

    /// Ends batching of the stream and decides how soon the next one is batched.
    fn end_stream(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if stream.reads >= LONG_STREAM_READS {
            self.doublings = 0;
        } else if self.reads_needed() < STREAM_READS_MAX {
            self.doublings += 1;
        }
    }

    fn raise_mark(&mut self, source: &Socket) {
        let Some(stream) = &mut self.stream else { return };
        stream.bytes_since_tick = 0;
        if !set_mark(&mut stream.mark, source, LOW_WATER_BYTES[0]) {
            self.disable();
        }
    }

    /// Resets the mark. The kernel then reports at once what is waiting below it (tcp_set_rcvlowat).
    fn reset_mark(&mut self, source: &Socket) {
        let Some(stream) = &mut self.stream else { return };
        stream.tick = None;
        if !set_mark(&mut stream.mark, source, LOW_WATER_DEFAULT) {
            self.disable();
        }
    }

    /// Disables batching. No kernel is known that accepts the first mark and refuses a later one.
    fn disable(&mut self) {
        (self.disabled, self.stream) = (true, None);
    }
}

/// Sets the mark. Returns whether the kernel accepted it.
fn set_mark(mark: &mut usize, source: &Socket, bytes: usize) -> bool {
    *mark = bytes;
    sys::set_low_water_mark(source, bytes).is_ok()
}

/// Returns the next mark of a stream that delivered this many bytes in a tick at the present mark.
fn next_mark(mut mark: usize, read: usize) -> usize {
    let [lowest, highest] = LOW_WATER_BYTES;
    let wanted = |mark| {
        if mark < LARGE_BYTES {
            MARKS_PER_TICK
        } else {
            LARGE_MARKS_PER_TICK
        }
    };
    while mark < highest && read / mark > *wanted(mark).end() {
        mark *= 2;
    }
    while mark > lowest && read / mark < *wanted(mark).start() {
        mark /= 2;
    }
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_follows_the_rate_between_its_bounds() {
        let [lowest, highest] = LOW_WATER_BYTES;
        for (mark, read, next) in [
            (lowest, 1, lowest),
            (lowest, 8 * lowest - 1, lowest),
            (lowest, 8 * lowest, 2 * lowest),
            (LARGE_BYTES, 4 * LARGE_BYTES - 1, LARGE_BYTES),
            (LARGE_BYTES, 4 * LARGE_BYTES, 2 * LARGE_BYTES),
            (lowest, usize::MAX, highest),
            (highest, highest, highest),
            (highest, highest - 1, highest / 2),
            (highest, 1, lowest),
        ] {
            assert_eq!(next_mark(mark, read), next, "{read} bytes in a tick of {mark}");
        }
    }

    #[test]
    fn a_steady_rate_leads_to_a_steady_mark() {
        let [lowest, highest] = LOW_WATER_BYTES;
        for read in (0..8 * 2 * highest / lowest).map(|step| step * lowest / 2) {
            for mark in std::iter::successors(Some(lowest), |mark| (2 * mark <= highest).then_some(2 * mark)) {
                let settled = next_mark(mark, read);
                assert_eq!(next_mark(settled, read), settled, "{read} bytes in a tick");
            }
        }
    }
}
