//! [`Core`]: what servers of all transports do with a request.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Buf;
use homa_client::{Message, ReplyError, Responder};
use thrift::server::TProcessor;

use super::context::{Entered, Origin, Running};
use super::stats::Counts;
use super::stream::Connection;
use super::{CallOutcome, CallRecord, OnewayAck, QueuedAtShutdown, ServerOptions};
use crate::limits::Limits;
use crate::pieces::transfers::{Envelope, Transfers};
use crate::process::{Answer, Caller, Response, Unfit};

/// What makes the replies.
pub(crate) enum Service {
    Processor(Arc<dyn TProcessor + Send + Sync>),
    Forward(Box<dyn Forward>),
}

/// Makes a reply of a request's bytes, say by passing them on. It must not panic.
pub(crate) trait Forward: Send + Sync {
    fn forward(&self, caller: &Caller, request: Message) -> Answer;
}

/// What servers of all transports have in common.
pub(super) struct Core {
    service: Service,
    pub(super) options: ServerOptions,
    pub(super) limits: Limits,
    pub(super) counts: Counts,
    /// Messages in pieces, if there may be any.
    pub(super) transfers: Option<Arc<Transfers>>,
    stopping: AtomicBool,
    /// When it began to stop.
    stopped_at: OnceLock<Instant>,
    /// Whether the grace of a shutdown is over.
    over: AtomicBool,
    threads: Mutex<Threads>,
    ended: Condvar,
}

/// The threads that take requests.
#[derive(Default)]
struct Threads {
    alive: usize,
    desks: Vec<Arc<Desk>>,
}

/// Where a thread's current call lies, so that others can answer it in place of a handler that does
/// not return.
#[derive(Default)]
pub(super) struct Desk(Mutex<Option<InFlight>>);

struct InFlight {
    running: Arc<Running>,
    /// Gone once it is answered.
    replier: Option<Replier>,
    bytes_in: usize,
}

/// A call that was given up.
pub(super) struct Abandoned {
    pub(super) running: Arc<Running>,
    /// Whether its caller had its answer before, as that of a oneway.
    pub(super) answered: bool,
}

/// What is to be done with a request.
enum Work<'a> {
    Process(&'a dyn TProcessor),
    Forward(&'a dyn Forward, Message),
}

/// The bytes of a request, of which a gateway needs a second copy beside the one that is parsed.
pub(super) trait Request: Buf {
    fn whole(&self) -> Message;
}

impl Request for Message {
    fn whole(&self) -> Message {
        self.clone()
    }
}

impl Request for &[u8] {
    fn whole(&self) -> Message {
        self.to_vec().into()
    }
}

/// The way back to the caller.
pub(super) enum Replier {
    Homa(Responder),
    /// To a client that takes long replies in pieces.
    Pieces(Responder, Envelope),
    Stream(Arc<Connection>),
}

/// An answer on its way.
enum Outgoing {
    Homa(Responder, Message),
    Pieces(Responder, Envelope, Message),
    Stream(Arc<Connection>, Response),
}

impl Core {
    pub(super) fn new(service: Service, options: ServerOptions, limits: Limits) -> Self {
        let whole = options.homa.protocol.max_message_bytes;
        Self {
            transfers: options.pieces.map(|pieces| Transfers::new(pieces, whole)),
            service,
            options,
            limits,
            counts: Counts::default(),
            stopping: AtomicBool::new(false),
            stopped_at: OnceLock::new(),
            over: AtomicBool::new(false),
            threads: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Handles one request on this thread, and answers it. `admit` waits for the right to run, and
    /// what it returns is held while the handler runs; or it says why the request must not.
    pub(super) fn handle<B: Request, G>(
        &self,
        desk: &Desk,
        origin: Origin,
        request: B,
        replier: Replier,
        admit: impl FnOnce(&Self) -> Result<G, String>,
    ) {
        let bytes_in = request.remaining();
        let limits = replier.limits(self);
        let work = match &self.service {
            Service::Processor(processor) => Work::Process(&**processor),
            Service::Forward(forward) => Work::Forward(&**forward, request.whole()),
        };
        let parsed = Caller::parse(request, self.options.protocol.as_ref(), &limits);
        let (caller, body) = match parsed {
            Ok(parsed) => parsed,
            Err(unfit) => {
                let Unfit { method, answer } = unfit;
                return self.answer_now(&method, origin, bytes_in, replier, answer);
            }
        };
        let admitted = match admit(self) {
            Ok(admitted) => admitted,
            Err(why) => {
                let answer = caller.refuse(&why);
                return self.answer_now(caller.name(), origin, bytes_in, replier, answer);
            }
        };
        let started_at = Instant::now();
        if let Some(why) = self.is_late(origin, started_at) {
            let answer = caller.refuse(&why);
            return self.answer_now(caller.name(), origin, bytes_in, replier, answer);
        }
        let replier = if caller.is_oneway() && self.options.oneway == OnewayAck::OnReceipt {
            self.send(replier.outgoing(Response::Accepted), None);
            None
        } else {
            Some(replier)
        };
        let running = Arc::new(Running {
            caller,
            origin,
            started_at,
            deadline: self.deadline(origin),
        });
        let answer = |caller: &Caller| match work {
            Work::Process(processor) => caller.run(body, processor),
            Work::Forward(forward, request) => forward.forward(caller, request),
        };
        self.run(desk, running, bytes_in, answer, replier, admitted);
    }

    fn run<G>(
        &self,
        desk: &Desk,
        running: Arc<Running>,
        bytes_in: usize,
        answer: impl FnOnce(&Caller) -> Answer,
        replier: Option<Replier>,
        admitted: G,
    ) {
        let acknowledged = replier.is_none();
        *desk.lock() = Some(InFlight {
            running: running.clone(),
            replier,
            bytes_in,
        });
        self.counts.started();
        self.observe(|observer| observer.started(running.caller.name()));
        let answer = {
            let _entered = Entered::new(running.clone());
            answer(&running.caller)
        };
        self.counts.ended();
        drop(admitted);
        let replier = desk.lock().take().and_then(|call| call.replier);
        let outgoing = match replier {
            Some(replier) => Some(replier.outgoing(or_accepted(answer.reply))),
            None if acknowledged => None,
            // Somebody else has answered, and counted it.
            None => return,
        };
        let bytes_out = outgoing.as_ref().map_or(0, Outgoing::len);
        // Before the caller can know.
        self.counts.count(answer.outcome, bytes_in, bytes_out);
        if let Some(outgoing) = outgoing {
            self.send(outgoing, Some(&running.caller));
        }
        self.tell(&running, answer.outcome, bytes_in, bytes_out);
    }

    /// Answers a request whose handler does not run.
    fn answer_now(
        &self,
        method: &str,
        origin: Origin,
        bytes_in: usize,
        replier: Replier,
        answer: Answer,
    ) {
        let outgoing = replier.outgoing(answer.reply);
        let bytes_out = outgoing.len();
        self.counts.count(answer.outcome, bytes_in, bytes_out);
        self.send(outgoing, None);
        let latency = origin.received_at.elapsed();
        self.observe(|observer| {
            observer.finished(&CallRecord {
                method,
                outcome: answer.outcome,
                bytes_in,
                bytes_out,
                latency,
                waited: latency,
                peer: origin.peer,
                transport: origin.transport,
            });
        });
    }

    /// Refuses a request of `size` bytes of which at least the header is there.
    pub(super) fn refuse<B: Buf>(
        &self,
        origin: Origin,
        (request, size): (B, usize),
        replier: Replier,
        refuse: impl FnOnce(&Caller) -> Answer,
    ) {
        let limits = replier.limits(self);
        let parsed = Caller::parse(request, self.options.protocol.as_ref(), &limits);
        match parsed {
            Ok((caller, _)) => {
                let answer = refuse(&caller);
                self.answer_now(caller.name(), origin, size, replier, answer);
            }
            Err(unfit) => {
                self.answer_now(&unfit.method, origin, size, replier, unfit.answer);
            }
        }
    }

    /// Why a request that comes while the queue is full is refused; counts it.
    pub(super) fn overloaded(&self) -> String {
        self.counts.overloaded.fetch_add(1, Ordering::Relaxed);
        format!(
            "overloaded: {} calls run and {} wait, which is the limit of this server's queue; try \
             again later or elsewhere",
            self.options.workers, self.options.queue
        )
    }

    /// Why no request is taken any more.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        let refuses = self.options.queued_at_shutdown == QueuedAtShutdown::Refuse;
        let over = self.over.load(Ordering::Acquire);
        (over || (refuses && self.is_stopping())).then_some("shutting down")
    }

    /// The same for a request that came there. While long replies are fetched the endpoint is open
    /// for longer than it takes requests.
    pub(super) fn refusal_of(&self, origin: Origin) -> Option<&'static str> {
        let is_late = |stopped: &Instant| origin.received_at > *stopped;
        let late = self.stopped_at.get().is_some_and(is_late);
        self.refusal().or_else(|| late.then_some("shutting down"))
    }

    /// When a call that came from there has to be done.
    pub(super) fn deadline(&self, origin: Origin) -> Option<Instant> {
        origin.received_at.checked_add(self.options.call_timeout?)
    }

    fn is_late(&self, origin: Origin, now: Instant) -> Option<String> {
        let deadline = self.deadline(origin)?;
        (now >= deadline).then(|| self.too_late(now.saturating_duration_since(origin.received_at)))
    }

    /// Why a call that has waited for so long is not executed.
    pub(super) fn too_late(&self, waited: Duration) -> String {
        format!(
            "waited {} ms for a worker, the limit of a call is {} ms: call less often, or give this \
             server more workers or time",
            waited.as_millis(),
            self.options.call_timeout.unwrap_or_default().as_millis()
        )
    }

    /// Sends the answer. If there is no room for it, `caller` is told so.
    fn send(&self, outgoing: Outgoing, caller: Option<&Caller>) {
        let sent = match outgoing {
            Outgoing::Homa(responder, reply) => respond(responder, None, reply, caller),
            Outgoing::Pieces(responder, envelope, reply) => {
                respond(responder, Some(&envelope), reply, caller)
            }
            Outgoing::Stream(connection, response) => connection.reply(response),
        };
        if !sent {
            self.counts.undelivered.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tell(&self, running: &Running, outcome: CallOutcome, bytes_in: usize, bytes_out: usize) {
        let Origin {
            peer,
            received_at,
            transport,
        } = running.origin;
        self.observe(|observer| {
            observer.finished(&CallRecord {
                method: running.caller.name(),
                outcome,
                bytes_in,
                bytes_out,
                latency: received_at.elapsed(),
                waited: running.started_at.saturating_duration_since(received_at),
                peer,
                transport,
            });
        });
    }

    /// A faulty observer must not take a worker with it.
    fn observe(&self, tell: impl FnOnce(&dyn super::Observer)) {
        if let Some(observer) = &self.options.observer {
            let _ = catch_unwind(AssertUnwindSafe(|| tell(&**observer)));
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        self.stopped_at.get_or_init(Instant::now);
        self.stopping.store(true, Ordering::Release);
    }

    /// The grace is over: whatever still waits is refused.
    pub(super) fn end_grace(&self) {
        self.stop();
        self.over.store(true, Ordering::Release);
    }

    /// Gives up the calls that still run, of all or of those whose time is over, and answers those
    /// whose callers wait.
    pub(super) fn abandon(&self, why: &str, late_at: Option<Instant>) -> Vec<Abandoned> {
        let desks = self.threads().desks.clone();
        let mut abandoned = Vec::new();
        for desk in desks {
            let Some(given_up) = desk.give_up(late_at) else {
                continue;
            };
            let (running, replier, bytes_in) = given_up;
            let answered = replier.is_none();
            if let Some(replier) = replier {
                let reply = running.caller.refuse(why).reply;
                let is_stream = match &replier {
                    Replier::Homa(_) | Replier::Pieces(..) => None,
                    Replier::Stream(connection) => Some(connection.clone()),
                };
                let outgoing = replier.outgoing(or_accepted(reply));
                let bytes_out = outgoing.len();
                let outcome = CallOutcome::Abandoned;
                self.counts.count(outcome, bytes_in, bytes_out);
                self.send(outgoing, None);
                if let Some(connection) = is_stream {
                    // Nobody reads what comes on it, as long as the handler runs.
                    connection.close();
                }
                self.tell(&running, outcome, bytes_in, bytes_out);
            }
            abandoned.push(Abandoned { running, answered });
        }
        abandoned
    }

    /// A thread that takes requests starts.
    pub(super) fn thread_starts(self: &Arc<Self>) -> Shift {
        let desk = Arc::<Desk>::default();
        let mut threads = self.threads();
        threads.alive += 1;
        threads.desks.push(desk.clone());
        drop(threads);
        Shift {
            core: self.clone(),
            desk,
        }
    }

    /// Waits until all threads that take requests have ended, or until the deadline; `None`: no
    /// limit. Tells whether they have.
    pub(super) fn wait_ended(&self, deadline: Option<Instant>) -> bool {
        let mut threads = self.threads();
        while threads.alive > 0 {
            let Some(deadline) = deadline else {
                threads = self
                    .ended
                    .wait(threads)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.ended.wait_timeout(threads, left);
            threads = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    /// Bytes of the answer.
    fn len(&self) -> usize {
        match self {
            Self::Homa(_, message)
            | Self::Pieces(_, _, message)
            | Self::Stream(_, Response::Message(message)) => message.len(),
            // Clients of connections know no control replies.
            Self::Stream(..) => 0,
        }
    }
}

impl Replier {
    fn outgoing(self, response: Response) -> Outgoing {
        match self {
            Self::Homa(responder) => Outgoing::Homa(responder, response.into_control()),
            Self::Pieces(responder, envelope) => {
                Outgoing::Pieces(responder, envelope, response.into_control())
            }
            Self::Stream(connection) => Outgoing::Stream(connection, response),
        }
    }

    /// The limits of the call.
    fn limits(&self, core: &Core) -> Limits {
        match self {
            Self::Homa(_) | Self::Stream(_) => core.limits,
            Self::Pieces(_, envelope) => envelope.limits(&core.options.limits),
        }
    }
}

/// Sends a reply over Homa; tells whether that went well.
fn respond(
    responder: Responder,
    envelope: Option<&Envelope>,
    reply: Message,
    caller: Option<&Caller>,
) -> bool {
    let refusal = |why: &str| match caller {
        Some(caller) => caller.refuse(why).reply.into_control(),
        None => Response::NotUnderstood(why.to_owned()).into_control(),
    };
    let message = match envelope {
        None => Some(reply),
        // An exception fits.
        Some(envelope) => match envelope.seal(reply) {
            Ok(message) => Some(message),
            Err(why) => envelope.seal(refusal(&why)).ok(),
        },
    };
    let Some(message) = message else {
        return false;
    };
    match responder.reply(message) {
        Ok(()) => true,
        Err(ReplyError::Busy {
            responder, limit, ..
        }) => {
            if caller.is_some() {
                let why = format!(
                    "the call was executed, but the server has no room for its reply: its clients \
                     have {limit} bytes of replies to acknowledge"
                );
                let _ = responder.reply(refusal(&why));
            }
            false
        }
        // The endpoint is closed; its callers learn that from Homa.
        Err(_) => false,
    }
}

/// A oneway that is answered late is accepted.
fn or_accepted(response: Response) -> Response {
    match response {
        Response::Nothing => Response::Accepted,
        response => response,
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Option<InFlight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what lies here, if it is of all calls, or is late.
    fn give_up(&self, late_at: Option<Instant>) -> Option<(Arc<Running>, Option<Replier>, usize)> {
        let mut call = self.lock();
        let in_flight = call.as_mut()?;
        if let Some(now) = late_at {
            // Nobody waits for what is answered.
            in_flight.replier.as_ref()?;
            in_flight
                .running
                .deadline
                .filter(|deadline| *deadline <= now)?;
        }
        Some((
            in_flight.running.clone(),
            in_flight.replier.take(),
            in_flight.bytes_in,
        ))
    }
}

/// A thread's time at work.
pub(super) struct Shift {
    core: Arc<Core>,
    pub(super) desk: Arc<Desk>,
}

impl Drop for Shift {
    fn drop(&mut self) {
        let mut threads = self.core.threads();
        threads.alive -= 1;
        threads.desks.retain(|desk| !Arc::ptr_eq(desk, &self.desk));
        drop(threads);
        self.core.ended.notify_all();
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("options", &self.options)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
