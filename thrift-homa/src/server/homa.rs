//! A server over Homa: its workers receive for each other, and take one request at a time.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use homa_client::Message;
use homa_client::blocking::{Request, Responder, Server};

use super::CallTransport;
use super::context::Origin;
use super::core::{Core, Replier, Shift};

/// Opens the endpoint, with its bound on what waits.
pub(super) fn bind(addr: SocketAddr, core: &Arc<Core>) -> thrift::Result<Arc<Server>> {
    let server = Server::bind(addr, &core.options.homa).map_err(crate::error::not_open)?;
    let overloaded = core.clone();
    let handler = move |request: Request| {
        let (origin, message, responder) = take_apart(request);
        let why = overloaded.overloaded();
        refuse(&overloaded, origin, message, responder, &why);
    };
    server.refuse_beyond(core.options.queue, Arc::new(handler));
    Ok(Arc::new(server))
}

/// What a worker does, until the server stops. It does not keep the endpoint open: a handler that
/// never returns must not hold the port.
pub(super) fn work(server: &Weak<Server>, core: &Core, shift: &Shift) {
    while let Some(request) = server.upgrade().and_then(|server| server.accept()) {
        let (origin, message, responder) = take_apart(request);
        let replier = Replier::Homa(responder);
        let admit = |core: &Core| match core.refusal() {
            Some(why) => Err(why.to_owned()),
            None => Ok(()),
        };
        if message.parts().len() == 1
            && let Some(whole) = message.parts().next()
        {
            // A short message is one piece, which is faster to read.
            core.handle(&shift.desk, origin, &whole[..], replier, admit);
        } else {
            core.handle(&shift.desk, origin, message, replier, admit);
        }
    }
}

/// Refuses what waits.
pub(super) fn refuse_waiting(server: &Server, core: &Core, why: &str) {
    while let Some(request) = server.try_accept() {
        let (origin, message, responder) = take_apart(request);
        refuse(core, origin, message, responder, why);
    }
}

fn refuse(core: &Core, origin: Origin, message: Message, responder: Responder, why: &str) {
    let size = message.len();
    let replier = Replier::Homa(responder);
    core.refuse(origin, (message, size), replier, |caller| {
        caller.refuse(why)
    });
}

/// Waits until the replies are acknowledged, and everything that was taken is done.
pub(super) fn drain(server: &Server, core: &Core, grace: Duration) -> (bool, bool) {
    let deadline = Instant::now().checked_add(grace);
    let acknowledged = server.shutdown(grace);
    // Handlers of oneways were answered before they ran.
    (acknowledged, core.wait_ended(deadline))
}

fn take_apart(request: Request) -> (Origin, Message, Responder) {
    let origin = Origin {
        peer: Some(request.peer()),
        received_at: request.received_at(),
        transport: CallTransport::Homa,
    };
    let (message, responder) = request.into_parts();
    (origin, message, responder)
}
