//! Who shares which endpoint.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};

use tokio::runtime;

use super::background;
use super::driver::{Closer, drive};
use super::endpoint::{Endpoint, Handle, Role, lock};
use super::keeper;
use super::lead::Lead;
use crate::config::{Backend, Config};
use crate::error::BindError;
use crate::server::RequestHandler;

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

/// Who receives and keeps time for an endpoint.
#[derive(Clone, Debug)]
pub(crate) enum Driven {
    /// A task of this runtime.
    Runtime(runtime::Handle),
    /// The threads that wait on it.
    Callers,
}

impl Driven {
    fn id(&self) -> Option<runtime::Id> {
        match self {
            Self::Runtime(runtime) => Some(runtime.id()),
            Self::Callers => None,
        }
    }
}

/// Client endpoints that are open: one per runtime, settings and IP version, and of those for all
/// blocking clients one per settings and IP version.
static CLIENTS: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

struct Shared {
    /// None for blocking clients.
    runtime: Option<runtime::Id>,
    config: Config,
    family: Family,
    /// Who takes the requests of servers, if anybody does.
    handler: Option<RequestHandler>,
    endpoint: Weak<Endpoint>,
}

/// The client endpoint with these settings; opened if there is none.
pub(crate) fn client(
    driven: &Driven,
    config: &Config,
    family: Family,
    handler: Option<&RequestHandler>,
) -> Result<Handle, BindError> {
    // Those who may use the module as well share the endpoint of the others.
    let config = &Config {
        backend: Backend::User,
        kernel_region_bytes: None,
        ..config.clone()
    };
    let mut clients = lock(&CLIENTS);
    clients.retain(|shared| shared.endpoint.strong_count() > 0);
    let found = clients.iter().find(|shared| {
        shared.runtime == driven.id()
            && shared.family == family
            && same(shared.handler.as_ref(), handler)
            && shared.config == *config
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
    let role = match handler {
        None => Role::Client,
        Some(_) => Role::AcceptingClient,
    };
    let handle = open(driven, any, config, role)?;
    if let Some(handler) = handler {
        handle.accepts.hand_to(handler.clone());
    }
    clients.push(Shared {
        runtime: driven.id(),
        config: config.clone(),
        family,
        handler: handler.cloned(),
        endpoint: Arc::downgrade(&handle),
    });
    Ok(handle)
}

/// Whether both are the same handler, or none.
fn same(a: Option<&RequestHandler>, b: Option<&RequestHandler>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// A server endpoint; port 0 takes any free one below 32768.
pub(crate) fn server(
    driven: &Driven,
    addr: SocketAddr,
    config: &Config,
) -> Result<Handle, BindError> {
    if addr.port() >= FIRST_CLIENT_PORT {
        return Err(BindError::PortOutOfRange { port: addr.port() });
    }
    if addr.port() != 0 {
        return open(driven, addr, config, Role::Server);
    }
    for _ in 0..PORT_TRIES {
        // Above those that well-known services use.
        let port = 10_000 + (super::endpoint::random() % 22_000) as u16;
        let addr = SocketAddr::new(addr.ip(), port);
        match open(driven, addr, config, Role::Server) {
            // The bulk port may be in use instead, which no other main port changes.
            Err(BindError::AddressInUse { addr }) if addr.port() == port => {}
            result => return result,
        }
    }
    Err(BindError::NoFreePort { addr })
}

fn open(
    driven: &Driven,
    addr: SocketAddr,
    config: &Config,
    role: Role,
) -> Result<Handle, BindError> {
    match driven {
        Driven::Runtime(runtime) => {
            let _inside = runtime.enter();
            let handle = Handle::new(Arc::new(Endpoint::open(addr, config, role, None)?));
            keeper::watch(&handle);
            runtime.spawn(drive(Closer::new(Arc::clone(&handle))));
            Ok(handle)
        }
        Driven::Callers => {
            let no_thread = |source| BindError::NoThread { source };
            let lead = Arc::new(Lead::new().map_err(|errno| no_thread(errno.into()))?);
            let endpoint = Endpoint::open(addr, config, role, Some(lead.clone()))?;
            let handle = Handle::new(Arc::new(endpoint));
            background::look_after(Arc::clone(&handle), lead).map_err(no_thread)?;
            Ok(handle)
        }
    }
}

/// The runtime of the calling task.
pub(crate) fn current_runtime() -> Result<Driven, BindError> {
    runtime::Handle::try_current()
        .map(Driven::Runtime)
        .map_err(|_| BindError::NoRuntime)
}
