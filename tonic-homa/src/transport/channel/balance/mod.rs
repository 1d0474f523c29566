//! [`Channel::balance_list`] and [`Channel::balance_channel`]: one channel, several servers.

mod replay;

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::mpsc::{self, Sender};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};

use super::connect::DEFAULT_CONNECT_TIMEOUT;
use super::{BoxFuture, Channel, Endpoint, Kind, call_ready};
use crate::deadline;
use crate::status;
use replay::Replay;

/// How long a server is put aside when a call could not reach it; doubled by each probe that
/// fails as well.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A change in the servers of a [`Channel::balance_channel`].
///
/// ```no_run
/// use tonic_homa::transport::channel::Change;
/// use tonic_homa::transport::{Channel, Endpoint};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let (channel, changes) = Channel::balance_channel(16);
/// let endpoint = Endpoint::from_static("homa://10.0.0.1:4000");
/// changes.send(Change::Insert("first", endpoint)).await?;
/// changes.send(Change::Remove("first")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub enum Change<K, V> {
    /// A server of this name is there, in place of the one that had the name before.
    Insert(K, V),
    /// The server of this name gets no more calls. Those in flight go on.
    Remove(K),
}

impl Channel {
    /// A channel over all servers of a list, some over Homa and some over TCP if you like.
    ///
    /// Of two that are picked at random each call goes to the one with fewer calls in flight,
    /// where streams count until they end. Nothing is sent before the first call.
    ///
    /// A server that a call could not reach (`UNAVAILABLE` from the transport, not from its
    /// handler) is put aside for a second; then it is probed in the background, as by
    /// [`Endpoint::connect`], and is back when it answers. Each probe that fails doubles the
    /// pause, up to 30 s. While all are aside, calls go to any of them.
    ///
    /// The call that found a server gone goes to another one, once, if it surely did not run and
    /// its request was complete when it was made, as those of unary calls are. Else it fails, and
    /// its [source](std::error::Error::source) tells whether it may have run.
    ///
    /// Each endpoint keeps its own limits and timeouts. If the list is empty, all calls fail with
    /// `UNAVAILABLE`.
    ///
    /// ```
    /// use tonic_homa::transport::{Channel, Endpoint};
    ///
    /// let servers = ["homa://10.0.0.1:4000", "homa://10.0.0.2:4000", "http://10.0.0.3:4000"];
    /// # let runtime = tokio::runtime::Runtime::new()?;
    /// # let _in_it = runtime.enter();
    /// let channel = Channel::balance_list(servers.into_iter().map(Endpoint::from_static));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn balance_list(list: impl Iterator<Item = Endpoint>) -> Self {
        let servers = list
            .map(|endpoint| Arc::new(Server::new(endpoint)))
            .collect();
        Self::balance(servers, None, tokio_spawn())
    }

    /// The same over servers that come and go: send a [`Change`] for each.
    ///
    /// At most `capacity` changes wait; 0 counts as 1. They take effect with the next call, not
    /// before, and a call waits while there is no server at all. When the sender is dropped, the
    /// servers stay as they are.
    pub fn balance_channel<K>(capacity: usize) -> (Self, Sender<Change<K, Endpoint>>)
    where
        K: Hash + Eq + Send + Clone + 'static,
    {
        Self::balance_changes(capacity, tokio_spawn())
    }

    /// The same, with what runs the probes of servers that were put aside.
    #[cfg(feature = "tcp")]
    pub fn balance_channel_with_executor<K, E>(
        capacity: usize,
        executor: E,
    ) -> (Self, Sender<Change<K, Endpoint>>)
    where
        K: Hash + Eq + Send + Clone + 'static,
        E: hyper::rt::Executor<BoxFuture> + Send + Sync + 'static,
    {
        let spawn = Arc::new(move |probe| executor.execute(probe));
        Self::balance_changes(capacity, spawn)
    }

    fn balance_changes<K>(capacity: usize, spawn: Spawn) -> (Self, Sender<Change<K, Endpoint>>)
    where
        K: Hash + Eq + Send + Clone + 'static,
    {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let changes = Changes {
            receiver,
            named: HashMap::new(),
        };
        let channel = Self::balance(Vec::new(), Some(Box::new(changes)), spawn);
        (channel, sender)
    }

    fn balance(servers: Vec<Arc<Server>>, changes: Option<AnyChanges>, spawn: Spawn) -> Self {
        Self::of(Kind::Balance(Arc::new(Balance {
            servers: Mutex::new(servers),
            changes: tokio::sync::Mutex::new(changes),
            spawn,
        })))
    }
}

type Spawn = Arc<dyn Fn(BoxFuture) + Send + Sync>;
type AnyChanges = Box<dyn PollChange + Send>;

fn tokio_spawn() -> Spawn {
    Arc::new(|probe| {
        tokio::spawn(probe);
    })
}

/// The servers of a channel.
pub(super) struct Balance {
    servers: Mutex<Vec<Arc<Server>>>,
    /// Held by the one call that waits for a change.
    changes: tokio::sync::Mutex<Option<AnyChanges>>,
    spawn: Spawn,
}

impl Balance {
    /// One call with its own deadline, which covers waiting for a server and a second attempt.
    pub(super) async fn call(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        match deadline::from_headers(request.headers()) {
            None => self.run(request).await,
            Some(limit) => timeout(limit, self.run(request))
                .await
                .map_err(|_| status::deadline_exceeded(limit))?,
        }
    }

    async fn run(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let body = Replay::of(body).await;
        let claim = self.claim().await?;
        let request = Request::from_parts(parts.clone(), body.body());
        let (failed, status) = match claim.call(request).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        if !(body.is_whole() && status::surely_not_run(&status)) {
            return Err(status);
        }
        match self.pick() {
            Some(other) if !Arc::ptr_eq(&other.0, &failed) => {
                let request = Request::from_parts(parts, body.body());
                other.call(request).await.map_err(|(_, status)| status)
            }
            _ => Err(status),
        }
    }

    /// Picks the server of one call, and waits for one if there is none.
    async fn claim(&self) -> Result<Claim, Status> {
        if let Ok(mut changes) = self.changes.try_lock()
            && let Some(changes) = &mut *changes
        {
            let waker = std::task::Waker::noop();
            let mut cx = Context::from_waker(waker);
            while changes.poll_change(&mut cx, &mut self.lock()) == Poll::Ready(true) {}
        }
        if let Some(claim) = self.pick() {
            return Ok(claim);
        }
        let mut changes = self.changes.lock().await;
        loop {
            // The call that had the lock before may have seen one come.
            if let Some(claim) = self.pick() {
                return Ok(claim);
            }
            let more = match &mut *changes {
                Some(changes) => poll_fn(|cx| changes.poll_change(cx, &mut self.lock())).await,
                None => false,
            };
            if !more {
                return Err(Status::unavailable("this channel has no servers"));
            }
        }
    }

    /// The better of two that are picked at random.
    fn pick(&self) -> Option<Claim> {
        let servers = self.lock();
        let now = Instant::now();
        let usable = |server: &&Arc<Server>| !server.is_aside(now, &self.spawn);
        let mut fit: Vec<&Arc<Server>> = servers.iter().filter(usable).collect();
        if fit.is_empty() {
            fit = servers.iter().collect();
        }
        let first = match fit.len() {
            0 => return None,
            len => fit.swap_remove(fastrand::usize(..len)),
        };
        let better = match fit.len() {
            0 => first,
            len => {
                let second = fit[fastrand::usize(..len)];
                if second.calls() < first.calls() {
                    second
                } else {
                    first
                }
            }
        };
        Some(Claim::new(better))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Server>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes whose names are of any type.
trait PollChange {
    /// Takes one change; `false` if there will be none any more.
    fn poll_change(&mut self, cx: &mut Context<'_>, servers: &mut Vec<Arc<Server>>) -> Poll<bool>;
}

struct Changes<K> {
    receiver: mpsc::Receiver<Change<K, Endpoint>>,
    named: HashMap<K, Arc<Server>>,
}

impl<K: Hash + Eq> PollChange for Changes<K> {
    fn poll_change(&mut self, cx: &mut Context<'_>, servers: &mut Vec<Arc<Server>>) -> Poll<bool> {
        self.receiver.poll_recv(cx).map(|change| {
            let gone = match change {
                None => return false,
                Some(Change::Insert(name, endpoint)) => {
                    let server = Arc::new(Server::new(endpoint));
                    servers.push(server.clone());
                    self.named.insert(name, server)
                }
                Some(Change::Remove(name)) => self.named.remove(&name),
            };
            if let Some(gone) = gone {
                servers.retain(|server| !Arc::ptr_eq(server, &gone));
            }
            true
        })
    }
}

struct Server {
    endpoint: Endpoint,
    channel: Channel,
    calls: AtomicUsize,
    aside: Mutex<Option<Aside>>,
}

/// A server that could not be reached.
#[derive(Clone, Copy)]
struct Aside {
    until: Instant,
    pause: Duration,
    probing: bool,
}

impl Server {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            channel: endpoint.connect_lazy(),
            endpoint,
            calls: AtomicUsize::new(0),
            aside: Mutex::new(None),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether it gets no calls now. Starts a probe if its pause is over.
    fn is_aside(self: &Arc<Self>, now: Instant, spawn: &Spawn) -> bool {
        let mut aside = self.lock();
        let Some(aside) = &mut *aside else {
            return false;
        };
        if now >= aside.until && !aside.probing {
            aside.probing = true;
            let probe = Probe(self.clone());
            spawn(Box::pin(probe.run()));
        }
        true
    }

    fn answered(&self) {
        *self.lock() = None;
    }

    /// A failure puts it aside if it was the transport's, which is what `UNAVAILABLE` means where
    /// it comes as an error: a handler's status comes as a response.
    fn failed(&self, status: &Status) {
        if status.code() != Code::Unavailable {
            return;
        }
        tracing::debug!(uri = %self.endpoint.uri(), %status, "put aside");
        self.lock().get_or_insert(Aside::new(FIRST_PAUSE));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Aside>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Aside {
    fn new(pause: Duration) -> Self {
        Self {
            until: Instant::now() + pause,
            pause,
            probing: false,
        }
    }
}

/// One attempt to reach a server that was put aside.
struct Probe(Arc<Server>);

impl Probe {
    async fn run(self) {
        let endpoint = &self.0.endpoint;
        let limit = endpoint
            .get_connect_timeout()
            .unwrap_or(DEFAULT_CONNECT_TIMEOUT);
        let deadline = Instant::now() + limit.min(super::limit::LONGEST_WINDOW);
        match timeout_at(deadline, endpoint.connect()).await {
            Ok(Ok(_)) => {
                tracing::debug!(uri = %endpoint.uri(), "back");
                self.0.answered();
            }
            Ok(Err(error)) => tracing::debug!(uri = %endpoint.uri(), %error, "still aside"),
            Err(_) => tracing::debug!(uri = %endpoint.uri(), "still aside: no answer"),
        }
    }
}

impl Drop for Probe {
    /// Also where its task was dropped with its runtime: another probe is needed then.
    fn drop(&mut self) {
        if let Some(aside) = &mut *self.0.lock() {
            *aside = Aside::new((aside.pause * 2).min(LONGEST_PAUSE));
        }
    }
}

/// One call of a server, counted while it is in flight.
struct Claim(Arc<Server>);

impl Claim {
    fn new(server: &Arc<Server>) -> Self {
        server.calls.fetch_add(1, Ordering::Relaxed);
        Self(server.clone())
    }

    async fn call(self, request: Request<Body>) -> Result<Response<Body>, (Arc<Server>, Status)> {
        match call_ready(self.0.channel.clone(), request).await {
            Ok(response) => {
                self.0.answered();
                Ok(response.map(|body| self.hold(body)))
            }
            Err(status) => {
                self.0.failed(&status);
                Err((self.0.clone(), status))
            }
        }
    }

    /// Keeps the claim until the body ends.
    fn hold(self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Held { body, claim: self })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body, in flight until it is dropped.
struct Held {
    body: Body,
    claim: Claim,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(status))) = &frame {
            self.claim.0.failed(status);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(names: &[&'static str]) -> (Balance, Sender<Change<&'static str, Endpoint>>) {
        let (sender, receiver) = mpsc::channel(16);
        let changes = Changes {
            receiver,
            named: HashMap::new(),
        };
        let balance = Balance {
            servers: Mutex::default(),
            changes: tokio::sync::Mutex::new(Some(Box::new(changes))),
            spawn: tokio_spawn(),
        };
        for name in names {
            sender
                .try_send(Change::Insert(*name, endpoint(name)))
                .unwrap();
        }
        (balance, sender)
    }

    fn endpoint(name: &str) -> Endpoint {
        Endpoint::from_shared(format!("homa://{name}:4000")).unwrap()
    }

    fn host(claim: &Claim) -> String {
        claim.0.endpoint.uri().host().unwrap().into()
    }

    #[tokio::test]
    async fn calls_spread_evenly() {
        let (balance, _changes) = balance(&["a", "b", "c"]);
        let mut claims = Vec::new();
        for _ in 0..300 {
            claims.push(balance.claim().await.unwrap());
        }
        for name in ["a", "b", "c"] {
            let count = claims.iter().filter(|claim| host(claim) == name).count();
            assert!((90..=110).contains(&count), "{name}: {count} of 300");
        }
        drop(claims);
        assert!(balance.lock().iter().all(|server| server.calls() == 0));
    }

    #[tokio::test]
    async fn of_two_the_one_with_fewer_calls_is_taken() {
        let (balance, _changes) = balance(&["busy", "idle"]);
        let mut claims = Vec::new();
        for _ in 0..4 {
            claims.push(balance.claim().await.unwrap());
        }
        claims.retain(|claim| host(claim) == "busy");
        for _ in 0..20 {
            assert_eq!(host(&balance.claim().await.unwrap()), "idle");
        }
    }

    #[tokio::test]
    async fn changes_take_effect_with_the_next_call() {
        let (balance, changes) = balance(&["a"]);
        assert_eq!(host(&balance.claim().await.unwrap()), "a");
        // The same name again replaces, another one adds.
        let change = Change::Insert("a", endpoint("b"));
        changes.send(change).await.unwrap();
        assert_eq!(host(&balance.claim().await.unwrap()), "b");
        changes.send(Change::Remove("unknown")).await.unwrap();
        changes.send(Change::Remove("a")).await.unwrap();
        let waiting = timeout(Duration::from_millis(20), balance.claim()).await;
        assert!(waiting.is_err());
        drop(changes);
        let status = balance.claim().await.err().unwrap();
        assert_eq!(status.code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn all_that_wait_for_a_server_get_it() {
        let (balance, changes) = balance(&[]);
        let balance = Arc::new(balance);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let balance = balance.clone();
                tokio::spawn(async move { host(&balance.claim().await.unwrap()) })
            })
            .collect();
        tokio::task::yield_now().await;
        // One that gives up while it holds the changes leaves them to the others.
        waiting[0].abort();
        let change = Change::Insert("a", endpoint("a"));
        changes.send(change).await.unwrap();
        for waiting in waiting.into_iter().skip(1) {
            assert_eq!(waiting.await.unwrap(), "a");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_with_every_probe_that_fails() {
        let (probes, mut started) = mpsc::unbounded_channel();
        let spawn: Spawn = Arc::new(move |probe| probes.send(probe).unwrap());
        let server = Arc::new(Server::new(endpoint("a")));
        server.failed(&Status::internal("not the transport's"));
        assert!(!server.is_aside(Instant::now(), &spawn));
        server.failed(&Status::unavailable("gone"));
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let until = Instant::now() + Duration::from_secs(pause);
            assert!(server.is_aside(until - Duration::from_millis(1), &spawn));
            assert!(started.try_recv().is_err(), "probed before {pause} s");
            assert!(server.is_aside(until, &spawn));
            // Not twice at once; and one that is dropped counts as failed.
            assert!(server.is_aside(until, &spawn));
            let probe = started.try_recv().unwrap();
            assert!(started.try_recv().is_err());
            drop(probe);
        }
        server.answered();
        assert!(!server.is_aside(Instant::now(), &spawn));
    }
}
