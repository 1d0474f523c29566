//! [`Node`]: what a host runs, and what it and the fabric say to each other.

use super::time::Instant;

/// A host, by number. Those of a rack follow each other.
pub(crate) type HostId = u32;

/// A message: its sender, and its number among the messages of that.
pub(crate) type MessageId = u64;

/// A packet on its way. `B` is what the transport puts into it; the fabric does not look at that.
#[derive(Clone, Debug)]
pub(crate) struct Packet<B> {
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    /// Bytes that it occupies on a link, gap and preamble included. 0: it passes by the links, and
    /// takes as long as the fixed delays of its way.
    pub(crate) wire_bytes: u32,
    /// Priority level, 0 to 7; the highest goes first.
    pub(crate) level: u8,
    /// A switch has set this, whose queue was longer than it was told to let pass unmarked.
    pub(crate) marked: bool,
    pub(crate) body: B,
}

/// What a node reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The message is complete at its receiver (in echo mode: its response at the client).
    Finished(MessageId),
    /// It will never be.
    Failed(MessageId),
}

/// The transport of one host. The simulator calls it in the order of simulated time; after each
/// call of `start`, `receive` or `wake` it calls `pull` for as long as the host's link is free.
pub(crate) trait Node {
    type Body;

    /// The application sends a message. `Err`: there is no room; the run is an overload.
    fn start(
        &mut self,
        now: Instant,
        message: MessageId,
        to: HostId,
        bytes: u64,
    ) -> Result<(), &'static str>;

    /// A packet has arrived.
    fn receive(&mut self, now: Instant, packet: Packet<Self::Body>, reports: &mut Vec<Report>);

    /// The link is free: the next packet, if there is one.
    fn pull(&mut self, now: Instant) -> Option<Packet<Self::Body>>;

    /// When to call `wake`.
    fn next_wake(&self) -> Option<Instant>;

    /// The time has come.
    fn wake(&mut self, now: Instant, reports: &mut Vec<Report>);

    /// Whether it could let somebody send to it and does not.
    fn withholds(&self) -> bool;

    /// Bytes of messages that have arrived at it so far, each once however often it was sent.
    fn arrived_bytes(&self) -> u64;

    /// Packets that it has sent again so far.
    fn resends(&self) -> u64;
}
