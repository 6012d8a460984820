//! The JSON dialect of the stored documents: read as Go's `encoding/json` reads them and written byte for byte as it
//! writes them (data-model 1). The rules of typed values are left to `deserializer`, the escapes to `escapes`.

mod deserializer;
mod escapes;

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use self::deserializer::{JsonDeserializer, TypeMismatch};
use self::escapes::EscapingFormatter;

/// A JSON value as read: object members in document order, duplicates included.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// An integer.
    Int(i128),
    /// Any other number, including integers out of range: refused where an integer is expected (J-10).
    Float(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

/// Why a text is not the expected document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON; the message ends with line and column.
    #[error("{message}")]
    Syntax {
        /// What is wrong, with line and column.
        message: String,
        /// 1 for the first line; 0 when unknown.
        line: usize,
        /// 1 for the first byte of a line.
        column: usize,
        /// The text ended inside the document.
        at_end: bool,
    },
    /// JSON, but a value does not fit its field.
    #[error("{path}: {message}")]
    Type {
        /// The path of the value, such as `cluster.spec.maxStandbys`.
        path: String,
        /// What was expected and what was found.
        message: String,
    },
}

/// Reads a document by the rules J-6 to J-12.
///
/// # Errors
/// The text is not JSON, something follows the document, or a value does not fit its field.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    Json::parse(text)?.decode()
}

/// Writes the compact form: no whitespace (J-1, J-3).
pub fn to_compact<T: Serialize>(value: &T) -> String {
    write(value, EscapingFormatter(CompactFormatter))
}

/// Writes the indented form: one tab a level, no newline at the end (J-2).
pub fn to_pretty<T: Serialize>(value: &T) -> String {
    write(value, EscapingFormatter(PrettyFormatter::with_indent(b"\t")))
}

impl Json {
    /// Reads any JSON text.
    ///
    /// # Errors
    /// The text is not JSON, is not UTF-8, or something follows the document (J-11).
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        // Invalid UTF-8 must not make the whole document unreadable: it reads as U+FFFD (J-3).
        serde_json::from_str(&String::from_utf8_lossy(text)).map_err(|error| JsonError::Syntax {
            message: error.to_string(),
            line: error.line(),
            column: error.column(),
            at_end: error.is_eof(),
        })
    }

    /// Deserializes a value of a type from this one.
    ///
    /// # Errors
    /// A value does not fit its field; the error names the field.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        T::deserialize(JsonDeserializer(self)).map_err(|TypeMismatch { path, message }| JsonError::Type {
            path: if path.is_empty() { "document".to_owned() } else { path },
            message,
        })
    }

    /// Returns the value as it would be written.
    pub fn of<T: Serialize>(value: &T) -> Self {
        Self::parse(to_compact(value).as_bytes()).expect("what was just written is JSON")
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number that is not a 64-bit integer",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

fn write<T: Serialize>(value: &T, formatter: impl Formatter) -> String {
    let mut bytes = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    value
        .serialize(&mut serializer)
        .expect("stored types have text keys and memory takes every byte");
    String::from_utf8(bytes).expect("the writer emits UTF-8")
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => serializer.serialize_u64(value),
                (_, Ok(value)) => serializer.serialize_i64(value),
                _ => serializer.serialize_i128(*value),
            },
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::String(value) => serializer.serialize_str(value),
            Self::Array(values) => values.serialize(serializer),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Int(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Int(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::String(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = items.next_element()? {
                    values.push(value);
                }
                Ok(Json::Array(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = entries.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(members))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
