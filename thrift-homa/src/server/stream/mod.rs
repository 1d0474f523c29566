//! Servers on TCP and unix sockets, with the options, limits and the stop of the one on Homa.
//!
//! Each connection has a thread that reads whole messages, at most one at a time. A call runs on it
//! once it has one of as many permits as there are workers, which is given back before the reply is
//! written: a client that is slow at either costs a thread and nothing else.

mod connection;
mod countdown;
mod listen;
mod permits;
mod read;
mod unix;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use thrift::server::TProcessor;

pub(super) use self::connection::Connection;
pub(crate) use self::listen::StreamListener;

use self::connection::Stream;
use self::countdown::Patience;
use self::permits::Permits;
use self::read::{Broken, Next, Reader};
use super::context::Origin;
use super::core::{Core, Replier, Service};
use super::handle::Carrier;
use super::{CallTransport, ServerHandle, ServerOptions};
use crate::process::Caller;

/// What separates messages on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Four bytes in front of each tell its length, as those of `TFramedWriteTransport`.
    Framed,
    /// Nothing: each ends where the protocol says. For clients with buffered transports, or none.
    Buffered,
}

/// The pause after the system has refused to accept, say for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What users are told of this is with [`serve_tcp`].
const PATIENCE: Patience = Patience {
    least: Duration::from_secs(30),
    per_megabyte: Duration::from_secs(1),
};

/// Serves a processor over TCP, with the options, limits, call context, observer and stop of a
/// [`HomaServer`](crate::HomaServer); [`ServerOptions::homa`] and [`ServerOptions::oneway`] do not
/// count.
///
/// A connection may be idle for ever, which costs a thread. A message that has begun has to arrive
/// within 30 seconds as a whole, however its bytes come, and one second more for each 1,000,000
/// bytes that have come of it; a reply has to be taken within as much. A connection that breaks this,
/// or on which something comes that is no message, is closed.
///
/// ```no_run
/// use std::net::TcpListener;
/// use thrift_homa::{Framing, ServerOptions, serve_tcp};
///
/// # fn main() -> thrift::Result<()> {
/// # let processor = thrift::server::TMultiplexedProcessor::new();
/// let listener = TcpListener::bind("0.0.0.0:9090")?;
/// let server = serve_tcp(listener, Framing::Framed, processor, ServerOptions::default())?;
/// server.wait();
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// An option is out of range (`NotOpen`), or no thread can be started.
pub fn serve_tcp(
    listener: TcpListener,
    framing: Framing,
    processor: impl TProcessor + Send + Sync + 'static,
    options: ServerOptions,
) -> thrift::Result<ServerHandle> {
    let listener = StreamListener::Tcp(listener);
    let service = Service::Processor(Arc::new(processor));
    serve_stream(listener, framing, service, options)
}

/// Serves a processor on a unix socket, as [`serve_tcp`] does over TCP. The path must not exist; it
/// is removed when the server is stopped, unless another program has put its own socket there.
///
/// # Errors
/// The path cannot be had or an option is out of range (`NotOpen`), or no thread can be started.
pub fn serve_unix(
    path: impl AsRef<Path>,
    framing: Framing,
    processor: impl TProcessor + Send + Sync + 'static,
    options: ServerOptions,
) -> thrift::Result<ServerHandle> {
    let listener = StreamListener::unix(path.as_ref())?;
    let service = Service::Processor(Arc::new(processor));
    serve_stream(listener, framing, service, options)
}

/// Serves connections until the handle stops it.
pub(crate) fn serve_stream(
    listener: StreamListener,
    framing: Framing,
    service: Service,
    options: ServerOptions,
) -> thrift::Result<ServerHandle> {
    serve_patiently(listener, framing, service, options, PATIENCE)
}

fn serve_patiently(
    listener: StreamListener,
    framing: Framing,
    service: Service,
    options: ServerOptions,
    patience: Patience,
) -> thrift::Result<ServerHandle> {
    options.check()?;
    let limits = options.limits;
    let core = Arc::new(Core::new(service, options, limits));
    let permits = Permits::new(core.options.workers, core.options.queue);
    let server = Arc::new(StreamServer {
        listener,
        framing,
        patience,
        core: core.clone(),
        permits,
        open: Mutex::default(),
    });
    let handle = ServerHandle::new(Carrier::Stream(server.clone()), core.clone());
    let shift = core.thread_starts();
    super::watch_deadlines(&core)?;
    super::start("thrift-accept".to_owned(), move || {
        server.accept_all();
        drop(shift);
    })?;
    Ok(handle)
}

/// A server on a socket.
pub(super) struct StreamServer {
    listener: StreamListener,
    framing: Framing,
    /// [`PATIENCE`], but in tests.
    patience: Patience,
    core: Arc<Core>,
    permits: Permits,
    open: Mutex<Open>,
}

/// The connections.
#[derive(Default)]
struct Open {
    connections: HashMap<u64, Arc<Connection>>,
    opened: u64,
}

impl StreamServer {
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            StreamListener::Tcp(listener) => listener.local_addr().ok(),
            StreamListener::Unix(..) => None,
        }
    }

    pub(super) fn uri(&self) -> String {
        let framing = match self.framing {
            Framing::Framed => "framed",
            Framing::Buffered => "buffered",
        };
        match &self.listener {
            StreamListener::Tcp(listener) => match listener.local_addr() {
                Ok(addr) => format!("tcp+{framing}://{addr}"),
                Err(error) => format!("tcp+{framing}://({error})"),
            },
            StreamListener::Unix(path, _) => {
                format!("unix+{framing}://{}", path.path().display())
            }
        }
    }

    pub(super) fn unix_path(&self) -> Option<&Path> {
        match &self.listener {
            StreamListener::Tcp(_) => None,
            StreamListener::Unix(path, _) => Some(path.path()),
        }
    }

    /// Calls that wait for a permit.
    pub(super) fn waiting(&self) -> usize {
        self.permits.waiting()
    }

    /// Takes no more connections, and no more messages on those that are open. The core knows
    /// already that it stops.
    pub(super) fn stop(&self) {
        let listener = match &self.listener {
            StreamListener::Tcp(listener) => SockRef::from(listener),
            StreamListener::Unix(path, listener) => {
                // As long as it listens nobody takes the path for abandoned, and replaces it.
                path.remove();
                SockRef::from(listener)
            }
        };
        // Wakes the thread that accepts, and refuses whoever connects from now on.
        let _ = listener.shutdown(std::net::Shutdown::Both);
        if self.core.refusal().is_some() {
            self.permits.close();
        }
        for connection in self.open().connections.values() {
            connection.end_reading();
        }
    }

    /// Whatever waits for a permit is refused.
    pub(super) fn end_grace(&self) {
        self.permits.close();
    }

    /// Closes what is open.
    pub(super) fn close_all(&self) {
        for connection in self.open().connections.values() {
            connection.close();
        }
    }

    fn accept_all(self: &Arc<Self>) {
        while !self.core.is_stopping() {
            match self.accept() {
                Ok(stream) => self.connect(stream),
                Err(_) if self.core.is_stopping() => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match &self.listener {
            StreamListener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            StreamListener::Unix(_, listener) => Ok(Stream::Unix(listener.accept()?.0)),
        }
    }

    fn connect(self: &Arc<Self>, stream: Stream) {
        let counts = &self.core.counts;
        let refuse = |why: &io::Error| {
            tracing::debug!(%why, "a connection is refused");
            counts.connections_refused.fetch_add(1, Ordering::Relaxed);
        };
        let connection = match Connection::new(stream, self.framing, self.patience) {
            Ok(connection) => Arc::new(connection),
            Err(error) => return refuse(&error),
        };
        let number = {
            let mut open = self.open();
            if open.connections.len() >= self.core.options.max_connections {
                drop(open);
                return refuse(&io::Error::other("max_connections are open"));
            }
            open.opened += 1;
            let number = open.opened;
            open.connections.insert(number, connection.clone());
            number
        };
        counts.connections.fetch_add(1, Ordering::Relaxed);
        // Who stops the server looks at the connections after it has said that it stops.
        if self.core.is_stopping() {
            connection.end_reading();
        }
        let place = Place {
            server: self.clone(),
            number,
        };
        let shift = self.core.thread_starts();
        let name = format!("thrift-conn-{number}");
        let started = super::start(name, move || {
            place.server.serve(&connection, &shift);
            drop(place);
            drop(shift);
        });
        if let Err(error) = started {
            // The place went with the thread that did not start.
            refuse(&io::Error::other(error.to_string()));
        }
    }

    fn serve(&self, connection: &Arc<Connection>, shift: &super::core::Shift) {
        let core = &*self.core;
        let mut reader = Reader::new(connection.clone(), &core.limits, &core.options.protocol);
        loop {
            let next = match reader.next(self.framing) {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(Broken(why)) => {
                    connection.break_off(&why);
                    break;
                }
            };
            let origin = Origin {
                peer: connection.peer(),
                received_at: Instant::now(),
                transport: connection.transport(),
            };
            let replier = Replier::Stream(connection.clone());
            match next {
                Next::Message(message) => {
                    let admit = |core: &Core| self.admit(core, origin);
                    core.handle(&shift.desk, origin, message, replier, admit);
                }
                Next::TooLong(start, size) => {
                    let counted = size.unwrap_or(start.len());
                    let refuse = |caller: &Caller| caller.too_long(size);
                    core.refuse(origin, (start, counted), replier, refuse);
                    if size.is_none() {
                        connection.break_off("it is over the limit, and its end is not known");
                        break;
                    }
                }
                Next::Undecodable(start, why) => {
                    let refuse = |caller: &Caller| caller.malformed(&why);
                    core.refuse(origin, (start, start.len()), replier, refuse);
                    connection.break_off(&why);
                    break;
                }
            }
            if connection.is_closed() {
                break;
            }
            if let Err(Broken(why)) = reader.skip_rest() {
                connection.break_off(&why);
                break;
            }
        }
        connection.close();
        if connection.is_broken() {
            let broken = &core.counts.connections_broken;
            broken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for a permit to run a call.
    fn admit(&self, core: &Core, origin: Origin) -> Result<permits::Permit<'_>, String> {
        if let Some(why) = core.refusal() {
            return Err(why.to_owned());
        }
        let taken = self.permits.take(core.deadline(origin));
        taken.map_err(|refused| match refused {
            permits::Refused::Full => core.overloaded(),
            permits::Refused::Late => core.too_late(origin.received_at.elapsed()),
            permits::Refused::Closed => "shutting down".to_owned(),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that are open.
struct Place {
    server: Arc<StreamServer>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.open().connections.remove(&self.number);
        self.server
            .core
            .counts
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for StreamServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamServer")
            .field("listener", &self.listener)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

impl Connection {
    fn transport(&self) -> CallTransport {
        if self.is_tcp() {
            CallTransport::Tcp
        } else {
            CallTransport::Unix
        }
    }
}

#[cfg(test)]
mod tests;
