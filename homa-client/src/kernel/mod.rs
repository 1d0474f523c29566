//! The backend for machines where HomaModule is loaded: sockets of IP protocol 146, whose protocol runs
//! in the kernel.
//!
//! A [`Socket`](socket::Socket) has a [`Region`](region::Region) of memory, into which the module
//! puts messages, and which lives until the last message in it is dropped. On it are the
//! [`client`], where a task receives the responses of all calls, or a thread waits in the module for
//! its own, or one for all [`leftovers`]; and the [`server`], where whoever accepts receives. What the module does is behind
//! [`Calls`](calls::Calls), so that all of it is tested without one, too.
//!
//! `unsafe` in this crate is here alone.
#![allow(unsafe_code, reason = "the module writes into memory of ours")]

mod alarm;
mod calls;
#[doc(hidden)]
pub mod check;
pub(crate) mod client;
#[cfg(test)]
mod fake;
mod leftovers;
mod region;
pub(crate) mod routes;
pub(crate) mod server;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use homa_sys::call::Family as SysFamily;
use nix::libc;
use tokio::runtime;

use self::calls::{Calls, Module};
use self::client::{ClientEndpoint, ClientHandle, Closer, drive};
use self::routes::PROBE_TIMEOUT;
use self::server::ServerEndpoint;
use self::socket::Socket;
use crate::config::{Config, ConfigError};
use crate::error::BindError;
use crate::message::Message;
use crate::user::registry::{Driven, FIRST_CLIENT_PORT, Family};

/// Tries to find a free port for a server that asks for any.
const PORT_TRIES: u16 = 64;

/// Client endpoints that are open: one per runtime, settings and IP version, and of those for all
/// blocking clients one per settings and IP version.
static CLIENTS: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

/// Probes of blocking clients that are under way, and most of them.
static PROBING: AtomicUsize = AtomicUsize::new(0);
const MAX_PROBING: usize = 16;

struct Shared {
    /// None for blocking clients.
    runtime: Option<runtime::Id>,
    region_bytes: usize,
    linger: Duration,
    family: Family,
    endpoint: Weak<ClientEndpoint>,
}

/// The client endpoint with these settings; opened if there is none.
pub(crate) fn client(
    driven: &Driven,
    config: &Config,
    family: Family,
) -> Result<ClientHandle, BindError> {
    let (region_bytes, linger) = (region_bytes(config)?, config.linger);
    let runtime = match driven {
        Driven::Runtime(runtime) => Some(runtime.id()),
        Driven::Callers => None,
    };
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    clients.retain(|shared| shared.endpoint.strong_count() > 0);
    let mut alike = clients.iter().filter(|shared| {
        (shared.runtime, shared.family) == (runtime, family)
            && (shared.region_bytes, shared.linger) == (region_bytes, linger)
    });
    // Others may be on their way to be closed.
    let open = alike.find_map(|shared| ClientHandle::join(shared.endpoint.upgrade()?));
    if let Some(handle) = open {
        return Ok(handle);
    }
    let module = Module::open(sys(family))?;
    let handle = open_client(driven, Box::new(module), region_bytes, linger)?;
    clients.push(Shared {
        runtime,
        region_bytes,
        linger,
        family,
        endpoint: Arc::downgrade(&handle),
    });
    Ok(handle)
}

fn open_client(
    driven: &Driven,
    calls: Box<dyn Calls>,
    region_bytes: usize,
    linger: Duration,
) -> Result<ClientHandle, BindError> {
    let any = SocketAddr::from(([0; 4], 0));
    let socket = Socket::new(calls, region_bytes).map_err(socket_error(any))?;
    let handle = ClientHandle::new(ClientEndpoint::new(
        socket,
        matches!(driven, Driven::Runtime(_)),
        linger,
    ));
    if let Driven::Runtime(runtime) = driven {
        let _inside = runtime.enter();
        let fd = handle.watch().map_err(socket_error(any))?;
        runtime.spawn(drive(Closer(Arc::clone(&handle)), fd));
    }
    Ok(handle)
}

/// Asks a peer in the background whether it can be called through the module.
pub(crate) fn probe(
    driven: &Driven,
    module: &ClientHandle,
    to: SocketAddr,
    then: impl FnOnce(bool) + Send + 'static,
) {
    let (module, question) = (module.clone(), Message::from(&server::PROBE[..]));
    let is_answer = |answer: &Message| *answer == server::PROBE_ANSWER[..];
    match driven {
        Driven::Runtime(runtime) => {
            drop(runtime.spawn(async move {
                let answered = match module.call(to, question) {
                    Err(_) => false,
                    Ok((ticket, receiver)) => {
                        match tokio::time::timeout(PROBE_TIMEOUT, receiver).await {
                            Ok(answer) => {
                                matches!(answer, Ok(Ok(answer)) if is_answer(&answer))
                            }
                            Err(_) => {
                                module.cancel_call(ticket);
                                false
                            }
                        }
                    }
                };
                then(answered);
            }));
        }
        Driven::Callers => {
            // Each probe has a thread, so there are a few at a time; others are asked later.
            if PROBING.fetch_add(1, Ordering::AcqRel) >= MAX_PROBING {
                PROBING.fetch_sub(1, Ordering::AcqRel);
                return then(false);
            }
            let ask = move || {
                let deadline = Instant::now() + PROBE_TIMEOUT;
                let call = module.call_private(to, question);
                let answer = call.map(|call| call.wait(Some(deadline)));
                PROBING.fetch_sub(1, Ordering::AcqRel);
                then(matches!(answer, Ok(Some(Ok(answer))) if is_answer(&answer)));
            };
            // Without a thread the peer is called on UDP, and asked again later.
            let thread = thread::Builder::new().name("homa-probe".to_owned());
            if thread.spawn(ask).is_err() {
                PROBING.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

/// A server at this port; port 0 takes any free one below 32768. The module gives its port to
/// packets for every address of this machine, whatever `addr` says.
pub(crate) fn server(
    driven: &Driven,
    addr: SocketAddr,
    config: &Config,
) -> Result<Arc<ServerEndpoint>, BindError> {
    if addr.port() >= FIRST_CLIENT_PORT {
        return Err(BindError::PortOutOfRange { port: addr.port() });
    }
    let region_bytes = region_bytes(config)?;
    let family = match addr {
        SocketAddr::V4(_) => SysFamily::V4,
        SocketAddr::V6(_) => SysFamily::V6,
    };
    let module = Module::open(family)?;
    let linger = config.linger;
    open_server(driven, Box::new(module), addr, region_bytes, linger)
}

fn open_server(
    driven: &Driven,
    calls: Box<dyn Calls>,
    mut addr: SocketAddr,
    region_bytes: usize,
    linger: Duration,
) -> Result<Arc<ServerEndpoint>, BindError> {
    // The region first: requests that come before it are lost (A.3).
    let socket = Socket::new(calls, region_bytes).map_err(socket_error(addr))?;
    if addr.port() != 0 {
        socket.bind(addr.port()).map_err(socket_error(addr))?;
    } else {
        bind_any(&socket, &mut addr)?;
    }
    let in_runtime = match driven {
        Driven::Runtime(runtime) => Some(runtime.enter()),
        Driven::Callers => None,
    };
    let opened = ServerEndpoint::new(socket, addr, in_runtime.is_some(), linger);
    opened.map_err(socket_error(addr))
}

fn bind_any(socket: &Socket, addr: &mut SocketAddr) -> Result<(), BindError> {
    for _ in 0..PORT_TRIES {
        // Above those that well-known services use.
        let port = 10_000 + fastrand::u16(..22_000);
        match socket.bind(port) {
            Ok(()) => {
                addr.set_port(port);
                return Ok(());
            }
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
            Err(error) => return Err(socket_error(*addr)(error)),
        }
    }
    Err(BindError::NoFreePort { addr: *addr })
}

fn socket_error(addr: SocketAddr) -> impl FnOnce(io::Error) -> BindError {
    move |source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => BindError::AddressInUse { addr },
        _ => BindError::Socket { addr, source },
    }
}

const fn sys(family: Family) -> SysFamily {
    match family {
        Family::V4 => SysFamily::V4,
        Family::V6 => SysFamily::V6,
    }
}

/// The region's length, which the module would refuse without saying why.
fn region_bytes(config: &Config) -> Result<usize, ConfigError> {
    let least = region::min_bytes();
    let bytes = config
        .kernel_region_bytes
        .unwrap_or_else(region::default_bytes);
    if (least..=region::max_bytes()).contains(&bytes) {
        return Ok(bytes);
    }
    Err(ConfigError {
        key: "kernel_region_bytes",
        value: bytes.to_string(),
        range: "2,000,000 bytes and 65,536 for each processor that could be in this machine \
                (/sys/devices/system/cpu/possible), at most 4 GiB; default 64 MiB or more",
    })
}
