//! [`Transfers`]: the pieces that a server keeps.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use homa_client::Message;

use super::options::PieceOptions;
use super::wire::{self, Answer, Header, Kind, Long, Refusal, RefusedPiece};
use crate::control;
use crate::limits::Limits;

/// How long a transfer is kept without a sign of life from its client.
const IDLE: Duration = Duration::from_secs(10);
/// Between two looks for such.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Most pieces of one message: what is known of each takes memory, too.
const MAX_PIECES: u32 = 16_384;
/// Most transfers at once.
const MAX_TRANSFERS: usize = 4_096;
/// Most of them for all clients at one address.
const MAX_PER_PEER: usize = 256;
/// Transfers that are over and whose numbers are remembered.
const MAX_ENDED: usize = 1_024;

/// What a server that takes pieces has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PieceStats {
    /// Long requests that were complete, and executed.
    pub requests: u64,
    /// Long replies.
    pub replies: u64,
    /// Those of them that were fetched to the last piece.
    pub replies_fetched: u64,
    /// What clients gave up.
    pub dropped: u64,
    /// Transfers that were dropped because nothing was heard of them for 10 s.
    pub expired: u64,
    /// Pieces and other requests that were refused, by reason.
    refused: [u64; RefusedPiece::ALL.len()],
    /// Transfers now.
    pub transfers: usize,
    /// Memory that is set aside for them now, in bytes.
    pub reserved_bytes: usize,
}

impl PieceStats {
    /// Requests that were refused for this reason.
    pub fn refused(&self, why: RefusedPiece) -> u64 {
        self.refused[why as usize]
    }
}

/// Whose transfer, and which.
type Key = (SocketAddr, u128);

/// The pieces that wait for the rest of their message, or to be fetched. Shared by all threads of a
/// server.
pub(crate) struct Transfers {
    options: PieceOptions,
    /// Longest Homa message.
    whole: usize,
    /// Draws the numbers of replies.
    names: RandomState,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: HashMap<Key, Transfer>,
    /// Those that are over, oldest first: a piece that comes again does not begin them anew.
    ended: VecDeque<(Key, Instant)>,
    by_peer: HashMap<IpAddr, Share>,
    /// Counts the names that were drawn.
    drawn: u64,
    looked_at: Option<Instant>,
    has_thread: bool,
    stats: PieceStats,
}

/// What is set aside for the clients at one address.
#[derive(Default)]
struct Share {
    transfers: usize,
    bytes: usize,
}

struct Transfer {
    is_reply: bool,
    total: u64,
    piece_bytes: u32,
    /// `None`: not come yet, or fetched.
    pieces: Vec<Option<Message>>,
    /// So many have to come, or to be fetched.
    left: usize,
    touched: Instant,
}

/// What to do with a request in an envelope.
pub(crate) enum Opened {
    /// Execute this message, and answer as the envelope says.
    Execute(Message, Envelope),
    /// Answer with this.
    Answer(Message),
}

/// How the reply to a message is sent.
#[derive(Clone)]
pub(crate) struct Envelope {
    transfers: Arc<Transfers>,
    peer: SocketAddr,
    max_reply: usize,
    piece_bytes: u32,
}

fn refuse(why: RefusedPiece, text: impl Into<String>) -> Refusal {
    Refusal::new(why, text)
}

fn unknown() -> Refusal {
    refuse(
        RefusedPiece::Unknown,
        "no such transfer: it was never begun, is over, or was idle for 10 s",
    )
}

fn malformed(text: impl Into<String>) -> Refusal {
    refuse(RefusedPiece::Malformed, text)
}

/// Received messages lie in the memory that the endpoint receives into: what is kept for long is
/// copied out of it.
pub(crate) fn copy(message: &Message) -> Message {
    let mut copy = BytesMut::with_capacity(message.len());
    message
        .parts()
        .for_each(|part| copy.extend_from_slice(part));
    copy.freeze().into()
}

impl Transfers {
    /// Whether what begins so is a request for this.
    pub(crate) fn is_for(request: &Message) -> bool {
        request.chunk().first() == Some(&wire::MARK)
    }

    /// For an endpoint whose messages have up to `max_message_bytes`.
    pub(crate) fn new(options: PieceOptions, max_message_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            options,
            whole: max_message_bytes,
            names: RandomState::new(),
            table: Mutex::default(),
        })
    }

    pub(crate) fn stats(&self) -> PieceStats {
        self.lock().stats
    }

    /// Replies that were not fetched to the last piece.
    pub(crate) fn unfetched(&self) -> usize {
        let table = self.lock();
        table.open.values().filter(|open| open.is_reply).count()
    }

    /// Takes a request that begins with the mark.
    pub(crate) fn open(self: &Arc<Self>, peer: SocketAddr, mut request: Message) -> Opened {
        let now = Instant::now();
        let opened = Header::take(&mut request).and_then(|header| {
            if header.kind == Kind::Piece {
                return self.keep(now, peer, &header, &request);
            }
            if header.kind != Kind::Whole && !request.is_empty() {
                return Err(malformed(format!(
                    "{} bytes follow where nothing should",
                    request.len()
                )));
            }
            match header.kind {
                Kind::Hello => Ok(Opened::Answer(self.welcome().into_message())),
                Kind::Whole => self.execute(peer, &header, request),
                Kind::Run => {
                    let message = self.complete(now, peer, &header)?;
                    self.execute(peer, &header, message)
                }
                Kind::Fetch => self.fetch(now, peer, &header),
                Kind::Piece | Kind::Drop => Ok(self.give_up(now, peer, &header)),
            }
        });
        opened.unwrap_or_else(|refusal| {
            self.lock().stats.refused[refusal.why as usize] += 1;
            tracing::debug!(%peer, why = ?refusal.why, text = refusal.text, "a piece was refused");
            Opened::Answer(Answer::Refused(refusal).into_message())
        })
    }

    fn welcome(&self) -> Answer {
        Answer::Welcome {
            max_request: self.options.max_bytes as u64,
            piece_bytes: wire::piece_bytes(self.whole),
        }
    }

    fn execute(
        self: &Arc<Self>,
        peer: SocketAddr,
        header: &Header,
        message: Message,
    ) -> Result<Opened, Refusal> {
        if message.is_empty() {
            return Err(malformed("there is no message"));
        }
        if header.piece_bytes < wire::LEAST_PIECE {
            return Err(malformed(format!(
                "pieces have at least {} bytes, not {}",
                wire::LEAST_PIECE,
                header.piece_bytes
            )));
        }
        let max_reply = usize::try_from(header.max_reply).unwrap_or(usize::MAX);
        let envelope = Envelope {
            transfers: self.clone(),
            peer,
            max_reply: max_reply.min(self.options.max_bytes),
            piece_bytes: header.piece_bytes.min(wire::piece_bytes(self.whole)),
        };
        Ok(Opened::Execute(message, envelope))
    }

    /// Keeps a piece of a request.
    fn keep(
        self: &Arc<Self>,
        now: Instant,
        peer: SocketAddr,
        header: &Header,
        body: &Message,
    ) -> Result<Opened, Refusal> {
        let Header {
            total,
            piece_bytes,
            index,
            ..
        } = *header;
        let size = self.check_size(total)?;
        let count = wire::pieces(total, piece_bytes)
            .filter(|count| (1..=MAX_PIECES).contains(count))
            .ok_or_else(|| {
                malformed(format!(
                    "{total} bytes in pieces of {piece_bytes}: there may be {MAX_PIECES}, of at \
                     least {} bytes",
                    wire::LEAST_PIECE
                ))
            })?;
        let expected = wire::piece_len(total, piece_bytes, index);
        if expected != Some(body.len()) {
            return Err(malformed(format!(
                "piece {index} of {total} bytes in pieces of {piece_bytes} has {} bytes",
                body.len()
            )));
        }
        // Not with the table locked.
        let body = copy(body);
        let key = (peer, header.transfer);
        let mut table = self.lock();
        table.look(now);
        if !table.open.contains_key(&key) {
            if table.ended.iter().any(|(ended, _)| *ended == key) {
                return Err(unknown());
            }
            table.reserve(&self.options, peer, size)?;
            let transfer = Transfer {
                is_reply: false,
                total,
                piece_bytes,
                pieces: (0..count).map(|_| None).collect(),
                left: count as usize,
                touched: now,
            };
            table.open.insert(key, transfer);
        }
        let transfer = table.open.get_mut(&key).ok_or_else(unknown)?;
        if transfer.is_reply || (transfer.total, transfer.piece_bytes) != (total, piece_bytes) {
            return Err(malformed(format!(
                "the transfer has {} bytes in pieces of {}, this piece is of {total} in {piece_bytes}",
                transfer.total, transfer.piece_bytes
            )));
        }
        transfer.touched = now;
        let slot = transfer.pieces.get_mut(index as usize);
        let slot = slot.ok_or_else(|| malformed(format!("there is no piece {index}")))?;
        if slot.is_some() {
            return Err(malformed(format!("piece {index} came before")));
        }
        *slot = Some(body);
        transfer.left -= 1;
        self.watch(&mut table);
        Ok(Opened::Answer(Answer::Stored.into_message()))
    }

    fn check_size(&self, total: u64) -> Result<usize, Refusal> {
        let limit = self.options.max_bytes;
        let size = usize::try_from(total).unwrap_or(usize::MAX);
        if size == 0 {
            return Err(malformed("a message has at least one byte"));
        }
        if size > limit {
            return Err(refuse(
                RefusedPiece::TooLong,
                format!(
                    "a message of {total} bytes is over this server's limit of {limit}: send less, \
                     or raise pieces.max_bytes there"
                ),
            ));
        }
        Ok(size)
    }

    /// Takes the message whose pieces have all come.
    fn complete(
        &self,
        now: Instant,
        peer: SocketAddr,
        header: &Header,
    ) -> Result<Message, Refusal> {
        let key = (peer, header.transfer);
        let mut table = self.lock();
        table.look(now);
        let is_request = table.open.get(&key).is_some_and(|open| !open.is_reply);
        let transfer = is_request.then(|| table.end(now, key)).flatten();
        let transfer = transfer.ok_or_else(unknown)?;
        if transfer.total != header.total {
            return Err(malformed(format!(
                "the transfer has {} bytes, not {}",
                transfer.total, header.total
            )));
        }
        if transfer.left > 0 {
            let (left, all) = (transfer.left, transfer.pieces.len());
            let text = format!("{left} of {all} pieces have not come");
            return Err(refuse(RefusedPiece::Incomplete, text));
        }
        table.stats.requests += 1;
        drop(table);
        let mut message = Message::new();
        for piece in transfer.pieces.into_iter().flatten() {
            wire::append(&mut message, piece);
        }
        Ok(message)
    }

    /// Keeps a long reply, to be fetched.
    fn keep_reply(
        self: &Arc<Self>,
        now: Instant,
        peer: SocketAddr,
        mut reply: Message,
        piece_bytes: u32,
    ) -> Result<Long, Refusal> {
        let size = reply.len();
        let total = size as u64;
        let count = wire::pieces(total, piece_bytes)
            .filter(|count| *count <= MAX_PIECES)
            .ok_or_else(|| malformed(format!("{size} bytes in pieces of {piece_bytes}")))?;
        let mut table = self.lock();
        table.look(now);
        table.reserve(&self.options, peer, size)?;
        let transfer = self.draw(&mut table);
        let pieces: Vec<_> = (0..count)
            .map(|_| Some(reply.split_to(piece_bytes as usize)))
            .collect();
        let kept = Transfer {
            is_reply: true,
            total,
            piece_bytes,
            left: pieces.len(),
            pieces,
            touched: now,
        };
        table.open.insert((peer, transfer), kept);
        table.stats.replies += 1;
        self.watch(&mut table);
        Ok(Long {
            transfer,
            total,
            piece_bytes,
        })
    }

    /// Hands out a piece of a reply, once. It is sent until it has arrived: nobody asks for it again.
    fn fetch(&self, now: Instant, peer: SocketAddr, header: &Header) -> Result<Opened, Refusal> {
        let key = (peer, header.transfer);
        let mut table = self.lock();
        table.look(now);
        let transfer = table.open.get_mut(&key).filter(|open| open.is_reply);
        let transfer = transfer.ok_or_else(unknown)?;
        transfer.touched = now;
        let slot = transfer.pieces.get_mut(header.index as usize);
        let piece = slot
            .ok_or_else(|| malformed(format!("there is no piece {}", header.index)))?
            .take()
            .ok_or_else(|| malformed(format!("piece {} was fetched before", header.index)))?;
        transfer.left -= 1;
        if transfer.left == 0 {
            table.end(now, key);
            table.stats.replies_fetched += 1;
        }
        Ok(Opened::Answer(Answer::Piece(piece).into_message()))
    }

    /// Forgets a transfer that its client gives up. There may be none any more, or not yet: messages
    /// are not ordered, and a piece of it may be on the way.
    fn give_up(&self, now: Instant, peer: SocketAddr, header: &Header) -> Opened {
        let key = (peer, header.transfer);
        let mut table = self.lock();
        if table.end(now, key).is_some() {
            table.stats.dropped += 1;
        } else {
            table.remember(now, key);
        }
        Opened::Answer(Answer::Stored.into_message())
    }

    /// A number that nobody can guess: the hash function's keys are secret.
    fn draw(&self, table: &mut Table) -> u128 {
        table.drawn += 1;
        let half = |half: u8| u128::from(self.names.hash_one((table.drawn, half)));
        half(0) << 64 | half(1)
    }

    /// Has a thread look for idle transfers while there are any.
    fn watch(self: &Arc<Self>, table: &mut Table) {
        if table.has_thread {
            return;
        }
        let transfers = Arc::downgrade(self);
        let thread = thread::Builder::new().name("thrift-homa-pieces".to_owned());
        match thread.spawn(move || look_out(&transfers)) {
            Ok(_) => table.has_thread = true,
            // Until there is one, requests for other transfers do it.
            Err(error) => tracing::warn!(%error, "no thread that drops idle pieces"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing in it panics half way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look_out(transfers: &Weak<Transfers>) {
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(transfers) = transfers.upgrade() else {
            return;
        };
        let mut table = transfers.lock();
        table.look(Instant::now());
        if table.open.is_empty() {
            table.has_thread = false;
            return;
        }
    }
}

impl Table {
    /// Sets memory aside for a new transfer: one that is begun can be completed.
    fn reserve(
        &mut self,
        options: &PieceOptions,
        peer: SocketAddr,
        size: usize,
    ) -> Result<(), Refusal> {
        let no_room = |what: &str| {
            let text = format!("no room for a message of {size} bytes: {what}");
            Err(refuse(RefusedPiece::NoRoom, text))
        };
        if self.open.len() >= MAX_TRANSFERS {
            return no_room("this server has 4096 others under way");
        }
        if size > options.memory_bytes - self.stats.reserved_bytes {
            return no_room("pieces.memory_bytes of this server is used up");
        }
        let share = self.by_peer.entry(peer.ip().to_canonical()).or_default();
        let fits = size <= options.memory_bytes_per_peer.saturating_sub(share.bytes);
        if share.transfers >= MAX_PER_PEER || !fits {
            if share.transfers == 0 {
                self.by_peer.remove(&peer.ip().to_canonical());
            }
            return no_room(
                "this host has 256 others under way, or has used up pieces.memory_bytes_per_peer",
            );
        }
        share.transfers += 1;
        share.bytes += size;
        self.stats.transfers += 1;
        self.stats.reserved_bytes += size;
        Ok(())
    }

    /// Takes out a transfer.
    fn end(&mut self, now: Instant, key: Key) -> Option<Transfer> {
        let transfer = self.open.remove(&key)?;
        // It was checked when it was begun.
        let size = usize::try_from(transfer.total).unwrap_or_default();
        self.stats.transfers -= 1;
        self.stats.reserved_bytes -= size;
        let ip = key.0.ip().to_canonical();
        if let Some(share) = self.by_peer.get_mut(&ip) {
            share.transfers -= 1;
            share.bytes -= size;
            if share.transfers == 0 {
                self.by_peer.remove(&ip);
            }
        }
        if !transfer.is_reply {
            self.remember(now, key);
        }
        Some(transfer)
    }

    /// No transfer of this number is begun any more.
    fn remember(&mut self, now: Instant, key: Key) {
        self.ended.push_back((key, now));
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_front();
        }
    }

    /// Drops what was idle for too long.
    fn look(&mut self, now: Instant) {
        let is_early = |at: Instant| now.saturating_duration_since(at) < LOOK_EVERY / 2;
        if self.looked_at.is_some_and(is_early) {
            return;
        }
        self.looked_at = Some(now);
        let is_over = |at: Instant| now.saturating_duration_since(at) >= IDLE;
        while self.ended.front().is_some_and(|(_, at)| is_over(*at)) {
            self.ended.pop_front();
        }
        let idle = self.open.iter().filter(|(_, open)| is_over(open.touched));
        let idle: Vec<Key> = idle.map(|(key, _)| *key).collect();
        for key in idle {
            self.end(now, key);
            self.stats.expired += 1;
        }
    }
}

impl Envelope {
    /// The limits of this call.
    pub(crate) fn limits(&self, limits: &Limits) -> Limits {
        self.transfers.options.extend(limits)
    }

    /// The Homa message that answers the call with this reply; `Err`: why there is none. `now` is
    /// when it is sent.
    pub(crate) fn seal(&self, reply: Message) -> Result<Message, String> {
        let size = reply.len();
        if reply.chunk().first() == Some(&control::NOT_UNDERSTOOD) {
            // Bare it would mean something else.
            return Ok(Answer::Wrapped(reply).into_message());
        }
        if size <= self.transfers.whole {
            return Ok(reply);
        }
        if size > self.max_reply {
            return Err(format!(
                "the reply of {size} bytes is over the limit of {}, the less of pieces.max_bytes of \
                 client and server",
                self.max_reply
            ));
        }
        let kept = self
            .transfers
            .keep_reply(Instant::now(), self.peer, reply, self.piece_bytes);
        match kept {
            Ok(long) => Ok(Answer::Long(long).into_message()),
            Err(refusal) => {
                self.transfers.lock().stats.refused[refusal.why as usize] += 1;
                Err(format!(
                    "the call was executed, but its reply is lost: {}",
                    refusal.text
                ))
            }
        }
    }
}

impl fmt::Debug for Transfers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfers")
            .field("options", &self.options)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
