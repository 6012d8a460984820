//! The JSON dialect of the stored documents: read as Go's `encoding/json` reads them and written byte for byte as it
//! writes them (data-model 1).

use std::fmt;
use std::io;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter};

/// A JSON value as read: object members in document order, duplicates included.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// An integer.
    Int(i128),
    /// Any other number, including integers out of range: rejected where an integer is expected (J-10).
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
    /// A value does not fit its field; the error says which.
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

    fn type_name(&self) -> &'static str {
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

/// Adds the escapes of Go's encoder (J-3) to a formatter.
struct EscapingFormatter<F>(F);

impl<F: Formatter> Formatter for EscapingFormatter<F> {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, found) in fragment.char_indices() {
            if matches!(found, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
                writer.write_all(&fragment.as_bytes()[plain..at])?;
                write!(writer, "\\u{:04x}", u32::from(found))?;
                plain = at + found.len_utf8();
            }
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::Backspace => writer.write_all(b"\\u0008"),
            CharEscape::FormFeed => writer.write_all(b"\\u000c"),
            CharEscape::Solidus => writer.write_all(b"/"),
            other => self.0.write_char_escape(writer, other),
        }
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
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

/// A value that does not fit its field, and its path.
#[derive(Debug)]
struct TypeMismatch {
    path: String,
    message: String,
}

impl TypeMismatch {
    fn at(mut self, step: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{step}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for TypeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TypeMismatch {}

impl de::Error for TypeMismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            path: String::new(),
            message: message.to_string(),
        }
    }
}

/// Deserializes typed values from a [`Json`] by the rules J-6 to J-10 and J-12.
struct JsonDeserializer<'a>(&'a Json);

impl JsonDeserializer<'_> {
    fn mismatch<T>(&self, wanted: &str) -> Result<T, TypeMismatch> {
        Err(de::Error::custom(format_args!(
            "expected {wanted}, found {}",
            self.0.type_name()
        )))
    }
}

macro_rules! read_integer {
    ($($method:ident $visit:ident $type:ty),+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
            match self.0 {
                Json::Null => visitor.$visit(0),
                Json::Int(value) => match <$type>::try_from(*value) {
                    Ok(value) => visitor.$visit(value),
                    Err(_) => Err(de::Error::custom(format_args!(
                        "{value} is out of range: {} to {}", <$type>::MIN, <$type>::MAX
                    ))),
                },
                _ => self.mismatch("an integer"),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for JsonDeserializer<'_> {
    type Error = TypeMismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match self.0 {
            Json::Null => visitor.visit_unit(),
            Json::Bool(value) => visitor.visit_bool(*value),
            Json::Int(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_u64(value),
                (_, Ok(value)) => visitor.visit_i64(value),
                _ => visitor.visit_i128(*value),
            },
            Json::Float(value) => visitor.visit_f64(*value),
            Json::String(value) => visitor.visit_str(value),
            Json::Array(values) => visitor.visit_seq(Items(values.iter().enumerate())),
            Json::Object(members) => visitor.visit_map(Members::of_map(members)),
        }
    }

    read_integer!(
        deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i64 visit_i64 i64
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match self.0 {
            Json::Null => visitor.visit_bool(false),
            Json::Bool(value) => visitor.visit_bool(*value),
            _ => self.mismatch("true or false"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match self.0 {
            Json::Null => visitor.visit_str(""),
            Json::String(value) => visitor.visit_str(value),
            _ => self.mismatch("a string"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match self.0 {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeMismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match self.0 {
            Json::Null => visitor.visit_seq(Items([].iter().enumerate())),
            Json::Array(values) => visitor.visit_seq(Items(values.iter().enumerate())),
            _ => self.mismatch("an array"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        match self.0 {
            Json::Null => visitor.visit_map(Members::of_map(&[])),
            Json::Object(members) => visitor.visit_map(Members::of_map(members)),
            _ => self.mismatch("an object"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeMismatch> {
        match self.0 {
            Json::Null => visitor.visit_map(Members::of_map(&[])),
            Json::Object(members) => visitor.visit_map(Members(normalise_members(members, fields).into_iter(), None)),
            _ => self.mismatch("an object"),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
        ignored_any
    }
}

/// Returns the members that a type has, each once and in its own spelling. Names match case-insensitively and the last
/// one counts (J-6); repeated objects are merged (J-12); unknown members are dropped (J-7).
fn normalise_members(members: &[(String, Json)], fields: &'static [&'static str]) -> Vec<(String, Json)> {
    let mut kept: Vec<(String, Json)> = Vec::new();
    for (name, value) in members {
        let Some(field) = fields.iter().find(|field| field.eq_ignore_ascii_case(name)) else {
            continue;
        };
        match kept.iter_mut().find(|(seen, _)| seen == field) {
            None => kept.push(((*field).to_owned(), value.clone())),
            Some((_, Json::Object(earlier))) if matches!(value, Json::Object(_)) => {
                if let Json::Object(later) = value {
                    earlier.extend(later.iter().cloned());
                }
            }
            Some((_, earlier)) => *earlier = value.clone(),
        }
    }
    kept
}

struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Json>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = TypeMismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TypeMismatch> {
        let Some((at, value)) = self.0.next() else {
            return Ok(None);
        };
        seed.deserialize(JsonDeserializer(value))
            .map(Some)
            .map_err(|error| error.at(&format!("[{at}]")))
    }
}

struct Members(std::vec::IntoIter<(String, Json)>, Option<(String, Json)>);

impl Members {
    /// Returns the members of a map. Its names are data, so case matters; of repeated names the last counts.
    fn of_map(members: &[(String, Json)]) -> Self {
        Self(Vec::from(members).into_iter(), None)
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = TypeMismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TypeMismatch> {
        let Some(member) = self.0.next() else {
            return Ok(None);
        };
        let name = Json::String(member.0.clone());
        self.1 = Some(member);
        seed.deserialize(JsonDeserializer(&name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TypeMismatch> {
        let (name, value) = self.1.take().expect("serde asks for a value after its key");
        seed.deserialize(JsonDeserializer(&value))
            .map_err(|error| error.at(&name))
    }
}
