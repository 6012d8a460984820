//! Standard output of the playground: one line for each step with the time it took, and then the live status.

use std::io::{IsTerminal, Write};

use base::Clock;
use base::clock::Boottime;

/// Standard output. Write errors are ignored: without a reader the playground still has to clean up.
#[derive(Debug)]
pub(super) struct Screen {
    clock: Clock,
    terminal: bool,
    step: Option<ProgressLine>,
    /// Lines of the live status above the cursor.
    status_lines: usize,
}

#[derive(Debug)]
struct ProgressLine {
    text: String,
    started: Boottime,
    /// Whole seconds that have been printed.
    shown_seconds: u64,
}

impl Screen {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            terminal: std::io::stdout().is_terminal(),
            step: None,
            status_lines: 0,
        }
    }

    /// Whether standard output is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints a line that is not a step.
    pub(super) fn print(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Starts a step: prints its text, which stays until the step is finished.
    pub(super) fn begin_step(&mut self, text: impl Into<String>) {
        let step = ProgressLine {
            text: text.into(),
            started: self.clock.now(),
            shown_seconds: 0,
        };
        self.write(&if self.terminal {
            progress_text(&step, 0)
        } else {
            format!("{} ", step.text)
        });
        self.step = Some(step);
    }

    /// Updates the time shown for the current step. To be called several times a second.
    pub(super) fn update_step(&mut self) {
        let Some(step) = &mut self.step else { return };
        let seconds = self.clock.now().since(step.started).as_secs();
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

    /// Finishes the current step and prints how long it took.
    pub(super) fn finish_step(&mut self, detail: &str) {
        let Some(step) = self.step.take() else { return };
        let took = self.clock.now().since(step.started);
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
    }

    /// Ends the line of a step that was not finished.
    pub(super) fn abandon_step(&mut self) {
        if self.step.take().is_some() {
            self.write("\n");
        }
    }

    /// Prints `lines` over the ones printed last. Only for a terminal.
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
        // See the type: write errors are ignored.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Returns the line of an unfinished step, cut to one line so that it can be overwritten.
fn progress_text(step: &ProgressLine, seconds: u64) -> String {
    let line = format!("[{seconds:5} …  ] {}", step.text);
    let fits: String = line.chars().take(columns()).collect();
    format!("\r\x1b[2K{fits}")
}

/// Returns the length of a line that the terminal does not wrap.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 20)
        .unwrap_or(80)
        - 1
}
