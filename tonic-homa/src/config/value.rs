//! Values that are written as text.

use std::time::Duration;

use homa_client::options::parse_duration;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::uri::StreamMode;

pub(super) fn rate<'de, D>(deserializer: D) -> Result<Option<(u64, Duration)>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    parse_rate(&text).map(Some).ok_or_else(|| {
        D::Error::custom(format!(
            "`{text}` is no rate: write calls, of which at least 1, a slash and a duration, \
             such as \"100/1s\""
        ))
    })
}

pub(super) fn parse_rate(text: &str) -> Option<(u64, Duration)> {
    let (calls, per) = text.split_once('/')?;
    let (calls, per) = (calls.trim().parse().ok()?, parse_duration(per)?);
    (calls > 0 && !per.is_zero()).then_some((calls, per))
}

impl<'de> Deserialize<'de> for StreamMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
