//! The user-space backend: the [`engine`](crate::engine) over UDP sockets.
//!
//! An [`Endpoint`](endpoint::Endpoint) has sockets, and one engine behind a mutex, or several that
//! share the peers. Callers lock it for table work, fill a batch, unlock and send on their own
//! thread. Of an asynchronous endpoint the [`driver`], a task, receives and keeps time; where a
//! handler blocks its thread, the [`keeper`] takes its place. Of a blocking one, a thread that
//! waits does ([`lead`]), or if there is none the [`background`] thread. So one RPC costs one
//! wake-up per side.

mod accept;
mod background;
mod busy;
mod capture;
mod clock;
mod company;
mod driver;
pub(crate) mod endpoint;
mod faults;
mod keeper;
pub(crate) mod lead;
mod link;
mod pace;
pub(crate) mod registry;
mod send;
pub(crate) mod shard;
mod turn;
