//! One process of a soak: a server and a client, which checks every byte of both.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use homa_client::engine::wire::Kind;
use homa_client::{BindError, Client, EndpointCounters, Request, Server};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

use super::content::{Content, EVERY_LONGEST, Id, Way};
use super::plan::{
    Counted, FINISH_TIME, LeftOver, NODES, NodePlan, NodeReport, Order, SETTLE_TIME, Word,
};
use crate::ids::{Added, Ids};
use crate::latency;

/// Between two words about progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Between two looks at tables that should empty.
const SETTLE_LOOK: Duration = Duration::from_millis(10);

/// Things that went wrong of which the text is kept.
const MAX_NOTES: usize = 10;

/// Why a process of a soak ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("standard input does not begin with the plan of a soak: {0}")]
    Plan(String),
    #[error("an order cannot be read")]
    Order(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What such a process does until its standard input ends.
pub(crate) fn run_until_stdin_ends() -> Result<(), NodeError> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let plan: NodePlan =
        serde_json::from_str(&line).map_err(|error| NodeError::Plan(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.workers)
        .enable_all()
        .build()?;
    let result = runtime.block_on(follow_orders(plan));
    // A thread may still be reading standard input, and calls may be left if it ended early.
    runtime.shutdown_background();
    result
}

async fn follow_orders(plan: NodePlan) -> Result<(), NodeError> {
    let mut orders = Orders(BufReader::new(tokio::io::stdin()).lines());
    let config = plan.config();
    let opened =
        Server::bind(plan.listen, &config).and_then(|server| Ok((server, Client::bind(&config)?)));
    let (server, client) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let why = crate::report::with_causes(&error);
            let (why, lacking) = match error {
                BindError::NoCapability { .. } => (format!("{why}; or run this as root"), true),
                BindError::ModuleLoaded => (why, true),
                _ => (why, false),
            };
            say(&Word::Failed { why, lacking })?;
            return Ok(());
        }
    };
    let addr = server.local_addr();
    say(&Word::Listening { addr })?;
    let Some(Order::Start { servers }) = orders.next().await? else {
        return Ok(());
    };
    let node = Arc::new(Node::new(plan, server, client, servers));
    for _ in 0..node.plan.workers {
        tokio::spawn(Arc::clone(&node).serve());
    }
    let mut callers = JoinSet::new();
    for _ in 0..node.plan.in_flight {
        callers.spawn(Arc::clone(&node).call_until_stopped());
    }
    if !node.finish_calls(&mut callers, &mut orders).await? {
        return Ok(());
    }
    let seconds = node.began.elapsed().as_secs_f64();
    say(&Word::Finished)?;
    loop {
        match orders.next().await? {
            Some(Order::Settle) => break,
            Some(_) => {}
            None => return Ok(()),
        }
    }
    let counted = tokio::select! {
        counted = node.settle() => counted,
        _ = orders.next() => return Ok(()),
    };
    say(&Word::Report(Box::new(node.report(seconds, counted))))?;
    while orders.next().await?.is_some() {}
    Ok(())
}

/// Orders on standard input.
struct Orders(Lines<BufReader<Stdin>>);

impl Orders {
    /// The next one, `None` when this process shall end. Cancel safe.
    async fn next(&mut self) -> Result<Option<Order>, NodeError> {
        match self.0.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_str(&line)?)),
            None => Ok(None),
        }
    }
}

fn say(word: &Word) -> Result<(), NodeError> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// What the tasks of a process share.
struct Node {
    plan: NodePlan,
    content: Content,
    server: Server,
    client: Client,
    /// The processes to call.
    servers: Vec<(usize, SocketAddr)>,
    began: Instant,
    stopping: AtomicBool,
    /// Calls made so far.
    started: AtomicU64,
    /// Calls that have ended.
    ended: AtomicU64,
    seen: Mutex<Seen>,
}

/// What they have seen.
struct Seen {
    answered: Ids,
    run: Vec<Ids>,
    run_twice: u64,
    wrong: u64,
    failed: u64,
    unfinished: u64,
    replies_refused: u64,
    bytes: u64,
    latencies: Histogram<u64>,
    longest_latencies: Histogram<u64>,
    notes: Vec<String>,
}

impl Seen {
    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(text());
        }
    }
}

impl Node {
    fn new(
        plan: NodePlan,
        server: Server,
        client: Client,
        servers: Vec<(usize, SocketAddr)>,
    ) -> Self {
        Self {
            content: Content::new(plan.seed),
            server,
            client,
            servers,
            began: Instant::now(),
            stopping: AtomicBool::new(false),
            started: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            seen: Mutex::new(Seen {
                answered: Ids::default(),
                run: vec![Ids::default(); NODES],
                run_twice: 0,
                wrong: 0,
                failed: 0,
                unfinished: 0,
                replies_refused: 0,
                bytes: 0,
                latencies: latency::empty_histogram(),
                longest_latencies: latency::empty_histogram(),
                notes: Vec::new(),
            }),
            plan,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>) {
        while let Some(request) = self.server.accept().await {
            self.answer(request);
        }
    }

    /// Runs one request: checks it, remembers that it ran, and answers.
    fn answer(&self, request: Request) {
        let id = match Content::id_of(request.message()) {
            Ok(id) if id.caller < NODES => id,
            other => {
                let mut seen = self.seen();
                seen.wrong += 1;
                // Its caller finds the answer wrong too.
                seen.note(|| format!("a request of no RPC of this run: {other:?}"));
                drop(seen);
                drop(request.reply(b"?".as_slice().into()));
                return;
            }
        };
        let checked = self.content.check(id, Way::Request, request.message());
        let (_, reply_to) = request.into_parts();
        let mut seen = self.seen();
        if let Err(wrong) = checked {
            seen.wrong += 1;
            seen.note(|| format!("request {id:?}: {wrong}"));
        }
        match seen.run[id.caller].add(id.number) {
            Added::New => {}
            Added::Again => {
                seen.run_twice += 1;
                seen.note(|| format!("request {id:?} ran again"));
            }
            Added::Unbelievable => {
                seen.wrong += 1;
                seen.note(|| format!("request {id:?} belongs to no run"));
            }
        }
        drop(seen);
        if let Err(error) = reply_to.reply(self.content.message(id, Way::Response)) {
            let mut seen = self.seen();
            seen.replies_refused += 1;
            seen.note(|| format!("response {id:?}: {error}"));
        }
    }

    /// One call after the other.
    async fn call_until_stopped(self: Arc<Self>) {
        while !self.stopping.load(Ordering::Relaxed) {
            let number = self.started.fetch_add(1, Ordering::Relaxed);
            if self.plan.calls.is_some_and(|calls| number >= calls) {
                // Not made after all.
                self.started.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            self.call(number).await;
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn call(&self, number: u64) {
        let caller = self.plan.index;
        let id = Id { caller, number };
        let (callee, addr) = self.servers[self.content.callee(id, self.servers.len())];
        let request = self.content.message(id, Way::Request);
        let mut bytes = request.len() as u64;
        let began = Instant::now();
        let outcome = self.client.call(addr, request).await;
        let took = began.elapsed();
        let checked = outcome.map(|response| {
            bytes += response.len() as u64;
            self.content.check(id, Way::Response, &response)
        });
        let mut seen = self.seen();
        match checked {
            Ok(Ok(())) => {
                seen.answered.add(number);
                seen.bytes += bytes;
                latency::record(&mut seen.latencies, took);
                if number % EVERY_LONGEST == EVERY_LONGEST - 1 {
                    latency::record(&mut seen.longest_latencies, took);
                }
            }
            Ok(Err(wrong)) => {
                seen.wrong += 1;
                seen.note(|| format!("response {id:?} of process {callee}: {wrong}"));
            }
            Err(error) => {
                seen.failed += 1;
                seen.note(|| format!("call {id:?} of process {callee} after {took:?}: {error}"));
            }
        }
    }

    /// Waits until all calls have ended, at the latest some time after the order to. Returns
    /// whether this process goes on.
    async fn finish_calls(
        &self,
        callers: &mut JoinSet<()>,
        orders: &mut Orders,
    ) -> Result<bool, NodeError> {
        let mut progress = interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = None;
        loop {
            let patience = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                joined = callers.join_next() => match joined {
                    None => return Ok(true),
                    Some(Ok(())) => {}
                    Some(Err(panic)) => {
                        let mut seen = self.seen();
                        seen.wrong += 1;
                        seen.note(|| panic.to_string());
                    }
                },
                order = orders.next() => match order? {
                    None => return Ok(false),
                    Some(Order::Finish) => {
                        self.stopping.store(true, Ordering::Relaxed);
                        deadline = Some(Instant::now() + FINISH_TIME);
                    }
                    Some(_) => {}
                },
                () = patience => {
                    self.seen().unfinished += callers.len() as u64;
                    callers.shutdown().await;
                    return Ok(true);
                }
                _ = progress.tick() => {
                    let calls = self.ended.load(Ordering::Relaxed);
                    say(&Word::Progress { calls })?;
                }
            }
        }
    }

    /// Waits until nothing is left over, at most [`SETTLE_TIME`].
    async fn settle(&self) -> Counted {
        let deadline = Instant::now() + SETTLE_TIME;
        let empty = async {
            while !self.counted().left_over.is_empty() {
                tokio::time::sleep(SETTLE_LOOK).await;
            }
        };
        let _ = timeout_at(deadline, empty).await;
        self.counted()
    }

    fn counted(&self) -> Counted {
        let mut counted = Counted::default();
        counted.add(&self.server.counters());
        if let Some((_, addr)) = self.servers.first() {
            counted.add(&self.client.counters(*addr));
        }
        counted
    }

    fn report(&self, seconds: f64, counted: Counted) -> NodeReport {
        let seen = self.seen();
        NodeReport {
            started: self.started.load(Ordering::Relaxed),
            answered: seen.answered.clone(),
            run: seen.run.clone(),
            run_twice: seen.run_twice,
            wrong: seen.wrong,
            failed: seen.failed,
            unfinished: seen.unfinished,
            replies_refused: seen.replies_refused,
            bytes: seen.bytes,
            seconds,
            latencies: latency::pairs(&seen.latencies),
            longest_latencies: latency::pairs(&seen.longest_latencies),
            notes: seen.notes.clone(),
            counted,
        }
    }
}

impl Counted {
    fn add(&mut self, counters: &EndpointCounters) {
        let protocol = &counters.protocol;
        self.left_over.add(&LeftOver {
            rpcs: protocol.live_rpcs,
            receive_bytes: protocol.pool_used,
            send_bytes: protocol.send_used,
            queued: protocol.queued_control
                + protocol.queued_sending
                + protocol.queued_granting
                + protocol.queued_starved,
        });
        self.timeouts += protocol.timeouts;
        self.resends += protocol.sent(Kind::Resend);
        self.retransmitted += protocol.retransmitted;
        self.packets_sent += counters.packets_sent;
        self.sends += counters.sends;
        self.packets_received += counters.packets_received;
        self.receives += counters.receives;
        self.send_errors += counters.send_errors;
        self.socket_buffer_drops += counters.socket_buffer_drops;
        self.lost += counters.faults.lost;
        self.duplicated += counters.faults.duplicated;
        self.reordered += counters.faults.reordered;
        self.delayed += counters.faults.delayed;
        self.replies_forgotten += protocol.replies_forgotten;
        self.finished_forgotten += protocol.finished_forgotten;
        self.capture_missed += counters.capture_missed;
    }
}
