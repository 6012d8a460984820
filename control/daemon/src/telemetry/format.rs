//! Formats log lines, in each of the formats (cli 17.1). The time is passed in.

use std::fmt::Write as _;

use base::is_printable;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::LogFormat;

/// The name of a level in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LevelName {
    Debug,
    Info,
    Warn,
    Error,
    /// The last line of a program that exits with an error.
    Fatal,
}

impl LevelName {
    pub(crate) fn of(level: tracing::Level) -> Self {
        match level {
            tracing::Level::ERROR => Self::Error,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }

    fn color(self) -> &'static str {
        match self {
            Self::Debug => "\x1b[35m",
            Self::Info => "\x1b[34m",
            Self::Warn => "\x1b[33m",
            Self::Error | Self::Fatal => "\x1b[31m",
        }
    }
}

/// The format of lines, and whether the level is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    format: LogFormat,
    color: bool,
}

impl Style {
    /// JSON is never coloured.
    pub(crate) fn new(format: LogFormat, color: bool) -> Self {
        Self {
            format,
            color: color && format != LogFormat::Json,
        }
    }

    /// Returns the line with its newline and without other control characters (keeper 15.0). `now` is nanoseconds since 1970; `source` is
    /// directory, file and line of the code, which the format `tab` shows.
    pub(crate) fn line(
        self,
        now: i128,
        level: LevelName,
        source: &str,
        message: &str,
        fields: &[(&str, Value)],
    ) -> String {
        let mut line = String::with_capacity(160);
        let time = local_time(now);
        match self.format {
            LogFormat::Text => self.push_text(&mut line, &time, level, message, fields),
            LogFormat::Tab => self.push_tab(&mut line, &time, level, source, message, fields),
            LogFormat::Json => push_object(&mut line, &time, level, message, fields),
        }
        line.push('\n');
        line
    }

    fn push_text(self, line: &mut String, time: &str, level: LevelName, message: &str, fields: &[(&str, Value)]) {
        line.push_str(time);
        line.push(' ');
        self.push_level(line, level);
        line.push(' ');
        push_ascii(line, message);
        for (name, value) in fields {
            line.push(' ');
            push_ascii(line, name);
            line.push('=');
            push_text_value(line, value);
        }
    }

    fn push_tab(
        self,
        line: &mut String,
        time: &str,
        level: LevelName,
        source: &str,
        message: &str,
        fields: &[(&str, Value)],
    ) {
        line.push_str(time);
        line.push('\t');
        self.push_level(line, level);
        line.push('\t');
        push_ascii(line, source);
        line.push('\t');
        push_ascii(line, message);
        if fields.is_empty() {
            return;
        }
        line.push_str("\t{");
        for (place, (name, value)) in fields.iter().enumerate() {
            line.push_str(if place == 0 { "" } else { ", " });
            push_json_string(line, name);
            line.push_str(": ");
            push_json(line, value);
        }
        line.push('}');
    }

    fn push_level(self, line: &mut String, level: LevelName) {
        if self.color {
            line.push_str(level.color());
        }
        line.push_str(level.name());
        if self.color {
            line.push_str("\x1b[0m");
        }
    }
}

/// Writes a JSON object. A field that has the name of a part of every line gets another one.
fn push_object(line: &mut String, time: &str, level: LevelName, message: &str, fields: &[(&str, Value)]) {
    line.push_str("{\"time\":");
    push_json_string(line, time);
    line.push_str(",\"level\":");
    push_json_string(line, level.name());
    line.push_str(",\"message\":");
    push_json_string(line, message);
    for (name, value) in fields {
        line.push(',');
        if matches!(*name, "time" | "level" | "message") {
            push_json_string(line, &format!("field.{name}"));
        } else {
            push_json_string(line, name);
        }
        line.push(':');
        push_json(line, value);
    }
    line.push('}');
}

/// Formats a time as `2006-01-02T15:04:05.000Z0700`: milliseconds, `Z` or an offset without colon (cli 17.1).
fn local_time(now: i128) -> String {
    let time = Timestamp::from_nanosecond(now)
        .unwrap_or_default()
        .to_zoned_datetime(TimeZone::system());
    if time.offset().is_zero() {
        time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
    } else {
        time.strftime("%Y-%m-%dT%H:%M:%S%.3f%z").to_string()
    }
}

/// Writes a value in the format `text`: unquoted when it is unambiguous, else as a JSON string. An empty value is
/// unquoted, as in `db= cdDB=2a87ea79`.
fn push_text_value(line: &mut String, value: &Value) {
    match value {
        Value::String(text) => {
            let bare = text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'));
            if bare {
                line.push_str(text)
            } else {
                push_json_string(line, text)
            }
        }
        other => push_json(line, other),
    }
}

fn push_json(line: &mut String, value: &Value) {
    match value {
        Value::String(text) => push_json_string(line, text),
        other => push_ascii(line, &other.to_string()),
    }
}

fn push_json_string(line: &mut String, text: &str) {
    line.push('"');
    for char in text.chars() {
        match char {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            other => push_char(line, other),
        }
    }
    line.push('"');
}

fn push_ascii(line: &mut String, text: &str) {
    for char in text.chars() {
        push_char(line, char);
    }
}

/// Writes the character, or its JSON escape when it is not printable.
fn push_char(line: &mut String, char: char) {
    match char {
        '\n' => line.push_str("\\n"),
        '\r' => line.push_str("\\r"),
        '\t' => line.push_str("\\t"),
        char if is_printable(char) => line.push(char),
        _ => {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, color: bool, level: LevelName, message: &str, fields: &[(&str, Value)]) -> String {
        let line = Style::new(format, color).line(1_700_000_000_123_456_789, level, "src/keeper.rs:9", message, fields);
        let (time, rest) = match format {
            LogFormat::Json => line.split_at(r#"{"time":"2023-11-14T22:13:20.123Z""#.len()),
            _ => line.split_at("2023-11-14T22:13:20.123Z".len()),
        };
        // The machine's time zone is not known here; the milliseconds are.
        assert!(time.contains(".123"), "{line}");
        rest.to_owned()
    }

    #[test]
    fn text_values_are_quoted_only_when_they_need_it() {
        let text = |fields: &[(&str, Value)]| line(LogFormat::Text, false, LevelName::Info, "a message", fields);
        assert_eq!(text(&[]), " INFO a message\n");
        assert_eq!(
            text(&[("db", "".into()), ("cdDB", "2a87ea79".into())]),
            " INFO a message db= cdDB=2a87ea79\n"
        );
        assert_eq!(
            text(&[("n", 7.into()), ("ok", true.into())]),
            " INFO a message n=7 ok=true\n"
        );
        assert_eq!(
            text(&[("address", "127.0.0.1:5432".into())]),
            " INFO a message address=127.0.0.1:5432\n"
        );
        assert_eq!(
            text(&[("error", "no such \"x\"\n".into())]),
            " INFO a message error=\"no such \\\"x\\\"\\n\"\n"
        );
        assert_eq!(text(&[("s", "a=b".into())]), " INFO a message s=\"a=b\"\n");
    }

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        // keeper 15.0.3
        assert_eq!(
            line(
                LogFormat::Text,
                false,
                LevelName::Warn,
                "käse\n",
                &[("name", "🐘\u{7f}\u{e0001}".into())]
            ),
            " WARN käse\\n name=\"🐘\\u007f\\udb40\\udc01\"\n"
        );
    }

    #[test]
    fn the_format_tab_is_that_of_go_stolon() {
        // cli 17.1
        assert_eq!(
            line(
                LogFormat::Tab,
                false,
                LevelName::Info,
                "keeper uid",
                &[("uid", "keeper01".into()), ("n", 1.into())]
            ),
            "\tINFO\tsrc/keeper.rs:9\tkeeper uid\t{\"uid\": \"keeper01\", \"n\": 1}\n"
        );
        assert_eq!(
            line(LogFormat::Tab, true, LevelName::Fatal, "m", &[]),
            "\t\x1b[31mFATAL\x1b[0m\tsrc/keeper.rs:9\tm\n"
        );
    }

    #[test]
    fn the_format_json_parses_and_is_never_coloured() {
        let text = line(
            LogFormat::Json,
            true,
            LevelName::Error,
            "a \"b\"",
            &[("level", "x".into()), ("n", 2.into())],
        );
        assert_eq!(
            text,
            ",\"level\":\"ERROR\",\"message\":\"a \\\"b\\\"\",\"field.level\":\"x\",\"n\":2}\n"
        );
    }

    #[test]
    fn only_the_level_is_coloured() {
        for (level, color) in [
            (LevelName::Debug, 35),
            (LevelName::Info, 34),
            (LevelName::Warn, 33),
            (LevelName::Error, 31),
        ] {
            let text = line(LogFormat::Text, true, level, "m", &[("k", "v".into())]);
            assert_eq!(text, format!(" \x1b[{color}m{}\x1b[0m m k=v\n", level.name()));
        }
    }

    #[test]
    fn times_have_milliseconds_and_an_offset_without_colon() {
        let time = local_time(1_700_000_000_000_000_000);
        assert!(
            time.ends_with(".000Z") || time.len() == "2023-11-14T22:13:20.000+0100".len(),
            "{time}"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_one_printable_line_and_can_be_read_back(message: String, value: String) {
            for format in [LogFormat::Text, LogFormat::Tab, LogFormat::Json] {
                let line = line(format, false, LevelName::Info, &message, &[("k", value.as_str().into())]);
                let separators = if format == LogFormat::Tab { line.matches('\t').count() } else { 0 };
                let text = line.strip_suffix('\n').unwrap();
                let unprintable = text.chars().filter(|c| !is_printable(*c)).count();
                assert_eq!(unprintable, separators, "{line:?}");
            }
            let style = Style::new(LogFormat::Json, false);
            let text = style.line(0, LevelName::Info, "", &message, &[("k", value.as_str().into())]);
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((read["message"].as_str(), read["k"].as_str()), (Some(message.as_str()), Some(value.as_str())));
        }
    }
}
