//! [tonic](tonic)'s `transport` module again, over [Homa](homa_client).
#![forbid(unsafe_code)]

#[cfg(feature = "build")]
pub mod build;
mod config;
mod deadline;
mod error;
pub mod frame;
pub mod metadata;
mod random;
mod resolve;
mod status;
pub mod transport;
mod uri;

pub use config::{ClientConfig, ConfigError, ServerConfig, URI_VARIABLE};
