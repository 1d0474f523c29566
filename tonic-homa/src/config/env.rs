//! Configurations from the environment: each variable is read as its key in a TOML file would be.

use std::env;
use std::ffi::OsString;
use std::fmt;

use serde::de::value::{Error as ValueError, MapDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::{ClientConfig, ConfigError, HomaOptions, ServerConfig, URI_VARIABLE};

const PREFIX: &str = "TONIC_HOMA_";

/// The key of [`HomaOptions`] in a configuration.
const TABLE: &str = "homa";

/// The value of [`URI_VARIABLE`].
pub(crate) fn uri_from_env() -> Result<String, ConfigError> {
    match env::var(URI_VARIABLE) {
        Ok(uri) if !uri.trim().is_empty() => Ok(uri.trim().into()),
        Ok(_) | Err(env::VarError::NotPresent) => Err(ConfigError::NoUri),
        Err(env::VarError::NotUnicode(_)) => Err(ConfigError::NotUnicode {
            variable: URI_VARIABLE.into(),
        }),
    }
}

/// A configuration of which another one can take over what it has set.
pub(super) trait Overlay: DeserializeOwned {
    /// Puts what `other` has in the place of what this has.
    fn put(&mut self, other: Self);

    /// One that has nothing but these.
    fn homa(options: HomaOptions) -> Self;
}

/// Puts what these variables say in the place of what `config` says.
pub(super) fn overlay<C: Overlay>(
    mut config: C,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<C, ConfigError> {
    for (name, value) in variables {
        // A name that is no text is none of ours.
        let Some((variable, key)) = name.to_str().and_then(|name| {
            let key = name.strip_prefix(PREFIX)?;
            Some((name, key))
        }) else {
            continue;
        };
        let key = known(key).ok_or_else(|| ConfigError::UnknownVariable {
            variable: variable.into(),
            known: all_variables(),
        })?;
        let value = value.into_string().map_err(|_| ConfigError::NotUnicode {
            variable: variable.into(),
        })?;
        let text = value.trim();
        if text.is_empty() {
            continue;
        }
        let read = if fields::<C>().contains(&key) {
            one(key, text)
        } else if fields::<HomaOptions>().contains(&key) {
            one(key, text).map(C::homa)
        } else {
            continue;
        };
        config.put(read.map_err(|error| ConfigError::Variable {
            variable: variable.into(),
            value: text.into(),
            reason: error.to_string(),
        })?);
    }
    Ok(config)
}

/// All keys that have a variable, on either side.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    let client = fields::<ClientConfig>();
    let server = fields::<ServerConfig>().iter();
    let server = server.filter(|key| !client.contains(key));
    client
        .iter()
        .chain(server)
        .filter(|key| **key != TABLE)
        .chain(fields::<HomaOptions>())
        .copied()
}

/// The variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

fn known(name: &str) -> Option<&'static str> {
    let upper = |key: &&str| key.to_ascii_uppercase() == name;
    keys().find(upper)
}

fn all_variables() -> String {
    let all: Vec<_> = keys().map(variable).collect();
    all.join(", ")
}

/// Reads a configuration that has one key.
fn one<C: DeserializeOwned>(key: &'static str, value: &str) -> Result<C, ValueError> {
    C::deserialize(MapDeserializer::new(std::iter::once((key, Text(value)))))
}

/// The value of a variable, which becomes what its key asks for.
struct Text<'a>(&'a str);

impl<'de> IntoDeserializer<'de, ValueError> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_some(self)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0 {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(ValueError::custom("use true or false")),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(error) => Err(ValueError::custom(format_args!(
                "not a whole number of 0 or more ({error})"
            ))),
        }
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_u64(visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The keys of a configuration, as serde has them.
pub(super) fn fields<C: DeserializeOwned>() -> &'static [&'static str] {
    match C::deserialize(AskFields) {
        Err(Fields(fields)) => fields,
        Ok(_) => &[],
    }
}

/// Answers the question for a structure with its fields.
struct AskFields;

#[derive(Debug)]
struct Fields(&'static [&'static str]);

impl<'de> Deserializer<'de> for AskFields {
    type Error = Fields;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fields> {
        Err(Fields(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Fields> {
        Err(Fields(fields))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Fields {}

impl serde::de::Error for Fields {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}
