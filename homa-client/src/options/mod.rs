//! Endpoints by configuration: what the adapters for RPC systems have in common.
//!
//! * [`HomaUri`] is a `homa://host:port` that is fit for its [`Role`], [`Engine`] what carries it;
//! * [`HomaOptions`] is the table `[homa]` of a configuration file;
//! * [`duration`] reads `"50ms"`, and [`Variables`] the environment.

mod env;
mod homa;
#[cfg(test)]
mod tests;
mod uri;
mod value;

pub use env::{Overlay, VariableError, Variables, fields};
pub use homa::HomaOptions;
pub use uri::{Engine, HomaUri, Role, UriError, UriParts};
pub use value::{duration, parse_duration};
