//! [`Slowdowns`]: how much longer messages took than in an empty network, by size.

use std::collections::BTreeMap;

use super::node::HostId;
use super::outcome::Bucket;
use super::workload::Workload;

/// A bucket of a distribution with many points is closed when it holds this share of the messages
/// or of the bytes; that makes at most 90 buckets, and ten more end at the axis of figure 10.
const BUCKET_SHARE: f64 = 1.0 / 45.0;

/// Distributions of up to so many points have a bucket for each.
const MAX_BUCKETS: usize = 100;

/// Gathers the slowdown of every measured message.
///
/// It keeps them all, in four bytes each, so that percentiles are exact up to one part in eight
/// million: the tail of 15 million messages takes 90 MB, with their receivers, and a second.
#[derive(Clone, Debug)]
pub(crate) struct Slowdowns {
    /// Longest messages of the buckets, shortest first.
    edges: Vec<u32>,
    buckets: Vec<Samples>,
}

#[derive(Clone, Debug, Default)]
struct Samples {
    sum: f64,
    unfinished: u64,
    slowdowns: Vec<f32>,
    /// Who received them.
    hosts: Vec<u16>,
}

impl Slowdowns {
    /// `edges` are the lengths at which buckets end; at least one, and rising. Longer messages
    /// than the last count there.
    pub(crate) fn new(edges: Vec<u32>) -> Self {
        let buckets = vec![Samples::default(); edges.len()];
        Self { edges, buckets }
    }

    /// A message of so many bytes, received by this host, took `slowdown` times its ideal time.
    pub(crate) fn record(&mut self, at: HostId, bytes: u32, slowdown: f64) {
        let bucket = self.bucket_of(bytes);
        let bucket = &mut self.buckets[bucket];
        bucket.sum += slowdown;
        bucket.slowdowns.push(slowdown as f32);
        bucket.hosts.push(at as u16);
    }

    /// A message did not finish: its slowdown is at least this.
    pub(crate) fn record_unfinished(&mut self, at: HostId, bytes: u32, slowdown: f64) {
        self.record(at, bytes, slowdown);
        let bucket = self.bucket_of(bytes);
        self.buckets[bucket].unfinished += 1;
    }

    fn bucket_of(&self, bytes: u32) -> usize {
        let bucket = self.edges.partition_point(|edge| *edge < bytes);
        bucket.min(self.edges.len() - 1)
    }

    /// What was recorded, by bucket. Those without messages are left out.
    ///
    /// A percentile is the value at `count * percent / 100`, rounded down, of the sorted ones, as
    /// in HomaModule's `cperf.py`.
    pub(crate) fn into_buckets(self) -> Vec<Bucket> {
        let buckets = self.edges.into_iter().zip(self.buckets);
        buckets
            .filter(|(_, samples)| !samples.slowdowns.is_empty())
            .map(|(edge, samples)| samples.into_bucket(edge))
            .collect()
    }
}

impl Samples {
    fn into_bucket(mut self, edge: u32) -> Bucket {
        let p99_by_host = self.p99_by_host();
        let slowdowns = &mut self.slowdowns;
        Bucket {
            upper_bytes: edge.into(),
            count: slowdowns.len() as u64,
            mean: self.sum / slowdowns.len() as f64,
            p50: per_mille(slowdowns, 500),
            p99: per_mille(slowdowns, 990),
            p999: per_mille(slowdowns, 999),
            p99_by_host,
            unfinished: self.unfinished,
        }
    }

    fn p99_by_host(&self) -> f64 {
        let mut by_host: BTreeMap<u16, Vec<f32>> = BTreeMap::new();
        for (host, slowdown) in self.hosts.iter().zip(&self.slowdowns) {
            by_host.entry(*host).or_default().push(*slowdown);
        }
        let hosts = by_host.values_mut();
        let sum: f64 = hosts
            .map(|own| own.len() as f64 * per_mille(own, 990))
            .sum();
        sum / self.slowdowns.len() as f64
    }
}

/// The value at this thousandth of the sorted ones, of which there is at least one.
fn per_mille(values: &mut [f32], part: usize) -> f64 {
    let place = values.len() * part / 1000;
    let (_, value, _) = values.select_nth_unstable_by(place, f32::total_cmp);
    f64::from(*value)
}

/// Where the buckets of a run end: where the published ones do, if these and the whole
/// distribution are there; else at the distribution's points, of which neighbours are merged if
/// there are more than a hundred. The last one ends at the longest message or above.
pub(crate) fn edges(workload: &Workload, published: Option<&[u32]>) -> Vec<u32> {
    let longest = workload.sizes.longest();
    let mut edges = match published {
        Some(edges) => edges.to_vec(),
        None => own_edges(workload),
    };
    if edges.last().is_none_or(|last| *last < longest) {
        edges.push(longest);
    }
    edges
}

fn own_edges(workload: &Workload) -> Vec<u32> {
    let sizes = &workload.sizes;
    let is_short = sizes.points().len() <= MAX_BUCKETS;
    let axis: &[u32] = workload.published.map_or(&[], |known| &known.axis_bytes);
    let mean = sizes.step_mean();
    let mut edges = Vec::new();
    let (mut messages, mut bytes) = (0.0, 0.0);
    for (size, share) in sizes.shares() {
        messages += share;
        bytes += share * f64::from(size) / mean;
        let is_full = messages >= BUCKET_SHARE || bytes >= BUCKET_SHARE;
        if is_short || is_full || axis.contains(&size) {
            edges.push(size);
            (messages, bytes) = (0.0, 0.0);
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::setup::Setup;
    use super::*;

    #[test]
    fn messages_count_in_the_bucket_that_ends_at_their_size_or_above() {
        let mut slowdowns = Slowdowns::new(vec![10, 20, 30, 40]);
        for (bytes, slowdown) in [(1, 1.0), (10, 2.0), (11, 4.0), (31, 5.0), (99, 7.0)] {
            slowdowns.record(0, bytes, slowdown);
        }
        let buckets = slowdowns.into_buckets();
        let of = |bucket: &Bucket| (bucket.upper_bytes, bucket.count, bucket.mean);
        let of: Vec<_> = buckets.iter().map(of).collect();
        assert_eq!(of, [(10, 2, 1.5), (20, 1, 4.0), (40, 2, 6.0)]);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_slowdowns() {
        let mut slowdowns = Slowdowns::new(vec![100]);
        // 1 to 2000 in an order that is neither rising nor falling; 7 and 2000 have no divisor.
        for step in 0..2000u32 {
            slowdowns.record(0, 100, f64::from(step * 7 % 2000 + 1));
        }
        let bucket = slowdowns.into_buckets()[0];
        assert_eq!(bucket.count, 2000);
        assert_eq!(bucket.mean, 1000.5);
        assert_eq!(
            (bucket.p50, bucket.p99, bucket.p999),
            (1001.0, 1981.0, 1999.0)
        );
    }

    #[test]
    fn hosts_weigh_as_much_as_they_receive() {
        let mut slowdowns = Slowdowns::new(vec![100]);
        for _ in 0..3 {
            slowdowns.record(7, 5, 2.0);
        }
        slowdowns.record_unfinished(8, 5, 6.0);
        let bucket = slowdowns.into_buckets()[0];
        assert_eq!((bucket.p99_by_host, bucket.unfinished), (3.0, 1));
    }

    #[test]
    fn hosts_with_few_messages_have_lower_tails_than_all_together() {
        let mut slowdowns = Slowdowns::new(vec![100]);
        // A hundred hosts with seven messages each; one in ten of them has a slow one.
        for message in 0..700 {
            let slow = message % 70 == 0;
            slowdowns.record(message % 100, 5, if slow { 9.0 } else { 1.0 });
        }
        let bucket = slowdowns.into_buckets()[0];
        assert_eq!((bucket.p99, bucket.p99_by_host), (9.0, 1.8));
    }

    #[test]
    fn a_single_message_is_all_percentiles() {
        let mut slowdowns = Slowdowns::new(vec![100]);
        slowdowns.record(0, 5, 1.5);
        let bucket = slowdowns.into_buckets()[0];
        assert_eq!((bucket.p50, bucket.p99, bucket.p999), (1.5, 1.5, 1.5));
    }

    #[test]
    fn nothing_recorded_is_no_bucket() {
        assert_eq!(Slowdowns::new(vec![1, 2]).into_buckets(), []);
    }

    #[test]
    fn buckets_end_at_the_points_of_a_built_in_table() {
        let workload = Workload::of(&Setup::default()).expect("built in");
        let points = workload.sizes.points().iter().map(|point| point.bytes);
        assert_eq!(edges(&workload, None), points.collect::<Vec<_>>());
    }

    #[test]
    fn published_buckets_reach_the_longest_message() {
        let workload = Workload::of(&Setup::default()).expect("built in");
        let longest = workload.sizes.longest();
        assert_eq!(edges(&workload, Some(&[10, 20])), [10, 20, longest]);
        assert_eq!(
            edges(&workload, Some(&[10, longest + 1])),
            [10, longest + 1]
        );
    }

    #[test]
    fn many_points_make_at_most_a_hundred_buckets() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut text = String::new();
        for point in 1..=5000 {
            writeln!(text, "{} {}", point * point, f64::from(point) / 5000.0).expect("a string");
        }
        std::fs::write(file.path(), text).expect("writable");
        let setup = Setup {
            cdf: Some(file.path().to_owned()),
            ..Setup::default()
        };
        let edges = edges(&Workload::of(&setup).expect("right"), None);
        assert!((45..=100).contains(&edges.len()), "{}", edges.len());
        assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(edges.last(), Some(&25_000_000));
    }
}
