//! [`Source`]: when which host sends how much to whom; [`Traffic`] does it as the simulations
//! of SIGCOMM'18 did.

use super::node::HostId;
use super::time::Span;

/// What starts messages.
pub(crate) trait Source {
    /// Whether a host starts another message as soon as one of its own has finished or failed.
    const IS_CLOSED: bool = false;

    /// Time until this host starts its next message by itself; `None`: it never does again.
    fn gap(&mut self, host: HostId) -> Option<Span>;

    /// Receiver and length of the next message of this host.
    fn next(&mut self, host: HostId) -> (HostId, u32);
}

/// Open-loop Poisson arrivals at every host, to uniformly random others.
#[derive(Debug)]
pub(crate) struct Traffic<D> {
    /// Draws a length in bytes from a number of 0 to 1.
    draw: D,
    mean_gap: Span,
    /// One for each host, so that what one does never depends on the others.
    random: Vec<fastrand::Rng>,
}

impl<D: Fn(f64) -> u32> Traffic<D> {
    /// `mean_gap` is the mean time between two messages of one host.
    pub(crate) fn new(draw: D, mean_gap: Span, hosts: u32, seed: u64) -> Self {
        let mut seeds = fastrand::Rng::with_seed(seed);
        let random = (0..hosts).map(|_| seeds.fork()).collect();
        Self {
            draw,
            mean_gap,
            random,
        }
    }
}

impl<D: Fn(f64) -> u32> Source for Traffic<D> {
    /// At least a picosecond.
    fn gap(&mut self, host: HostId) -> Option<Span> {
        let uniform = self.random[host as usize].f64();
        // Not the system's logarithm: the last bit of that differs between systems, and with it
        // all that follows.
        let gap = -libm::log(1.0 - uniform) * self.mean_gap.as_picos() as f64;
        Some(Span::from_picos((gap as u64).max(1)))
    }

    fn next(&mut self, host: HostId) -> (HostId, u32) {
        let hosts = self.random.len() as u32;
        let random = &mut self.random[host as usize];
        let other = random.u32(..hosts - 1);
        let to = other + u32::from(other >= host);
        (to, (self.draw)(random.f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential_and_receivers_uniform() {
        let mean = Span::from_nanos(500);
        let draw = |uniform: f64| (uniform * 100.0) as u32;
        let mut traffic = Traffic::new(draw, mean, 5, 7);
        let count = 100_000;
        let gaps: Vec<f64> = (0..count)
            .filter_map(|_| traffic.gap(3))
            .map(|gap| gap.as_picos() as f64 / 500_000.0)
            .collect();
        let mean = gaps.iter().sum::<f64>() / f64::from(count);
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        let long = gaps.iter().filter(|gap| **gap > 2.0).count() as f64 / f64::from(count);
        assert!((long - (-2.0f64).exp()).abs() < 0.005, "{long}");
        let mut received = [0; 5];
        let mut bytes = 0;
        for _ in 0..count {
            let (to, length) = traffic.next(3);
            received[to as usize] += 1;
            bytes += u64::from(length);
        }
        assert_eq!(received[3], 0);
        assert!(
            received
                .iter()
                .all(|n| *n == 0 || (24_000..26_000).contains(n))
        );
        let mean = bytes as f64 / f64::from(count);
        assert!((mean - 49.5).abs() < 0.5, "{mean}");
    }
}
