//! [`Pieces`]: how a client sends long messages, and fetches long replies.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Buf;
use homa_client::Message;
use homa_client::blocking::Call;

use super::options::PieceOptions;
use super::transfers::copy;
use super::wire::{self, Answer, HEADER, Header, Kind, Long, Refusal};
use crate::client::HomaError;
use crate::client::link::{Limit, Link, lock};
use crate::control;

/// Pieces under way at once: enough to hide the round trips, and few enough that short messages of
/// others find room.
const WINDOW: usize = 4;

/// What a client knows of its server's taking pieces.
#[derive(Debug)]
pub(crate) struct Pieces {
    options: PieceOptions,
    /// Longest Homa message.
    whole: usize,
    server: Mutex<Server>,
    names: RandomState,
    drawn: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) replies: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Server {
    /// It was not asked yet.
    Unknown,
    TakesNone,
    Takes {
        max_request: usize,
        piece_bytes: u32,
    },
}

/// A request that was sent, and in which form.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) call: Call,
    pub(crate) form: Form,
}

#[derive(Debug)]
pub(crate) enum Form {
    /// As it is.
    Bare,
    /// In an envelope. The message, should the server not know that any more.
    Whole(Message),
    /// In pieces, of so many bytes in all.
    Run(usize),
}

impl Pieces {
    pub(crate) fn new(options: PieceOptions, max_message_bytes: usize) -> Self {
        Self {
            options,
            whole: max_message_bytes,
            server: Mutex::new(Server::Unknown),
            names: RandomState::new(),
            drawn: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            replies: AtomicU64::new(0),
        }
    }

    /// Sends a message in the form that the server takes.
    pub(crate) fn send(
        &self,
        link: &Link,
        message: Message,
        limit: Option<Limit>,
    ) -> Result<Sent, HomaError> {
        let mut server = *lock(&self.server);
        if let Server::Unknown = server {
            server = self.ask(link, limit)?;
            *lock(&self.server) = server;
        }
        let size = message.len();
        match server {
            Server::Takes { max_request, .. } if size > max_request => Err(HomaError::TooLong {
                size,
                limit: max_request,
            }),
            Server::Takes { piece_bytes, .. } if size > self.whole.saturating_sub(HEADER) => {
                let header = self.upload(link, message, piece_bytes, limit)?;
                self.requests.fetch_add(1, Ordering::Relaxed);
                let header = self.executing(Kind::Run, header);
                let call = link.start(header.with(Message::new()), limit)?;
                let form = Form::Run(size);
                Ok(Sent { call, form })
            }
            Server::Takes { .. } => {
                let header = self.executing(Kind::Whole, Header::new(Kind::Whole, 0));
                let call = link.start(header.with(message.clone()), limit)?;
                let form = Form::Whole(message);
                Ok(Sent { call, form })
            }
            Server::Unknown | Server::TakesNone if size > self.whole => Err(self.no_pieces(size)),
            Server::Unknown | Server::TakesNone => {
                let call = link.start(message, limit)?;
                let form = Form::Bare;
                Ok(Sent { call, form })
            }
        }
    }

    /// Makes of the server's answer the reply to a message. `Err`: the message has to be sent again,
    /// as it is.
    pub(crate) fn receive(
        &self,
        link: &Link,
        form: Form,
        answer: Message,
        limit: Option<Limit>,
    ) -> Result<Result<Message, Message>, HomaError> {
        match (answer.chunk().first().copied(), form) {
            (_, Form::Bare) => Ok(Ok(answer)),
            (Some(wire::MARK), _) => match Answer::read(answer) {
                Some(Answer::Wrapped(reply)) => Ok(Ok(reply)),
                Some(Answer::Long(long)) => {
                    let reply = self.fetch(link, long, limit)?;
                    self.replies.fetch_add(1, Ordering::Relaxed);
                    Ok(Ok(reply))
                }
                Some(Answer::Refused(refusal)) => Err(refused(refusal)),
                _ => Err(nonsense("what it answers to a call makes no sense")),
            },
            // It was restarted without pieces, and has executed nothing.
            (Some(control::NOT_UNDERSTOOD), form) => {
                *lock(&self.server) = Server::TakesNone;
                match form {
                    Form::Whole(message) => Ok(Err(message)),
                    Form::Run(size) => Err(self.no_pieces(size)),
                    Form::Bare => Ok(Ok(answer)),
                }
            }
            _ => Ok(Ok(answer)),
        }
    }

    /// Asks the server whether it takes pieces.
    fn ask(&self, link: &Link, limit: Option<Limit>) -> Result<Server, HomaError> {
        let hello = Header {
            total: self.options.max_bytes as u64,
            ..Header::new(Kind::Hello, self.draw())
        };
        let call = link.start(hello.with(Message::new()), limit)?;
        let answer = link.wait(call, limit)?;
        if answer.chunk().first() != Some(&wire::MARK) {
            return Ok(Server::TakesNone);
        }
        Ok(match Answer::read(answer) {
            Some(Answer::Welcome {
                max_request,
                piece_bytes,
            }) if piece_bytes >= wire::LEAST_PIECE => Server::Takes {
                max_request: usize::try_from(max_request).unwrap_or(usize::MAX),
                piece_bytes: piece_bytes.min(wire::piece_bytes(self.whole)),
            },
            // Another version.
            _ => Server::TakesNone,
        })
    }

    fn executing(&self, kind: Kind, header: Header) -> Header {
        Header {
            kind,
            max_reply: self.options.max_bytes as u64,
            piece_bytes: wire::piece_bytes(self.whole),
            index: 0,
            ..header
        }
    }

    /// Has the server keep all pieces of a message.
    fn upload(
        &self,
        link: &Link,
        mut message: Message,
        piece_bytes: u32,
        limit: Option<Limit>,
    ) -> Result<Header, HomaError> {
        let size = message.len();
        let header = Header {
            total: size as u64,
            piece_bytes,
            ..Header::new(Kind::Piece, self.draw())
        };
        let abandoned = Abandoned::new(link, header.transfer);
        let stored = |call: Call| match Answer::read(link.wait(call, limit)?) {
            Some(Answer::Stored) => Ok(()),
            Some(Answer::Refused(refusal)) => Err(refused(refusal)),
            _ => {
                *lock(&self.server) = Server::TakesNone;
                Err(self.no_pieces(size))
            }
        };
        let mut under_way = VecDeque::new();
        let mut index = 0;
        while !message.is_empty() {
            if under_way.len() >= WINDOW
                && let Some(oldest) = under_way.pop_front()
            {
                stored(oldest)?;
            }
            let piece = message.split_to(piece_bytes as usize);
            let header = Header { index, ..header };
            under_way.push_back(link.start(header.with(piece), limit)?);
            index += 1;
        }
        under_way.into_iter().try_for_each(stored)?;
        abandoned.disarm();
        Ok(header)
    }

    /// Fetches all pieces of a reply.
    fn fetch(&self, link: &Link, long: Long, limit: Option<Limit>) -> Result<Message, HomaError> {
        let Long {
            transfer,
            total,
            piece_bytes,
        } = long;
        let abandoned = Abandoned::new(link, transfer);
        let max = self.options.max_bytes;
        let size = usize::try_from(total).unwrap_or(usize::MAX);
        if size > max {
            return Err(HomaError::ReplyTooLong { size, limit: max });
        }
        let count = wire::pieces(total, piece_bytes)
            .ok_or_else(|| nonsense("a reply in pieces of a few bytes"))?;
        let mut reply = Message::new();
        let mut take = |(index, call): (u32, Call)| match Answer::read(link.wait(call, limit)?) {
            Some(Answer::Piece(piece))
                if wire::piece_len(total, piece_bytes, index) == Some(piece.len()) =>
            {
                // The endpoint wants its memory back, for the pieces that follow.
                wire::append(&mut reply, copy(&piece));
                Ok(())
            }
            Some(Answer::Refused(refusal)) => Err(refused(refusal)),
            _ => Err(nonsense("a piece of another length than was told")),
        };
        let mut under_way = VecDeque::new();
        for index in 0..count {
            if under_way.len() >= WINDOW
                && let Some(oldest) = under_way.pop_front()
            {
                take(oldest)?;
            }
            let header = Header {
                index,
                ..Header::new(Kind::Fetch, transfer)
            };
            under_way.push_back((index, link.start(header.with(Message::new()), limit)?));
        }
        under_way.into_iter().try_for_each(&mut take)?;
        abandoned.disarm();
        Ok(reply)
    }

    fn no_pieces(&self, size: usize) -> HomaError {
        HomaError::NoPieces {
            size,
            limit: self.whole,
        }
    }

    /// A number that nobody can guess: the hash function's keys are secret.
    fn draw(&self) -> u128 {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        let half = |half: u8| u128::from(self.names.hash_one((drawn, half)));
        half(0) << 64 | half(1)
    }
}

/// Tells the server to forget a transfer that ends in an error. If that gets lost, it does so after
/// a while.
struct Abandoned<'a> {
    link: &'a Link,
    transfer: u128,
    is_over: bool,
}

impl<'a> Abandoned<'a> {
    fn new(link: &'a Link, transfer: u128) -> Self {
        Self {
            link,
            transfer,
            is_over: false,
        }
    }

    fn disarm(mut self) {
        self.is_over = true;
    }
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let request = Header::new(Kind::Drop, self.transfer).with(Message::new());
            self.link.start_detached(request);
        }
    }
}

pub(crate) fn refused(Refusal { why, text }: Refusal) -> HomaError {
    HomaError::Refused { why, text }
}

fn nonsense(text: &str) -> HomaError {
    HomaError::BadPieces {
        text: text.to_owned(),
    }
}
