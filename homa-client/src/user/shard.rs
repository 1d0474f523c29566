//! [`Shard`]: an engine behind its lock, for some of an endpoint's peers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use slab::Slab;
use tokio::sync::oneshot;

use super::endpoint::{Endpoint, Handle, Outcome, lock};
use super::faults::Faulty;
use crate::charge::Charge;
use crate::config::Config;
use crate::engine::{Engine, Event, Failure, RpcId, Settings, Time, Transmit, Wake};
use crate::error::{BindError, CallError, Executed};
use crate::message::Message;
use crate::server::Request;

/// Packets per batch: what is filled under the lock and sent after it is released.
const BATCH: usize = 64;

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
    /// Whether the engine was told the speed of a network device.
    on_device: bool,
    /// What tests do to packets on their way to the link.
    pub(super) faults: Option<Box<Faulty>>,
    pub(super) waiting: Slab<Waiter>,
    /// Whether some thread is between filling a batch and the next.
    pub(super) transmitting: bool,
    /// Whether somebody found it transmitting and left something for the transmitter.
    pub(super) missed: bool,
    /// What did not fit into the socket's send buffer.
    pub(super) stalled: VecDeque<Transmit>,
    pub(super) closed: bool,
}

#[derive(Debug)]
pub(super) enum Waiter {
    Caller(oneshot::Sender<Outcome>),
    Detached,
}

/// Something for the application, to be handed over without the lock.
pub(super) enum Delivery {
    Outcome(oneshot::Sender<Outcome>, Outcome),
    Request(Request),
    Drained,
}

/// What is sent without the lock.
pub(super) struct Batch {
    pub(super) transmits: Vec<Transmit>,
    /// Whether the engine may have more that is ready.
    pub(super) full: bool,
}

impl Shard {
    /// Shard `index` of an endpoint with the Homa port `port`. `seed` is random.
    pub(super) fn new(
        settings: Settings,
        config: &Config,
        (index, seed): (usize, u64),
        (port, server): (u16, bool),
    ) -> Result<Self, BindError> {
        let mut engine = Engine::new(settings, seed)?;
        engine.open_port(port, server);
        // Those that share a seed must not lose the same packets.
        let stream = 2 * index as u64 + u64::from(server);
        let faults = config.faults.clone();
        let state = State {
            engine,
            on_device: false,
            faults: faults.map(|faults| Box::new(Faulty::new(faults, stream))),
            waiting: Slab::new(),
            transmitting: false,
            missed: false,
            stalled: VecDeque::new(),
            closed: false,
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
    /// Up to [`BATCH`] packets.
    pub(super) fn fill(&mut self, now: Time) -> Batch {
        let mut transmits = Vec::new();
        if let Some(faults) = &mut self.faults {
            faults.release_due(now, BATCH, &mut transmits);
        }
        let mut packets = transmits.len();
        while packets < BATCH
            && let Some(transmit) = self.engine.poll_transmit(now, BATCH - packets)
        {
            packets += transmit.segments.len();
            if self.on_device && transmit.to.ip().to_canonical().is_loopback() {
                // What it sends does not all go through the device.
                self.set_link(None);
            }
            match &mut self.faults {
                None => transmits.push(transmit),
                Some(faults) => faults.pass(now, transmit, &mut transmits),
            }
        }
        Batch {
            transmits,
            full: packets >= BATCH,
        }
    }

    /// The packets leave through a network device of this speed.
    pub(super) fn set_link(&mut self, mbps: Option<u32>) {
        self.on_device = mbps.is_some();
        self.engine.set_link(mbps);
    }

    /// When there will be something to do, if nothing comes before.
    pub(super) fn next_wake(&self) -> Option<(Time, Wake)> {
        let engine = self.engine.poll_timeout();
        let held = self.faults.as_ref().and_then(|faults| faults.next_due());
        // A link's delays are about as fine as the pacer's.
        let held = held.map(|at| (at, Wake::Pace));
        engine.into_iter().chain(held).min_by_key(|(at, _)| *at)
    }

    /// Whether the engine's deadline has passed.
    pub(super) fn is_overdue(&self, now: Time) -> bool {
        let next = self.engine.poll_timeout();
        next.is_some_and(|(at, _)| at <= now)
    }

    fn finish(&mut self, cookie: u64, outcome: Outcome, into: &mut Vec<Delivery>) {
        if let Some(Waiter::Caller(sender)) = self.waiting.try_remove(cookie as usize) {
            into.push(Delivery::Outcome(sender, outcome));
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
                    local,
                    message,
                    charged,
                    ..
                } => {
                    let message = shard.charged(message, charged);
                    let rpc = LocalRpc { shard: index, rpc };
                    let request =
                        Request::new(Handle::new(self.clone()), rpc, peer, local, message);
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

    #[test]
    fn packets_to_this_host_are_not_paced_by_a_device() {
        for (to, paced) in [("10.0.0.1:4000", true), ("[::ffff:127.0.0.1]:4000", false)] {
            let (config, port) = (Config::default(), 40_000);
            let settings = config.protocol.clone();
            let shard = Shard::new(settings, &config, (0, 1), (port, false)).unwrap();
            let mut state = shard.lock();
            state.set_link(Some(10_000));
            let to: SocketAddr = to.parse().unwrap();
            let message = "hello".into();
            let sent = state
                .engine
                .send_request(Time::ZERO, port, to, to.port(), message, 0);
            sent.unwrap();
            assert_eq!(state.fill(Time::ZERO).transmits.len(), 1);
            assert_eq!(state.engine.tuning().link_mbps.is_some(), paced);
        }
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
