//! The queue of log lines and the thread that writes them. The rest of the program never waits for the log's reader.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use super::format::{LevelName, Style};

/// Maximum number of queued lines: at about 150 bytes a line, a megabyte.
const QUEUE_LINES: usize = 8192;
/// Maximum bytes of queued lines: PostgreSQL's output is forwarded, and its lines may hold whole statements.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Interval between attempts to enqueue into a full queue.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

enum QueueItem {
    Line(String),
    /// Signalled once all items before it are written.
    Flush(SyncSender<()>),
}

/// Accepts lines and never blocks.
pub(crate) struct Sink {
    queue: SyncSender<QueueItem>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Lines dropped since the last warning about that.
    dropped: AtomicU64,
    /// Bytes of the queued lines.
    bytes: AtomicUsize,
}

impl Sink {
    /// Starts the writing thread. `style` is for the warning about dropped lines.
    pub(crate) fn start(out: impl Write + Send + 'static, style: Style) -> Self {
        Self::with_capacity(QUEUE_LINES, out, style)
    }

    fn with_capacity(lines: usize, out: impl Write + Send + 'static, style: Style) -> Self {
        let (queue, items) = sync_channel(lines);
        let counts = Arc::<Counts>::default();
        let seen = Arc::clone(&counts);
        let write = move || write_out(&items, out, &seen, style);
        // Without its thread the queue fills up and lines are dropped; nothing else can be done.
        let _ = thread::Builder::new().name("log".to_owned()).spawn(write);
        Self { queue, counts }
    }

    /// Queues a line with its newline; if the queue is full, the line is dropped and counted.
    pub(crate) fn push(&self, line: String) {
        let bytes = line.len();
        let waiting = self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting.saturating_add(bytes) > QUEUE_BYTES || self.queue.try_send(QueueItem::Line(line)).is_err() {
            self.counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines queued so far are written, for at most `limit`. Returns whether they are.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let (done, written) = sync_channel(1);
        let left = self.queue_within(QueueItem::Flush(done), limit);
        left.is_some_and(|left| written.recv_timeout(left).is_ok())
    }

    /// Queues the last line of a program, behind all others, and waits until it is written, for at most `limit`.
    /// Returns whether it is.
    pub(crate) fn finish(&self, line: String, limit: Duration) -> bool {
        self.counts.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let left = self.queue_within(QueueItem::Line(line), limit);
        left.is_some_and(|left| self.flush(left))
    }

    /// Enqueues an item, waiting for space for at most `limit`. Returns the remaining time; none when there was no
    /// space in time.
    fn queue_within(&self, mut item: QueueItem, limit: Duration) -> Option<Duration> {
        let mut left = limit;
        loop {
            match self.queue.try_send(item) {
                Ok(()) => return Some(left),
                Err(TrySendError::Disconnected(_)) => return None,
                Err(TrySendError::Full(back)) => item = back,
            }
            if left.is_zero() {
                return None;
            }
            let delay = RETRY_INTERVAL.min(left);
            thread::sleep(delay); // the reader is slow; wait for the rest of the limit
            left -= delay;
        }
    }
}

/// Writes queued items until the sink is dropped. Each line is one write (keeper 15.0.2).
#[expect(
    clippy::disallowed_methods,
    reason = "a log line carries the time at which it was written"
)]
fn write_out(items: &Receiver<QueueItem>, mut out: impl Write, counts: &Counts, style: Style) {
    for item in items {
        match item {
            // A closed reader is no reason to stop: there is no other place to report it.
            QueueItem::Line(line) => {
                let _ = out.write_all(line.as_bytes());
                counts.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            QueueItem::Flush(done) => {
                let _ = out.flush();
                // The caller may have stopped waiting.
                let _ = done.try_send(());
            }
        }
        let lines = counts.dropped.swap(0, Ordering::Relaxed);
        if lines > 0 {
            let now = base::clock::wall_clock();
            let fields = [("lines", lines.into())];
            let warning = style.line(
                now,
                LevelName::Warn,
                "telemetry/sink.rs",
                "log lines lost, their reader is too slow",
                &fields,
            );
            let _ = out.write_all(warning.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::super::LogFormat;
    use super::*;

    /// A writer whose writes wait while it is blocked.
    #[derive(Clone, Default)]
    struct BlockingWriter(Arc<(Mutex<WriterState>, Condvar)>);

    #[derive(Default)]
    struct WriterState {
        blocked: bool,
        writes: Vec<String>,
    }

    impl BlockingWriter {
        fn set_blocked(&self, shut: bool) {
            self.0.0.lock().unwrap().blocked = shut;
            self.0.1.notify_all();
        }
    }

    impl Write for BlockingWriter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let state = self.0.0.lock().unwrap();
            let mut state = self.0.1.wait_while(state, |state| state.blocked).unwrap();
            state.writes.push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn each_line_is_one_write_in_order() {
        let gate = BlockingWriter::default();
        let sink = Sink::start(gate.clone(), Style::new(LogFormat::Text, false));
        sink.push("one\n".to_owned());
        sink.push("two\n".to_owned());
        assert!(sink.flush(LIMIT));
        assert_eq!(gate.0.0.lock().unwrap().writes, ["one\n", "two\n"]);
    }

    #[test]
    fn a_blocked_reader_blocks_nothing_and_later_gets_the_number_of_dropped_lines() {
        // keeper 15.0.6
        let gate = BlockingWriter::default();
        gate.set_blocked(true);
        let sink = Sink::with_capacity(2, gate.clone(), Style::new(LogFormat::Text, false));
        for _ in 0..10 {
            sink.push("line\n".to_owned());
        }
        assert!(!sink.flush(Duration::from_millis(20)));
        gate.set_blocked(false);
        assert!(sink.flush(LIMIT));
        let writes = &gate.0.0.lock().unwrap().writes;
        let lines = writes.iter().filter(|write| *write == "line\n").count();
        let warning: Vec<_> = writes.iter().filter(|write| write.contains("log lines lost")).collect();
        let dropped: usize = warning
            .iter()
            .filter_map(|line| line.trim().rsplit('=').next()?.parse::<usize>().ok())
            .sum();
        assert_eq!(lines + dropped, 10, "{writes:?}");
    }

    #[test]
    fn long_lines_fill_the_queue_by_their_bytes() {
        let gate = BlockingWriter::default();
        gate.set_blocked(true);
        let sink = Sink::start(gate.clone(), Style::new(LogFormat::Text, false));
        let long = "x".repeat(QUEUE_BYTES / 4 - 1) + "\n";
        for _ in 0..10 {
            sink.push(long.clone());
        }
        gate.set_blocked(false);
        assert!(sink.flush(LIMIT));
        sink.push("room again\n".to_owned());
        assert!(sink.flush(LIMIT));
        let writes = &gate.0.0.lock().unwrap().writes;
        assert_eq!(writes.iter().filter(|write| **write == long).count(), 4);
        assert!(writes.iter().any(|write| write.ends_with("lines=6\n")), "{writes:?}");
        assert!(writes.contains(&"room again\n".to_owned()));
    }

    #[test]
    fn the_last_line_waits_for_space_for_a_limited_time() {
        // keeper 15.0.2
        let gate = BlockingWriter::default();
        gate.set_blocked(true);
        let sink = Sink::with_capacity(1, gate.clone(), Style::new(LogFormat::Text, false));
        for _ in 0..3 {
            sink.push("line\n".to_owned());
        }
        assert!(!sink.finish("late\n".to_owned(), Duration::from_millis(20)));
        let opened = gate.clone();
        let opens = thread::spawn(move || opened.set_blocked(false));
        assert!(sink.finish("last\n".to_owned(), LIMIT));
        opens.join().unwrap();
        let writes = &gate.0.0.lock().unwrap().writes;
        assert!(writes.contains(&"last\n".to_owned()), "{writes:?}");
    }
}
