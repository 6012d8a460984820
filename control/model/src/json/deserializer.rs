//! Typed values from a [`Json`], by the rules of Go's decoder (data-model J-6 to J-10 and J-12).

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Json;

/// A value that does not fit its field, and its path.
#[derive(Debug)]
pub(super) struct TypeMismatch {
    pub(super) path: String,
    pub(super) message: String,
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
pub(super) struct JsonDeserializer<'a>(pub(super) &'a Json);

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
            Json::Object(members) => visitor.visit_map(Members::new(normalise_members(members, fields))),
            _ => self.mismatch("an object"),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
        ignored_any
    }
}

/// The members of an object that a type has or a map holds.
type ReadMembers<'a> = Vec<(&'a str, Cow<'a, Json>)>;

/// Returns the members that a type has, each once and in its own spelling. Names match case-insensitively and the last
/// one counts (J-6); repeated objects are merged (J-12); unknown members are dropped (J-7).
fn normalise_members<'a>(members: &'a [(String, Json)], fields: &'static [&'static str]) -> ReadMembers<'a> {
    let mut kept: ReadMembers<'a> = Vec::new();
    for (name, value) in members {
        let Some(field) = fields.iter().find(|field| field.eq_ignore_ascii_case(name)) else {
            continue;
        };
        match (kept.iter_mut().find(|(seen, _)| seen == field), value) {
            (None, _) => kept.push((field, Cow::Borrowed(value))),
            (Some((_, earlier)), Json::Object(later)) if matches!(**earlier, Json::Object(_)) => {
                if let Json::Object(earlier) = earlier.to_mut() {
                    earlier.extend(later.iter().cloned());
                }
            }
            (Some((_, earlier)), _) => *earlier = Cow::Borrowed(value),
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

struct Members<'a> {
    rest: std::vec::IntoIter<(&'a str, Cow<'a, Json>)>,
    /// The member whose name was read last.
    current: Option<(&'a str, Cow<'a, Json>)>,
}

impl<'a> Members<'a> {
    fn new(members: ReadMembers<'a>) -> Self {
        Self {
            rest: members.into_iter(),
            current: None,
        }
    }

    /// Returns the members of a map. Its names are data, so case matters; of repeated names the last counts.
    fn of_map(members: &'a [(String, Json)]) -> Self {
        let member = |(name, value): &'a (String, Json)| (name.as_str(), Cow::Borrowed(value));
        Self::new(members.iter().map(member).collect())
    }
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = TypeMismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TypeMismatch> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else {
            return Ok(None);
        };
        seed.deserialize(NameDeserializer(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TypeMismatch> {
        let (name, value) = self.current.take().expect("serde asks for a value after its key");
        seed.deserialize(JsonDeserializer(&value))
            .map_err(|error| error.at(name))
    }
}

/// Deserializes the name of a member: a text, or a type around one.
struct NameDeserializer<'a>(&'a str);

impl<'de> Deserializer<'de> for NameDeserializer<'_> {
    type Error = TypeMismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeMismatch> {
        visitor.visit_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeMismatch> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
