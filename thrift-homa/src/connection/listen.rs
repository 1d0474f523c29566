//! Servers that take connections.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use thrift::{TransportError, TransportErrorKind};

use crate::server::{Framing, ServerHandle, ServerOptions, Service, StreamListener, serve_stream};
use crate::uri::StreamAddr;

/// Serves there.
pub(crate) fn serve(
    addr: &StreamAddr,
    service: Service,
    options: ServerOptions,
) -> thrift::Result<ServerHandle> {
    match addr {
        StreamAddr::Tcp { host, port, framed } => {
            let listener = TcpListener::bind((host.as_str(), *port)).map_err(|error| {
                let text = format!("cannot listen on {addr}: {error}");
                TransportError::new(TransportErrorKind::NotOpen, text)
            })?;
            let framing = if *framed {
                Framing::Framed
            } else {
                Framing::Buffered
            };
            serve_stream(StreamListener::Tcp(listener), framing, service, options)
        }
        StreamAddr::Unix(path) => {
            // A server that did not end well has left its socket, on which nobody else can listen.
            if is_abandoned(path) {
                // If that fails, listening says why.
                let _ = std::fs::remove_file(path);
            }
            let listener = StreamListener::unix(path)?;
            serve_stream(listener, Framing::Framed, service, options)
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(is_refused)
}
