//! Logs on standard error and metrics over HTTP. What is logged and measured is left to the callers.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::process::exit;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::Chain;
use tracing::{Level, error};

use tracing_subscriber::layer::SubscriberExt as _;

mod console;
mod format;
mod layer;
mod metrics;
mod process;
mod series;
mod shared;
mod sink;
mod table;

pub use self::metrics::{Component, MetricsError, MetricsServer, on_scrape, serve_metrics, unix_seconds};
pub use self::shared::TABLE as SHARED_METRICS;
pub use self::table::{LabelValues, MetricKind, MetricLabel, MetricRow, MetricUnit, register_metrics};
pub use console::{ignore_broken_pipe, print_stderr, print_stdout};

use crate::notify;
use format::{LevelName, Style};
use layer::LineLayer;
use sink::Sink;

/// Maximum wait at exit for a log reader that does not read.
const FLUSH_LIMIT: Duration = Duration::from_millis(800);

/// The format of log lines (cli 17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `<time> <LEVEL> <message> key=value …`
    #[default]
    Text,
    /// One JSON object per line.
    Json,
    /// Go stolon's tab-separated form.
    Tab,
}

/// The log configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: Level,
    /// The format of lines.
    pub format: LogFormat,
    /// Whether the level is coloured; unset: if standard error is a terminal.
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

/// Writes the events of `tracing` to standard error from now on, in a background thread. Only the first call has an
/// effect.
///
/// Lines are queued in a bounded queue, so that a blocked reader never blocks the program (keeper 15.0). [`flush`]
/// writes out the queue; a program calls it before it exits.
pub fn init(config: &LogConfig) {
    let style = Style::new(
        config.format,
        config.color.unwrap_or_else(|| std::io::stderr().is_terminal()),
    );
    let log = LOG.get_or_init(|| Log {
        sink: Arc::new(Sink::start(std::io::stderr(), style)),
        style,
    });
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        flush(); // earlier lines come first
        default_hook(panic);
    }));
    let layer = LineLayer::new(Arc::clone(&log.sink), log.style, config.level);
    // Only a second call can fail, and it has no effect.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
}

/// Waits until every line logged so far is written, for less than a second.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.sink.flush(FLUSH_LIMIT);
    }
}

/// Writes a line of level FATAL after all earlier lines, reports it to systemd, and exits with status 1 (cli 17.2).
pub fn fatal(message: impl Display) -> ! {
    let message = message.to_string();
    log_and_exit(&message, &[], &message)
}

/// Like [`fatal`], with the error and its causes in the field `error`.
pub fn fatal_error(message: impl Display, error: &(dyn std::error::Error + 'static)) -> ! {
    let (message, causes) = (message.to_string(), Chain(error).to_string());
    let reason = format!("{message}: {causes}");
    log_and_exit(&message, &[("error", causes.into())], &reason)
}

/// Like [`fatal`], with a line for each message, all but the last of level ERROR. systemd gets all of them on one line.
pub fn fatal_lines<'a>(messages: impl IntoIterator<Item = &'a str>) -> ! {
    let messages: Vec<&str> = messages.into_iter().collect();
    let (last, others) = messages.split_last().expect("there is a reason to end");
    others.iter().for_each(|message| error!("{message}"));
    log_and_exit(last, &[], &messages.join("; "))
}

/// `reason` is for systemd.
#[expect(
    clippy::disallowed_methods,
    reason = "a log line carries the time at which it was written"
)]
fn log_and_exit(message: &str, fields: &[(&str, serde_json::Value)], reason: &str) -> ! {
    // This also works before `init`.
    let fallback = Style::new(LogFormat::Text, std::io::stderr().is_terminal());
    let style = LOG.get().map_or(fallback, |log| log.style);
    let line = style.line(
        base::clock::wall_clock(),
        LevelName::Fatal,
        "daemon/telemetry.rs",
        message,
        fields,
    );
    match LOG.get() {
        Some(log) => drop(log.sink.finish(line, FLUSH_LIMIT)),
        // There is no place left to report that standard error is gone.
        None => drop(std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes())),
    }
    notify::report_failure(reason);
    exit(1)
}
