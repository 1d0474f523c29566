//! The environment variables of both configurations.

use homa_client::options::{Variables, fields};

use super::{ClientConfig, ServerConfig};

const PREFIX: &str = "TONIC_HOMA_";

/// Those of both sides: neither refuses what only the other one knows.
pub(super) fn variables() -> Variables {
    Variables::new(
        PREFIX,
        &[fields::<ClientConfig>(), fields::<ServerConfig>()],
    )
}
