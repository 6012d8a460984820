//! What a person sees: one line a step with the time it took, moving while it lasts, and then the live status.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use control::clock::Boottime;

/// Standard output as the playground uses it. A reader that has gone away stops nothing: what is left to do then is
/// to clean up.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    step: Option<ProgressLine>,
    /// Lines of the live status that stand above the cursor.
    status_lines: usize,
}

#[derive(Debug)]
struct ProgressLine {
    text: String,
    started: Boottime,
    /// Whole seconds already shown as passing.
    shown_seconds: u64,
}

impl Screen {
    /// The screen, which is a terminal or is not.
    pub(super) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            step: None,
            status_lines: 0,
        }
    }

    /// Whether somebody looks at it.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a line that is not a step.
    pub(super) fn print(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// A step begins: its text stands there until it is done.
    pub(super) fn begin_step(&mut self, text: impl Into<String>, now: Boottime) {
        let step = ProgressLine {
            text: text.into(),
            started: now,
            shown_seconds: 0,
        };
        self.write(&if self.terminal {
            progress_text(&step, 0)
        } else {
            format!("{} ", step.text)
        });
        self.step = Some(step);
    }

    /// Time passes within a step: to be called a few times a second.
    pub(super) fn update_step(&mut self, now: Boottime) {
        let Some(step) = &mut self.step else { return };
        let seconds = now.since(step.started).as_secs();
        if seconds > step.shown_seconds {
            step.shown_seconds = seconds;
            let text = if self.terminal {
                progress_text(step, seconds)
            } else {
                ".".to_owned()
            };
            self.write(&text);
        }
    }

    /// The step is done; gives how long it took.
    pub(super) fn finish_step(&mut self, detail: &str, now: Boottime) -> Duration {
        let Some(step) = self.step.take() else {
            return Duration::ZERO;
        };
        let took = now.since(step.started);
        let detail = if detail.is_empty() {
            String::new()
        } else {
            format!(": {detail}")
        };
        self.write(&if self.terminal {
            format!("\r\x1b[2K[{:7.2} s] {}{detail}\n", took.as_secs_f64(), step.text)
        } else if detail.is_empty() {
            format!("{:.2} s\n", took.as_secs_f64())
        } else {
            format!("{:.2} s{detail}\n", took.as_secs_f64())
        });
        took
    }

    /// The step has not been done: its line ends, for what is said next.
    pub(super) fn abandon_step(&mut self) {
        if self.step.take().is_some() {
            self.write("\n");
        }
    }

    /// Draws `lines` where the last ones drawn are. Only on a terminal.
    pub(super) fn redraw_status(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.status_lines > 0 {
            text.push_str(&format!("\x1b[{}A", self.status_lines));
        }
        let columns = columns();
        for line in lines {
            let fits: String = line.chars().take(columns).collect();
            text.push_str(&format!("\r\x1b[2K{fits}\n"));
        }
        text.push_str("\x1b[0J");
        self.status_lines = lines.len();
        self.write(&text);
    }

    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // nobody reads any more: nothing to be done about that here
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// The line of a step that lasts, cut so that it can be written over.
fn progress_text(step: &ProgressLine, seconds: u64) -> String {
    let line = format!("[{seconds:5} …  ] {}", step.text);
    let fits: String = line.chars().take(columns()).collect();
    format!("\r\x1b[2K{fits}")
}

/// How many columns a line may have without being wrapped.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 20)
        .unwrap_or(80)
        - 1
}
