//! Values that are written as text.

use std::str::FromStr;

use homa_client::options::UriError;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::client::OnewayMode;
use crate::protocol::Protocol;
use crate::server::{OnewayAck, QueuedAtShutdown};

/// The value of `oneway` in a URI, which may be of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oneway {
    Client(OnewayMode),
    Server(OnewayAck),
}

impl FromStr for Oneway {
    type Err = UriError;

    fn from_str(value: &str) -> Result<Self, UriError> {
        match (value.parse(), value.parse()) {
            (Ok(mode), _) => Ok(Self::Client(mode)),
            (_, Ok(ack)) => Ok(Self::Server(ack)),
            _ => Err(unknown(
                "oneway",
                value,
                "detach or await_ack for clients, on_receipt or after_handler for servers",
            )),
        }
    }
}

pub(crate) fn protocol(value: &str) -> Result<Protocol, UriError> {
    value
        .parse()
        .map_err(|_| unknown("protocol", value, "binary or compact"))
}

fn unknown(key: &'static str, value: &str, allowed: &'static str) -> UriError {
    UriError::UnknownValue {
        key,
        value: value.into(),
        allowed,
    }
}

/// Names of values, in URIs and in configurations.
macro_rules! names {
    ($type:ty, $key:literal, $allowed:literal, { $($name:literal => $value:expr),+ $(,)? }) => {
        impl FromStr for $type {
            type Err = UriError;

            fn from_str(value: &str) -> Result<Self, UriError> {
                match value {
                    $($name => Ok($value),)+
                    _ => Err(unknown($key, value, $allowed)),
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = String::deserialize(deserializer)?;
                value.parse().map_err(D::Error::custom)
            }
        }
    };
}

names!(OnewayMode, "oneway", "detach or await_ack", {
    "detach" => Self::Detach,
    "await_ack" => Self::AwaitAck,
});
names!(OnewayAck, "oneway", "on_receipt or after_handler", {
    "on_receipt" => Self::OnReceipt,
    "after_handler" => Self::AfterHandler,
});
names!(QueuedAtShutdown, "queued_at_shutdown", "serve or refuse", {
    "serve" => Self::Serve,
    "refuse" => Self::Refuse,
});

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        protocol(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
