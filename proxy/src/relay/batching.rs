//! Waking for a whole batch of a bulk stream instead of for each of its sends: PostgreSQL's COPY sends 8 KiB at a time,
//! and a wake-up for each costs more than carrying it. It only moves the mark at which the kernel wakes us
//! (`SO_RCVLOWAT`, socket(7)), to what comes in a fraction of a millisecond; taking and giving is left to the paths, which
//! read whatever is there. Beyond proxy section 4 it does so both ways: a client's COPY is a stream like a server's.

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::{ByteCounters, Socket, sys};

/// Wake only for so many bytes, at first and at the most. The kernel makes room for them if the receive buffer is smaller,
/// and takes no more than half of the largest one (tcp_set_rcvlowat in its net/ipv4/tcp.c).
const LOW_WATER_BYTES: [usize; 2] = [64 * 1024, 4 * 1024 * 1024];
/// The mark of a stream that is not batched: any byte wakes.
const LOW_WATER_DEFAULT: usize = 1;
/// A stream that does not reach its mark so often in a tick gets one of half the height; one that does more often than the
/// second number, of twice: a batch is what comes in a part of a tick.
const MARKS_PER_TICK: RangeInclusive<usize> = 2..=7;
/// The same of a mark of `LARGE_BYTES` or more. What comes as fast as that comes in large pieces, of which twice as much
/// is carried in the time for which the other connections of the thread are kept waiting.
const LARGE_MARKS_PER_TICK: RangeInclusive<usize> = 1..=3;
const LARGE_BYTES: usize = 1024 * 1024;
/// A read that is part of a stream has at least so many bytes.
const READ_BYTES_MIN: usize = 4 * 1024;
/// So many in a row make a stream, if the other side says nothing meanwhile.
const STREAM_READS: u32 = 32;
/// So many are asked for after streams that ended soon, each of which had its end delayed for little gain.
const STREAM_READS_MAX: u32 = 4096;
/// A stream that was batched for fewer reads than this ended soon.
const READS_WORTH_IT: u32 = 64;
/// A stream that brought nothing for a whole one of these has stalled, or is slow: what it has sent waits below the mark.
const TICK: Duration = Duration::from_millis(1);
/// If at least so much has waited, it is slow: the mark goes up again, and what comes in a tick is taken together.
const SLOW_BYTES: usize = 16 * 1024;

/// Whether the stream of one side is batched. Off at first, and whenever the other side has been heard.
#[derive(Debug, Default)]
pub(super) struct StreamBatching {
    /// Reads of a stream in a row.
    reads_in_a_row: u32,
    /// Reads that are asked for, in doublings of `READS`.
    doublings: u8,
    disabled: bool,
    stream: Option<Box<BatchedStream>>,
}

/// A stream that is batched.
#[derive(Debug)]
struct BatchedStream {
    /// Ticks while it is up; not where the sink has been full for longer, and nothing is being read.
    tick: Option<Pin<Box<Sleep>>>,
    bytes_since_tick: usize,
    /// `DOWN` for one read, to see what has waited.
    mark: usize,
    reads: u32,
}

impl BatchedStream {
    fn is_raised(&self) -> bool {
        self.mark > LOW_WATER_DEFAULT
    }
}

impl StreamBatching {
    /// One that never batches.
    pub(super) fn disabled() -> Self {
        Self {
            disabled: true,
            ..Self::default()
        }
    }

    fn reads_needed(&self) -> u32 {
        (STREAM_READS << self.doublings).min(STREAM_READS_MAX)
    }

    /// Notes a read of the stream, and puts the mark up when there have been enough.
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

    /// Notes that the other side has been heard: what is answered is waited for.
    pub(super) fn note_reverse_data(&mut self, source: &Socket) {
        self.reads_in_a_row = 0;
        if self.stream.as_ref().is_some_and(|stream| stream.is_raised()) {
            self.reset_mark(source);
        }
        self.end_stream();
    }

    /// Takes the mark down when the stream has stalled, and else has it follow the stream's pace; until there is something
    /// to do leaves the task's waker with the clock. That nothing is read while the sink `is_full` says nothing of the
    /// stream.
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

    /// Counts what a stream was worth that is over.
    fn end_stream(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if stream.reads >= READS_WORTH_IT {
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

    /// The kernel tells us at once of what waits below the mark (tcp_set_rcvlowat).
    fn reset_mark(&mut self, source: &Socket) {
        let Some(stream) = &mut self.stream else { return };
        stream.tick = None;
        if !set_mark(&mut stream.mark, source, LOW_WATER_DEFAULT) {
            self.disable();
        }
    }

    /// Batches no more. A kernel that has moved the first mark is not known to refuse another.
    fn disable(&mut self) {
        (self.disabled, self.stream) = (true, None);
    }
}

/// Whether the kernel has moved the mark.
fn set_mark(mark: &mut usize, source: &Socket, bytes: usize) -> bool {
    *mark = bytes;
    sys::set_low_water_mark(source, bytes).is_ok()
}

/// The next mark of a stream that brought so many bytes in a tick of this one.
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
    fn the_mark_follows_the_pace_between_its_bounds() {
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
    fn a_steady_pace_leads_to_a_steady_mark() {
        let [lowest, highest] = LOW_WATER_BYTES;
        for read in (0..8 * 2 * highest / lowest).map(|step| step * lowest / 2) {
            for mark in std::iter::successors(Some(lowest), |mark| (2 * mark <= highest).then_some(2 * mark)) {
                let settled = next_mark(mark, read);
                assert_eq!(next_mark(settled, read), settled, "{read} bytes in a tick");
            }
        }
    }
}
