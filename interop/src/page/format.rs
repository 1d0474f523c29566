//! How figures are printed: enough digits to compare two runs by, no more.

/// A size: 1 KB is 1,000 bytes, as in the papers.
pub(crate) fn size(bytes: f64) -> String {
    // Where rounding to the digits below gives the next unit's first value.
    let (value, unit) = match bytes {
        bytes if bytes >= 999.5e6 => (bytes / 1e9, "GB"),
        bytes if bytes >= 999.5e3 => (bytes / 1e6, "MB"),
        bytes if bytes >= 999.5 => (bytes / 1e3, "KB"),
        // Only means have parts of a byte.
        bytes if bytes < 10.0 && bytes.fract() != 0.0 => return format!("{bytes:.1} B"),
        bytes => return format!("{bytes:.0} B"),
    };
    let decimals = usize::from(value < 99.95);
    let digits = format!("{value:.decimals$}");
    format!("{} {unit}", digits.strip_suffix(".0").unwrap_or(&digits))
}

/// A whole number, its digits in threes.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A slowdown, a ratio or a rate, with about three significant digits.
pub(crate) fn figure(value: f64) -> String {
    match value {
        value if !value.is_finite() => "-".to_owned(),
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A share of one, in percent.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() {
        let digits = format!("{:.1}", share * 100.0);
        format!("{} %", digits.strip_suffix(".0").unwrap_or(&digits))
    } else {
        "-".to_owned()
    }
}

/// Simulated time.
pub(crate) fn time(micros: f64) -> String {
    match micros {
        micros if micros >= 1e6 => format!("{:.3} s", micros / 1e6),
        micros if micros >= 1e3 => format!("{:.3} ms", micros / 1e3),
        micros => format!("{micros:.3} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_three_digits_and_a_unit() {
        let sizes = [
            (0.0, "0 B"),
            (1.25, "1.2 B"),
            (36.0, "36 B"),
            (999.4, "999 B"),
            (999.6, "1 KB"),
            (1_755.0, "1.8 KB"),
            (49_408.0, "49.4 KB"),
            (99_960.0, "100 KB"),
            (120_373.0, "120 KB"),
            (999_600.0, "1 MB"),
            (5_114_695.0, "5.1 MB"),
            (28_840_000.0, "28.8 MB"),
            (3.2e9, "3.2 GB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn counts_have_their_digits_in_threes() {
        let counts = [0, 12, 123, 1_234, 123_456, 1_234_567].map(count);
        assert_eq!(
            counts,
            ["0", "12", "123", "1,234", "123,456", "1,234,567"].map(str::to_owned)
        );
    }

    #[test]
    fn what_is_no_number_is_a_dash() {
        assert_eq!(figure(f64::NAN), "-");
        assert_eq!(figure(f64::INFINITY), "-");
        assert_eq!(percent(f64::NAN), "-");
    }

    #[test]
    fn figures_and_shares_keep_three_digits() {
        assert_eq!(
            [1.0, 9.994, 9.996, 25.61, 99.96, 1348.52].map(figure),
            ["1.00", "9.99", "10.0", "25.6", "100", "1349"]
        );
        assert_eq!(
            [0.0, 0.031, 0.8, 1.0].map(percent),
            ["0 %", "3.1 %", "80 %", "100 %"]
        );
        assert_eq!(
            [12.0, 12_500.0, 3_750_000.0].map(time),
            ["12.000 us", "12.500 ms", "3.750 s"]
        );
    }
}
