//! `homa-interop sim`: a data-center network, packet by packet, whose hosts run the engine.
#![allow(dead_code, reason = "being built")]

mod check;
mod compare;
mod curve;
mod events;
mod fabric;
mod homa;
mod ideal;
mod ledger;
mod link;
mod node;
mod outcome;
mod plan;
mod report;
mod setup;
mod slowdown;
mod time;
mod traffic;
mod workload;
mod world;
