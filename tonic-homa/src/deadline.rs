//! `grpc-timeout` and the microseconds that an OPEN carries in its place.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

pub(crate) const HEADER: &str = "grpc-timeout";

/// The `grpc-timeout` of a request; `None` if there is none, or none that can be read: like
/// tonic, this treats a malformed value as absent.
pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(HEADER)?;
    let timeout = parse(value.as_bytes());
    if timeout.is_none() {
        tracing::trace!(?value, "unreadable grpc-timeout");
    }
    timeout
}

/// The value that an OPEN with `micros` left stands for: at most 8 digits, rounded up in the
/// smallest unit that fits.
pub(crate) fn to_header(micros: u64) -> Option<HeaderValue> {
    const LIMIT: u64 = 99_999_999;
    let text = if micros <= LIMIT {
        format!("{micros}u")
    } else if micros.div_ceil(1_000) <= LIMIT {
        format!("{}m", micros.div_ceil(1_000))
    } else {
        format!("{}S", micros.div_ceil(1_000_000).min(LIMIT))
    };
    HeaderValue::try_from(text).ok()
}

/// Microseconds for an OPEN, never 0, which would mean "no deadline".
pub(crate) fn to_micros(left: Duration) -> u64 {
    u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_nonsense_is_absent() {
        for (text, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("6n", 6),
            ("99999999n", 99_999_999),
        ] {
            assert_eq!(
                parse(text.as_bytes()),
                Some(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for text in ["", "S", "1", "123456789S", "1x", "-1S", "+1S", "1.5S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back_and_never_shortens() {
        for micros in [
            1,
            100_000,
            99_999_999,
            100_000_001,
            99_999_999_001,
            u64::MAX / 2,
        ] {
            let header = to_header(micros).unwrap();
            let back = parse(header.as_bytes()).unwrap();
            if micros < 99_999_999_000_000 {
                assert!(back >= Duration::from_micros(micros), "{micros} {header:?}");
            }
        }
        assert_eq!(to_header(100_000).unwrap(), "100000u");
        assert_eq!(to_micros(Duration::ZERO), 1);
    }
}
