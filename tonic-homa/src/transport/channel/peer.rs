//! What a process knows about one server address: its epoch, how many calls it made there, and
//! which of them are streams.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use homa_client::{CallError, Client, Message, Request, RequestHandler, Responder};
use rustc_hash::FxHashMap;
use tokio::runtime::Id;
use tokio::time::{sleep_until, timeout};
use tonic::{Code, Status};

use crate::error::Error;
use crate::frame::{Frame, Kind, Lengths, ResetReason, Sender};
use crate::random;
use crate::status::{self, PeerLost, ResetError};
use crate::transport::counters::Counting;
use crate::transport::stream::{Budget, Heard, Stream, reply, take_header};

/// After this time without a sign of life of a server with open streams it is asked for one: a
/// killed server is noticed within a second, and a PING with its answer and their acknowledgment are
/// at most five packets a second.
const SILENCE: Duration = Duration::from_millis(800);

/// How long a PING may stay unanswered. Two in a row have to.
const PATIENCE: Duration = Duration::from_secs(1);

/// A PING that takes longer was held up, and so was what servers push.
const SLOW: Duration = Duration::from_millis(150);

/// After a longer pause between two looks this process was stopped, and servers may have given its
/// streams up.
const STOPPED: Duration = Duration::from_secs(5);

/// Pieces of a response that may overtake its beginning. Servers have eight in flight.
const MAX_EARLY: usize = 16;

/// One server address as all channels of this process see it. Servers keep the calls of an epoch
/// as ranges of numbers, so these have to come from one counter.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    /// Random, never 0. A new one after the last channel to the address was dropped: the server
    /// then knows nothing about it, which is all that an epoch promises.
    pub(super) epoch: u64,
    calls: AtomicU64,
    /// The server's process as its frames tell; 0 before the first.
    server_epoch: AtomicU64,
    /// Calls to which the server may push.
    open: Mutex<FxHashMap<u64, Open>>,
    pub(super) budget: Arc<Budget>,
    pub(super) counting: Arc<Counting>,
    stream_bytes: Arc<AtomicU64>,
    /// Told of whatever arrives for a stream.
    pub(super) heard: Arc<Heard>,
    /// The runtimes on which somebody looks after their streams.
    watched: Mutex<Vec<Id>>,
}

/// A call that is open.
#[derive(Debug)]
enum Open {
    /// Its OPEN is not answered yet. Pieces that come before the answer.
    Opening(Vec<Early>),
    Stream(Arc<Stream>),
}

#[derive(Debug)]
struct Early {
    frame: Frame,
    lengths: Lengths,
    message: Message,
    responder: Responder,
}

static PEERS: Mutex<Option<Peers>> = Mutex::new(None);

#[derive(Debug, Default)]
struct Peers {
    by_addr: FxHashMap<SocketAddr, Weak<Peer>>,
    by_epoch: FxHashMap<u64, Weak<Peer>>,
}

/// Takes what servers push, for all channels.
pub(super) static PUSHED: LazyLock<RequestHandler> = LazyLock::new(|| Arc::new(pushed));

impl Peer {
    /// The entry of `addr`, shared with the other channels to it. Whoever makes it decides what its
    /// streams may take.
    pub(super) fn of(addr: SocketAddr, stream_bytes: usize) -> Arc<Self> {
        let mut peers = lock(&PEERS);
        let peers = peers.get_or_insert_default();
        if let Some(peer) = peers.by_addr.get(&addr).and_then(Weak::upgrade) {
            return peer;
        }
        peers.by_addr.retain(|_, peer| peer.strong_count() > 0);
        peers.by_epoch.retain(|_, peer| peer.strong_count() > 0);
        let total = Arc::default();
        let peer = Arc::new(Self {
            addr,
            epoch: random::nonzero(),
            calls: AtomicU64::new(0),
            server_epoch: AtomicU64::new(0),
            open: Mutex::default(),
            budget: Budget::new(stream_bytes, Arc::clone(&total)),
            counting: Arc::default(),
            stream_bytes: total,
            heard: Arc::default(),
            watched: Mutex::default(),
        });
        peers.by_addr.insert(addr, Arc::downgrade(&peer));
        peers.by_epoch.insert(peer.epoch, Arc::downgrade(&peer));
        peer
    }

    fn of_epoch(epoch: u64) -> Option<Arc<Self>> {
        lock(&PEERS).as_ref()?.by_epoch.get(&epoch)?.upgrade()
    }

    /// The number of the next call, from 1.
    pub(super) fn next_call(&self) -> u64 {
        self.counting.calls.count();
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Bytes that its streams take.
    pub(super) fn stream_bytes(&self) -> u64 {
        self.stream_bytes.load(Ordering::Relaxed)
    }

    /// From now on the server may push to this call.
    pub(super) fn expect(&self, call: u64) {
        self.open().insert(call, Open::Opening(Vec::new()));
    }

    /// The call is over.
    pub(super) fn forget(&self, call: u64) {
        let forgotten = self.open().remove(&call);
        if let Some(Open::Opening(early)) = forgotten {
            for early in early {
                self.unknown(early.responder, &early.frame);
            }
        }
    }

    /// What comes for this call goes to `stream`, also what came before.
    pub(super) fn attach(self: &Arc<Self>, stream: &Arc<Stream>, client: &Client) {
        let opening = self
            .open()
            .insert(stream.call, Open::Stream(stream.clone()));
        if let Some(Open::Opening(early)) = opening {
            for early in early {
                let Early {
                    frame,
                    lengths,
                    message,
                    responder,
                } = early;
                stream.receive(&frame, lengths, message, responder);
            }
        }
        if self.watch(stream.runtime()) {
            self.heard.now();
            let watched = Watched {
                peer: self.clone(),
                runtime: stream.runtime(),
                retired: false,
            };
            tokio::spawn(watch(watched, client.clone()));
        }
    }

    /// A server that is not the one it was has forgotten its streams.
    pub(super) fn learn_epoch(&self, server_epoch: u64) {
        if server_epoch == 0 {
            return;
        }
        let before = self.server_epoch.swap(server_epoch, Ordering::AcqRel);
        if before != 0 && before != server_epoch {
            let error = PeerLost {
                what: format!("another process answers at {} now", self.addr),
            };
            let status = status::with_source(Code::Unavailable, error);
            self.fail_those(&status, |stream| stream.is_of_another(server_epoch));
        }
    }

    /// Fails streams, and forgets them: nothing more comes for them.
    fn fail_those(&self, status: &Status, lost: impl Fn(&Stream) -> bool) {
        let mut streams = Vec::new();
        self.open().retain(|_, open| match open {
            Open::Stream(stream) if lost(stream) => {
                streams.push(stream.clone());
                false
            }
            Open::Stream(_) | Open::Opening(_) => true,
        });
        if !streams.is_empty() {
            self.counting.lost_peers.count();
            tracing::debug!(addr = %self.addr, %status, streams = streams.len(), "lost");
        }
        for stream in streams {
            stream.fail(status.clone());
        }
    }

    /// Marks the streams of a runtime as looked after. Whether they were not.
    fn watch(&self, runtime: Id) -> bool {
        let mut watched = lock(&self.watched);
        let new = !watched.contains(&runtime);
        if new {
            watched.push(runtime);
        }
        new
    }

    fn unwatch(&self, runtime: Id) {
        lock(&self.watched).retain(|watched| *watched != runtime);
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        let open = self.open();
        let streams = open.values().filter_map(|open| match open {
            Open::Stream(stream) => Some(stream.clone()),
            Open::Opening(_) => None,
        });
        streams.collect()
    }

    fn receive(&self, frame: Frame, lengths: Lengths, message: Message, responder: Responder) {
        let mut open = self.open();
        let stream = match open.get_mut(&frame.call) {
            Some(Open::Stream(stream)) => stream.clone(),
            Some(Open::Opening(early)) if early.len() < MAX_EARLY => {
                self.counting.early_pieces.count();
                early.push(Early {
                    frame,
                    lengths,
                    message,
                    responder,
                });
                return;
            }
            Some(Open::Opening(_)) | None => {
                drop(open);
                return self.unknown(responder, &frame);
            }
        };
        drop(open);
        stream.receive(&frame, lengths, message, responder);
    }

    fn unknown(&self, responder: Responder, frame: &Frame) {
        self.counting.unknown_calls.count();
        reset(responder, frame, ResetReason::UnknownCall);
    }

    fn open(&self) -> MutexGuard<'_, FxHashMap<u64, Open>> {
        lock(&self.open)
    }
}

/// A request of some server; or of anybody else.
fn pushed(request: Request) {
    let from = request.peer();
    let (mut message, responder) = request.into_parts();
    let (frame, lengths) = match take_header(&mut message, Sender::ServerRequest) {
        Ok(header) => header,
        Err(error) => {
            tracing::debug!(%from, %error, "refused a push");
            let nobody = Frame {
                epoch: 0,
                call: 0,
                going_away: false,
                kind: Kind::Ping { nonce: 0 },
            };
            return reset(responder, &nobody, ResetReason::Protocol);
        }
    };
    let Some(peer) = Peer::of_epoch(frame.epoch) else {
        return reset(responder, &frame, ResetReason::UnknownCall);
    };
    if peer.addr.ip().to_canonical() != from.ip().to_canonical() {
        peer.counting.foreign_frames.count();
        tracing::debug!(%from, server = %peer.addr, "a push from another host");
        // Whoever that is need not know that there is such a call.
        return reset(responder, &frame, ResetReason::UnknownCall);
    }
    peer.receive(frame, lengths, message, responder);
}

fn reset(responder: Responder, to: &Frame, reason: ResetReason) {
    let frame = Frame {
        kind: Kind::Reset { reason },
        going_away: false,
        ..*to
    };
    reply(responder, frame.emit(Lengths::default()).to_vec().into());
}

/// Takes the mark off when nobody watches any more, also because a runtime has ended.
struct Watched {
    peer: Arc<Peer>,
    runtime: Id,
    /// The mark is taken off already.
    retired: bool,
}

impl Watched {
    fn streams(&self) -> Vec<Arc<Stream>> {
        let mut streams = self.peer.streams();
        streams.retain(|stream| stream.runtime() == self.runtime);
        streams
    }

    /// Whether there is nothing to watch.
    fn retire(&mut self) -> bool {
        self.peer.unwatch(self.runtime);
        // A stream that has begun meanwhile has found the mark set.
        self.retired = self.streams().is_empty() || !self.peer.watch(self.runtime);
        self.retired
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.retired {
            self.peer.unwatch(self.runtime);
        }
    }
}

/// Finds out whether the server is alive while it has streams and nothing else tells.
async fn watch(mut watched: Watched, client: Client) {
    let peer = watched.peer.clone();
    let mut failed = 0;
    loop {
        let look = peer.heard.at() + SILENCE;
        if failed == 0 {
            sleep_until(look.into()).await;
        }
        let streams = watched.streams();
        if streams.is_empty() {
            if watched.retire() {
                return;
            }
            continue;
        }
        if look.elapsed() > STOPPED {
            for stream in &streams {
                stream.check();
            }
        }
        drop(streams);
        if peer.heard.at().elapsed() < SILENCE {
            failed = 0;
            continue;
        }
        let asked = Instant::now();
        let status = match timeout(PATIENCE, ping(&client, &peer)).await {
            Ok(Ok(())) => {
                peer.heard.now();
                // What did not get through to us the server may have given up.
                if failed > 0 || asked.elapsed() > SLOW {
                    for stream in watched.streams() {
                        stream.check();
                    }
                }
                failed = 0;
                continue;
            }
            Ok(Err(Error::Connect {
                source: CallError::TimedOut { .. },
                ..
            }))
            | Err(_) => {
                failed += 1;
                if failed < 2 {
                    continue;
                }
                let error = PeerLost {
                    what: format!("{} does not answer", peer.addr),
                };
                status::with_source(Code::Unavailable, error)
            }
            Ok(Err(Error::Connect { source, .. })) => status::lost(source),
            Ok(Err(error)) => status::with_source(Code::Unavailable, error),
        };
        failed = 0;
        peer.fail_those(&status, |_| true);
    }
}

/// Asks for a sign of life.
pub(super) async fn ping(client: &Client, peer: &Peer) -> Result<(), Error> {
    let addr = peer.addr;
    let nonce = random::nonzero();
    let frame = Frame {
        epoch: peer.epoch,
        call: 0,
        going_away: false,
        kind: Kind::Ping { nonce },
    };
    let message = Message::from(frame.emit(Lengths::default()).to_vec());
    let answer = client.call(addr, message).await;
    let mut answer = answer.map_err(|source| Error::Connect { addr, source })?;
    let what = match take_header(&mut answer, Sender::ServerResponse) {
        Ok((Frame { kind, .. }, _)) => match kind {
            Kind::Pong {
                nonce: back,
                server_epoch,
            } if back == nonce => {
                peer.learn_epoch(server_epoch);
                return Ok(());
            }
            Kind::Reset { reason } => {
                let text = String::from_utf8_lossy(&answer.into_bytes()).into_owned();
                ResetError { reason, text }.to_string()
            }
            other => format!("it answered a PING with {other:?}"),
        },
        Err(error) => error.to_string(),
    };
    Err(Error::Handshake { addr, what })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_to_one_address_share_epoch_and_numbers() {
        let addr = SocketAddr::from(([192, 0, 2, 1], 4_000));
        let first = Peer::of(addr, 1 << 20);
        let second = Peer::of(addr, 1 << 20);
        assert_eq!(
            (first.epoch, first.next_call(), second.next_call()),
            (second.epoch, 1, 2)
        );
        let old = first.epoch;
        drop((first, second));
        let third = Peer::of(addr, 1 << 20);
        assert_ne!(third.epoch, old);
        assert_eq!(third.next_call(), 1);
    }
}
