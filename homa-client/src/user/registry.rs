//! Who shares which endpoint.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tokio::runtime;

use super::driver::{Closer, drive};
use super::endpoint::{Endpoint, Handle, lock};
use super::keeper;
use crate::config::Config;
use crate::error::BindError;

/// Ports below this belong to servers.
pub(crate) const FIRST_CLIENT_PORT: u16 = 32_768;

/// Tries to find a free port for a server that asks for any.
const PORT_TRIES: usize = 64;

/// IP version of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Client endpoints that are open: one per runtime, settings and IP version.
static CLIENTS: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

struct Shared {
    runtime: runtime::Id,
    config: Config,
    family: Family,
    endpoint: Weak<Endpoint>,
}

/// The client endpoint of `runtime` with these settings; opened if there is none.
pub(crate) fn client(
    runtime: &runtime::Handle,
    config: &Config,
    family: Family,
) -> Result<Handle, BindError> {
    let mut clients = lock(&CLIENTS);
    clients.retain(|shared| shared.endpoint.strong_count() > 0);
    let found = clients.iter().find(|shared| {
        shared.runtime == runtime.id() && shared.family == family && shared.config == *config
    });
    if let Some(handle) = found
        .and_then(|shared| shared.endpoint.upgrade())
        .and_then(Handle::join)
        && !handle.is_closed()
    {
        return Ok(handle);
    }
    let any: SocketAddr = match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let handle = open(runtime, any, config, false)?;
    clients.push(Shared {
        runtime: runtime.id(),
        config: config.clone(),
        family,
        endpoint: Arc::downgrade(&handle),
    });
    Ok(handle)
}

/// A server endpoint; port 0 takes any free one below 32768.
pub(crate) fn server(
    runtime: &runtime::Handle,
    addr: SocketAddr,
    config: &Config,
) -> Result<Handle, BindError> {
    if addr.port() >= FIRST_CLIENT_PORT {
        return Err(BindError::PortOutOfRange { port: addr.port() });
    }
    if addr.port() != 0 {
        return open(runtime, addr, config, true);
    }
    for _ in 0..PORT_TRIES {
        // Above those that well-known services use.
        let port = 10_000 + (super::endpoint::random() % 22_000) as u16;
        match open(runtime, SocketAddr::new(addr.ip(), port), config, true) {
            Err(BindError::AddressInUse { .. }) => {}
            result => return result,
        }
    }
    Err(BindError::NoFreePort { addr })
}

fn open(
    runtime: &runtime::Handle,
    addr: SocketAddr,
    config: &Config,
    server: bool,
) -> Result<Handle, BindError> {
    let _inside = runtime.enter();
    let handle = Handle::new(Arc::new(Endpoint::open(addr, config, server)?));
    keeper::watch(&handle);
    runtime.spawn(drive(Closer::new(Arc::clone(&handle))));
    Ok(handle)
}

/// The runtime that drives the endpoints of blocking handles, on a thread of its own.
pub(crate) fn blocking_runtime() -> Result<runtime::Handle, BindError> {
    static RUNTIME: OnceLock<Option<runtime::Handle>> = OnceLock::new();
    let start = || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("homa".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))
            .ok()?;
        Some(handle)
    };
    RUNTIME
        .get_or_init(start)
        .clone()
        .ok_or(BindError::NoRuntime)
}

/// The runtime of the calling task.
pub(crate) fn current_runtime() -> Result<runtime::Handle, BindError> {
    runtime::Handle::try_current().map_err(|_| BindError::NoRuntime)
}
