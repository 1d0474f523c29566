//! [`Host`]: one engine under a fake clock, and [`Remote`]: what a scripted peer says to it.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use homa_client::Message;
use homa_client::engine::wire::{
    Carrier, Common, DATA_HEADER_LEN, Data, Grant, Header, Kind, Packet, Resend, Route,
};
use homa_client::engine::{
    Datagram, DropReason, Engine, Event, RpcId, Settings, Socket, Time, Transmit,
};

/// Homa port of whoever calls.
pub(crate) const CLIENT_PORT: u16 = 40_000;
/// Homa port of whoever is called.
pub(crate) const SERVER_PORT: u16 = 4000;

/// Names another life of an engine than any that a [`Host`] has.
pub(crate) const INCARNATION: u32 = 7;

/// Address of the scripted client.
pub(crate) fn client_addr() -> SocketAddr {
    ([10, 0, 0, 1], 7000).into()
}

/// Address of the scripted server.
pub(crate) fn server_addr() -> SocketAddr {
    ([10, 0, 0, 2], SERVER_PORT).into()
}

/// Runs a test on both carriers; a failure names the one it happened on.
pub(crate) fn both(test: impl Fn(Carrier)) {
    for carrier in [Carrier::Udp, Carrier::Ip] {
        eprintln!("carrier: {carrier:?}");
        test(carrier);
    }
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The bytes of every test message: each depends on its offset, so that none can be misplaced
/// unseen.
pub(crate) fn pattern(range: Range<u32>) -> Bytes {
    static LONGEST: LazyLock<Bytes> = LazyLock::new(|| (0..1_000_000).map(byte_at).collect());
    if range.end as usize <= LONGEST.len() {
        return LONGEST.slice(range.start as usize..range.end as usize);
    }
    range.map(byte_at).collect()
}

fn byte_at(at: u32) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// A message of `len` bytes of the pattern.
pub(crate) fn message(len: u32) -> Message {
    pattern(0..len).into()
}

/// Whether these are the first bytes of the pattern.
#[track_caller]
pub(crate) fn check_message(message: Message, len: u32) {
    assert_eq!(message.len(), len as usize);
    assert!(message.into_bytes() == pattern(0..len), "wrong bytes");
}

/// One RPC of the host under test as its scripted peer speaks of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remote {
    pub(crate) addr: SocketAddr,
    pub(crate) route: Route,
}

impl Remote {
    /// A client that calls the host with this even id.
    pub(crate) fn client(id: u64) -> Self {
        Self {
            addr: client_addr(),
            route: Route {
                source_port: CLIENT_PORT,
                dest_port: SERVER_PORT,
                sender_id: id,
                incarnation: INCARNATION,
            },
        }
    }

    /// The server that the host has called.
    pub(crate) fn server(rpc: RpcId) -> Self {
        Self {
            addr: server_addr(),
            route: Route {
                source_port: SERVER_PORT,
                dest_port: CLIENT_PORT,
                sender_id: rpc.id() ^ 1,
                incarnation: INCARNATION,
            },
        }
    }

    /// The same at another address.
    pub(crate) fn at(mut self, addr: impl Into<SocketAddr>) -> Self {
        self.addr = addr.into();
        self
    }

    /// A packet as this side emits it.
    pub(crate) fn emit(&self, packet: &Packet, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Header::emit(&self.route, packet).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }
}

/// DATA of a message of `length` bytes as kernels announce it: 40,000 of them unscheduled.
pub(crate) fn data(offset: u32, length: u32) -> Data {
    Data {
        incoming: length.min(40_000),
        ..Data::new(offset, length)
    }
}

/// A packet that the host has sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Time,
    pub(crate) to: SocketAddr,
    pub(crate) tos: u8,
    pub(crate) bytes: Bytes,
    pub(crate) common: Common,
    pub(crate) packet: Packet,
}

impl Sent {
    pub(crate) fn kind(&self) -> Kind {
        self.common.kind
    }

    #[track_caller]
    pub(crate) fn data(&self) -> Data {
        match self.packet {
            Packet::Data(data) => data,
            _ => panic!("{self:?} is no DATA"),
        }
    }

    /// Where the payload of DATA lies in its message.
    #[track_caller]
    pub(crate) fn range(&self) -> Range<u32> {
        let start = self.data().offset();
        start..start + (self.bytes.len() - DATA_HEADER_LEN) as u32
    }
}

/// The kinds of some packets, in order.
pub(crate) fn kinds(sent: &[Sent]) -> Vec<Kind> {
    sent.iter().map(Sent::kind).collect()
}

/// The packets of one kind.
pub(crate) fn only(sent: &[Sent], kind: Kind) -> Vec<Sent> {
    sent.iter()
        .filter(|sent| sent.kind() == kind)
        .cloned()
        .collect()
}

/// The offsets of GRANTs.
pub(crate) fn grants(sent: &[Sent]) -> Vec<u32> {
    sent.iter()
        .filter_map(|sent| match &sent.packet {
            Packet::Grant(grant) => Some(grant.offset),
            _ => None,
        })
        .collect()
}

/// Offset and length of RESENDs.
pub(crate) fn resends(sent: &[Sent]) -> Vec<(u32, u32)> {
    sent.iter()
        .filter_map(|sent| match &sent.packet {
            Packet::Resend(resend) => Some((resend.offset, resend.length)),
            _ => None,
        })
        .collect()
}

/// One engine with a client's and a server's port.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
    pub(crate) carrier: Carrier,
}

impl Host {
    pub(crate) fn new(carrier: Carrier) -> Self {
        Self::with(carrier, |_| {})
    }

    /// A host with some settings changed.
    pub(crate) fn with(carrier: Carrier, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::for_carrier(carrier);
        change(&mut settings);
        let mut engine = Engine::new(settings, 1).unwrap();
        engine.open_port(CLIENT_PORT, false);
        engine.open_port(SERVER_PORT, true);
        Self {
            engine,
            now: Time::from_nanos(1),
            carrier,
        }
    }

    /// Hands raw bytes to the engine; returns why they were dropped, if they were.
    pub(crate) fn hear_bytes(
        &mut self,
        from: SocketAddr,
        bytes: impl Into<Bytes>,
    ) -> Option<DropReason> {
        let datagram = Datagram {
            from,
            local: None,
            tos: 0,
            socket: Socket::Main,
            data: bytes.into(),
        };
        self.engine.handle_datagram(self.now, datagram)
    }

    pub(crate) fn hear(&mut self, remote: &Remote, packet: Packet) -> Option<DropReason> {
        self.hear_bytes(remote.addr, remote.emit(&packet, &[]))
    }

    /// One packet of a message, with what the pattern has at its place.
    pub(crate) fn hear_data(
        &mut self,
        remote: &Remote,
        data: Data,
        len: u32,
    ) -> Option<DropReason> {
        let start = data.offset();
        let payload = pattern(start..start + len);
        self.hear_bytes(remote.addr, remote.emit(&Packet::Data(data), &payload))
    }

    /// All bytes of `range` of a message of `length`, in packets of at most 1,400.
    pub(crate) fn hear_range(&mut self, remote: &Remote, length: u32, range: Range<u32>) {
        for start in range.clone().step_by(1400) {
            let len = 1400.min(range.end - start);
            assert_eq!(self.hear_data(remote, data(start, length), len), None);
        }
    }

    /// A whole request of `len` bytes comes and is handed over.
    #[track_caller]
    pub(crate) fn take_request(&mut self, remote: &Remote, len: u32) -> RpcId {
        self.hear_range(remote, len, 0..len);
        match self.engine.poll_event(self.now) {
            Some(Event::Request { rpc, message, .. }) => {
                check_message(message, len);
                rpc
            }
            other => panic!("no request but {other:?}"),
        }
    }

    /// A request of `request` bytes comes and is answered with `reply` bytes, of which is sent
    /// what may be.
    #[track_caller]
    pub(crate) fn serve(
        &mut self,
        remote: &Remote,
        request: u32,
        reply: u32,
    ) -> (RpcId, Vec<Sent>) {
        let rpc = self.take_request(remote, request);
        self.sent();
        self.engine
            .send_reply(self.now, rpc, message(reply))
            .unwrap();
        let sent = self.sent();
        (rpc, sent)
    }

    /// Calls the scripted server with `len` bytes, of which is sent what may be.
    pub(crate) fn call(&mut self, len: u32) -> (Remote, Vec<Sent>) {
        let rpc = self.start_call(len);
        (Remote::server(rpc), self.sent())
    }

    /// The same without sending.
    pub(crate) fn start_call(&mut self, len: u32) -> RpcId {
        self.engine
            .send_request(
                self.now,
                CLIENT_PORT,
                server_addr(),
                SERVER_PORT,
                message(len),
                99,
            )
            .unwrap()
    }

    /// A call of one byte whose answer of one byte has been read: its server is owed an ack.
    pub(crate) fn finish_call(&mut self) -> Remote {
        let (server, _) = self.call(1);
        assert_eq!(self.hear_data(&server, data(0, 1), 1), None);
        assert!(matches!(self.event(), Some(Event::Response { .. })));
        server
    }

    pub(crate) fn event(&mut self) -> Option<Event> {
        self.engine.poll_event(self.now)
    }

    /// All that the engine wants to send now.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(transmit) = self.engine.poll_transmit(self.now, 64) {
            for bytes in packets(&transmit) {
                let (common, packet) = Packet::parse(self.carrier, &bytes).unwrap();
                sent.push(Sent {
                    at: self.now,
                    to: transmit.to,
                    tos: transmit.tos,
                    bytes,
                    common,
                    packet,
                });
            }
            assert!(sent.len() < 10_000, "poll_transmit does not end");
        }
        sent
    }

    /// Lets time pass, with every timer on time; returns what was sent meanwhile.
    pub(crate) fn wait(&mut self, time: Duration) -> Vec<Sent> {
        let until = self.now + time;
        let mut sent = self.sent();
        while let Some((at, _)) = self.engine.poll_timeout()
            && at <= until
        {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            sent.extend(self.sent());
        }
        self.now = until;
        sent
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.engine.counters().dropped(reason)
    }

    pub(crate) fn live(&self) -> usize {
        self.engine.live_rpcs()
    }

    /// Length, received and granted bytes of the RPC's incoming message, if it has one. `remote`
    /// is the peer that sends it.
    pub(crate) fn incoming(&self, remote: &Remote) -> Option<[u32; 3]> {
        let id = remote.route.sender_id ^ 1;
        let rpcs = self.engine.snapshot(self.now);
        let info = rpcs.iter().find(|rpc| rpc.id == id)?.incoming?;
        Some([info.length, info.received, info.granted])
    }

    /// Length, sent and granted bytes of the RPC's outgoing message, if it has one.
    pub(crate) fn outgoing(&self, remote: &Remote) -> Option<[u32; 3]> {
        let id = remote.route.sender_id ^ 1;
        let rpcs = self.engine.snapshot(self.now);
        let info = rpcs.iter().find(|rpc| rpc.id == id)?.outgoing?;
        Some([info.length, info.sent, info.granted])
    }
}

/// The packets of one transmit, as they would be on the wire. All but the last have one length.
pub(crate) fn packets(transmit: &Transmit) -> Vec<Bytes> {
    let longest = transmit.segments[0].len();
    for (index, segment) in transmit.segments.iter().enumerate() {
        let last = index + 1 == transmit.segments.len();
        assert!(segment.len() == longest || last && segment.len() < longest);
    }
    transmit
        .segments
        .iter()
        .map(|segment| segment.slices().collect::<Vec<_>>().concat().into())
        .collect()
}

/// A GRANT up to `offset`, at the lowest level.
pub(crate) fn grant(offset: u32) -> Grant {
    Grant {
        offset,
        priority: 0,
        prove_port: 0,
        bulk_port: 0,
    }
}

/// A RESEND as kernels send it, at the highest level.
pub(crate) fn resend(offset: u32, length: u32) -> Resend {
    Resend {
        offset,
        length,
        priority: 7,
    }
}
