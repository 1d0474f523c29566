//! [`Endpoint`]: an engine, its sockets, and who waits for what.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, oneshot};

use super::accept::AcceptQueue;
use super::capture::Capture;
use super::clock::Clock;
use super::faults::Faulty;
use super::keeper;
use super::link::{Link, Refusal, Refused};
use super::turn::Receiving;
use crate::charge::Charge;
use crate::config::Config;
use crate::engine::wire::Carrier;
use crate::engine::{
    Datagram, Engine, Event, Failure, RpcId, RpcInfo, SendError, Settings, Socket, Time, Transmit,
    Wake,
};
use crate::error::{BindError, CallError, Executed};
use crate::message::Message;
use crate::server::Request;
use crate::stats::EndpointCounters;

/// Packets per batch: what is filled under the lock and sent after it is released.
pub(super) const BATCH: usize = 64;

/// Batches that a caller sends before it leaves the rest to the driver.
const CALLER_BATCHES: usize = 4;

/// "No sleep planned", for [`Endpoint::sleep_until`].
const AWAKE: u64 = 0;

/// What a waiting caller gets.
pub(crate) type Outcome = Result<Message, CallError>;

/// One engine with its sockets. Shared by all handles and the driver.
#[derive(Debug)]
pub(crate) struct Endpoint {
    state: Mutex<State>,
    pub(super) link: Link,
    carrier: Carrier,
    capture: Option<Arc<Capture>>,
    pub(super) clock: Clock,
    /// Wakes the driver.
    pub(super) nudge: Notify,
    /// The right to receive: one thread at a time, so that packets are handled in their order.
    pub(super) receiving: Mutex<Receiving>,
    /// When the driver ran last, in nanoseconds of the clock.
    pub(super) driven: AtomicU64,
    /// When the driver will wake by itself, in nanoseconds of the clock.
    pub(super) sleep_until: AtomicU64,
    /// Receive memory given back by dropped messages, not yet told to the engine.
    released: Arc<AtomicUsize>,
    /// Handles that are alive; the driver ends a while after the last.
    handles: AtomicUsize,
    closing: AtomicBool,
    /// Sends made on the thread of a caller.
    inline_sends: AtomicU64,
    /// Requests that wait to be accepted, on servers.
    pub(crate) accepts: AcceptQueue,
    /// Signalled when a server that shuts down has nothing left to do, and when it is closed.
    pub(crate) drained: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) engine: Engine,
    /// What tests do to packets on their way to the link.
    faults: Option<Box<Faulty>>,
    waiting: Slab<Waiter>,
    /// Whether some thread is between filling a batch and the next.
    transmitting: bool,
    /// Whether somebody found it transmitting and left something for the transmitter.
    missed: bool,
    /// What did not fit into the socket's send buffer.
    pub(super) stalled: VecDeque<Transmit>,
    /// The Homa port of this endpoint's client or server.
    port: u16,
    server: bool,
    /// Whether this server takes no more requests.
    refusing: bool,
    /// Whether somebody waits for the last of its RPCs to end.
    draining: bool,
    closed: bool,
}

#[derive(Debug)]
enum Waiter {
    Caller(oneshot::Sender<Outcome>),
    Detached,
}

/// Something for the application, to be handed over without the lock.
pub(super) enum Delivery {
    Outcome(oneshot::Sender<Outcome>, Outcome),
    Request(Request),
    Drained,
}

impl Endpoint {
    /// Opens the sockets on `addr`. For a server, the Homa port is that of the socket.
    pub(super) fn open(addr: SocketAddr, config: &Config, server: bool) -> Result<Self, BindError> {
        config.check()?;
        let link = Link::open(addr, config)?;
        let capture = config.capture.as_deref().map(Capture::open).transpose()?;
        let settings = settings(config, &link);
        let carrier = settings.carrier;
        let seed = random();
        let mut engine = Engine::new(settings, seed)?;
        let port = link.homa_port(server, seed);
        engine.open_port(port, server);
        let faults = config
            .faults
            .clone()
            .map(|faults| Faulty::new(faults, server.into()));
        let state = State {
            engine,
            faults: faults.map(Box::new),
            waiting: Slab::new(),
            transmitting: false,
            missed: false,
            stalled: VecDeque::new(),
            port,
            server,
            refusing: false,
            draining: false,
            closed: false,
        };
        Ok(Self {
            state: Mutex::new(state),
            link,
            carrier,
            capture,
            clock: Clock::new(),
            nudge: Notify::new(),
            receiving: Mutex::default(),
            driven: AtomicU64::new(0),
            sleep_until: AtomicU64::new(AWAKE),
            released: Arc::default(),
            handles: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            inline_sends: AtomicU64::new(0),
            accepts: AcceptQueue::default(),
            drained: Notify::new(),
        })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.link.local()
    }

    /// Starts a call, and sends what may leave at once, on this thread.
    pub(crate) fn call(
        self: &Arc<Self>,
        to: SocketAddr,
        message: Message,
    ) -> Result<(RpcId, usize, oneshot::Receiver<Outcome>), CallError> {
        let (sender, receiver) = oneshot::channel();
        let (rpc, waiter) = self.start(to, message, Waiter::Caller(sender))?;
        Ok((rpc, waiter, receiver))
    }

    /// Starts a call whose response nobody waits for.
    pub(crate) fn call_detached(&self, to: SocketAddr, message: Message) -> Result<(), CallError> {
        self.start(to, message, Waiter::Detached).map(drop)
    }

    fn start(
        &self,
        to: SocketAddr,
        message: Message,
        waiter: Waiter,
    ) -> Result<(RpcId, usize), CallError> {
        let to = without_flow(to);
        if to.port() == 0 || to.ip().is_unspecified() || to.ip().is_multicast() {
            return Err(CallError::BadAddress { addr: to });
        }
        let mut state = self.lock();
        if state.closed {
            return Err(CallError::Closed);
        }
        let entry = state.waiting.insert(waiter);
        let port = state.port;
        let now = self.clock.now();
        match state
            .engine
            .send_request(now, port, to, to.port(), message, entry as u64)
        {
            Ok(rpc) => {
                self.transmit(state);
                keeper::wake();
                Ok((rpc, entry))
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
    pub(crate) fn cancel_call(&self, rpc: RpcId, waiter: usize) {
        let mut state = self.lock();
        // If it is over already, its event is on the way and frees the entry, which must not be
        // given to another call before.
        if state.engine.cancel(self.clock.now(), rpc) {
            state.waiting.remove(waiter);
        }
    }

    /// Answers a request.
    pub(crate) fn reply(&self, rpc: RpcId, message: Message) -> Result<(), SendError> {
        let mut state = self.lock();
        state.engine.send_reply(self.clock.now(), rpc, message)?;
        self.transmit(state);
        Ok(())
    }

    /// Nobody will answer this request.
    pub(crate) fn abandon(&self, rpc: RpcId) {
        let _ = self.lock().engine.cancel(self.clock.now(), rpc);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Stops taking requests on this server, and signals `drained` once those that were taken are
    /// done with.
    pub(crate) fn drain(&self) {
        self.stop_accepting(true);
    }

    /// Stops taking requests on this server.
    pub(crate) fn stop(&self) {
        self.stop_accepting(false);
    }

    /// The server is gone: nobody will take what waits to be accepted.
    pub(crate) fn abandon_accepts(&self) {
        self.stop();
        for request in self.accepts.take_all() {
            request.refuse();
        }
    }

    fn stop_accepting(&self, draining: bool) {
        let mut state = self.lock();
        let port = state.port;
        if !state.closed {
            state.engine.open_port(port, false);
        }
        state.refusing = true;
        state.draining |= draining;
        drop(state);
        self.accepts.close();
        self.nudge.notify_one();
    }

    /// Turns down a request that nobody has looked at.
    pub(crate) fn refuse_request(&self, rpc: RpcId) {
        let mut state = self.lock();
        state.engine.refuse(self.clock.now(), rpc);
        self.transmit(state);
    }

    /// Requests that this server has not answered, or whose answer is not acknowledged.
    pub(crate) fn unfinished(&self) -> usize {
        let state = self.lock();
        state.engine.live_server_rpcs(state.port)
    }

    pub(crate) fn snapshot(&self) -> Vec<RpcInfo> {
        self.lock().engine.snapshot()
    }

    pub(crate) fn counters(&self) -> EndpointCounters {
        let counters = self.link.counters();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.lock();
        EndpointCounters {
            protocol: state.engine.counters(),
            faults: state
                .faults
                .as_ref()
                .map(|faults| faults.counters())
                .unwrap_or_default(),
            capture_missed: self.capture.as_ref().map_or(0, |capture| capture.missed()),
            sends: read(&counters.sends),
            inline_sends: read(&self.inline_sends),
            packets_sent: read(&counters.packets_sent),
            receives: read(&counters.receives),
            packets_received: read(&counters.packets_received),
            socket_buffer_drops: read(&counters.socket_buffer_drops),
            send_errors: read(&counters.send_errors),
            gso: self.link.gso(),
            gro: self.link.gro(),
        }
    }

    /// Sends whatever is ready, on this thread; unless another thread is at it, which then takes
    /// this along.
    fn transmit<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.transmitting || !state.stalled.is_empty() {
            state.missed = true;
            return;
        }
        state.transmitting = true;
        for _ in 0..CALLER_BATCHES {
            let batch = state.fill(self.clock.now());
            let full = batch.full;
            drop(state);
            let unsent = self.send(batch.transmits);
            self.inline_sends.fetch_add(unsent.calls, Ordering::Relaxed);
            state = self.lock();
            if self.after_send(&mut state, unsent) {
                break;
            }
            if !full && !std::mem::take(&mut state.missed) {
                state.transmitting = false;
                return self.nudge_if_sooner(&state);
            }
        }
        state.transmitting = false;
        self.nudge.notify_one();
    }

    /// One batch, sent by the driver. Returns whether there is more to send at once.
    pub(super) fn transmit_batch(&self) -> bool {
        let mut state = self.lock();
        if state.transmitting {
            state.missed = true;
            return false;
        }
        let batch = if state.stalled.is_empty() {
            state.fill(self.clock.now())
        } else {
            // Whoever found it stalled waits for more than these.
            Batch {
                transmits: state.stalled.drain(..).collect(),
                full: true,
            }
        };
        if batch.transmits.is_empty() {
            return batch.full;
        }
        state.transmitting = true;
        drop(state);
        let unsent = self.send(batch.transmits);
        let mut state = self.lock();
        let stalled = self.after_send(&mut state, unsent);
        state.transmitting = false;
        let missed = std::mem::take(&mut state.missed);
        !stalled && (batch.full || missed)
    }

    fn send(&self, mut batch: Vec<Transmit>) -> Unsent {
        let mut sent = self.link.send(&batch);
        if sent.errors_queued {
            self.link.drain_errors(&mut sent.refused);
        }
        if let Some(capture) = &self.capture {
            capture.sent(self.carrier, self.link.local(), &batch[..sent.done]);
        }
        batch.drain(..sent.done);
        if sent.done_segments > 0
            && let Some(next) = batch.first_mut()
        {
            let part = Transmit {
                segments: next.segments.drain(..sent.done_segments).collect(),
                ..*next
            };
            if let Some(capture) = &self.capture {
                capture.sent(self.carrier, self.link.local(), &[part]);
            }
        }
        Unsent {
            rest: batch,
            calls: sent.calls,
            refused: sent.refused,
        }
    }

    /// Returns whether the socket is full.
    fn after_send(&self, state: &mut State, unsent: Unsent) -> bool {
        self.refuse(state, unsent.refused);
        state.stalled.extend(unsent.rest);
        !state.stalled.is_empty()
    }

    /// Tells the engine what the network says of some destinations.
    pub(super) fn refuse(&self, state: &mut State, refused: Vec<Refused>) {
        if refused.is_empty() {
            return;
        }
        let now = self.clock.now();
        for Refused { to, refusal, quote } in refused {
            match refusal {
                Refusal::Unreachable(reason) => {
                    tracing::debug!(%to, %reason, "unreachable");
                    state.engine.handle_unreachable(now, to, reason, &quote);
                }
                Refusal::TooLong { mtu } => state.engine.set_path_mtu(now, to, mtu),
            }
        }
        // The driver hands the failures over.
        self.nudge.notify_one();
    }

    /// The driver sleeps too long for what was started just now.
    fn nudge_if_sooner(&self, state: &State) {
        let sleep_until = self.sleep_until.load(Ordering::Acquire);
        if sleep_until == AWAKE {
            return;
        }
        if let Some((at, _)) = state.next_wake(self.clock.now())
            && at.as_nanos() < sleep_until
        {
            self.nudge.notify_one();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
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

    /// Takes what the engine has for the application.
    pub(super) fn collect(self: &Arc<Self>, state: &mut State, into: &mut Vec<Delivery>) {
        let now = self.clock.now();
        while let Some(event) = state.engine.poll_event(now) {
            match event {
                Event::Request { rpc, charged, .. } if state.refusing => {
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
                    let message = self.charged(message, charged);
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
                    let message = self.charged(message, charged);
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
        if state.draining && state.engine.live_server_rpcs(state.port) == 0 {
            state.draining = false;
            into.push(Delivery::Drained);
        }
    }

    /// Hands over what [`Endpoint::collect`] took; wakes callers, so not under the lock.
    pub(super) fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        for delivery in deliveries.drain(..) {
            match delivery {
                // A caller that is gone meanwhile has dropped its end.
                Delivery::Outcome(sender, outcome) => drop(sender.send(outcome)),
                Delivery::Request(request) => self.accepts.push(request),
                Delivery::Drained => self.drained.notify_waiters(),
            }
        }
    }

    fn charged(&self, message: Message, bytes: usize) -> Message {
        message.with_charge(Charge::new(bytes, self.released.clone()))
    }

    /// Receive memory given back since the last call.
    pub(super) fn take_released(&self) -> usize {
        // Most of the time nothing was; a load is cheaper than a swap.
        match self.released.load(Ordering::Acquire) {
            0 => 0,
            _ => self.released.swap(0, Ordering::AcqRel),
        }
    }

    /// Whether nobody would miss this endpoint from now on. Clients wait for the servers that will
    /// ask whether their responses have arrived.
    pub(super) fn owes_nothing(&self) -> bool {
        let state = self.lock();
        state.server && state.engine.live_server_rpcs(state.port) == 0
    }

    /// Ends the driver of a server that has nothing left to do, and waits for that.
    pub(crate) async fn finish(&self) {
        self.closing.store(true, Ordering::Release);
        self.nudge.notify_one();
        loop {
            let mut ended = std::pin::pin!(self.drained.notified());
            ended.as_mut().enable();
            if self.is_closed() {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Nothing works any more: everybody who waits is told.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let port = state.port;
        state.engine.close_port(self.clock.now(), port);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for (_, waiter) in waiting {
            if let Waiter::Caller(sender) = waiter {
                drop(sender.send(Err(CallError::Closed)));
            }
        }
        // The keeper may be in the middle of a turn, and has the sockets open until its end.
        drop(lock(&self.receiving));
        self.accepts.close();
        // Not under the lock, which their end takes.
        drop(self.accepts.take_all());
        self.drained.notify_waiters();
    }
}

impl State {
    /// Up to [`BATCH`] packets.
    fn fill(&mut self, now: Time) -> Batch {
        let mut transmits = Vec::new();
        if let Some(faults) = &mut self.faults {
            faults.release_due(now, BATCH, &mut transmits);
        }
        let mut packets = transmits.len();
        while packets < BATCH
            && let Some(transmit) = self.engine.poll_transmit(now, BATCH - packets)
        {
            packets += transmit.segments.len();
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

    /// When there will be something to do, if nothing comes before.
    pub(super) fn next_wake(&self, now: Time) -> Option<(Time, Wake)> {
        let engine = self.engine.poll_timeout(now);
        let held = self.faults.as_ref().and_then(|faults| faults.next_due());
        // A link's delays are about as fine as the pacer's.
        let held = held.map(|at| (at, Wake::Pace));
        engine.into_iter().chain(held).min_by_key(|(at, _)| *at)
    }

    fn finish(&mut self, cookie: u64, outcome: Outcome, into: &mut Vec<Delivery>) {
        if let Some(Waiter::Caller(sender)) = self.waiting.try_remove(cookie as usize) {
            into.push(Delivery::Outcome(sender, outcome));
        }
    }
}

struct Batch {
    transmits: Vec<Transmit>,
    /// Whether the engine may have more that is ready.
    full: bool,
}

struct Unsent {
    rest: Vec<Transmit>,
    calls: u64,
    refused: Vec<Refused>,
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
            self.0.closing.store(true, Ordering::Release);
            self.0.nudge.notify_one();
        }
    }
}

/// The engine's settings for these sockets.
fn settings(config: &Config, link: &Link) -> Settings {
    let carrier = config.protocol.carrier;
    let packet_payload = carrier.payload_for(link.local().ip(), config.mtu());
    let (main, bulk) = link.buffered_packets();
    let mut settings = config.protocol.clone();
    settings.packet_payload = packet_payload;
    settings.main_buffer_bytes = main * packet_payload;
    settings.max_incoming = settings
        .max_incoming
        .min(bulk * packet_payload / 2)
        .max(2 * packet_payload);
    settings.bulk_port = link.bulk_port();
    settings
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

/// How long the driver goes on after the last handle is gone, for acks and detached calls.
pub(super) const LINGER: Duration = Duration::from_secs(1);
