//! What a handler learns about the way its request came.

use std::net::SocketAddr;

use crate::uri::Engine;

/// How a request came in, as an extension of every request over Homa.
///
/// With feature `connect-info`, which `tcp` brings along, [`tonic::Request::remote_addr`] and
/// [`local_addr`](tonic::Request::local_addr) work as well.
///
/// ```
/// use tonic_homa::transport::HomaConnectInfo;
///
/// fn came_over_homa<T>(request: &tonic::Request<T>) -> bool {
///     request.extensions().get::<HomaConnectInfo>().is_some()
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HomaConnectInfo {
    /// The address that the client called, where the system tells.
    pub local_addr: Option<SocketAddr>,
    /// The client's address.
    pub remote_addr: SocketAddr,
    /// The wire format.
    pub wire: Wire,
    /// What carried the request.
    pub engine: Engine,
}

/// The format of a call's messages.
///
/// ```
/// use tonic_homa::transport::{HomaConnectInfo, Wire};
///
/// fn is_native<T>(request: &tonic::Request<T>) -> bool {
///     let info = request.extensions().get::<HomaConnectInfo>();
///     info.is_some_and(|info| info.wire == Wire::Native)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wire {
    /// This crate's own, `HGR1`; see [`frame`](crate::frame).
    Native,
}
