//! gRPC's own interoperability suite and more of ours: the services, and the cases that call them.

mod cases;
mod client;
mod content;
mod context;
mod marks;
mod proto;
mod service;
mod trailers;

pub(crate) use cases::CASES;
pub(crate) use client::{Arguments, Load, run};
pub(crate) use service::Services;

/// Where the load of a call is.
const LOAD_TRAILER: &str = "endpoint-load-metrics-bin";

/// The longest message that clients and servers take; tonic's own limit is 4 MiB.
const MESSAGE_LIMIT: usize = 80 << 20;
