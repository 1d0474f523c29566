//! The protocol's statements 1 to 83, each as a test of the engine by its verbs alone;
//! `docs/conformance.md` lists them.
//! Beside them: captures of the kernel module, and input that no peer should send.

mod fixture;
mod net;

mod acks;
mod bad_input;
mod captures;
mod delivery;
mod framing;
mod grants;
mod limits;
mod offsets;
mod priorities;
mod recovery;
mod table;
