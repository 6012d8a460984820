//! What a program tells about itself: log lines on standard error and metrics over HTTP. What is worth telling is
//! left to those who tell it.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::process::exit;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::layer::SubscriberExt as _;

mod chain;
mod console;
mod format;
mod http;
mod layer;
mod process;
mod sink;

pub use chain::Chain;
pub use console::{complain, reader_gone_is_fine, say};
pub use http::{Component, MetricsError, MetricsServer, before_scrape, serve_metrics};

use format::{LevelName, Style};
use layer::LineLayer;
use sink::Sink;

/// How long the end of a program waits for a reader of its log that does not read.
const FLUSH_LIMIT: Duration = Duration::from_millis(800);

/// The form of log lines (cli 17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `<time> <LEVEL> <message> key=value …`
    #[default]
    Text,
    /// One JSON object per line.
    Json,
    /// The reference's tab-separated form.
    Tab,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: Level,
    /// The form of lines.
    pub format: LogFormat,
    /// Whether the level is coloured; unset: when standard error is a terminal.
    pub color: Option<bool>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: Level::INFO,
            format: LogFormat::Text,
            color: None,
        }
    }
}

struct Log {
    sink: Arc<Sink>,
    style: Style,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Sends the events of `tracing` to standard error from now on, in the background. The first call counts.
///
/// Lines wait in a bounded queue, so that a reader that stops reading stops nothing else (keeper 15.0); [`flush`]
/// writes out what waits, and a program calls it before it ends.
pub fn init(config: &LogConfig) {
    let style = Style::new(
        config.format,
        config.color.unwrap_or_else(|| std::io::stderr().is_terminal()),
    );
    let log = LOG.get_or_init(|| Log {
        sink: Arc::new(Sink::start(std::io::stderr(), style)),
        style,
    });
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush(); // what led to it comes first
        told(panic);
    }));
    let layer = LineLayer::new(Arc::clone(&log.sink), log.style, config.level);
    // Only a second call can fail, and the first one counts.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
}

/// Waits until every line logged so far is written, for less than a second.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sink.flush(FLUSH_LIMIT);
    }
}

/// Writes a line of level FATAL and all lines before it, and ends the process with status 1 (cli 17.2).
pub fn fatal(message: impl Display) -> ! {
    end_with(&message.to_string(), &[])
}

/// Like [`fatal`], with the error and its causes in the field `error`.
pub fn fatal_because(message: impl Display, error: &(dyn std::error::Error + 'static)) -> ! {
    end_with(&message.to_string(), &[("error", Chain(error).to_string().into())])
}

#[expect(
    clippy::disallowed_methods,
    reason = "a log line carries the time at which it was written"
)]
fn end_with(message: &str, fields: &[(&str, serde_json::Value)]) -> ! {
    // Before `init`, and without one, the line goes out all the same.
    let fallback = Style::new(LogFormat::Text, std::io::stderr().is_terminal());
    let style = LOG.get().map_or(fallback, |log| log.style);
    let line = style.line(
        crate::clock::wall_clock(),
        LevelName::Fatal,
        "control/telemetry.rs",
        message,
        fields,
    );
    match LOG.get() {
        Some(log) => drop(log.sink.finish(line, FLUSH_LIMIT)),
        // There is nobody left to tell that standard error is gone.
        None => drop(std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes())),
    }
    exit(1)
}
