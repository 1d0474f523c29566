//! Values that are written as text.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::uri::{Engine, StreamMode};

pub(super) fn duration<'de, D>(deserializer: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).ok_or_else(|| {
        D::Error::custom(format!(
            "`{text}` is no duration: write a number and a unit (ns, us, ms, s, min, h), \
             such as \"50ms\""
        ))
    })
}

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

pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let nanos = match unit.trim_start() {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        "h" => 3_600_000_000_000_u64,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Nothing below a nanosecond counts, and a longer fraction would overflow.
    if whole.is_empty() || fraction.len() > 9 || number.ends_with('.') {
        return None;
    }
    let mut total = whole.parse::<u64>().ok()?.checked_mul(nanos)?;
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = fraction.parse::<u128>().ok()? * u128::from(nanos) / scale;
        total = total.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(Duration::from_nanos(total))
}

impl<'de> Deserialize<'de> for Engine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for StreamMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
