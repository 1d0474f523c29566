//! Servers that take connections.

use crate::addr::HostPort;
use crate::server::{Framing, ServerHandle, ServerOptions, Service, StreamListener, serve_stream};
use crate::uri::StreamAddr;

/// Serves there.
pub(crate) fn serve(
    addr: &StreamAddr,
    service: Service,
    options: ServerOptions,
) -> thrift::Result<ServerHandle> {
    let listener = match addr {
        StreamAddr::Tcp { host, port, .. } => StreamListener::tcp(HostPort(host, *port))?,
        StreamAddr::Unix(path) => StreamListener::unix_again(path)?,
    };
    let framing = if addr.is_framed() {
        Framing::Framed
    } else {
        Framing::Buffered
    };
    serve_stream(listener, framing, service, options)
}
