//! [`Reference`]: the published slowdowns that belong to a run, and how its own compare.
//!
//! The simulations of SIGCOMM'18 recorded slowdowns at each receiving host, and published the mean
//! of the hosts' 99th percentiles, weighted by their messages (`digestModulesStats` in
//! HomaSimulation's `MetricsDashBoard.py`). Where a host gets hundreds of messages of a bucket that
//! is about the percentile of all of them. In 1.9 s of W5 it gets seven, whose 99th percentile is
//! the longest of seven, on average the 88th of all. So what decides is ours counted in the same
//! way; the one of all messages together is told beside it.

use std::path::{Path, PathBuf};

use super::curve::{Curve, CurveError, PublishedBucket};
use super::outcome::{Bucket, Comparison, Decile};
use super::setup::{Mode, Setup, Topology, TransportName, Wire};
use super::time::Span;
use super::workload::Workload;

/// Most that the 99th percentile of a decile may be, by the published one.
const DECILE_LIMIT: f64 = 1.15;

/// The same for the last bucket, of whose long messages there are few.
const LAST_LIMIT: f64 = 1.30;

/// Share of a decile's published messages that has to be in buckets which a run has, too.
const COVERED: f64 = 0.9;

/// The published slowdowns for a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reference {
    /// Nobody has published any for such a set-up.
    None,
    /// There are some, but the run cannot be compared with them.
    Skipped {
        reason: String,
    },
    Published(Curve),
}

impl Reference {
    /// Looks for the published slowdowns of a set-up: those in the file `given`, or else of Homa
    /// in `../slowdown` beside the file of sizes.
    ///
    /// Only runs with all sizes of a workload are compared. The built-in tables keep its deciles,
    /// but most messages of a published bucket have another size there.
    pub(crate) fn find(
        setup: &Setup,
        workload: &Workload,
        given: Option<&Path>,
    ) -> Result<Self, CurveError> {
        let percent = match published_percent(setup) {
            _ if given.is_some() => 0,
            Some(percent) if setup.cdf.is_none() || workload.is_whole => percent,
            _ => return Ok(Self::None),
        };
        let name = setup.workload.published().name;
        let Some(cdf) = &setup.cdf else {
            return Ok(Self::Skipped {
                reason: format!(
                    "these are the built-in sizes of {name}; give its whole distribution by --cdf"
                ),
            });
        };
        if let Some(given) = given {
            return Ok(Self::Published(Curve::read(given)?));
        }
        let path = beside(cdf, &name.to_lowercase(), percent);
        if !path.exists() {
            return Ok(Self::Skipped {
                reason: format!(
                    "there is no {}; give the published slowdowns of {name} at {percent} % load \
                     by --reference",
                    path.display()
                ),
            });
        }
        Ok(Self::Published(Curve::read(&path)?))
    }

    /// The published slowdowns, if there are any to compare with.
    pub(crate) fn curve(&self) -> Option<&Curve> {
        match self {
            Self::Published(curve) => Some(curve),
            Self::None | Self::Skipped { .. } => None,
        }
    }

    /// Where the published buckets end.
    pub(crate) fn edges(&self) -> Option<Vec<u32>> {
        self.curve().map(Curve::edges)
    }

    /// Compares a run's slowdowns, which have been gathered in these buckets.
    pub(crate) fn compare(&self, buckets: &[Bucket]) -> Comparison {
        match self {
            Self::None => Comparison::None,
            Self::Skipped { reason } => Comparison::Skipped {
                reason: reason.clone(),
            },
            Self::Published(curve) => {
                compare(curve, buckets).unwrap_or_else(|reason| Comparison::Skipped { reason })
            }
        }
    }
}

/// The load in per cent for which slowdowns of Homa are published in such a set-up, if they are. A
/// shorter window than the workload's own is another set-up: hosts with fewer messages have lower
/// tails.
fn published_percent(setup: &Setup) -> Option<u32> {
    let is_published = setup.transport == TransportName::Homa
        && setup.mode == Mode::OneWay
        && setup.wire == Wire::Paper
        && setup.topology == Topology::default()
        && setup
            .window_us
            .is_none_or(|micros| Span::from_micros(micros) >= setup.workload.published().window);
    [50, 80]
        .into_iter()
        .find(|percent| is_published && (setup.load * 100.0 - f64::from(*percent)).abs() < 1e-9)
}

fn beside(cdf: &Path, workload: &str, percent: u32) -> PathBuf {
    let directory = cdf.parent().unwrap_or(Path::new(""));
    directory.join(format!("../slowdown/homa_{workload}_load{percent}.txt"))
}

/// `Err`: why it is not possible.
fn compare(curve: &Curve, buckets: &[Bucket]) -> Result<Comparison, String> {
    let deciles: Vec<Decile> = deciles(&curve.buckets)
        .map(|decile| weigh(decile, buckets, DECILE_LIMIT))
        .collect::<Result<_, _>>()?;
    let last = weigh(last(&curve.buckets), buckets, LAST_LIMIT)?;
    let holds = deciles
        .iter()
        .chain([&last])
        .all(|decile| decile.ratio <= decile.limit);
    Ok(Comparison::Done {
        reference: curve.source.clone(),
        deciles,
        last,
        holds,
    })
}

/// The buckets of each tenth of the messages.
///
/// A bucket belongs to a decile as a whole. A decile ends with the first bucket that reaches its
/// share, as at the axis of SIGCOMM'18, figure 10, whose labels are those buckets' ends; what that
/// bucket has more is missing in the next decile. Where a bucket reaches the shares of several
/// deciles, it stands for each of them.
fn deciles(buckets: &[PublishedBucket]) -> impl Iterator<Item = &[PublishedBucket]> {
    let mut start = 0;
    (1..=10).map(move |tenth| {
        let share = f64::from(tenth) * 10.0;
        let reached = buckets.partition_point(|bucket| bucket.cumulative_percent < share);
        let end = match tenth {
            10 => buckets.len(),
            _ => (reached + 1).min(buckets.len()),
        };
        let decile = &buckets[start.min(end - 1)..end];
        start = end;
        decile
    })
}

/// The last bucket that has a share of the messages. Those after it rest upon single messages:
/// W1 has three at 80 % load.
fn last(buckets: &[PublishedBucket]) -> &[PublishedBucket] {
    let last = buckets
        .iter()
        .rposition(|bucket| bucket.percent > 0.0 && bucket.p99.is_some())
        .unwrap_or(buckets.len() - 1);
    &buckets[last..=last]
}

/// The mean 99th percentile of some buckets on both sides, weighted by the published share of
/// messages. Buckets that one of the sides has no value for are left out on both.
fn weigh(published: &[PublishedBucket], buckets: &[Bucket], limit: f64) -> Result<Decile, String> {
    let (mut all, mut weight, mut theirs) = (0.0, 0.0, 0.0);
    let (mut by_host, mut together) = (0.0, 0.0);
    for bucket in published {
        all += bucket.percent;
        let own = buckets
            .iter()
            .find(|own| own.upper_bytes == u64::from(bucket.upper_bytes));
        if let (Some(p99), Some(own)) = (bucket.p99, own) {
            weight += bucket.percent;
            theirs += bucket.percent * p99;
            by_host += bucket.percent * own.p99_by_host;
            together += bucket.percent * own.p99;
        }
    }
    let upper_bytes = published.last().map_or(0, |bucket| bucket.upper_bytes);
    if weight <= 0.0 || weight < COVERED * all {
        return Err(format!(
            "too few messages were measured in the published buckets up to {upper_bytes} bytes; \
             measure longer"
        ));
    }
    Ok(Decile {
        upper_bytes: upper_bytes.into(),
        published_p99: theirs / weight,
        p99_by_host: by_host / weight,
        p99: together / weight,
        ratio: by_host / theirs,
        limit,
        ratio_together: together / theirs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buckets that end at 10, 20, ... with these shares and 99th percentiles.
    fn curve(buckets: &[(f64, Option<f64>)]) -> Curve {
        let mut cumulative_percent = 0.0;
        let buckets = (1..).zip(buckets).map(|(number, (percent, p99))| {
            cumulative_percent += percent;
            PublishedBucket {
                upper_bytes: 10 * number,
                percent: *percent,
                cumulative_percent,
                mean: None,
                p50: None,
                p99: *p99,
            }
        });
        Curve {
            source: "a test".to_owned(),
            buckets: buckets.collect(),
        }
    }

    fn bucket(upper_bytes: u64, by_host: f64) -> Bucket {
        Bucket {
            upper_bytes,
            count: 1000,
            mean: 1.0,
            p50: 1.0,
            p99: 2.0 * by_host,
            p999: 2.0 * by_host,
            p99_by_host: by_host,
            unfinished: 0,
        }
    }

    fn ends(curve: &Curve) -> Vec<Vec<u32>> {
        deciles(&curve.buckets)
            .map(|decile| decile.iter().map(|bucket| bucket.upper_bytes).collect())
            .collect()
    }

    #[test]
    fn a_decile_ends_with_the_first_bucket_that_reaches_it() {
        let shares = [
            6.0, 5.0, 8.0, 8.0, 3.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.5, 5.0, 4.5,
        ];
        let curve = curve(&shares.map(|share| (share, None)));
        // After each: 6, 11, 19, 27, 30, 40, 50, 60, 70, 80, 90.5, 95.5, 100 %.
        assert_eq!(
            ends(&curve),
            [
                vec![10, 20],
                vec![30, 40],
                vec![50],
                vec![60],
                vec![70],
                vec![80],
                vec![90],
                vec![100],
                vec![110],
                vec![120, 130],
            ]
        );
    }

    #[test]
    fn a_bucket_across_several_deciles_stands_for_each() {
        let curve = curve(&[(35.0, None), (60.0, None), (5.0, None)]);
        let mut expected = vec![vec![10]; 3];
        expected.extend(vec![vec![20]; 6]);
        expected.push(vec![30]);
        assert_eq!(ends(&curve), expected);
    }

    #[test]
    fn both_sides_are_weighted_by_the_published_shares() {
        let mut published = vec![(4.0, Some(2.0)), (8.0, Some(3.0))];
        published.extend([(9.0, Some(2.0)); 9]);
        published.extend([(7.0, Some(10.0)), (0.0, Some(99.0))]);
        let curve = curve(&published);
        let mut own: Vec<Bucket> = (1..=11).map(|n| bucket(10 * n, 2.0)).collect();
        own.extend([bucket(120, 12.9), bucket(130, 1e9)]);
        let reference = Reference::Published(curve);
        let Comparison::Done {
            deciles,
            last,
            holds,
            ..
        } = reference.compare(&own)
        else {
            panic!("can be compared");
        };
        assert_eq!(deciles.len(), 10);
        assert_eq!(deciles[0].upper_bytes, 20);
        assert!((deciles[0].published_p99 - 32.0 / 12.0).abs() < 1e-9);
        assert_eq!((deciles[0].p99_by_host, deciles[0].p99), (2.0, 4.0));
        assert!((deciles[0].ratio - 0.75).abs() < 1e-9);
        assert!((deciles[0].ratio_together - 1.5).abs() < 1e-9);
        // The bucket of no weight is not the last that counts.
        assert_eq!((last.upper_bytes, last.limit), (120, 1.30));
        assert!((last.ratio - 1.29).abs() < 1e-9, "{last:?}");
        // Within the limit of the last bucket, but not of its decile.
        assert!(!holds);
        own[11].p99_by_host = 11.0;
        assert!(matches!(
            reference.compare(&own),
            Comparison::Done { holds: true, .. }
        ));
        own[2].p99_by_host = 2.31;
        assert!(matches!(
            reference.compare(&own),
            Comparison::Done { holds: false, .. }
        ));
    }

    #[test]
    fn buckets_without_a_value_are_left_out_on_both_sides() {
        let published = PublishedBucket {
            upper_bytes: 10,
            percent: 1.0,
            cumulative_percent: 1.0,
            mean: None,
            p50: None,
            p99: None,
        };
        let second = PublishedBucket {
            upper_bytes: 20,
            percent: 19.0,
            p99: Some(2.0),
            ..published
        };
        let own = [bucket(10, 100.0), bucket(20, 3.0)];
        let decile = weigh(&[published, second], &own, 1.15).expect("enough");
        assert_eq!((decile.published_p99, decile.p99_by_host), (2.0, 3.0));
        let reason = weigh(&[published, second], &own[..1], 1.15).expect_err("nothing in common");
        assert!(
            reason.contains("up to 20 bytes; measure longer"),
            "{reason}"
        );
    }

    #[test]
    fn a_set_up_without_published_slowdowns_has_no_reference() {
        let find = |change: fn(&mut Setup)| {
            let mut setup = Setup::default();
            change(&mut setup);
            let workload = Workload::of(&setup).expect("built in");
            Reference::find(&setup, &workload, None).expect("nothing to read")
        };
        assert_eq!(find(|setup| setup.load = 0.7), Reference::None);
        assert_eq!(find(|setup| setup.topology.racks = 1), Reference::None);
        assert_eq!(find(|setup| setup.wire = Wire::Real), Reference::None);
        assert_eq!(find(|setup| setup.mode = Mode::Echo), Reference::None);
        let shorter = find(|setup| setup.window_us = Some(199_999));
        assert_eq!(shorter, Reference::None);
        let as_long = find(|setup| setup.window_us = Some(200_000));
        assert!(matches!(as_long, Reference::Skipped { .. }));
        let dctcp = find(|setup| setup.transport = TransportName::Dctcp);
        assert_eq!(dctcp, Reference::None);
        for load in [0.5, 0.8] {
            let setup = Setup {
                load,
                ..Setup::default()
            };
            let workload = Workload::of(&setup).expect("built in");
            let reference = Reference::find(&setup, &workload, None).expect("nothing to read");
            let Comparison::Skipped { reason } = reference.compare(&[]) else {
                panic!("{reference:?}");
            };
            assert!(
                reason.contains("W3") && reason.contains("--cdf"),
                "{reason}"
            );
        }
    }

    #[test]
    fn the_reference_is_found_beside_the_sizes_or_named_as_missing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let [sizes, slowdown] = ["workloads", "slowdown"].map(|name| directory.path().join(name));
        std::fs::create_dir(&sizes).expect("new");
        std::fs::create_dir(&slowdown).expect("new");
        let cdf = sizes.join("mine.txt");
        // The built-in sizes pass for W3's.
        let built_in = Workload::of(&Setup::default()).expect("built in");
        let lines = built_in.sizes.points().iter();
        let lines = lines.map(|point| format!("{} {}\n", point.bytes, point.cumulative));
        std::fs::write(&cdf, lines.collect::<String>()).expect("writable");
        let setup = Setup {
            cdf: Some(cdf),
            ..Setup::default()
        };
        let workload = Workload::of(&setup).expect("right");
        let find = |given| Reference::find(&setup, &workload, given);
        let Ok(Reference::Skipped { reason }) = find(None) else {
            panic!("there is no curve");
        };
        assert!(reason.contains("homa_w3_load80.txt"), "{reason}");
        let published = slowdown.join("homa_w3_load80.txt");
        std::fs::write(&published, "# W3\n8 100 100 100 1.5 1.4 2\n").expect("writable");
        let found = find(None).expect("right");
        assert_eq!(found.edges(), Some(vec![8]));
        assert_eq!(find(Some(&published)).expect("right"), found);
        assert!(find(Some(&directory.path().join("none.txt"))).is_err());
    }
}
