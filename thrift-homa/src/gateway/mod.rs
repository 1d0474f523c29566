//! A gateway passes Thrift calls on from one transport to another, without looking into them: for
//! programs in other languages that call services on Homa, or are called by clients on Homa.
//!
//! ```text
//! Python client -- framed TCP --> gateway -- Homa --> service in Rust
//! client in Rust -- Homa --> gateway -- framed TCP --> service in Java
//! ```
//!
//! It is a server in every other respect: workers, queue, limits, observer, statistics and a stop
//! that drains are those of [`ServerOptions`].

mod itself;
mod to_homa;
mod to_stream;

use std::time::Duration;

use crate::addr::HostPort;
use crate::client::LAST_SERVER_PORT;
use crate::endpoint::Endpoint;
use crate::error::not_open;
use crate::server::{Forward, ServerHandle, ServerOptions, Service};
use crate::uri::Place;
use homa_client::options::Role;
use itself::is_itself;
use to_homa::ToHoma;
use to_stream::ToStream;

/// Settings of a gateway.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GatewayOptions {
    /// What holds for the side that listens: `workers` calls are passed on at once, `queue` more
    /// wait, and so on. Messages up to [`Limits::message_bytes`](crate::Limits::message_bytes) are
    /// passed on in both directions; over Homa that is at most 1,000,000.
    pub server: ServerOptions,
    /// How long the server behind the gateway may take for a call, above 0, up to a day; `timeout_ms` in
    /// the URI of that server goes before it. Default: 30 s. Without an
    /// answer the caller gets an exception of kind `InternalError`.
    pub timeout: Duration,
    /// Connections to a server behind it on TCP or a unix socket, 1 to 65,536; each has one call at
    /// a time. They are opened when they are needed first. Default: 16.
    pub connections: usize,
    /// Settings of the endpoint that calls a server on Homa.
    pub homa: homa_client::Config,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            server: ServerOptions::default(),
            timeout: Duration::from_secs(30),
            connections: 16,
            homa: homa_client::Config::default(),
        }
    }
}

/// The longest time for a call.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

const MAX_CONNECTIONS: usize = 65_536;

/// Passes calls that come to `listen` on to `to`, until the handle is told to stop.
///
/// On `listen` it takes binary, old binary and compact messages; from TCP and unix sockets one call
/// at a time of each connection, so that replies keep their order. Oneway messages from Homa are
/// acknowledged when they were taken (see
/// [`ServerOptions::oneway`](crate::ServerOptions::oneway)). A call of the old way that gets no
/// reply although it is no oneway ends at the timeout.
///
/// `to` is `homa://`, `tcp+framed://` or `unix+framed://`. Its names are resolved once over Homa, and
/// for each connection otherwise. Replies from there have the name and the number of their requests;
/// those that some servers send to a oneway message that failed are dropped.
///
/// ```no_run
/// use thrift_homa::Endpoint;
/// use thrift_homa::gateway::{self, GatewayOptions};
///
/// # fn main() -> thrift::Result<()> {
/// let listen: Endpoint = "tcp+framed://0.0.0.0:9090".parse()?;
/// let to: Endpoint = "homa://10.0.0.1:4000".parse()?;
/// let gateway = gateway::serve(&listen, &to, GatewayOptions::default())?;
/// gateway.wait();
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `NotOpen` with a text that says what is wrong: an option out of range, a URI that cannot be used
/// on its side, one that leads back to the gateway, a name that does not resolve, or an address that
/// cannot be had.
pub fn serve(
    listen: &Endpoint,
    to: &Endpoint,
    options: GatewayOptions,
) -> thrift::Result<ServerHandle> {
    let GatewayOptions {
        server,
        timeout,
        connections,
        homa,
    } = options;
    let target = to.target();
    target.check(Role::Client)?;
    let timeout = target.timeout.unwrap_or(timeout);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err(not_open(format_args!(
            "timeout is {timeout:?}: a gateway waits up to {MAX_TIMEOUT:?} for a reply, and more \
             than 0"
        )));
    }
    if !(1..=MAX_CONNECTIONS).contains(&connections) {
        return Err(not_open(format_args!(
            "connections is {connections}: a gateway has 1 to {MAX_CONNECTIONS}"
        )));
    }
    if target.service.is_some() || target.protocol.is_some() || target.oneway.is_some() {
        return Err(not_open(format_args!(
            "a gateway passes messages on to {to} as they are: leave service, protocol and oneway \
             out of the URI"
        )));
    }
    if is_itself(&listen.target().place, &target.place) {
        return Err(not_open(format_args!(
            "a gateway on {listen} would pass calls on to itself at {to}, again and again: name the \
             address of the server there, or listen elsewhere"
        )));
    }
    to.bounded(server.limits.message_bytes)?;
    let forward: Box<dyn Forward> = match &target.place {
        Place::Homa { port, .. } if *port > LAST_SERVER_PORT => {
            return Err(not_open(format_args!(
                "a gateway cannot pass calls on to {to}: Homa servers have ports 1 to \
                 {LAST_SERVER_PORT}, name that of the server"
            )));
        }
        Place::Homa { host, port, engine } => {
            let config = engine.unwrap_or_default().configure(homa);
            Box::new(ToHoma::open(HostPort(host, *port), &config, timeout)?)
        }
        Place::Stream(addr) if addr.is_framed() => {
            let limit = server.limits.message_bytes;
            Box::new(ToStream::new(addr.clone(), connections, limit, timeout))
        }
        Place::Stream(_) => {
            return Err(not_open(format_args!(
                "a gateway cannot pass calls on to {to}, since it does not see where replies end \
                 there: use tcp+framed:// or unix+framed://"
            )));
        }
    };
    listen.serve_service(Service::Forward(forward), server)
}
