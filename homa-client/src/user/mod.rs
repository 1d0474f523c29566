//! The user-space backend: the [`engine`](crate::engine) over UDP sockets.
//!
//! An [`Endpoint`](endpoint::Endpoint) is one engine behind one mutex, with its sockets and one
//! driver task. Callers lock it for table work, fill a batch, unlock and send on their own
//! thread; the [`driver`] receives and keeps time. So one RPC costs one wake-up per side. Where a
//! handler blocks the driver's thread, the [`keeper`] takes its place.

mod accept;
mod buffers;
mod capture;
mod clock;
mod driver;
pub(crate) mod endpoint;
mod faults;
mod keeper;
mod link;
mod pace;
pub(crate) mod registry;
mod turn;
