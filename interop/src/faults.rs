//! A bad network on the command line: faults that an endpoint makes on all it sends.

use homa_client::{Config, Faults};

use crate::values;

/// The memory for messages on their way out. A thousand large messages at once, which is one of
/// gRPC's cases, take more than the default.
const SEND_BYTES: usize = 1 << 30;

/// Options of everything that opens endpoints of its own.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FaultArguments {
    /// Packets that are lost on their way out, in percent. Only over Homa's engine in user space,
    /// like the other faults.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true,
          default_value = "0", value_parser = values::parse_percent)]
    loss: u32,
    /// Packets that up to eight later ones overtake, in percent.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true,
          default_value = "0", value_parser = values::parse_percent)]
    reorder: u32,
    /// Packets that arrive twice, in percent.
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true,
          default_value = "0", value_parser = values::parse_percent)]
    duplicate: u32,
    /// Seed of the faults.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1
    )]
    seed: u64,
}

/// Faults cannot be made there.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{uri}` cannot have --loss, --reorder or --duplicate, which are made in Homa's engine in \
     user space: use homa://…?engine=udp or engine=raw, or leave them out"
)]
pub(crate) struct NoFaultsError {
    uri: String,
}

impl FaultArguments {
    pub(crate) fn any(&self) -> bool {
        self.loss > 0 || self.reorder > 0 || self.duplicate > 0
    }

    /// Refuses a URI whose packets are none of ours, if there shall be faults.
    pub(crate) fn check(&self, uri: &str) -> Result<(), NoFaultsError> {
        let (scheme, rest) = uri.split_once("://").unwrap_or_default();
        let scheme = scheme.to_ascii_lowercase();
        let query = rest.split_once('?').map_or("", |(_, query)| query);
        let is_kernel =
            scheme == "homa+kernel" || query.split('&').any(|pair| pair == "engine=kernel");
        let is_homa = scheme == "homa" || scheme.starts_with("homa+");
        if self.any() && (!is_homa || is_kernel) {
            return Err(NoFaultsError {
                uri: uri.to_owned(),
            });
        }
        Ok(())
    }

    /// Settings of an endpoint of a suite, which makes them.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::default();
        config.protocol.send_bytes = SEND_BYTES;
        if self.any() {
            let mut faults = Faults::default();
            faults.seed = self.seed;
            faults.loss_ppm = self.loss;
            faults.reorder_ppm = self.reorder;
            faults.duplicate_ppm = self.duplicate;
            config.faults = Some(faults);
        }
        config
    }

    /// The same options for another process.
    pub(crate) fn to_arguments(self) -> Vec<String> {
        if !self.any() {
            return Vec::new();
        }
        let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
        vec![
            format!("--loss={}", percent(self.loss)),
            format!("--reorder={}", percent(self.reorder)),
            format!("--duplicate={}", percent(self.duplicate)),
            format!("--seed={}", self.seed),
        ]
    }

    /// For people; empty without faults.
    pub(crate) fn describe(&self) -> String {
        if !self.any() {
            return String::new();
        }
        let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
        format!(
            "each side loses {} %, reorders {} % and duplicates {} % of its packets over Homa",
            percent(self.loss),
            percent(self.reorder),
            percent(self.duplicate),
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        faults: FaultArguments,
    }

    fn faults(line: &[&str]) -> FaultArguments {
        let line = [&["homa-interop"], line].concat();
        Line::try_parse_from(line).expect("valid").faults
    }

    #[test]
    fn they_are_refused_where_packets_are_not_ours() {
        let lossy = faults(&["--loss=5"]);
        for uri in [
            "http://127.0.0.1:80",
            "unix:/run/x",
            "homa+kernel://h:1",
            "homa://h:1?engine=kernel",
            "HTTP://h:1",
            "",
        ] {
            let error = lossy.check(uri).expect_err(uri);
            assert!(error.to_string().contains(uri), "{error}");
            assert!(faults(&[]).check(uri).is_ok(), "{uri} without faults");
        }
        for uri in ["homa://h:1", "homa+udp://h:1", "homa://h:1?engine=raw"] {
            assert!(lossy.check(uri).is_ok(), "{uri}");
        }
    }

    #[test]
    fn another_process_makes_the_same_ones() {
        let given = faults(&["--loss=5", "--reorder=0.01", "--duplicate=1.5", "--seed=7"]);
        let line = given.to_arguments();
        let line: Vec<_> = line.iter().map(String::as_str).collect();
        assert_eq!(faults(&line).config(), given.config());
        let made = given.config().faults.expect("there are some");
        assert_eq!(
            (
                made.seed,
                made.loss_ppm,
                made.reorder_ppm,
                made.duplicate_ppm
            ),
            (7, 50_000, 100, 15_000)
        );
        assert!(faults(&["--seed=7"]).to_arguments().is_empty());
        assert_eq!(faults(&[]).config().faults, None);
    }
}
