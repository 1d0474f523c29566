//! Values on the command line.

use std::time::Duration;

/// A number of seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let range = "expected a number of seconds from 0.01 to 3600";
    let seconds: f64 = text.parse().map_err(|_| range.to_owned())?;
    if !(0.01..=3600.0).contains(&seconds) {
        return Err(range.to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A rate per second: any number above 0 that means something.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let range = "expected a rate above 0, up to 10000000";
    let rate: f64 = text.parse().map_err(|_| range.to_owned())?;
    if !(rate > 0.0 && rate <= 1e7) {
        return Err(range.to_owned());
    }
    Ok(rate)
}

/// A percentage, as parts per million.
pub(crate) fn parse_percent(text: &str) -> Result<u32, String> {
    let range = "expected a percentage from 0 to 100";
    let percent: f64 = text.parse().map_err(|_| range.to_owned())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(range.to_owned());
    }
    Ok((percent * 10_000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_out_of_range_are_refused_with_the_range() {
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["0", "-1", "nan", "inf", "3601", "1s", ""] {
            let error = parse_seconds(wrong).expect_err(wrong);
            assert!(error.contains("0.01 to 3600"), "{error}");
        }
    }

    #[test]
    fn a_rate_of_nothing_is_refused_with_the_range() {
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for wrong in ["0", "-0.0", "-1", "nan", "inf", "1e8", "10/s", ""] {
            let error = parse_rate(wrong).expect_err(wrong);
            assert!(error.contains("above 0"), "{error}");
        }
    }

    #[test]
    fn percentages_out_of_range_are_refused_with_the_range() {
        assert_eq!(parse_percent("5"), Ok(50_000));
        assert_eq!(parse_percent("0.01"), Ok(100));
        for wrong in ["-1", "100.1", "nan", "5%", ""] {
            let error = parse_percent(wrong).expect_err(wrong);
            assert!(error.contains("0 to 100"), "{error}");
        }
    }
}
