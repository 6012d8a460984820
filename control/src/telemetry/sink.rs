//! The queue in front of the log's reader, and the thread that empties it. The rest of the program never waits for
//! that reader.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use super::format::{LevelName, Style};

/// Lines that may wait for the reader: at some 150 bytes a line, about a megabyte.
const QUEUE_LINES: usize = 8192;
/// And no more bytes than these: what PostgreSQL prints is passed on, and its lines may hold whole statements.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Between two looks for room in a full queue.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

enum Entry {
    Line(String),
    /// Answered once all before it is written.
    Flush(SyncSender<()>),
}

/// Takes lines and never blocks.
pub(crate) struct Sink {
    queue: SyncSender<Entry>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Lines that found no room since that was last told.
    lost: AtomicU64,
    /// What the lines in the queue take.
    bytes: AtomicUsize,
}

impl Sink {
    /// Starts the writing thread. `style` is for the line that tells how many were lost.
    pub(crate) fn start(out: impl Write + Send + 'static, style: Style) -> Self {
        Self::with_room(QUEUE_LINES, out, style)
    }

    fn with_room(lines: usize, out: impl Write + Send + 'static, style: Style) -> Self {
        let (queue, entries) = sync_channel(lines);
        let counts = Arc::<Counts>::default();
        let seen = Arc::clone(&counts);
        let write = move || write_out(&entries, out, &seen, style);
        // Without its thread the queue fills up and lines are lost, which is all that can be done about it.
        let _ = thread::Builder::new().name("log".to_owned()).spawn(write);
        Self { queue, counts }
    }

    /// Queues a line with its newline; when the queue is full the line is counted instead.
    pub(crate) fn push(&self, line: String) {
        let bytes = line.len();
        let waiting = self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting.saturating_add(bytes) > QUEUE_BYTES || self.queue.try_send(Entry::Line(line)).is_err() {
            self.counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines queued so far are written, for at most `limit`. False when they are not.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let (done, written) = sync_channel(1);
        let left = self.queue_when_there_is_room(Entry::Flush(done), limit);
        left.is_some_and(|left| written.recv_timeout(left).is_ok())
    }

    /// Queues the last line of a program, behind all others, and waits until it is written, for at most `limit`.
    /// False when it is not.
    pub(crate) fn finish(&self, line: String, limit: Duration) -> bool {
        self.counts.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let left = self.queue_when_there_is_room(Entry::Line(line), limit);
        left.is_some_and(|left| self.flush(left))
    }

    /// What is left of the limit once there was room; nothing when there was none in time.
    fn queue_when_there_is_room(&self, mut entry: Entry, limit: Duration) -> Option<Duration> {
        let mut left = limit;
        loop {
            match self.queue.try_send(entry) {
                Ok(()) => return Some(left),
                Err(TrySendError::Disconnected(_)) => return None,
                Err(TrySendError::Full(back)) => entry = back,
            }
            if left.is_zero() {
                return None;
            }
            let pause = LOOK_AGAIN_AFTER.min(left);
            thread::sleep(pause); // the reader is slow: give it the rest of the limit
            left -= pause;
        }
    }
}

/// Ends when the sink is gone. A line is one write, whole (keeper 15.0.2).
#[expect(
    clippy::disallowed_methods,
    reason = "a log line carries the time at which it was written"
)]
fn write_out(entries: &Receiver<Entry>, mut out: impl Write, counts: &Counts, style: Style) {
    for entry in entries {
        match entry {
            // A reader that went away is no reason to stop: another may never come, and nobody could be told.
            Entry::Line(line) => {
                let _ = out.write_all(line.as_bytes());
                counts.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Entry::Flush(done) => {
                let _ = out.flush();
                // Whoever asked may have stopped waiting.
                let _ = done.try_send(());
            }
        }
        let lines = counts.lost.swap(0, Ordering::Relaxed);
        if lines > 0 {
            let now = crate::clock::wall_clock();
            let fields = [("lines", lines.into())];
            let told = style.line(
                now,
                LevelName::Warn,
                "telemetry/sink.rs",
                "log lines lost, their reader is too slow",
                &fields,
            );
            let _ = out.write_all(told.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use super::super::LogFormat;
    use super::*;

    /// Writes wait while the gate is shut.
    #[derive(Clone, Default)]
    struct Gate(Arc<(Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        shut: bool,
        writes: Vec<String>,
    }

    impl Gate {
        fn set(&self, shut: bool) {
            self.0.0.lock().unwrap().shut = shut;
            self.0.1.notify_all();
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let state = self.0.0.lock().unwrap();
            let mut state = self.0.1.wait_while(state, |state| state.shut).unwrap();
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
        let gate = Gate::default();
        let sink = Sink::start(gate.clone(), Style::new(LogFormat::Text, false));
        sink.push("one\n".to_owned());
        sink.push("two\n".to_owned());
        assert!(sink.flush(LIMIT));
        assert_eq!(gate.0.0.lock().unwrap().writes, ["one\n", "two\n"]);
    }

    #[test]
    fn a_reader_that_stops_stops_nobody_and_is_told_later_what_it_missed() {
        // keeper 15.0.6
        let gate = Gate::default();
        gate.set(true);
        let sink = Sink::with_room(2, gate.clone(), Style::new(LogFormat::Text, false));
        for _ in 0..10 {
            sink.push("line\n".to_owned());
        }
        assert!(!sink.flush(Duration::from_millis(20)));
        gate.set(false);
        assert!(sink.flush(LIMIT));
        let writes = &gate.0.0.lock().unwrap().writes;
        let lines = writes.iter().filter(|write| *write == "line\n").count();
        let told: Vec<_> = writes.iter().filter(|write| write.contains("log lines lost")).collect();
        let lost: usize = told
            .iter()
            .filter_map(|line| line.trim().rsplit('=').next()?.parse::<usize>().ok())
            .sum();
        assert_eq!(lines + lost, 10, "{writes:?}");
    }

    #[test]
    fn long_lines_fill_the_queue_by_their_bytes() {
        let gate = Gate::default();
        gate.set(true);
        let sink = Sink::start(gate.clone(), Style::new(LogFormat::Text, false));
        let long = "x".repeat(QUEUE_BYTES / 4 - 1) + "\n";
        for _ in 0..10 {
            sink.push(long.clone());
        }
        gate.set(false);
        assert!(sink.flush(LIMIT));
        sink.push("room again\n".to_owned());
        assert!(sink.flush(LIMIT));
        let writes = &gate.0.0.lock().unwrap().writes;
        assert_eq!(writes.iter().filter(|write| **write == long).count(), 4);
        assert!(writes.iter().any(|write| write.ends_with("lines=6\n")), "{writes:?}");
        assert!(writes.contains(&"room again\n".to_owned()));
    }

    #[test]
    fn the_last_line_waits_for_room_and_nobody_waits_for_ever() {
        // keeper 15.0.2
        let gate = Gate::default();
        gate.set(true);
        let sink = Sink::with_room(1, gate.clone(), Style::new(LogFormat::Text, false));
        for _ in 0..3 {
            sink.push("line\n".to_owned());
        }
        assert!(!sink.finish("late\n".to_owned(), Duration::from_millis(20)));
        let opened = gate.clone();
        let opens = thread::spawn(move || opened.set(false));
        assert!(sink.finish("last\n".to_owned(), LIMIT));
        opens.join().unwrap();
        let writes = &gate.0.0.lock().unwrap().writes;
        assert!(writes.contains(&"last\n".to_owned()), "{writes:?}");
    }
}
