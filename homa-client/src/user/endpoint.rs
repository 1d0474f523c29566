//! [`Endpoint`]: engines, their sockets, and who waits for what.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::accept::AcceptQueue;
use super::background;
use super::busy::BusyPoll;
use super::capture::Capture;
use super::clock::Clock;
use super::keeper;
use super::lead::Lead;
use super::link::{Link, Waits};
use super::shard::{LocalRpc, Shard, Then, Waiter, share};
use super::turn::Receiving;
use crate::config::Config;
use crate::devices::{network_devices, own_ips, pacing_mbps};
use crate::engine::wire::Carrier;
use crate::engine::{Datagram, Loopback, RpcInfo, SendError, Settings, Socket, Time};
use crate::error::{BindError, CallError};
use crate::message::Message;
use crate::server::{Origin, Request};
use crate::stats::EndpointCounters;

/// "No sleep planned", for [`Endpoint::sleep_until`].
pub(super) const AWAKE: u64 = 0;

/// What a waiting caller gets.
pub(crate) type Outcome = Result<Message, CallError>;

/// Some sockets and the engines behind them. Shared by all handles and the driver.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Each has the peers that [`Endpoint::shard_of`] gives it. No thread holds the locks of two.
    pub(super) shards: Box<[Shard]>,
    /// Tells which peers are in which shard.
    spread: RandomState,
    pub(super) link: Link,
    pub(super) carrier: Carrier,
    pub(super) capture: Option<Arc<Capture>>,
    pub(super) clock: Clock,
    /// The Homa port of this endpoint's client or server.
    pub(super) port: u16,
    role: Role,
    /// Wakes the driver of a runtime.
    pub(super) nudged: Notify,
    /// Who drives it, if its callers do and not a runtime.
    pub(super) lead: Option<Arc<Lead>>,
    /// The right to receive: one thread at a time, so that packets are handled in their order.
    pub(super) receiving: Mutex<Receiving>,
    /// When the driver ran last, in nanoseconds of the clock.
    pub(super) driven: AtomicU64,
    /// When the driver will wake by itself, in nanoseconds of the clock.
    pub(super) sleep_until: AtomicU64,
    /// Whether whoever receives looks on before it sleeps.
    busy: BusyPoll,
    /// How long the driver goes on after the last handle is gone, for acks and detached calls
    /// ([`Config::linger`]).
    pub(super) linger: Duration,
    /// Handles that are alive.
    handles: AtomicUsize,
    closing: AtomicBool,
    closed: AtomicBool,
    /// Whether this server takes no more requests.
    refusing: AtomicBool,
    /// Whether somebody waits for the last of its RPCs to end.
    draining: AtomicBool,
    /// Sends made on the thread of a caller.
    pub(super) inline_sends: AtomicU64,
    /// Requests that wait to be accepted, on servers.
    pub(crate) accepts: AcceptQueue,
    /// Signalled when a server that shuts down has nothing left to do, and when it is closed.
    pub(crate) drained: Notify,
}

/// What an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Calls servers.
    Client,
    /// Calls servers, and takes the requests that these send.
    AcceptingClient,
    /// Takes requests.
    Server,
}

/// A call that was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    rpc: LocalRpc,
    waiter: usize,
}

impl Endpoint {
    /// Opens the sockets on `addr`. For a server, the Homa port is that of the socket. Without a
    /// `lead` the current runtime watches the sockets.
    pub(super) fn open(
        addr: SocketAddr,
        config: &Config,
        role: Role,
        lead: Option<Arc<Lead>>,
    ) -> Result<Self, BindError> {
        config.check()?;
        let waits = match lead {
            None => Waits::Runtime,
            Some(_) => Waits::Threads,
        };
        let link = Link::open(addr, config, waits)?;
        let capture = config.capture.as_deref().map(Capture::open).transpose()?;
        let settings = settings(config, &link, waits);
        let carrier = settings.carrier;
        let port = link.homa_port(role == Role::Server, random());
        let count = config.shards();
        let share = share(&settings, count);
        let shard = |index| {
            let named = (index, random());
            Shard::new(share.clone(), config, named, (port, role))
        };
        let shards: Box<[Shard]> = (0..count).map(shard).collect::<Result<_, _>>()?;
        if !link.local().ip().to_canonical().is_loopback() {
            let mbps = pacing_mbps(&network_devices());
            let own_ips = own_ips();
            for shard in &shards {
                shard.lock().set_link(mbps, own_ips.clone());
            }
        }
        Ok(Self {
            shards,
            spread: RandomState::new(),
            link,
            carrier,
            capture,
            clock: Clock::new(),
            port,
            role,
            nudged: Notify::new(),
            lead,
            receiving: Mutex::default(),
            driven: AtomicU64::new(0),
            sleep_until: AtomicU64::new(AWAKE),
            busy: BusyPoll::new(config.busy_poll),
            linger: config.linger,
            handles: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            inline_sends: AtomicU64::new(0),
            accepts: AcceptQueue::default(),
            drained: Notify::new(),
        })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.link.local()
    }

    /// The shard of this peer.
    pub(super) fn shard_of(&self, peer: SocketAddr) -> usize {
        if self.shards.len() == 1 {
            return 0;
        }
        // What tells peers apart: on IP protocol 146, the address alone.
        let port = match self.carrier {
            Carrier::Udp => peer.port(),
            Carrier::Ip => 0,
        };
        let hash = self.spread.hash_one((peer.ip().to_canonical(), port));
        (hash % self.shards.len() as u64) as usize
    }

    /// Starts a call, and sends what may leave at once, on this thread.
    pub(crate) fn call(
        &self,
        to: SocketAddr,
        message: Message,
    ) -> Result<(Ticket, oneshot::Receiver<Outcome>), CallError> {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.start(To::server(to), message, Waiter::Caller(sender))?;
        Ok((ticket, receiver))
    }

    /// Starts a call, and has `then` run when it is over.
    pub(crate) fn call_then(
        &self,
        to: SocketAddr,
        message: Message,
        then: Then,
    ) -> Result<(), CallError> {
        self.start(To::server(to), message, Waiter::Then(then))
            .map(drop)
    }

    /// The same, to the sender of a request.
    pub(crate) fn call_back_then(
        &self,
        to: Origin,
        message: Message,
        then: Then,
    ) -> Result<(), CallError> {
        self.start(To::sender(to), message, Waiter::Then(then))
            .map(drop)
    }

    /// [`Endpoint::call`] to the sender of a request.
    pub(crate) fn call_back(
        &self,
        to: Origin,
        message: Message,
    ) -> Result<(Ticket, oneshot::Receiver<Outcome>), CallError> {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.start(To::sender(to), message, Waiter::Caller(sender))?;
        Ok((ticket, receiver))
    }

    /// The same, when nobody waits for the response.
    pub(crate) fn call_back_detached(&self, to: Origin, message: Message) -> Result<(), CallError> {
        self.start(To::sender(to), message, Waiter::Detached)
            .map(drop)
    }

    /// Starts a call whose response nobody waits for.
    pub(crate) fn call_detached(&self, to: SocketAddr, message: Message) -> Result<(), CallError> {
        self.start(To::server(to), message, Waiter::Detached)
            .map(drop)
    }

    fn start(&self, to: To, message: Message, waiter: Waiter) -> Result<Ticket, CallError> {
        let To { addr, port, local } = to;
        let to = without_flow(addr);
        if to.port() == 0 || to.ip().is_unspecified() || to.ip().is_multicast() {
            return Err(CallError::BadAddress { addr: to });
        }
        let index = self.shard_of(to);
        let shard = &self.shards[index];
        let mut state = shard.lock();
        if state.closed {
            return Err(CallError::Closed);
        }
        let entry = state.waiting.insert(waiter);
        let now = self.clock.now();
        let started = state
            .engine
            .send_request(now, self.port, to, port, message, entry as u64);
        match started {
            Ok(rpc) => {
                if let Some(local) = local {
                    state.engine.leave_from(rpc, local);
                }
                self.transmit(now, shard, state);
                self.wake_keeper();
                Ok(Ticket {
                    rpc: LocalRpc { shard: index, rpc },
                    waiter: entry,
                })
            }
            Err(error) => {
                state.waiting.remove(entry);
                Err(match error {
                    SendError::BadSize { limit, message } => CallError::BadSize {
                        size: message.len(),
                        limit,
                        message,
                    },
                    SendError::Busy {
                        what,
                        limit,
                        message,
                    } => CallError::Busy {
                        what,
                        limit,
                        message,
                    },
                    SendError::Closed { .. } => CallError::Closed,
                })
            }
        }
    }

    /// The caller is gone: its RPC ends, and its response will be dropped.
    pub(crate) fn cancel_call(&self, ticket: Ticket) {
        let LocalRpc { shard, rpc } = ticket.rpc;
        let mut state = self.shards[shard].lock();
        // If it is over already, its event is on the way and frees the entry, which must not be
        // given to another call before.
        if state.engine.cancel(self.clock.now(), rpc) {
            state.waiting.remove(ticket.waiter);
        }
    }

    /// Answers a request.
    pub(crate) fn reply(&self, rpc: LocalRpc, message: Message) -> Result<(), SendError> {
        let shard = &self.shards[rpc.shard];
        let mut state = shard.lock();
        let now = self.clock.now();
        state.engine.send_reply(now, rpc.rpc, message)?;
        self.transmit(now, shard, state);
        Ok(())
    }

    /// Answers a request with the packets that leave next, within a few milliseconds. Returns whether
    /// the answer waits.
    pub(crate) fn reply_lazily(
        &self,
        rpc: LocalRpc,
        peer: SocketAddr,
        message: Message,
    ) -> Result<bool, SendError> {
        let shard = &self.shards[rpc.shard];
        let mut state = shard.lock();
        let limit = state.engine.settings().max_message_bytes;
        if message.is_empty() || message.len() > limit {
            return Err(SendError::BadSize { limit, message });
        }
        let now = self.clock.now();
        let full = state.reply_lazily(now, rpc.rpc, peer, message);
        if full {
            self.transmit(now, shard, state);
        } else {
            self.nudge_if_sooner(&state);
        }
        Ok(!full)
    }

    /// Sends another answer in place of one that still waits; else gives it back.
    pub(crate) fn replace_lazy(&self, rpc: LocalRpc, message: Message) -> Result<(), Message> {
        let shard = &self.shards[rpc.shard];
        let mut state = shard.lock();
        let now = self.clock.now();
        state.replace_lazy(now, rpc.rpc, message)?;
        self.transmit(now, shard, state);
        Ok(())
    }

    /// Something has happened at `now`: more is likely to come soon.
    pub(super) fn stay_awake(&self, now: Time) {
        self.busy.heard(now);
    }

    /// Whether to look for packets again instead of sleeping.
    pub(super) fn stays_awake(&self) -> bool {
        self.busy.looks(|| self.clock.now())
    }

    /// Nobody will answer this request.
    pub(crate) fn abandon(&self, rpc: LocalRpc) {
        let mut state = self.shards[rpc.shard].lock();
        let _ = state.engine.cancel(self.clock.now(), rpc.rpc);
    }

    /// Turns down a request that nobody has looked at.
    pub(crate) fn refuse_request(&self, rpc: LocalRpc) {
        let shard = &self.shards[rpc.shard];
        let mut state = shard.lock();
        let now = self.clock.now();
        state.engine.refuse(now, rpc.rpc);
        self.transmit(now, shard, state);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn refuses(&self) -> bool {
        self.refusing.load(Ordering::Acquire)
    }

    /// Stops taking requests on this server, and signals `drained` once those that were taken are
    /// done with.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.stop();
    }

    /// Stops taking requests on this server.
    pub(crate) fn stop(&self) {
        self.refusing.store(true, Ordering::Release);
        for shard in &self.shards {
            let mut state = shard.lock();
            if !state.closed {
                state.engine.open_port(self.port, false);
            }
        }
        self.close_accepts();
        self.nudge();
    }

    /// The server is gone: nobody will take what waits to be accepted.
    pub(crate) fn abandon_accepts(&self) {
        self.stop();
        for request in self.accepts.take_all() {
            request.refuse();
        }
    }

    /// Whether somebody waits for the last RPC of this server, and it has ended. Says so once.
    pub(super) fn has_drained(&self) -> bool {
        self.draining.load(Ordering::Acquire)
            && self.unfinished() == 0
            && self.draining.swap(false, Ordering::AcqRel)
    }

    /// Requests that this server has not answered, or whose answer is not acknowledged.
    pub(crate) fn unfinished(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().engine.live_server_rpcs(self.port))
            .sum()
    }

    pub(crate) fn snapshot(&self) -> Vec<RpcInfo> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().engine.snapshot(self.clock.now()))
            .collect()
    }

    pub(crate) fn counters(&self) -> EndpointCounters {
        let counters = self.link.counters();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut sums = EndpointCounters {
            capture_missed: self.capture.as_ref().map_or(0, |capture| capture.missed()),
            sends: read(&counters.sends),
            inline_sends: read(&self.inline_sends),
            packets_sent: read(&counters.packets_sent),
            receives: read(&counters.receives),
            packets_received: read(&counters.packets_received),
            socket_buffer_drops: read(&counters.socket_buffer_drops),
            send_errors: read(&counters.send_errors),
            recv_buffer_bytes: self.link.recv_buffers().0 as u64,
            gso: self.link.gso(),
            gro: self.link.gro(),
            ..EndpointCounters::default()
        };
        for shard in &self.shards {
            let state = shard.lock();
            sums.protocol += &state.engine.counters();
            // What the engine hears of at the driver's next turn, which may be far.
            let pool_used = &mut sums.protocol.pool_used;
            *pool_used = pool_used.saturating_sub(shard.released() as u64);
            if let Some(faults) = &state.faults {
                sums.faults += faults.counters();
            }
        }
        sums
    }

    /// Writes what was received to the capture, if there is one.
    pub(super) fn capture_received(&self, datagrams: &[Datagram]) {
        let Some(capture) = &self.capture else { return };
        let main = self.link.local();
        let bulk = SocketAddr::new(main.ip(), self.link.bulk_port().unwrap_or(main.port()));
        let socket = |datagram: &Datagram| match datagram.socket {
            Socket::Main => main,
            Socket::Bulk => bulk,
        };
        capture.received(
            self.carrier,
            datagrams
                .iter()
                .map(|datagram| (datagram, socket(datagram))),
        );
    }

    /// Whether nobody would miss this endpoint from now on. Clients wait for the servers that will
    /// ask whether their responses have arrived.
    pub(super) fn owes_nothing(&self) -> bool {
        self.role == Role::Server && self.unfinished() == 0
    }

    /// Ends the driver of a server that has nothing left to do, and waits for that.
    pub(crate) async fn finish(&self) {
        self.begin_closing();
        loop {
            let mut ended = std::pin::pin!(self.drained.notified());
            ended.as_mut().enable();
            if self.is_closed() {
                return;
            }
            ended.await;
        }
    }

    fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
        match self.lead {
            None => self.nudge(),
            Some(_) => background::nudge(),
        }
    }

    /// Somebody else has received a request for this server's callers.
    pub(crate) fn hand_over(&self, request: Request) {
        self.accepts.push(request);
        if let Some(lead) = &self.lead {
            lead.share_requests(self.accepts.len());
            // Whoever receives for all may be the only one that accepts.
            lead.nudge();
        }
    }

    fn close_accepts(&self) {
        self.accepts.close();
        if let Some(lead) = &self.lead {
            lead.share_requests(usize::MAX);
            lead.nudge();
        }
    }

    /// Has whoever drives it do a turn.
    pub(super) fn nudge(&self) {
        match &self.lead {
            None => self.nudged.notify_one(),
            Some(lead) => lead.nudge(),
        }
    }

    /// An RPC is live: the keeper must look after runtimes.
    pub(super) fn wake_keeper(&self) {
        if self.lead.is_none() {
            keeper::wake();
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Nothing works any more: everybody who waits is told.
    pub(super) fn close(&self) {
        for shard in &self.shards {
            let mut state = shard.lock();
            state.closed = true;
            state.engine.close_port(self.clock.now(), self.port);
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            for (_, waiter) in waiting {
                match waiter {
                    Waiter::Caller(sender) => drop(sender.send(Err(CallError::Closed))),
                    Waiter::Then(then) => then(Err(CallError::Closed)),
                    Waiter::Detached => {}
                }
            }
        }
        // The keeper may be in the middle of a turn, and has the sockets open until its end.
        drop(lock(&self.receiving));
        self.closed.store(true, Ordering::Release);
        self.close_accepts();
        // Not under the lock, which their end takes.
        drop(self.accepts.take_all());
        self.drained.notify_waiters();
    }
}

/// Where a request goes.
struct To {
    addr: SocketAddr,
    port: u16,
    /// The address of this host that it leaves from, if that matters.
    local: Option<IpAddr>,
}

impl To {
    /// A server's UDP port has the number of its Homa port.
    fn server(addr: SocketAddr) -> Self {
        Self {
            addr,
            port: addr.port(),
            local: None,
        }
    }

    fn sender(from: Origin) -> Self {
        Self {
            addr: from.peer,
            port: from.port,
            local: from.local,
        }
    }
}

/// Keeps an endpoint open.
#[derive(Debug)]
pub(crate) struct Handle(Arc<Endpoint>);

impl Handle {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.handles.fetch_add(1, Ordering::AcqRel);
        Self(endpoint)
    }

    /// One more handle of an endpoint that has some; once the last is gone there is no way back.
    pub(super) fn join(endpoint: Arc<Endpoint>) -> Option<Self> {
        let one_more = |handles: usize| handles.checked_add(1).filter(|_| handles > 0);
        let joined = endpoint
            .handles
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        joined.is_ok().then(|| Self(endpoint))
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl std::ops::Deref for Handle {
    type Target = Arc<Endpoint>;

    fn deref(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.begin_closing();
        }
    }
}

/// What the kernel charges a socket's buffer for a packet of ordinary size, header and all: a
/// buffer of 212,992 bytes holds 92 of them.
const PACKET_CHARGE: usize = 2315;

/// Largest packet to a loopback address. Nothing is cut or put together on the way, so what counts
/// is the work per packet, as with the 64 KB that TCP hands over at a time there.
const LOOPBACK_MTU: usize = 65_000;

/// How much more senders on loopback are granted ahead, with packets that are 43 times as long: then
/// a long message takes fewer rounds of grants, each of which wakes both sides.
const LOOPBACK_SHARE: usize = 4;

/// Most bytes of a message on loopback that threads send unasked.
const LOOPBACK_UNSCHED: usize = 512 << 10;

/// So many messages fit into a socket's buffer with what is sent of them unasked.
const LOOPBACK_SENDERS: usize = 16;

/// The engines' settings for these sockets, all shards together.
fn settings(config: &Config, link: &Link, waits: Waits) -> Settings {
    let carrier = config.protocol.carrier;
    let packet_payload = carrier.payload_for(link.local().ip(), config.mtu());
    let (main, bulk_buffer) = link.recv_buffers();
    let (main, bulk) = (main / PACKET_CHARGE, bulk_buffer / PACKET_CHARGE);
    let mut settings = config.protocol.clone();
    settings.packet_payload = packet_payload;
    settings.scheduled_payload = settings
        .scheduled_payload
        .map(|payload| payload.min(packet_payload));
    settings.main_buffer_bytes = main * packet_payload;
    settings.max_incoming = settings
        .max_incoming
        .min(bulk * packet_payload / 2)
        .max(2 * packet_payload);
    // Whoever sets these wants the packets of a network, here too.
    let emulated = config.mtu.is_some() || settings.link_mbps.is_some() || config.faults.is_some();
    settings.loopback = (!emulated).then(|| {
        let max_incoming = (LOOPBACK_SHARE * settings.max_incoming).min(bulk_buffer / 2);
        // Two packets for each shard have to fit into the buffer, whatever its size.
        let packet_payload = carrier
            .payload_for(link.local().ip(), LOOPBACK_MTU)
            .min(bulk_buffer / (4 * config.shards()))
            .min(max_incoming / 2)
            .max(packet_payload);
        Loopback {
            packet_payload,
            max_incoming: max_incoming.max(2 * packet_payload),
            unsched_bytes: match (settings.unsched_bytes, waits) {
                (None, Waits::Threads) => {
                    Some((bulk_buffer / LOOPBACK_SENDERS).clamp(1, LOOPBACK_UNSCHED))
                }
                // Several long messages that come at once would keep a runtime's threads from short
                // ones.
                _ => None,
            },
        }
    });
    settings.bulk_port = link.bulk_port();
    settings
}

/// Flow labels do not tell peers apart.
fn without_flow(mut addr: SocketAddr) -> SocketAddr {
    if let SocketAddr::V6(v6) = &mut addr {
        v6.set_flowinfo(0);
    }
    addr
}

/// A random number from the keys that the standard library draws for its hash maps.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Work under our locks cannot panic half way in a way that matters to the next holder.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
