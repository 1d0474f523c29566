//! What is handed over ahead of the link, by a driver that wakes late.

use std::time::Duration;

use super::Random;
use super::pair::{CLIENT_PORT, Pair, SERVER, SERVER_PORT, packets};
use crate::engine::wire::Kind;
use crate::engine::{Engine, RpcId, Settings, Time, Wake};

const US: Duration = Duration::from_micros(1);

/// A link of 200 Mbit/s and a driver that hands over what the engine lets it, late.
struct Driver {
    now: Time,
    engine: Engine,
    /// When the link has sent what it was given: 40 ns a byte.
    idle_at: Time,
    random: Random,
    /// DATA bytes on the wire per request, by its length.
    sent: Vec<(u32, u64)>,
    /// The most that was ahead of the link, and of what the engine then allowed.
    most: (u64, u64),
    /// Time in which the link had nothing to do.
    idle: Duration,
}

/// Ethernet, IP and UDP beside the packet.
const OVERHEAD: u64 = 70;

impl Driver {
    fn new(settings: Settings) -> Self {
        let settings = Settings {
            link_mbps: Some(200),
            // Nobody answers here: all of a message goes unasked.
            unsched_bytes: Some(1_000_000),
            unsched_windows: 0,
            ..settings
        };
        let mut engine = Engine::new(settings, 1).unwrap();
        engine.open_port(CLIENT_PORT, false);
        Self {
            now: Time::from_nanos(1),
            engine,
            idle_at: Time::from_nanos(1),
            random: Random::new(1),
            sent: Vec::new(),
            most: (0, 0),
            idle: Duration::ZERO,
        }
    }

    fn request(&mut self, len: usize) -> RpcId {
        let to = Pair::addr(SERVER);
        let message = vec![1; len].into();
        self.engine
            .send_request(self.now, CLIENT_PORT, to, SERVER_PORT, message, 0)
            .unwrap()
    }

    /// Hands over all that may go now.
    fn hand_over(&mut self) {
        self.idle += self.now.since(self.idle_at);
        while let Some(transmit) = self.engine.poll_transmit(self.now, 64) {
            let before = self.sent.len();
            for packet in packets(&transmit) {
                if packet[11] != Kind::Data as u8 {
                    continue;
                }
                let bytes = packet.len() as u64 + OVERHEAD;
                self.idle_at = self.idle_at.max(self.now) + Duration::from_nanos(40 * bytes);
                let length = u32::from_be_bytes(packet[28..32].try_into().unwrap());
                self.sent.push((length, bytes));
            }
            let ahead = self.idle_at.since(self.now).as_nanos() as u64 / 40;
            let decided = self.engine.tuning().backlog_bytes.unwrap();
            if ahead > self.most.0 {
                self.most = (ahead, decided);
            }
            let held_back = self.sent[before..].iter().any(|(of, _)| *of >= 1000);
            assert!(!held_back || ahead <= decided, "{ahead} of {decided}");
        }
    }

    fn all_sent(&self) -> bool {
        let rpcs = self.engine.snapshot(self.now);
        rpcs.iter()
            .filter_map(|rpc| rpc.outgoing)
            .all(|out| out.sent == out.length)
    }

    /// Runs until all is sent, or until then, and wakes up to `late` too late.
    fn run(&mut self, until: Time, late: Duration) {
        loop {
            self.hand_over();
            let (at, wake) = self.engine.poll_timeout().unwrap();
            if at >= until || self.all_sent() {
                return;
            }
            let late = self.random.below(late.as_nanos() as u64 + 1);
            self.now = self.now.max(at) + Duration::from_nanos(late);
            if wake != Wake::Pace {
                self.engine.handle_timeout(self.now);
            }
        }
    }

    /// Wire bytes of messages of this length.
    fn bytes_of(&self, length: u32) -> u64 {
        let of_length = self.sent.iter().filter(|(of, _)| *of == length);
        of_length.map(|(_, bytes)| bytes).sum()
    }
}

#[test]
fn no_more_than_the_decided_backlog_is_ahead_of_a_200_mbit_link() {
    for late in [0, 20, 60, 100, 200, 400, 3000] {
        let mut driver = Driver::new(Settings::default());
        for len in [1_000_000, 500_000, 800_000, 1416, 30_000] {
            driver.request(len);
        }
        driver.run(Time::ZERO + Duration::from_secs(1), late * US);
        let tuning = driver.engine.tuning();
        let time = driver.now.since(Time::ZERO);
        let total: u64 = driver.sent.iter().map(|(_, bytes)| bytes).sum();
        let busy = 100 - 100 * driver.idle.as_nanos() / time.as_nanos();
        println!(
            "woken up to {late} µs late, measured {:?}: {} bytes decided at the end, at most {} \
             of {} handed over, {total} bytes in {time:?}, link busy {busy} %",
            tuning.wake_latency,
            tuning.backlog_bytes.unwrap(),
            driver.most.0,
            driver.most.1,
        );
        assert!(driver.most.0 <= driver.most.1);
        assert!(driver.most.0 <= tuning.peak_backlog_bytes);
        // Never beyond one packet and the setting's 1 ms, 25,000 bytes, however late.
        assert!(driver.most.0 <= 1542 + 25_000);
        assert!(total > 2_331_416, "all was sent");
        assert!(late > 500 || busy >= 95, "{busy} %");
    }
}

#[test]
fn short_messages_never_wait_for_the_pacer() {
    let mut driver = Driver::new(Settings::default());
    driver.request(900_000);
    for round in 1..200 {
        driver.hand_over();
        let (at, _) = driver.engine.poll_timeout().unwrap();
        for len in [999, 1] {
            driver.request(len);
            driver.hand_over();
        }
        assert_eq!(driver.bytes_of(999), round * (999 + 56 + OVERHEAD));
        assert_eq!(driver.bytes_of(1), round * (1 + 56 + OVERHEAD));
        driver.now = driver.now.max(at);
    }
}

#[test]
fn the_oldest_message_is_sent_one_packet_in_twenty() {
    for (fraction, expect) in [(50, 45..=60), (0, 0..=5)] {
        let mut driver = Driver::new(Settings {
            fifo_fraction: fraction,
            ..Settings::default()
        });
        driver.request(999_999);
        // The link has shorter ones to send all the time.
        while driver.bytes_of(100_000) < 5_000_000 {
            driver.request(100_000);
            let until = driver.now + Duration::from_millis(4);
            driver.run(until, 10 * US);
            driver.now = driver.now.max(until);
        }
        let share = driver.bytes_of(999_999) * 1000 / driver.bytes_of(100_000);
        println!("fifo_fraction {fraction}: {share} bytes of the oldest for 1,000 others");
        assert!(expect.contains(&share), "{share}");
    }
}

/// A driver that asks only after the link is ready must not sleep on.
#[test]
fn the_time_to_go_on_is_told_after_it_has_passed_too() {
    let mut driver = Driver::new(Settings::default());
    let rpc = driver.request(100_000);
    driver.hand_over();
    let (at, wake) = driver.engine.poll_timeout().unwrap();
    assert!(wake == Wake::Pace && at > driver.now);
    driver.now = at + 50 * US;
    assert_eq!(driver.engine.poll_timeout(), Some((at, wake)));
    // With nothing to send there is nothing to go on with.
    driver.engine.cancel(driver.now, rpc);
    let next = driver.engine.poll_timeout();
    assert!(next.is_none_or(|(_, wake)| wake != Wake::Pace), "{next:?}");
}

/// The driver knows the device; the setting knows better; either can be switched off.
#[test]
fn the_speed_comes_from_the_setting_or_the_driver() {
    let mut driver = Driver::new(Settings::default());
    driver.engine.set_link(Some(25_000));
    assert_eq!(driver.engine.tuning().link_mbps, Some(200));

    let engine = |settings| Engine::new(settings, 1).unwrap();
    let mut unknown = engine(Settings::default());
    assert_eq!(unknown.tuning().backlog_bytes, None);
    unknown.set_link(Some(25_000));
    let tuning = unknown.tuning();
    assert_eq!(tuning.link_mbps, Some(25_000));
    assert!(tuning.backlog_bytes.is_some_and(|bytes| bytes > 15_000));
    unknown.set_link(None);
    assert_eq!(unknown.tuning().backlog_bytes, None);

    let mut unpaced = engine(Settings {
        pacing: false,
        ..Settings::default()
    });
    unpaced.set_link(Some(25_000));
    let tuning = unpaced.tuning();
    assert_eq!(
        (tuning.link_mbps, tuning.backlog_bytes),
        (Some(25_000), None)
    );
}
