//! The suite over UDP, as endpoints are by default.

mod suite;

use homa_client::Config;

fn base_config() -> Config {
    Config::default()
}
