//! Messages longer than one Homa message, in pieces, if both sides have agreed.
//!
//! Such a message takes several RPCs: each piece of the request is one, which the server answers by
//! a few bytes; then one that says that the message is complete, which executes it; and one for each
//! piece of a reply that is long. So a handler runs once for each executing RPC, as ever. What is on
//! the wire is in [`wire`], and in the repository's `docs/thrift.md`.
//!
//! The server keeps pieces under the client's address and a random number until they are complete,
//! within bounds, and not for long: see [`transfers`].

pub(crate) mod client;
mod options;
pub(crate) mod transfers;
pub(crate) mod wire;

pub(crate) use self::options::BadPieces;
pub use self::options::PieceOptions;
pub use self::transfers::PieceStats;
pub use self::wire::RefusedPiece;
