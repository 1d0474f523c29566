//! Whatever arrives in whatever order, grants stay within their limits, and all messages complete.

use std::net::SocketAddr;

use bytes::BytesMut;
use homa_client::engine::wire::{Carrier, DATA_HEADER_LEN, Data, Header, Packet, Route};
use homa_client::engine::{Datagram, Engine, Event, Settings, Socket, Time};

use crate::source::{Source, fuzz};

const SERVER_PORT: u16 = 4000;

/// A client that sends one request, in order, as far as it was granted.
struct Sender {
    addr: SocketAddr,
    id: u64,
    length: u32,
    unscheduled: u32,
    sent: u32,
    granted: u32,
}

impl Sender {
    /// Bytes granted beyond what it sends by itself, and not there yet.
    fn outstanding(&self) -> usize {
        self.granted.saturating_sub(self.sent.max(self.unscheduled)) as usize
    }
}

struct Receiver {
    engine: Engine,
    senders: Vec<Sender>,
    requests: usize,
}

const NOW: Time = Time::from_nanos(1);

impl Receiver {
    fn add_sender(&mut self, source: &mut Source) {
        let id = 2 * self.senders.len() as u64 + 2;
        let length = 1 + source.below(300_000) as u32;
        let unscheduled = length.min(source.below(40_000) as u32 + 1);
        self.senders.push(Sender {
            addr: ([10, 0, 0, source.u8() % 8], 7000).into(),
            id,
            length,
            unscheduled,
            sent: 0,
            granted: unscheduled,
        });
    }

    /// A packet of up to `most` bytes comes from one of them.
    fn arrive(&mut self, number: usize, most: u32) {
        let Some(sender) = self.senders.get_mut(number) else {
            return;
        };
        let len = most.min(sender.granted - sender.sent);
        if len == 0 {
            return;
        }
        let route = Route {
            source_port: 40_000,
            dest_port: SERVER_PORT,
            sender_id: sender.id,
            incarnation: 1,
        };
        let data = Packet::Data(Data {
            incoming: sender.unscheduled,
            ..Data::new(sender.sent, sender.length)
        });
        let mut bytes = BytesMut::from(&Header::emit(&route, &data)[..]);
        bytes.resize(DATA_HEADER_LEN + len as usize, 0x55);
        sender.sent += len;
        let datagram = Datagram {
            from: sender.addr,
            local: None,
            tos: 0,
            socket: Socket::Main,
            data: bytes.freeze(),
        };
        assert_eq!(self.engine.handle_datagram(NOW, datagram), None);
    }

    /// The grants that are due reach their senders.
    fn grant(&mut self) {
        while let Some(transmit) = self.engine.poll_transmit(NOW, 64) {
            let (common, packet) =
                Packet::parse(Carrier::Udp, &transmit.segments[0].header).unwrap();
            let Packet::Grant(grant) = packet else {
                continue;
            };
            let mut senders = self.senders.iter_mut();
            let sender = senders
                .find(|sender| sender.id == common.sender_id ^ 1)
                .unwrap();
            assert!(grant.offset > sender.granted && grant.offset <= sender.length);
            sender.granted = grant.offset;
        }
        let outstanding: usize = self.senders.iter().map(Sender::outstanding).sum();
        let Settings {
            max_incoming,
            fifo_fraction,
            ..
        } = *self.engine.settings();
        // What the oldest message gets comes on top.
        let fifo = if fifo_fraction > 0 {
            max_incoming / 2
        } else {
            0
        };
        assert!(outstanding <= max_incoming + fifo, "{outstanding}");
        while let Some(event) = self.engine.poll_event(NOW) {
            let Event::Request {
                rpc,
                message,
                charged,
                ..
            } = event
            else {
                panic!("{event:?}")
            };
            let sender = self.senders.iter().find(|sender| sender.id == rpc.id() ^ 1);
            assert_eq!(message.len(), sender.unwrap().length as usize);
            self.engine.release(charged);
            self.requests += 1;
        }
    }
}

fn any_arrivals(mut source: Source) {
    let mut settings = Settings::default();
    settings.max_incoming = 10_000 + source.below(400_000);
    settings.max_overcommit = 1 + source.below(8);
    if source.below(2) == 0 {
        settings.fifo_fraction = 0;
    }
    let mut engine = Engine::new(settings, 1).unwrap();
    engine.open_port(SERVER_PORT, true);
    let mut receiver = Receiver {
        engine,
        senders: Vec::new(),
        requests: 0,
    };
    while !source.is_empty() {
        match source.below(8) {
            0 if receiver.senders.len() < 40 => receiver.add_sender(&mut source),
            1 | 2 => receiver.grant(),
            _ => {
                let number = source.below(receiver.senders.len());
                receiver.arrive(number, 1 + source.below(9000) as u32);
            }
        }
    }
    for round in 0.. {
        assert!(round < 10_000, "some messages get no grants");
        receiver.grant();
        if receiver.requests == receiver.senders.len() {
            break;
        }
        for number in 0..receiver.senders.len() {
            receiver.arrive(number, 9000);
        }
    }
}

#[test]
fn grants_stay_within_their_limits_and_all_messages_complete() {
    fuzz!(any_arrivals, 300, 2000);
}
