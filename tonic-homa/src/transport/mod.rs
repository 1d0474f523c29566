//! tonic's [`transport`](tonic) module, name by name, for Homa and TCP.

mod body;
pub mod channel;
mod identity;
pub mod server;

pub use http::Uri;

pub use crate::error::Error;
pub use crate::status::ResetError;
pub use crate::uri::{Engine, UriError};
#[doc(inline)]
pub use channel::{Channel, Endpoint};
#[doc(inline)]
pub use server::{HomaConnectInfo, Listener, Router, ServeAddr, Server, Wire};
