//! Configurations from the environment: each variable is read as its key in a TOML file would be.

use std::env;
use std::ffi::OsString;
use std::fmt;

use serde::de::value::{Error as ValueError, MapDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::HomaOptions;

/// The key of [`HomaOptions`] in a configuration.
const TABLE: &str = "homa";

/// Why an environment variable cannot be used.
///
/// ```
/// use homa_client::options::{HomaOptions, VariableError, Variables, fields};
///
/// let variables = Variables::new("MY_", &[fields::<HomaOptions>()]);
/// assert_eq!(variables.name("mtu"), "MY_MTU");
/// let error = VariableError::Unknown { variable: "MY_MUT".into(), known: "MY_MTU".into() };
/// assert_eq!(error.to_string(), "unknown environment variable MY_MUT: known are MY_MTU");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// It is no text.
    #[error("the environment variable {variable} is not valid UTF-8")]
    NotUnicode {
        /// Its name.
        variable: String,
    },
    /// It has a value that its key cannot have.
    #[error("environment variable {variable}={value}: {reason}")]
    Value {
        /// Its name.
        variable: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It looks like one of these and belongs to no key.
    #[error("unknown environment variable {variable}: known are {known}")]
    Unknown {
        /// Its name.
        variable: String,
        /// The names of all.
        known: String,
    },
}

/// A configuration of which another one can take over what it has set.
pub trait Overlay: DeserializeOwned {
    /// Puts what `other` has in the place of what this has.
    fn put(&mut self, other: Self);

    /// One that has nothing but these.
    fn homa(options: HomaOptions) -> Self;
}

/// The environment variables of an adapter: a prefix and a key in capitals.
///
/// The keys of the table `[homa]` go by their own name, without the table's.
#[derive(Clone, Debug)]
pub struct Variables {
    prefix: &'static str,
    /// Each once.
    keys: Vec<&'static str>,
}

impl Variables {
    /// Those with this prefix and the keys of these configurations, see [`fields`], and of the
    /// table `[homa]`. A configuration leaves alone what only another one knows.
    pub fn new(prefix: &'static str, configurations: &[&'static [&'static str]]) -> Self {
        let mut keys = Vec::new();
        let all = configurations.iter().copied().flatten();
        for key in all.chain(fields::<HomaOptions>()) {
            if *key != TABLE && !keys.contains(key) {
                keys.push(*key);
            }
        }
        Self { prefix, keys }
    }

    /// All keys that have a variable.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().copied()
    }

    /// The variable of a key.
    pub fn name(&self, key: &str) -> String {
        format!("{}{}", self.prefix, key.to_ascii_uppercase())
    }

    /// Puts what these variables say in the place of what `config` says.
    ///
    /// # Errors
    ///
    /// Names the variable that is wrong, or has the prefix and belongs to no key.
    pub fn overlay<C: Overlay>(
        &self,
        mut config: C,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<C, VariableError> {
        for (name, value) in variables {
            // A name that is no text is none of ours.
            let Some((variable, key)) = name.to_str().and_then(|name| {
                let key = name.strip_prefix(self.prefix)?;
                Some((name, key))
            }) else {
                continue;
            };
            let key = self.known(key).ok_or_else(|| VariableError::Unknown {
                variable: variable.into(),
                known: self.all(),
            })?;
            let value = value.into_string().map_err(|_| VariableError::NotUnicode {
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
            config.put(read.map_err(|error| VariableError::Value {
                variable: variable.into(),
                value: text.into(),
                reason: error.to_string(),
            })?);
        }
        Ok(config)
    }

    /// The text of a variable, if it is set and not empty.
    ///
    /// # Errors
    ///
    /// If it is no text.
    pub fn read(variable: &str) -> Result<Option<String>, VariableError> {
        match env::var(variable) {
            Ok(text) if !text.trim().is_empty() => Ok(Some(text.trim().into())),
            Ok(_) | Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => Err(VariableError::NotUnicode {
                variable: variable.into(),
            }),
        }
    }

    fn known(&self, name: &str) -> Option<&'static str> {
        self.keys().find(|key| key.to_ascii_uppercase() == name)
    }

    fn all(&self) -> String {
        let all: Vec<_> = self.keys().map(|key| self.name(key)).collect();
        all.join(", ")
    }
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
pub fn fields<C: DeserializeOwned>() -> &'static [&'static str] {
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
