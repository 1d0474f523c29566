//! [`Row`]: the slowdown of a run, its many buckets merged to tenths of the messages.

use crate::sim::outcome::{Bucket, Comparison, Decile, Outcome};

/// Consecutive buckets. Each figure is the mean of theirs, weighted by their messages, as a
/// published decile's is; `None` without messages.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) upper_bytes: u64,
    pub(super) count: u64,
    /// Of these, the ones that had not finished.
    pub(super) unfinished: u64,
    pub(super) figures: Option<Figures>,
    pub(super) published: Option<Published>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

/// What a comparison says of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Published {
    pub(super) p99: f64,
    /// Ours, counted as the published one.
    pub(super) by_host: f64,
    pub(super) ratio: f64,
    pub(super) limit: f64,
    /// Of ours over all hosts together.
    pub(super) ratio_together: f64,
}

impl Row {
    /// Whether so few finished that a percentile, here in thousandths, is only known to be at
    /// least what it says.
    pub(super) fn is_open(&self, part: u64) -> bool {
        self.unfinished > 0 && self.unfinished * 1000 >= self.count * (1000 - part)
    }
}

impl From<&Decile> for Published {
    fn from(decile: &Decile) -> Self {
        Self {
            p99: decile.published_p99,
            by_host: decile.p99_by_host,
            ratio: decile.ratio,
            limit: decile.limit,
            ratio_together: decile.ratio_together,
        }
    }
}

/// The deciles of the messages by size, at most ten.
///
/// They end where the comparison's end, and show its 99th percentiles, which are weighted by the
/// published shares. Without a comparison one ends with the bucket that first reaches its tenth.
pub(super) fn deciles(outcome: &Outcome) -> Vec<Row> {
    let buckets = &outcome.slowdown;
    let Comparison::Done { deciles, .. } = &outcome.comparison else {
        return split(buckets, &tenths(buckets)).collect();
    };
    let mut deciles = deciles.clone();
    // One bucket can be several deciles.
    deciles.dedup_by_key(|decile| decile.upper_bytes);
    let ends: Vec<u64> = deciles.iter().map(|decile| decile.upper_bytes).collect();
    split(buckets, &ends)
        .zip(deciles)
        .map(|(mut row, decile)| {
            if let Some(figures) = &mut row.figures {
                figures.p99 = decile.p99;
            }
            row.published = Some(Published::from(&decile));
            row
        })
        .collect()
}

/// The longest messages, which are also part of the last decile. With a comparison it is the last
/// bucket that this looks at; there may be few longer messages.
pub(super) fn last_bucket(outcome: &Outcome) -> Option<Row> {
    let Comparison::Done { last, .. } = &outcome.comparison else {
        let bucket = outcome.slowdown.iter().rfind(|bucket| bucket.count > 0)?;
        return Some(merged(std::slice::from_ref(bucket)));
    };
    let mut buckets = outcome.slowdown.iter();
    let bucket = buckets.find(|bucket| bucket.upper_bytes >= last.upper_bytes)?;
    let mut row = merged(std::slice::from_ref(bucket));
    row.published = Some(Published::from(last));
    Some(row)
}

/// All messages.
pub(super) fn all(outcome: &Outcome) -> Row {
    merged(&outcome.slowdown)
}

/// Each bucket's upper end with the share of the messages that are not longer.
pub(super) fn shares(buckets: &[Bucket]) -> impl Iterator<Item = (u64, f64)> {
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let mut below = 0;
    buckets.iter().map(move |bucket| {
        below += bucket.count;
        (bucket.upper_bytes, below as f64 / total.max(1) as f64)
    })
}

/// Where the tenths of the messages end: at most ten sizes, the last one the longest.
pub(super) fn tenths(buckets: &[Bucket]) -> Vec<u64> {
    let mut ends = Vec::new();
    let mut tenths = 1.0;
    for (upper_bytes, share) in shares(buckets) {
        // Shares of counts that are whole tenths must not miss them by a rounding.
        let reached = (share * 10.0 + 1e-9).floor();
        if reached >= tenths {
            ends.push(upper_bytes);
            tenths = reached + 1.0;
        }
    }
    // What follows the last message has none of its own, but is where the sizes end.
    if let (Some(end), Some(last)) = (ends.last_mut(), buckets.last()) {
        *end = last.upper_bytes;
    }
    ends
}

/// One row for each of `ends`; the last one has all messages that are longer, too.
pub(super) fn split(buckets: &[Bucket], ends: &[u64]) -> impl Iterator<Item = Row> {
    let mut from = 0;
    ends.iter().enumerate().map(move |(at, end)| {
        let to = if at + 1 == ends.len() {
            buckets.len()
        } else {
            buckets.partition_point(|bucket| bucket.upper_bytes <= *end)
        };
        let mut row = merged(&buckets[from.min(to)..to]);
        row.upper_bytes = *end;
        from = to;
        row
    })
}

fn merged(buckets: &[Bucket]) -> Row {
    let count: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    // An empty bucket has no figures worth the name.
    let mean = |figure: fn(&Bucket) -> f64| {
        let filled = buckets.iter().filter(|bucket| bucket.count > 0);
        let sum: f64 = filled.map(|b| b.count as f64 * figure(b)).sum();
        sum / count as f64
    };
    Row {
        upper_bytes: buckets.last().map_or(0, |bucket| bucket.upper_bytes),
        count,
        unfinished: buckets.iter().map(|bucket| bucket.unfinished).sum(),
        figures: (count > 0).then(|| Figures {
            mean: mean(|bucket| bucket.mean),
            p50: mean(|bucket| bucket.p50),
            p99: mean(|bucket| bucket.p99),
            p999: mean(|bucket| bucket.p999),
        }),
        published: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn bucket(upper_bytes: u64, count: u64, p99: f64) -> Bucket {
        Bucket {
            upper_bytes,
            count,
            mean: 1.0,
            p50: 1.0,
            p99,
            p999: p99,
            p99_by_host: p99,
            unfinished: 0,
        }
    }

    #[test]
    fn buckets_merge_weighted_by_messages_and_empty_ones_say_nothing() {
        let row = merged(&[
            bucket(10, 30, 2.0),
            bucket(20, 0, f64::NAN),
            bucket(30, 10, 4.0),
        ]);
        assert_eq!((row.upper_bytes, row.count), (30, 40));
        assert_eq!(row.figures.map(|figures| figures.p99), Some(2.5));
        assert_eq!(merged(&[bucket(10, 0, f64::NAN)]).figures, None);
    }

    #[test]
    fn without_a_comparison_a_decile_ends_with_the_bucket_that_reaches_it() {
        let mut outcome = sample::outcome("any");
        outcome.comparison = Comparison::None;
        outcome.slowdown = vec![
            bucket(1, 5, 1.0),
            bucket(2, 5, 1.0),
            bucket(3, 35, 1.0),
            bucket(4, 50, 1.0),
            bucket(5, 5, 1.0),
            bucket(6, 0, 1.0),
        ];
        let rows = deciles(&outcome);
        let ends: Vec<_> = rows
            .iter()
            .map(|row| (row.upper_bytes, row.count))
            .collect();
        assert_eq!(ends, [(2, 10), (3, 35), (4, 50), (6, 5)]);
    }

    #[test]
    fn with_a_comparison_deciles_are_those_of_the_publication() {
        let outcome = sample::outcome("any");
        let rows = deciles(&outcome);
        let Comparison::Done { deciles, last, .. } = &outcome.comparison else {
            panic!("the sample is compared");
        };
        assert_eq!(rows.len(), deciles.len());
        for (row, decile) in rows.iter().zip(deciles) {
            assert_eq!(row.upper_bytes, decile.upper_bytes);
            assert_eq!(row.figures.map(|figures| figures.p99), Some(decile.p99));
            assert_eq!(row.published.map(|row| row.ratio), Some(decile.ratio));
        }
        let counted: u64 = rows.iter().map(|row| row.count).sum();
        assert_eq!(counted, outcome.counts.measured);
        let row = last_bucket(&outcome).expect("there are buckets");
        assert_eq!(row.upper_bytes, last.upper_bytes);
    }

    #[test]
    fn a_run_without_messages_has_no_rows() {
        let mut outcome = sample::outcome("any");
        outcome.comparison = Comparison::None;
        outcome.slowdown.clear();
        assert!(deciles(&outcome).is_empty() && last_bucket(&outcome).is_none());
        assert_eq!(all(&outcome).figures, None);
    }
}
