//! [`Shard`]: an engine behind its lock, for some of an endpoint's peers.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use slab::Slab;
use tokio::sync::oneshot;

use super::company::Company;
use super::endpoint::{Endpoint, Handle, Outcome, Role, lock};
use super::faults::Faulty;
use crate::charge::Charge;
use crate::config::Config;
use crate::engine::{
    Engine, Event, Failure, Loopback, RpcId, Segment, SendError, Settings, Time, Transmit, Wake,
};
use crate::error::{BindError, CallError, Executed};
use crate::message::Message;
use crate::server::{Origin, Request};

/// Packets per batch: what is filled under the lock and sent after it is released.
const BATCH: usize = 64;

/// A batch that has so many bytes takes no more packets. On loopback they are long, and whoever
/// sends looks for shorter messages after each.
const BATCH_BYTES: usize = 48 << 10;

/// How long packets are not paced by the device after one that does not go through it.
const UNPACED: Duration = Duration::from_secs(1);

/// An RPC of an endpoint: the shard of its peer, and its name there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalRpc {
    pub(super) shard: usize,
    pub(super) rpc: RpcId,
}

/// Everything about a peer is in one shard, so that acks, cutoffs and grants never cross them.
#[derive(Debug)]
pub(super) struct Shard {
    state: Mutex<State>,
    /// Receive memory given back by dropped messages, not yet told to the engine.
    released: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) engine: Engine,
    /// Speed of the network devices; `None`: not known, or not what packets go through.
    device_mbps: Option<u32>,
    /// Addresses of this host.
    own_ips: Arc<[IpAddr]>,
    /// The engine was told that it has no device, until then.
    unpaced_until: Option<Time>,
    /// What tests do to packets on their way to the link.
    pub(super) faults: Option<Box<Faulty>>,
    pub(super) waiting: Slab<Waiter>,
    /// Whether some thread sends batch after batch. Others send one of their own meanwhile.
    pub(super) transmitting: bool,
    /// Whether one of them has left something to that thread.
    pub(super) missed: bool,
    /// What did not fit into the socket's send buffer.
    pub(super) stalled: VecDeque<Transmit>,
    /// For the next batch: an empty one with its memory.
    spare: Vec<Transmit>,
    pub(super) closed: bool,
    /// Whom a message that is to be sent may wait for, until the driver's next turn.
    pub(super) company: Option<Company>,
    /// Replies that wait for company on their way.
    lazy: Vec<LazyReply>,
    /// When they leave alone.
    lazy_due: Option<Time>,
}

/// A reply that is in no hurry.
#[derive(Debug)]
struct LazyReply {
    rpc: RpcId,
    peer: SocketAddr,
    message: Message,
}

/// How long a reply waits for other packets to leave with. As fine as a runtime's timer.
const LAZY: Duration = Duration::from_millis(1);

/// Replies that wait, at most.
const MAX_LAZY: usize = 32;

/// What happens when a call is over.
pub(super) enum Waiter {
    Caller(oneshot::Sender<Outcome>),
    Then(Then),
    Detached,
}

/// Runs when a call is over, on the thread that receives.
pub(crate) type Then = Box<dyn FnOnce(Outcome) + Send>;

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller(_) => "Caller",
            Self::Then(_) => "Then",
            Self::Detached => "Detached",
        })
    }
}

/// Something for the application, to be handed over without the lock.
pub(super) enum Delivery {
    Outcome(oneshot::Sender<Outcome>, Outcome),
    Then(Then, Outcome),
    Request(Request),
    Drained,
}

/// From so many bytes on a message was under way for longer than it may wait for more turns.
pub(super) const LONG: usize = 64 << 10;

impl Delivery {
    /// Whether it is not worth a delay that is small beside the time it took to come.
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Self::Outcome(_, Ok(message)) | Self::Then(_, Ok(message)) => message.len() < LONG,
            Self::Request(request) => request.message().len() < LONG,
            Self::Outcome(..) | Self::Then(..) | Self::Drained => true,
        }
    }
}

/// What is sent without the lock.
pub(super) struct Batch {
    pub(super) transmits: Vec<Transmit>,
    /// Whether the engine may have more that is ready.
    pub(super) full: bool,
}

/// When there will be something to do, if nothing comes before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NextWakes {
    /// For the link, in parts of a millisecond.
    pub(super) paced: Option<Time>,
    /// For all else, where a millisecond does not matter.
    pub(super) other: Option<Time>,
}

impl NextWakes {
    /// The sooner of each.
    pub(super) fn or_sooner(self, another: Self) -> Self {
        let sooner = |one: Option<Time>, two| one.into_iter().chain(two).min();
        Self {
            paced: sooner(self.paced, another.paced),
            other: sooner(self.other, another.other),
        }
    }
}

impl Shard {
    /// Shard `index` of an endpoint with the Homa port `port`. `seed` is random.
    pub(super) fn new(
        settings: Settings,
        config: &Config,
        (index, seed): (usize, u64),
        (port, role): (u16, Role),
    ) -> Result<Self, BindError> {
        let mut engine = Engine::new(settings, seed)?;
        engine.open_port(port, role != Role::Client);
        // Those that share a seed must not lose the same packets.
        let stream = 2 * index as u64 + u64::from(role == Role::Server);
        let faults = config.faults.clone();
        let state = State {
            engine,
            device_mbps: None,
            own_ips: Arc::default(),
            unpaced_until: None,
            faults: faults.map(|faults| Box::new(Faulty::new(faults, stream))),
            waiting: Slab::new(),
            transmitting: false,
            missed: false,
            stalled: VecDeque::new(),
            spare: Vec::new(),
            closed: false,
            company: None,
            lazy: Vec::new(),
            lazy_due: None,
        };
        Ok(Self {
            state: Mutex::new(state),
            released: Arc::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Receive memory given back since the last call.
    pub(super) fn take_released(&self) -> usize {
        // Most of the time nothing was; a load is cheaper than a swap.
        match self.released.load(Ordering::Acquire) {
            0 => 0,
            _ => self.released.swap(0, Ordering::AcqRel),
        }
    }

    /// The same, without taking it.
    pub(super) fn released(&self) -> usize {
        self.released.load(Ordering::Acquire)
    }

    fn charged(&self, message: Message, bytes: usize) -> Message {
        message.with_charge(Charge::new(bytes, self.released.clone()))
    }
}

impl State {
    /// Up to [`BATCH`] packets, and no more than reach [`BATCH_BYTES`].
    pub(super) fn fill(&mut self, now: Time) -> Batch {
        if self.unpaced_until.is_some_and(|until| until <= now) {
            self.unpaced_until = None;
            self.engine.set_link(self.device_mbps);
        }
        let mut transmits = std::mem::take(&mut self.spare);
        if let Some(faults) = &mut self.faults {
            faults.release_due(now, BATCH, &mut transmits);
        }
        let mut packets = transmits.len();
        let mut bytes = 0;
        while packets < BATCH
            && bytes < BATCH_BYTES
            && let Some(transmit) = self.engine.poll_transmit(now, BATCH - packets)
        {
            packets += transmit.segments.len();
            bytes += transmit.segments.iter().map(Segment::len).sum::<usize>();
            if self.device_mbps.is_some() && self.is_own(transmit.to.ip()) {
                // Packets to this host do not go through the device.
                if self.unpaced_until.replace(now + UNPACED).is_none() {
                    self.engine.set_link(None);
                }
            }
            match &mut self.faults {
                None => transmits.push(transmit),
                Some(faults) => faults.pass(now, transmit, &mut transmits),
            }
        }
        Batch {
            transmits,
            full: packets >= BATCH || bytes >= BATCH_BYTES,
        }
    }

    /// Takes what is left of a batch, to go first when the socket has room, and the memory of the
    /// rest.
    pub(super) fn take_back(&mut self, mut rest: Vec<Transmit>) {
        self.stalled.extend(rest.drain(..));
        self.spare = rest;
    }

    /// The packets leave through a network device of this speed, but for those to `own_ips`.
    pub(super) fn set_link(&mut self, mbps: Option<u32>, own_ips: Arc<[IpAddr]>) {
        self.device_mbps = mbps;
        self.own_ips = own_ips;
        self.unpaced_until = None;
        self.engine.set_link(mbps);
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || self.own_ips.contains(&ip)
    }

    /// When there will be something to do, if nothing comes before.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let NextWakes { paced, other } = self.next_wakes();
        paced.into_iter().chain(other).min()
    }

    /// The same, apart for what needs a timer that is finer than the runtime's. What is paced
    /// waits for the socket where that is full: its own time may have passed.
    pub(super) fn next_wakes(&self) -> NextWakes {
        let held = self.faults.as_ref().and_then(|faults| faults.next_due());
        // A link's delays are about as fine as the pacer's.
        let held = held.map(|at| (at, Wake::Pace));
        let lazy = self.lazy_due.map(|at| (at, Wake::Reap));
        let stalled = !self.stalled.is_empty();
        let mut next = NextWakes::default();
        for (at, wake) in self.engine.wakes().chain(held).chain(lazy) {
            let (paces, kind) = match wake {
                Wake::Pace => (true, &mut next.paced),
                _ => (false, &mut next.other),
            };
            if !(stalled && paces) && kind.is_none_or(|first| at < first) {
                *kind = Some(at);
            }
        }
        next
    }

    /// Whether the engine's deadline has passed.
    pub(super) fn is_overdue(&self, now: Time) -> bool {
        let next = self.engine.poll_timeout();
        next.is_some_and(|(at, _)| at <= now)
    }

    fn finish(&mut self, cookie: u64, outcome: Outcome, into: &mut Vec<Delivery>) {
        match self.waiting.try_remove(cookie as usize) {
            Some(Waiter::Caller(sender)) => into.push(Delivery::Outcome(sender, outcome)),
            Some(Waiter::Then(then)) => into.push(Delivery::Then(then, outcome)),
            Some(Waiter::Detached) | None => {}
        }
    }

    /// Keeps a reply for the packets that leave next, or for [`LAZY`]. Returns whether to send it
    /// now: a second one to the same peer does not wait, so that nobody waits for the timer who
    /// goes on sending.
    pub(super) fn reply_lazily(
        &mut self,
        now: Time,
        rpc: RpcId,
        peer: SocketAddr,
        message: Message,
    ) -> bool {
        let full = self.lazy.len() >= MAX_LAZY || self.lazy.iter().any(|other| other.peer == peer);
        self.lazy.push(LazyReply { rpc, peer, message });
        self.lazy_due.get_or_insert(now + LAZY);
        full
    }

    /// Sends another reply in place of one that waits. Returns it if that one has left, or there is
    /// no room.
    pub(super) fn replace_lazy(
        &mut self,
        now: Time,
        rpc: RpcId,
        message: Message,
    ) -> Result<(), Message> {
        let Some(at) = self.lazy.iter().position(|reply| reply.rpc == rpc) else {
            return Err(message);
        };
        match self.engine.send_reply(now, rpc, message) {
            Ok(()) => {
                self.lazy.swap_remove(at);
                if self.lazy.is_empty() {
                    self.lazy_due = None;
                }
                Ok(())
            }
            Err(
                SendError::BadSize { message, .. }
                | SendError::Busy { message, .. }
                | SendError::Closed { message },
            ) => Err(message),
        }
    }

    /// Has the replies that wait leave with what is sent next.
    pub(super) fn release_lazy(&mut self, now: Time) {
        if self.lazy_due.take().is_none() {
            return;
        }
        for reply in std::mem::take(&mut self.lazy) {
            let LazyReply { rpc, peer, message } = reply;
            // Its size was checked before.
            if let Err(SendError::Busy { message, .. }) = self.engine.send_reply(now, rpc, message)
            {
                self.lazy.push(LazyReply { rpc, peer, message });
                self.lazy_due = Some(now + LAZY);
            }
        }
    }

    /// The same, if they have waited for long enough.
    pub(super) fn release_due(&mut self, now: Time) {
        if self.lazy_due.is_some_and(|due| due <= now) {
            self.release_lazy(now);
        }
    }
}

impl Endpoint {
    /// Takes what the engine of shard `index` has for the application.
    pub(super) fn collect(
        self: &Arc<Self>,
        now: Time,
        index: usize,
        state: &mut State,
        into: &mut Vec<Delivery>,
    ) {
        let shard = &self.shards[index];
        while let Some(event) = state.engine.poll_event(now) {
            match event {
                Event::Request { rpc, charged, .. } if self.refuses() => {
                    state.engine.release(charged);
                    state.engine.refuse(now, rpc);
                }
                Event::Request {
                    rpc,
                    peer,
                    peer_port,
                    local,
                    message,
                    charged,
                    ..
                } => {
                    let message = shard.charged(message, charged);
                    let rpc = LocalRpc { shard: index, rpc };
                    let from = Origin {
                        peer,
                        port: peer_port,
                        local,
                    };
                    let request = Request::new(Handle::new(self.clone()), rpc, from, message);
                    into.push(Delivery::Request(request));
                }
                Event::Response {
                    cookie,
                    message,
                    charged,
                    ..
                } => {
                    let message = shard.charged(message, charged);
                    state.finish(cookie, Ok(message), into);
                }
                Event::Failed {
                    cookie,
                    peer,
                    failure,
                    ..
                } => {
                    state.finish(cookie, Err(call_error(peer, failure)), into);
                }
            }
        }
    }
}

fn call_error(peer: SocketAddr, failure: Failure) -> CallError {
    match failure {
        Failure::TimedOut(silence) => CallError::TimedOut { peer, silence },
        Failure::Unreachable {
            reason,
            may_have_run,
        } => CallError::PeerUnreachable {
            peer,
            reason,
            executed: if may_have_run {
                Executed::Maybe
            } else {
                Executed::No
            },
        },
        Failure::PeerRestarted => CallError::PeerRestarted { peer },
        Failure::Closed => CallError::Closed,
    }
}

/// The share of one of `shards` in what an endpoint may hold. None gets less than it needs to
/// work at all.
pub(super) fn share(settings: &Settings, shards: usize) -> Settings {
    let mut share = settings.clone();
    let part = |whole: usize, least: usize| whole.div_ceil(shards).max(least).min(whole);
    let message = settings.max_message_bytes;
    share.max_incoming = part(settings.max_incoming, 2 * settings.packet_payload);
    share.loopback = settings.loopback.map(|loopback| Loopback {
        max_incoming: part(loopback.max_incoming, 2 * loopback.packet_payload),
        ..loopback
    });
    // What was set for the endpoint may be more than one shard grants at all.
    let granted = |bytes: usize| bytes.min(share.max_incoming).max(settings.packet_payload);
    share.grant_window = settings.grant_window.map(granted);
    share.fifo_increment = settings.fifo_increment.map(granted);
    share.min_grant = settings
        .min_grant
        .map(|bytes| bytes.min(share.max_incoming));
    share.pool_bytes = part(settings.pool_bytes, 4 * message);
    share.send_bytes = part(settings.send_bytes, message);
    share.max_rpcs = part(settings.max_rpcs, 1);
    share.max_rpcs_per_peer = settings.max_rpcs_per_peer.min(share.max_rpcs);
    share.max_peers = part(settings.max_peers, 1);
    share.main_buffer_bytes = part(settings.main_buffer_bytes, 2 * settings.packet_payload);
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's shard on a device of 10 Gbit/s, on a host that has the address 10.0.0.1.
    fn shard() -> Shard {
        let config = Config::default();
        let settings = config.protocol.clone();
        let shard = Shard::new(settings, &config, (0, 1), (PORT, Role::Client)).unwrap();
        let own: [IpAddr; 1] = [[10, 0, 0, 1].into()];
        shard.lock().set_link(Some(10_000), own.into());
        shard
    }

    const PORT: u16 = 40_000;

    fn send(state: &mut State, now: Time, to: &str, len: usize) {
        let to: SocketAddr = to.parse().unwrap();
        let message = vec![7; len].into();
        let sent = state
            .engine
            .send_request(now, PORT, to, to.port(), message, 0);
        sent.unwrap();
    }

    #[test]
    fn packets_to_this_host_are_not_paced_by_a_device() {
        for own in ["[::ffff:127.0.0.1]:4000", "10.0.0.1:4000"] {
            let shard = shard();
            let mut state = shard.lock();
            let mut is_paced_after = |now, to| {
                send(&mut state, now, to, 100);
                assert_eq!(state.fill(now).transmits.len(), 1);
                state.engine.tuning().link_mbps.is_some()
            };
            let at = |millis| Time::ZERO + Duration::from_millis(millis);
            let other = "10.0.0.2:4000";
            assert!(is_paced_after(at(0), other));
            assert!(!is_paced_after(at(0), own));
            assert!(!is_paced_after(at(500), other));
            assert!(!is_paced_after(at(900), own));
            assert!(!is_paced_after(at(1899), other));
            assert!(is_paced_after(at(1900), other), "for a second only");
        }
    }

    #[test]
    fn what_is_paced_does_not_end_a_sleep_while_the_socket_is_full() {
        let shard = shard();
        let mut state = shard.lock();
        let now = Time::ZERO;
        for _ in 0..4 {
            send(&mut state, now, "10.0.0.2:4000", 40_000);
        }
        let transmits = state.fill(now).transmits;
        let NextWakes { paced, other } = state.next_wakes();
        assert!(paced.is_some() && other.is_some());
        state.stalled.extend(transmits);
        assert_eq!(state.next_wakes().paced, None);
        assert_eq!(state.next_wake(), other);
    }

    #[test]
    fn shards_share_the_limits_and_each_can_work() {
        let whole = Settings::default();
        assert_eq!(share(&whole, 1), whole);
        let quarter = share(&whole, 4);
        assert_eq!(quarter.max_incoming, whole.max_incoming / 4);
        assert_eq!(quarter.pool_bytes, whole.pool_bytes / 4);
        assert_eq!(quarter.max_rpcs_per_peer, 16_384);
        for shards in 1..=64 {
            let mut small = Settings::default();
            small.max_incoming = 2 * small.packet_payload;
            small.pool_bytes = 4 * small.max_message_bytes;
            small.send_bytes = small.max_message_bytes;
            (small.max_rpcs, small.max_rpcs_per_peer, small.max_peers) = (1, 1, 1);
            share(&small, shards).check().unwrap();
            share(&whole, shards).check().unwrap();
            let mut fixed = Settings::default();
            fixed.grant_window = Some(fixed.max_incoming);
            fixed.min_grant = Some(fixed.max_incoming);
            fixed.fifo_increment = Some(fixed.max_incoming);
            share(&fixed, shards).check().unwrap();
        }
    }
}
