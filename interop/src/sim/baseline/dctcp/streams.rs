//! [`Streams`]: what applications have written into all streams of a network and not read yet.

use std::collections::VecDeque;

use crate::sim::node::{HostId, MessageId};

/// Messages of one host that may be unfinished at once; with 144 hosts that are all full, they
/// take 230 MB.
const MAX_UNFINISHED: u32 = 1 << 16;

/// The contents of all streams. No bytes are carried in the simulator: whoever has received a
/// stream up to some byte finds here which messages have ended by then, as a real receiver would
/// find them in the bytes.
#[derive(Debug)]
pub(super) struct Streams {
    /// By receiver, then by port there.
    received_by: Vec<Vec<Stream>>,
    /// Messages that each host has started and that have not finished.
    unfinished: Vec<u32>,
    max_unfinished: u32,
}

#[derive(Debug)]
struct Stream {
    from: HostId,
    /// Its place among the sender's streams.
    port_at_sender: u32,
    /// Everything before this byte has been read.
    read: u64,
    written: u64,
    messages: VecDeque<Written>,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    /// The byte after its last one.
    end: u64,
    message: MessageId,
    is_response: bool,
}

/// A message that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) message: MessageId,
    pub(super) is_response: bool,
    pub(super) bytes: u64,
}

impl Streams {
    pub(super) fn new(hosts: u32) -> Self {
        Self {
            received_by: (0..hosts).map(|_| Vec::new()).collect(),
            unfinished: vec![0; hosts as usize],
            max_unfinished: MAX_UNFINISHED,
        }
    }

    /// A new stream: its port at the receiver.
    pub(super) fn open(&mut self, from: HostId, port_at_sender: u32, to: HostId) -> u32 {
        let streams = &mut self.received_by[to as usize];
        streams.push(Stream {
            from,
            port_at_sender,
            read: 0,
            written: 0,
            messages: VecDeque::new(),
        });
        streams.len() as u32 - 1
    }

    /// Who has opened a stream, and its port there.
    pub(super) fn sender(&self, to: HostId, port: u32) -> (HostId, u32) {
        let stream = &self.received_by[to as usize][port as usize];
        (stream.from, stream.port_at_sender)
    }

    pub(super) fn write(
        &mut self,
        to: HostId,
        port: u32,
        message: MessageId,
        is_response: bool,
        bytes: u64,
    ) {
        let stream = &mut self.received_by[to as usize][port as usize];
        stream.written += bytes;
        stream.messages.push_back(Written {
            end: stream.written,
            message,
            is_response,
        });
    }

    /// The next message, if the receiver has all bytes before `up_to`.
    pub(super) fn read(&mut self, to: HostId, port: u32, up_to: u64) -> Option<Arrived> {
        let stream = &mut self.received_by[to as usize][port as usize];
        let written = *stream.messages.front().filter(|first| first.end <= up_to)?;
        stream.messages.pop_front();
        let bytes = written.end - stream.read;
        stream.read = written.end;
        Some(Arrived {
            message: written.message,
            is_response: written.is_response,
            bytes,
        })
    }

    /// A host starts a message, if it may have another one that is unfinished.
    pub(super) fn begin(&mut self, host: HostId) -> bool {
        let unfinished = &mut self.unfinished[host as usize];
        let has_room = *unfinished < self.max_unfinished;
        *unfinished += u32::from(has_room);
        has_room
    }

    /// A message that this host has started is over.
    pub(super) fn finish(&mut self, host: HostId) {
        self.unfinished[host as usize] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_in_order_when_their_last_byte_is_there() {
        let mut streams = Streams::new(3);
        let port = streams.open(1, 7, 2);
        assert_eq!(streams.sender(2, port), (1, 7));
        streams.write(2, port, 50, false, 100);
        streams.write(2, port, 51, true, 1);
        assert_eq!(streams.read(2, port, 99), None);
        let arrived = |message, is_response, bytes| Arrived {
            message,
            is_response,
            bytes,
        };
        assert_eq!(streams.read(2, port, 101), Some(arrived(50, false, 100)));
        assert_eq!(streams.read(2, port, 101), Some(arrived(51, true, 1)));
        assert_eq!(streams.read(2, port, 101), None);
    }

    #[test]
    fn a_host_has_a_limit_of_unfinished_messages() {
        let mut streams = Streams::new(2);
        streams.max_unfinished = 2;
        assert!(streams.begin(0) && streams.begin(0) && !streams.begin(0));
        assert!(streams.begin(1));
        streams.finish(0);
        assert!(streams.begin(0) && !streams.begin(0));
    }
}
