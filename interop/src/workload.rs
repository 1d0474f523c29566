//! Message sizes as they occur in data centers.

/// A distribution of message sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// Its name in the Homa papers.
    pub(crate) name: &'static str,
    /// Sizes in bytes, each with the share of messages that are not longer.
    points: &'static [(u32, f64)],
}

/// W3 of the Homa papers: all applications of a Google data center.
///
/// Forty points of the 842 in HomaModule (commit `9edb958`, `util/dist.cc`, array `w3`), chosen so
/// that straight lines between them stay within 0.3 % of the messages and 0.8 % of the bytes of
/// the full table. The mean of sizes capped at 1,000,000 bytes is 2,440 bytes, there 2,423.
pub(crate) const W3: Workload = Workload {
    name: "W3",
    points: &[
        (8, 0.064883),
        (64, 0.155271),
        (77, 0.220705),
        (96, 0.286139),
        (146, 0.388155),
        (186, 0.443028),
        (256, 0.497901),
        (296, 0.576179),
        (352, 0.654457),
        (433, 0.732736),
        (512, 0.784921),
        (623, 0.812878),
        (796, 0.840834),
        (1084, 0.868273),
        (1676, 0.898715),
        (2891, 0.924083),
        (4233, 0.936848),
        (6194, 0.95484),
        (8192, 0.964309),
        (11_995, 0.977236),
        (15_994, 0.984197),
        (23_469, 0.98814),
        (31_576, 0.990186),
        (47_104, 0.992139),
        (62_805, 0.993132),
        (95_906, 0.995709),
        (125_494, 0.996957),
        (152_379, 0.997499),
        (186_343, 0.997914),
        (251_488, 0.998397),
        (322_153, 0.998842),
        (381_981, 0.999109),
        (504_504, 0.999457),
        (739_558, 0.99965),
        (1_008_790, 0.999748),
        (1_401_165, 0.999823),
        (1_960_314, 0.999879),
        (3_841_911, 0.999947),
        (7_648_594, 0.999982),
        (15_158_197, 1.0),
    ],
};

impl Workload {
    /// The size below which a share of `quantile` of the messages lies. `quantile` is 0 to 1.
    pub(crate) fn size_at(&self, quantile: f64) -> u32 {
        let above = self
            .points
            .partition_point(|(_, share)| *share < quantile)
            .min(self.points.len() - 1);
        let (size, share) = self.points[above];
        let Some(&(lower_size, lower_share)) =
            above.checked_sub(1).map(|below| &self.points[below])
        else {
            return size;
        };
        let part = ((quantile - lower_share) / (share - lower_share)).clamp(0.0, 1.0);
        lower_size + (f64::from(size - lower_size) * part) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_rise_to_all_messages() {
        for pair in W3.points.windows(2) {
            assert!(pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1, "{pair:?}");
        }
        assert!(W3.points.len() <= 40);
        assert_eq!(W3.points.last().expect("there are some").1, 1.0);
    }

    #[test]
    fn the_mean_and_the_deciles_are_those_of_the_full_table() {
        const STEPS: u32 = 1_000_000;
        let mean = (0..STEPS)
            .map(|step| (f64::from(step) + 0.5) / f64::from(STEPS))
            .map(|quantile| f64::from(W3.size_at(quantile).min(1_000_000)))
            .sum::<f64>()
            / f64::from(STEPS);
        assert!((mean / 2423.11 - 1.0).abs() < 0.01, "{mean}");
        // Where the buckets of SIGCOMM'18, figure 8 end.
        let deciles = [36, 77, 110, 158, 268, 313, 402, 573, 1755];
        for (tenths, decile) in (1..).zip(deciles) {
            let ours = f64::from(W3.size_at(f64::from(tenths) / 10.0));
            let off = (ours - f64::from(decile)).abs();
            assert!(
                off <= 8.0 || off < 0.05 * f64::from(decile),
                "{tenths}: {ours}"
            );
        }
    }

    #[test]
    fn sizes_stay_within_the_table() {
        assert_eq!(W3.size_at(-1.0), 8);
        assert_eq!(W3.size_at(0.0), 8);
        assert_eq!(W3.size_at(1.0), 15_158_197);
        assert_eq!(W3.size_at(2.0), 15_158_197);
    }
}
