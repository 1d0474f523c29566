//! tonic's `transport` module, name by name, for Homa and TCP: [`Endpoint`] and [`Channel`] for
//! clients, [`Server`] and [`Router`] for servers.
//!
//! What differs from tonic's:
//!
//! * URIs choose the transport, on both sides; [`Router::serve`] takes one in place of a socket
//!   address, and [`Listener`] binds one before anything is served.
//! * The error of a [`Channel`] is a [`tonic::Status`], which keeps its source.
//! * Over Homa the deadline covers the whole call on both ends and fails with
//!   `DEADLINE_EXCEEDED`, not `CANCELLED`; dropping a call ends its handler; and a handler that
//!   panics is answered `INTERNAL`.
//! * A list of servers may mix both transports, and one that a call could not reach is put aside.
//! * Connectors and `serve_with_incoming` are for byte streams, which Homa has not: they work with
//!   `http:` URIs, and [`Listener`] is what binds a Homa address beforehand.
//! * There is no TLS, and none of the types and setters for it.
//!
//! The setters that mean something to TCP or HTTP/2 only are there and say so.
//!
//! # Streams
//!
//! A call is one Homa message each way if it fits into that. Otherwise, and when its end is not
//! known at once, its bodies go in pieces: in order within a call, none waiting for another call.
//! Each direction begins with a credit of 65,536 bytes, which grows to 4 MiB ahead of what was
//! read, so that a reader that stops stops its sender. The bytes that are buffered or may still come
//! unasked are bounded for each peer: 64 MiB by default, at least 65,536 for each stream
//! ([`Endpoint::max_stream_buffer_bytes`], [`Server::max_stream_buffer_bytes`]). A client with open
//! streams asks a server that says nothing for 0.8 s for a sign of life, and their calls fail with
//! `UNAVAILABLE` within a second if it was killed, within three if its host is silent.
//! [`CallCounters`] tell what happens.
//!
//! # Latency
//!
//! A call over Homa takes a few microseconds of work, and waking another thread takes longer than
//! that. So a small service is fastest on one thread: `#[tokio::main(flavor = "current_thread")]`
//! or `worker_threads = 1`. In a multi-thread runtime make calls from spawned tasks:
//! the future of `main` runs on a thread of its own, which has to be woken for every reply.
//!
//! A handler that blocks the only thread of its runtime holds up every other call, and nothing
//! else: a thread of the transport tells the clients to wait meanwhile. Put such work into
//! `tokio::task::spawn_blocking`, or have several workers, if others should not wait.

mod body;
pub mod channel;
mod counters;
mod identity;
pub mod server;
mod stream;

pub use http::Uri;
pub use http_body::Body;

pub use crate::error::Error;
pub use crate::status::{PeerLost, ResetError};
pub use crate::uri::{Engine, StreamMode, UriError};
#[doc(inline)]
pub use channel::{Channel, Endpoint};
pub use counters::{CallCounters, CallMonitor};
#[doc(inline)]
pub use server::{HomaConnectInfo, Listener, Router, ServeAddr, Server, Wire};

/// From so many bytes on, decoding a message takes longer than letting other tasks run first.
const LONG_WORK: usize = 48 << 10;

/// A task lets others run before it decodes so many bytes, if they are many: those with short
/// messages, and whoever receives, should not wait for that.
async fn make_way(bytes: usize) {
    if bytes >= LONG_WORK {
        tokio::task::yield_now().await;
    }
}
