//! The user-space backend: the [`engine`](crate::engine) over UDP sockets.
//!
//! An [`Endpoint`](endpoint::Endpoint) has sockets, one driver task, and one engine behind a
//! mutex, or several that share the peers. Callers lock it for table work, fill a batch, unlock and send on their own
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
mod send;
pub(crate) mod shard;
mod turn;
