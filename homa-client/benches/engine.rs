//! The engine alone: two of them on one core, without sockets, clocks or threads.
//!
//! What is counted is the whole way of a packet: `poll_transmit`, the copy of header and payload
//! into a buffer as a network would make it, `handle_datagram` of slices of that buffer as GRO
//! would deliver them, timers, events, and the comparison of every byte that arrives. Times are of
//! the processor, so that whatever else runs on the machine takes nothing away. The second group is
//! the way of a packet in a simulator, which copies and compares nothing.
//!
//! ```console
//! $ cargo bench -p homa-client --bench engine
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use homa_client::Message;
use homa_client::engine::{Datagram, Engine, Event, Settings, Socket, Time};
use nix::time::{ClockId, clock_gettime};

const CLIENT: usize = 0;
const SERVER: usize = 1;
const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 4000;

/// Batches from this size on go into buffers that are used again, like those of a bulk socket;
/// short packets get their own.
const POOLED: usize = 16 << 10;

/// Size and number of these buffers.
const BUFFER: usize = 65_000;
const BUFFERS: usize = 64;

struct Pair {
    now: Time,
    engines: [Engine; 2],
    addrs: [SocketAddr; 2],
    /// The buffers, oldest first. One is free once the messages that lie in it are dropped.
    buffers: VecDeque<Bytes>,
}

impl Pair {
    fn new() -> Self {
        let engines = [1, 2].map(|seed| Engine::new(Settings::default(), seed).unwrap());
        let mut pair = Self {
            now: Time::ZERO,
            engines,
            addrs: [
                ([10, 0, 0, 1], 7000).into(),
                ([10, 0, 0, 2], SERVER_PORT).into(),
            ],
            buffers: (0..BUFFERS).map(|_| Bytes::from(vec![0; BUFFER])).collect(),
        };
        pair.engines[CLIENT].open_port(CLIENT_PORT, false);
        pair.engines[SERVER].open_port(SERVER_PORT, true);
        pair
    }

    fn call(&mut self, message: Message) {
        let to = self.addrs[SERVER];
        self.engines[CLIENT]
            .send_request(self.now, CLIENT_PORT, to, SERVER_PORT, message, 0)
            .unwrap();
    }

    fn buffer(&mut self, len: usize) -> BytesMut {
        if len < POOLED {
            return BytesMut::with_capacity(len);
        }
        let oldest = self.buffers.pop_front().map(Bytes::try_into_mut);
        let Some(Ok(mut buffer)) = oldest else {
            unreachable!("a message fills a quarter of them")
        };
        buffer.clear();
        buffer
    }

    /// Carries one batch from `side` to the other; whether there was one.
    fn carry(&mut self, side: usize) -> bool {
        let Some(transmit) = self.engines[side].poll_transmit(self.now, 64) else {
            return false;
        };
        let len = transmit.segments.iter().map(|segment| segment.len()).sum();
        let mut buffer = self.buffer(len);
        for segment in &transmit.segments {
            buffer.extend_from_slice(&segment.header);
            buffer.extend_from_slice(&segment.payload);
        }
        let mut buffer = buffer.freeze();
        if len >= POOLED {
            self.buffers.push_back(buffer.clone());
        }
        for segment in &transmit.segments {
            let datagram = Datagram {
                from: self.addrs[side],
                local: None,
                tos: transmit.tos,
                socket: Socket::Main,
                data: buffer.split_to(segment.len()),
            };
            self.engines[1 - side].handle_datagram(self.now, datagram);
        }
        true
    }

    /// Lets both sides send in turns until `done` events of responses have come; requests are
    /// answered with `reply`.
    fn run(&mut self, mut done: usize, request: &Bytes, reply: &Bytes) {
        while done > 0 {
            // What a batch of packets takes on a link of 25 Gbit/s.
            self.now += Duration::from_micros(20);
            for side in [CLIENT, SERVER] {
                while self.carry(side) {}
                let engine = &mut self.engines[side];
                if engine.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                    engine.handle_timeout(self.now);
                }
            }
            while let Some(event) = self.engines[SERVER].poll_event(self.now) {
                let Event::Request {
                    rpc,
                    message,
                    charged,
                    ..
                } = event
                else {
                    unreachable!()
                };
                assert!(message == request[..]);
                let engine = &mut self.engines[SERVER];
                engine.release(charged);
                engine
                    .send_reply(self.now, rpc, reply.clone().into())
                    .unwrap();
            }
            while let Some(event) = self.engines[CLIENT].poll_event(self.now) {
                let Event::Response {
                    message, charged, ..
                } = event
                else {
                    unreachable!()
                };
                assert!(message == reply[..]);
                self.engines[CLIENT].release(charged);
                done -= 1;
            }
        }
    }
}

fn pattern(len: u32) -> Bytes {
    (0..len)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect()
}

/// Hosts as a simulator drives them: one packet at a time, handed from engine to engine as it is,
/// and every engine asked again after each packet.
struct Rack {
    now: Time,
    engines: Vec<Engine>,
    responses: usize,
}

impl Rack {
    /// With the settings of SIGCOMM'18's simulation.
    fn new(hosts: usize) -> Self {
        let mut settings = Settings::default();
        settings.packet_payload = 1442;
        settings.scheduled_payload = Some(1456);
        settings.unsched_bytes = Some(9328);
        settings.max_incoming = 1 << 20;
        settings.max_overcommit = 7;
        settings.grant_window = Some(10_000);
        settings.min_grant = Some(1);
        settings.fifo_fraction = 0;
        settings.pacing = false;
        let engine = |host: usize| Engine::new(settings.clone(), host as u64).unwrap();
        let mut engines: Vec<Engine> = (0..hosts).map(engine).collect();
        for engine in &mut engines {
            engine.open_port(CLIENT_PORT, false);
            engine.open_port(SERVER_PORT, true);
        }
        Self {
            now: Time::ZERO,
            engines,
            responses: 0,
        }
    }

    fn addr(host: usize) -> SocketAddr {
        ([10, 0, 0, host as u8], SERVER_PORT).into()
    }

    fn call(&mut self, from: usize, to: usize, message: &Bytes) {
        let (to, message) = (Self::addr(to), message.clone().into());
        self.engines[from]
            .send_request(self.now, CLIENT_PORT, to, SERVER_PORT, message, 0)
            .unwrap();
    }

    /// The next packet of `from`, if it has one, is sent and arrives. Returns where.
    fn carry(&mut self, from: usize) -> Option<usize> {
        let mut transmit = self.engines[from].poll_transmit(self.now, 1)?;
        let SocketAddr::V4(to) = transmit.to else {
            unreachable!("all have IPv4 addresses")
        };
        let datagram = Datagram {
            from: Self::addr(from),
            local: None,
            tos: transmit.tos,
            socket: Socket::Main,
            data: transmit.segments.pop()?,
        };
        let to = usize::from(to.ip().octets()[3]);
        self.engines[to].handle_segment(self.now, datagram);
        self.take_events(to);
        Some(to)
    }

    fn take_events(&mut self, host: usize) {
        let engine = &mut self.engines[host];
        while let Some(event) = engine.poll_event(self.now) {
            match event {
                Event::Request { rpc, charged, .. } => {
                    engine.release(charged);
                    let reply = Bytes::from_static(b"!");
                    engine.send_reply(self.now, rpc, reply.into()).unwrap();
                }
                Event::Response { charged, .. } => {
                    engine.release(charged);
                    self.responses += 1;
                }
                event => unreachable!("{event:?}"),
            }
        }
    }

    /// Lets the hosts send one packet each in turns until so many calls have their responses.
    /// `drain`: whoever got one sends all that it has at once, as a receiver of nothing but DATA.
    fn run(&mut self, calls: usize, drain: bool) {
        self.responses = 0;
        while self.responses < calls {
            // About a packet's time on a link of 10 Gbit/s.
            self.now += Duration::from_nanos(1230);
            for host in 0..self.engines.len() {
                if let Some(to) = self.carry(host).filter(|_| drain) {
                    while self.carry(to).is_some() {}
                }
                let engine = &mut self.engines[host];
                if engine.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                    engine.handle_timeout(self.now);
                }
            }
        }
    }
}

/// Unscheduled and scheduled DATA packets of 1,000,000 bytes; each of the latter has its GRANT.
const PACKETS: u64 = 7 + 681;

fn simulator(criterion: &mut Criterion<ProcessorTime>) {
    let mut group = criterion.benchmark_group("simulator");
    let long: &'static [u8] = vec![7; 1_000_000].leak();
    let long = Bytes::from_static(long);
    for senders in [2, 8] {
        group.throughput(Throughput::Elements(senders as u64 * PACKETS));
        let mut rack = Rack::new(1 + senders);
        let name = format!("DATA from {senders} senders to one (goal 1.43 Melem/s)");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for sender in 1..=senders {
                    rack.call(sender, 0, &long);
                }
                rack.run(senders, true);
            });
        });
    }

    const HOSTS: usize = 144;
    const EACH: usize = 4;
    let sparse = long.slice(..100_000);
    group.throughput(Throughput::Elements((HOSTS * EACH) as u64 * (7 + 63)));
    let mut rack = Rack::new(HOSTS);
    group.bench_function(
        format!("DATA from {HOSTS} hosts to {EACH} others each"),
        |bencher| {
            bencher.iter(|| {
                for from in 0..HOSTS {
                    for other in 1..=EACH {
                        rack.call(from, (from + 31 * other) % HOSTS, &sparse);
                    }
                }
                rack.run(HOSTS * EACH, false);
            });
        },
    );

    let short = long.slice(..100);
    group.throughput(Throughput::Elements(8));
    let mut rack = Rack::new(9);
    group.bench_function("calls of 100 B with 1 B back, to one", |bencher| {
        bencher.iter(|| {
            for sender in 1..=8 {
                rack.call(sender, 0, &short);
            }
            rack.run(8, true);
        });
    });

    // Every host knows every other, and what it knows lies in no near cache.
    group.throughput(Throughput::Elements((HOSTS * EACH) as u64));
    let mut rack = Rack::new(HOSTS);
    let mut distance = 0;
    group.bench_function("calls of 100 B with 1 B back, to all in turns", |bencher| {
        bencher.iter(|| {
            for _ in 0..EACH {
                distance = distance % (HOSTS - 1) + 1;
                for from in 0..HOSTS {
                    rack.call(from, (from + distance) % HOSTS, &short);
                }
            }
            rack.run(HOSTS * EACH, false);
        });
    });
    group.finish();
}

fn engine(criterion: &mut Criterion<ProcessorTime>) {
    let mut group = criterion.benchmark_group("engine");

    let (long, one) = (pattern(1_000_000), pattern(1));
    let packets = long.len().div_ceil(Settings::default().packet_payload) as u64;
    group.throughput(Throughput::Elements(packets));
    let mut pair = Pair::new();
    group.bench_function(
        "DATA packets of 1,000,000 B (goal 1.5 Melem/s)",
        |bencher| {
            bencher.iter(|| {
                pair.call(long.clone().into());
                pair.run(1, &long, &one);
            });
        },
    );

    let short = pattern(100);
    const IN_FLIGHT: usize = 64;
    group.throughput(Throughput::Elements(IN_FLIGHT as u64));
    let mut pair = Pair::new();
    group.bench_function("calls of 100 B (goal 500 Kelem/s)", |bencher| {
        bencher.iter(|| {
            for _ in 0..IN_FLIGHT {
                pair.call(short.clone().into());
            }
            pair.run(IN_FLIGHT, &short, &short);
        });
    });
    group.finish();
}

/// Time that the thread had a processor for.
struct ProcessorTime;

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        processor_time()
    }

    fn end(&self, start: Duration) -> Duration {
        processor_time() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = engine, simulator
}
criterion_main!(benches);
