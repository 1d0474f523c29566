//! A server over Homa: its workers receive for each other, and take one request at a time.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use homa_client::Message;
use homa_client::blocking::{Request, Server};

use super::CallTransport;
use super::context::Origin;
use super::core::{Core, Replier, Shift};
use crate::pieces::transfers::{Opened, Transfers};

/// Between two looks whether all pieces were fetched.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Opens the endpoint, with its bound on what waits.
pub(super) fn bind(addr: SocketAddr, core: &Arc<Core>) -> thrift::Result<Arc<Server>> {
    let server = Server::bind(addr, &core.options.homa).map_err(crate::error::not_open)?;
    let overloaded = core.clone();
    let handler = move |request: Request| {
        if let Some(taken) = take(&overloaded, request) {
            let why = overloaded.overloaded();
            refuse(&overloaded, taken, &why);
        }
    };
    server.refuse_beyond(core.options.queue, Arc::new(handler));
    Ok(Arc::new(server))
}

/// What a worker does, until the server stops. It does not keep the endpoint open: a handler that
/// never returns must not hold the port.
pub(super) fn work(server: &Weak<Server>, core: &Core, shift: &Shift) {
    while let Some(request) = server.upgrade().and_then(|server| server.accept()) {
        let Some((origin, message, replier)) = take(core, request) else {
            continue;
        };
        let admit = |core: &Core| match core.refusal_of(origin) {
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
        if let Some(taken) = take(core, request) {
            refuse(core, taken, why);
        }
    }
}

fn refuse(core: &Core, (origin, message, replier): Taken, why: &str) {
    let size = message.len();
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

/// Stops, and waits until long replies were fetched, also those of calls that still run: that takes
/// requests, which a closed endpoint refuses.
pub(super) fn deliver_pieces(server: &Server, core: &Core, deadline: Option<Instant>) {
    let Some(transfers) = &core.transfers else {
        return;
    };
    core.stop();
    let is_busy = || core.counts.are_running() || server.waiting() > 0 || transfers.unfetched() > 0;
    // A call that was taken from the queue a moment ago runs at the second look.
    let mut idle_looks = 0;
    while idle_looks < 2 && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        idle_looks = if is_busy() { 0 } else { idle_looks + 1 };
        thread::sleep(LOOK_EVERY);
    }
}

/// A request to be executed: where it came from, its message, and the way back.
type Taken = (Origin, Message, Replier);

/// Takes a request apart. `None`: it was a piece of a message, and is answered.
fn take(core: &Core, request: Request) -> Option<Taken> {
    let peer = request.peer();
    let origin = Origin {
        peer: Some(peer),
        received_at: request.received_at(),
        transport: CallTransport::Homa,
    };
    let (message, responder) = request.into_parts();
    let Some(transfers) = core
        .transfers
        .as_ref()
        .filter(|_| Transfers::is_for(&message))
    else {
        return Some((origin, message, Replier::Homa(responder)));
    };
    match transfers.open(peer, message) {
        Opened::Execute(message, envelope) => {
            Some((origin, message, Replier::Pieces(responder, envelope)))
        }
        Opened::Answer(answer) => {
            // The endpoint is closed, or has no room: the client's own call fails then.
            let _ = responder.reply(answer);
            None
        }
    }
}
