//! The two ways in of a packet: as one datagram, or as another engine gave it.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, Bytes};

use super::wire::{Common, DATA_HEADER_LEN, Packet};
use super::{Datagram, DropReason, Engine, Segment, Socket, Time};

/// What is left of a packet once its header was read.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The endpoint that it came from.
    pub(super) from: SocketAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) socket: Socket,
    /// Bytes of the whole packet.
    pub(super) len: usize,
    /// What follows the header, if it is DATA. To be taken: a message is held as its packets.
    pub(super) payload: Bytes,
}

impl Engine {
    /// Takes one datagram. Whatever is wrong with it ends in [`Counters`](super::Counters);
    /// returned is why it was dropped, if it was.
    pub fn handle_datagram(&mut self, now: Time, mut datagram: Datagram) -> Option<DropReason> {
        let parsed = Packet::parse(self.settings.carrier, &datagram.data);
        let len = datagram.data.len();
        // Cut, not shared: no count of references has to be made for it.
        datagram.data.advance(len.min(DATA_HEADER_LEN));
        let Datagram {
            from,
            local,
            socket,
            data: payload,
            ..
        } = datagram;
        let arrival = Arrival {
            from,
            local,
            socket,
            len,
            payload,
        };
        self.handle(now, &parsed, arrival)
    }

    /// Takes one packet as [`Engine::poll_transmit`] of another engine gave it, without copying
    /// its payload: a network in memory, such as a simulator's, need not join it with its header.
    /// All else is as with [`Engine::handle_datagram`].
    pub fn handle_segment(&mut self, now: Time, datagram: Datagram<Segment>) -> Option<DropReason> {
        let Datagram {
            from,
            local,
            socket,
            data: segment,
            ..
        } = datagram;
        let parsed = Packet::parse(self.settings.carrier, &segment.header);
        let arrival = Arrival {
            from,
            local,
            socket,
            len: segment.len(),
            payload: segment.into_payload(),
        };
        self.handle(now, &parsed, arrival)
    }

    #[inline]
    fn handle(
        &mut self,
        now: Time,
        parsed: &Result<(Common, Packet), DropReason>,
        mut arrival: Arrival,
    ) -> Option<DropReason> {
        arrival.from = self.endpoint_of(arrival.from);
        let received = match parsed {
            Ok((common, packet)) => self.receive(now, &mut arrival, common, packet),
            Err(reason) => Err(*reason),
        };
        let reason = received.err()?;
        tracing::trace!(from = %arrival.from, reason = reason.name(), "packet dropped");
        self.counters.count_drop(reason);
        Some(reason)
    }

    /// Counts a datagram that the driver could not hand over, being cut or unreadable.
    pub fn count_truncated(&mut self) {
        self.counters.count_drop(DropReason::Truncated);
    }
}
