//! The `tracing` layer that turns events into lines for the sink: which events, and with which fields. The format of a
//! line is left to `format`.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::format::{LevelName, Style};
use super::sink::Sink;

/// The crates of this workspace, and the programs whose output is forwarded. Other crates are logged from `warn` on,
/// because the etcd client's messages would flood `debug`.
const OWN_CRATES: [&str; 20] = [
    "dist",
    "base",
    "model",
    "plan",
    "store",
    "daemon",
    "sentinel",
    "local_cluster",
    "keeper",
    "proxy",
    "ctl",
    "benches",
    "stolon_tests",
    "stolon_sentinel",
    "stolon_keeper",
    "stolon_proxy",
    "stolonctl",
    // output of PostgreSQL and its programs, forwarded by the keeper
    "postgres",
    "initdb",
    "pg_basebackup",
];

/// Spans around a whole program: their fields are left out, as they would be on every line.
const PROGRAM_SPANS: [&str; 3] = ["keeper", "sentinel", "proxy"];

pub(crate) struct LineLayer {
    sink: Arc<Sink>,
    style: Style,
    level: Level,
}

impl LineLayer {
    pub(crate) fn new(sink: Arc<Sink>, style: Style, level: Level) -> Self {
        Self { sink, style, level }
    }

    fn is_enabled(&self, metadata: &Metadata<'_>) -> bool {
        let crate_name = metadata.target().split("::").next().unwrap_or_default();
        let least = if OWN_CRATES.contains(&crate_name) {
            self.level
        } else {
            self.level.min(Level::WARN)
        };
        *metadata.level() <= least
    }
}

/// The fields of a span, stored with it for the events inside.
struct SpanFields(Vec<(&'static str, Value)>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.is_enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields.others));
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        record.record(&mut fields);
        if let Some(span) = context.span(id) {
            if let Some(known) = span.extensions_mut().get_mut::<SpanFields>() {
                known
                    .0
                    .retain(|(name, _)| !fields.others.iter().any(|(newer, _)| newer == name));
                known.0.append(&mut fields.others);
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a log line carries the time at which it was written"
    )]
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if !PROGRAM_SPANS.contains(&span.name()) {
                if let Some(SpanFields(outer)) = span.extensions().get::<SpanFields>() {
                    // inner fields take precedence, so that no name occurs twice in a JSON object
                    let is_new = |(name, _): &&(&str, Value)| !fields.others.iter().any(|(inner, _)| inner == name);
                    let outer: Vec<_> = outer.iter().filter(is_new).cloned().collect();
                    fields.others.extend(outer);
                }
            }
        }
        let source = source(metadata);
        let level = LevelName::of(*metadata.level());
        self.sink.push(self.style.line(
            base::clock::wall_clock(),
            level,
            &source,
            &fields.message,
            &fields.others,
        ));
    }
}

/// Returns the last directory, file and line of the code that logs (cli 17.1).
fn source(metadata: &Metadata<'_>) -> String {
    let path = metadata.file().unwrap_or(metadata.target());
    let mut parts = path.rsplit('/').filter(|part| *part != "src");
    let file = parts.next().unwrap_or(path);
    let line = metadata.line().unwrap_or(0);
    match parts.next() {
        Some(directory) => format!("{directory}/{file}:{line}"),
        None => format!("{file}:{line}"),
    }
}

/// The message and the other fields of an event, or the fields of a span.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        self.others.push((field.name(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string fails only if the value's own formatting does; then the message is incomplete.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.push(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value)
        } else {
            self.push(field, value.into())
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, base::Chain(value).to_string().into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.push(field, value.to_string().into());
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push(field, value.to_string().into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;
    use std::time::Duration;

    use tracing::{debug, info, info_span, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::LogFormat;
    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Returns the lines that `events` logs, without the times.
    fn logged(level: Level, format: LogFormat, events: impl FnOnce()) -> Vec<String> {
        let seen = Captured::default();
        let style = Style::new(format, false);
        let sink = Arc::new(Sink::start(seen.clone(), style));
        let layer = LineLayer::new(Arc::clone(&sink), style, level);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
        assert!(sink.flush(Duration::from_secs(10)));
        let text = String::from_utf8(seen.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| line.split_once([' ', '\t']).unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn messages_and_fields_keep_their_text_and_order() {
        let lines = logged(Level::INFO, LogFormat::Text, || {
            info!(db = "", cdDB = %"2a87ea79", "current db UID different than cluster data db UID");
            warn!(count = 3, ok = true, error = %"no such file", "odd");
            debug!("not logged");
        });
        assert_eq!(
            lines,
            [
                "INFO current db UID different than cluster data db UID db= cdDB=2a87ea79",
                "WARN odd count=3 ok=true error=\"no such file\"",
            ]
        );
    }

    #[test]
    fn fields_of_inner_spans_follow_those_of_the_whole_program_do_not() {
        let lines = logged(Level::INFO, LogFormat::Text, || {
            let _keeper = info_span!("keeper", uid = "k1").entered();
            info!("starting database");
            let _conn = info_span!("conn", id = 7).entered();
            info!(why = "eof", "closed");
            info!(id = 8, "followed");
        });
        assert_eq!(
            lines,
            [
                "INFO starting database",
                "INFO closed why=eof id=7",
                "INFO followed id=8"
            ]
        );
    }

    #[test]
    fn other_crates_are_logged_from_warnings_on() {
        let lines = logged(Level::DEBUG, LogFormat::Text, || {
            debug!("own");
            info!(target: "h2::codec", "chatter");
            warn!(target: "h2::codec", "fault");
        });
        assert_eq!(lines, ["DEBUG own", "WARN fault"]);
    }

    #[test]
    fn the_format_tab_shows_directory_file_and_line() {
        let lines = logged(Level::INFO, LogFormat::Tab, || info!("here"));
        let mut columns = lines[0].split('\t');
        assert_eq!(columns.next(), Some("INFO"));
        let source = columns.next().unwrap();
        assert!(source.starts_with("telemetry/layer.rs:"), "{source}");
        assert_eq!(columns.next(), Some("here"));
    }

    #[test]
    fn every_crate_of_the_workspace_is_logged_at_the_chosen_level() {
        let manifest = include_str!("../../../../Cargo.toml");
        let (_, members) = manifest.split_once("members = [").unwrap();
        let (members, _) = members.split_once(']').unwrap();
        for member in members.split(',').map(|member| member.trim().trim_matches('"')) {
            let name = member.rsplit('/').next().unwrap();
            let crate_name = if name == "tests" { "stolon_tests" } else { name };
            assert!(OWN_CRATES.contains(&crate_name), "{crate_name}");
        }
    }
}
