//! [`Inlet`]: the receiving end of a body, filled by whoever receives and emptied by its reader.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use homa_client::Message;
use http::HeaderMap;
use http_body::Frame;
use tonic::Status;

use super::assembly::{Assembly, TooManyGaps};
use super::budget::{START_CREDIT, Share};
use crate::frame::Flight;

/// The receiving end of one direction of a call.
#[derive(Debug)]
pub(crate) struct Inlet {
    state: Mutex<State>,
    /// Whether the body ends with trailers: on clients.
    with_trailers: bool,
}

#[derive(Debug)]
struct State {
    assembly: Assembly,
    share: Share,
    /// Body offset that was read up to.
    read: u64,
    /// Body offset up to which the sender may send, whether it knows already or not.
    credit: u64,
    /// What it was told.
    told: u64,
    /// The furthest that it has sent.
    highest: u64,
    /// How far the credit is ahead of what was read.
    window: u64,
    /// Body offset from which the reader has to read a window before the next is longer.
    kept_up: u64,
    /// Where the body ends, if that is known.
    end: Option<u64>,
    /// Whether the sender has said that nothing follows.
    ended: bool,
    head: Head,
    tail: Option<HeaderMap>,
    /// The reader has got the trailers, or the end.
    finished: bool,
    failure: Option<Status>,
    reader: Option<Waker>,
    /// There is no reader any more.
    abandoned: bool,
}

#[derive(Debug)]
enum Head {
    Awaited,
    Arrived(HeaderMap),
    Taken,
}

/// What a body has to say to its reader.
pub(crate) type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

/// A frame of a body, with its metadata decoded.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) flight: Flight,
    pub(crate) head: Option<HeaderMap>,
    pub(crate) tail: Option<HeaderMap>,
    pub(crate) body: Message,
}

/// What to tell the sender of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Body offset up to which it may send.
    pub(crate) credit: u64,
    /// The body is no longer wanted.
    pub(crate) stop: bool,
    /// The reader was waiting for it, and may have something to say itself soon.
    pub(crate) awaited: bool,
}

/// How a piece breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    /// It goes past the credit.
    #[error("body bytes up to {end} where the credit ends at {credit}")]
    PastCredit {
        /// Where it ends.
        end: u64,
        /// What was allowed.
        credit: u64,
    },
    /// It goes past the end of the body.
    #[error("body bytes up to {end} in a body of {total}")]
    PastEnd {
        /// Where it ends.
        end: u64,
        /// The body's length as it was told.
        total: u64,
    },
    /// The body would have two ends.
    #[error("a body of {told} bytes is said to have {now}")]
    TwoEnds {
        /// The body's length as it was told or seen.
        told: u64,
        /// What this piece says.
        now: u64,
    },
    /// It leaves more gaps than any honest sender does.
    #[error("too many gaps in a body")]
    Gaps,
}

impl From<TooManyGaps> for StreamError {
    fn from(_: TooManyGaps) -> Self {
        Self::Gaps
    }
}

impl Inlet {
    /// `share` is what it may promise; `total` the body's length where it is known before. On
    /// clients, bodies have trailers.
    pub(crate) fn new(share: Share, total: Option<u64>, with_trailers: bool) -> Self {
        let mut state = State {
            assembly: Assembly::default(),
            share,
            read: 0,
            credit: START_CREDIT,
            told: START_CREDIT,
            highest: 0,
            window: START_CREDIT,
            kept_up: 0,
            end: total,
            ended: false,
            head: Head::Awaited,
            tail: None,
            finished: false,
            failure: None,
            reader: None,
            abandoned: false,
        };
        if total.is_some() {
            // It is one long message: no need to find out whether the reader keeps up.
            state.window = state.share.fair_window();
            state.raise(0);
            state.told = state.credit;
        }
        Self {
            state: Mutex::new(state),
            with_trailers,
        }
    }

    /// For a body that came another way.
    pub(crate) fn closed() -> Self {
        let inlet = Self::new(Share::nothing(), Some(0), false);
        inlet.lock().finished = true;
        inlet
    }

    /// Takes a piece that has arrived. The credit that this returns is to be told to its sender.
    pub(crate) fn take(&self, piece: Piece) -> Result<Taken, StreamError> {
        let taken = self.accept(piece)?;
        let mut state = self.lock();
        // Somebody else may have told it more meanwhile.
        state.told = state.told.max(taken.credit);
        drop(state);
        Ok(taken)
    }

    /// The same for a piece that nobody answers.
    pub(crate) fn accept(&self, piece: Piece) -> Result<Taken, StreamError> {
        let mut state = self.lock();
        if state.abandoned || state.failure.is_some() || state.finished {
            return Ok(Taken {
                credit: state.credit,
                stop: true,
                awaited: false,
            });
        }
        state.check(&piece)?;
        let Piece {
            flight,
            head,
            tail,
            body,
        } = piece;
        let end = flight.offset + body.len() as u64;
        state.highest = state.highest.max(end);
        // Whoever sends that far knows that it may.
        state.told = state.told.max(end);
        if flight.end {
            state.end = Some(end);
            state.ended = true;
        } else if flight.total.is_some() {
            state.end = flight.total;
        }
        if let (Some(head), Head::Awaited) = (head, &state.head) {
            state.head = Head::Arrived(head);
        }
        if state.tail.is_none() {
            state.tail = tail;
        }
        state.assembly.insert(flight.offset, body)?;
        let taken = Taken {
            credit: state.credit,
            stop: false,
            awaited: state.reader.is_some(),
        };
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(taken)
    }

    /// Ends it with an error, unless everything has arrived. Returns whether it was open.
    pub(crate) fn fail(&self, status: Status) -> bool {
        let mut state = self.lock();
        if state.failure.is_some() || state.is_complete(self.with_trailers) {
            return false;
        }
        state.failure = Some(status);
        state.assembly.clear();
        let promised = state.credit - state.read;
        state.share.shrink(promised);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// There will be no reader any more.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned = true;
        state.assembly.clear();
        let promised = state.credit - state.read;
        state.share.shrink(promised);
        state.reader = None;
    }

    /// Whether everything has arrived that there is.
    pub(crate) fn is_complete(&self) -> bool {
        self.lock().is_complete(self.with_trailers)
    }

    /// The credit, to be told to the sender.
    pub(crate) fn tell(&self) -> u64 {
        let mut state = self.lock();
        state.told = state.credit;
        state.credit
    }

    /// The credit, for those who ask for every piece.
    pub(crate) fn credit(&self) -> u64 {
        self.lock().credit
    }

    /// Body offset up to which everything has arrived, and the body's length if it is known.
    pub(crate) fn progress(&self) -> (u64, Option<u64>) {
        let state = self.lock();
        (state.assembly.next(), state.end)
    }

    /// The initial metadata, once.
    pub(crate) fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<HeaderMap, Status>> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Poll::Ready(Err(failure.clone()));
        }
        match std::mem::replace(&mut state.head, Head::Taken) {
            Head::Arrived(head) => Poll::Ready(Ok(head)),
            Head::Taken => Poll::Pending,
            Head::Awaited if state.ended && state.end == Some(state.assembly.next()) => {
                state.head = Head::Awaited;
                Poll::Ready(Err(Status::internal("the response has no headers")))
            }
            Head::Awaited => {
                state.head = Head::Awaited;
                state.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Whether a body without headers has ended: its trailers then are all there is.
    pub(crate) fn take_trailers_only(&self) -> Option<HeaderMap> {
        let mut state = self.lock();
        let only = state.ended && state.end == Some(0) && matches!(state.head, Head::Awaited);
        if !only {
            return None;
        }
        state.finished = true;
        state.tail.take()
    }

    /// The next part of the body, or its trailers. Also returns a credit that the sender should be
    /// told of, because it may wait for it.
    pub(crate) fn poll_frame(&self, cx: &mut Context<'_>) -> (Polled, Option<u64>) {
        let mut state = self.lock();
        if let Some(part) = state.assembly.pop() {
            state.raise(part.len() as u64);
            let window = state.window_to_tell();
            return (Poll::Ready(Some(Ok(Frame::data(part)))), window);
        }
        if state.finished {
            return (Poll::Ready(None), None);
        }
        if let Some(failure) = state.failure.clone() {
            state.finished = true;
            return (Poll::Ready(Some(Err(failure))), None);
        }
        if state.end == Some(state.read) {
            if !self.with_trailers {
                state.finished = true;
                return (Poll::Ready(None), None);
            }
            if let Some(tail) = state.tail.take() {
                state.finished = true;
                return (Poll::Ready(Some(Ok(Frame::trailers(tail)))), None);
            }
            if state.ended {
                state.finished = true;
                let status = Status::unknown("the response has no grpc-status");
                return (Poll::Ready(Some(Err(status))), None);
            }
        }
        state.wait(cx);
        (Poll::Pending, None)
    }

    /// Whether nothing is left to be read.
    pub(crate) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.finished
            || (!self.with_trailers && state.failure.is_none() && state.end == Some(state.read))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&self, piece: &Piece) -> Result<(), StreamError> {
        let Flight {
            end, total, offset, ..
        } = piece.flight;
        // The frame was checked: this does not overflow.
        let last = offset + piece.body.len() as u64;
        if last > self.credit {
            let credit = self.credit;
            return Err(StreamError::PastCredit { end: last, credit });
        }
        if let Some(total) = self.end
            && last > total
        {
            return Err(StreamError::PastEnd { end: last, total });
        }
        let says = if end { Some(last) } else { total };
        if let Some(now) = says {
            let told = self.end.unwrap_or(now);
            if now != told || now < self.highest {
                let told = told.max(self.highest);
                return Err(StreamError::TwoEnds { told, now });
            }
        }
        Ok(())
    }

    fn is_complete(&self, with_trailers: bool) -> bool {
        self.finished
            || (self.end == Some(self.assembly.next()) && (!with_trailers || self.tail.is_some()))
    }

    /// Lets the sender send further, as the reader reads.
    fn raise(&mut self, read: u64) {
        self.read += read;
        if self.read - self.kept_up >= self.window {
            self.kept_up = self.read;
            self.window *= 4;
        }
        self.window = self.window.min(self.share.fair_window());
        // Where others have taken the rest, it goes on with what it began with.
        for window in [self.window, START_CREDIT] {
            self.window = window;
            let target = self.read + window;
            let target = self.end.map_or(target, |end| target.min(end));
            let more = target.saturating_sub(self.credit);
            if self.share.renew(read, more) {
                self.credit += more;
                return;
            }
        }
    }

    /// The credit, if the sender has used up nearly all that it knows of and there is enough more.
    /// Senders that go on hear of it in the answers to what they send.
    fn window_to_tell(&mut self) -> Option<u64> {
        let done = self.abandoned || self.end.is_some_and(|end| end <= self.told);
        let used_up = self.told - self.highest < self.window / 4;
        let more = self.credit - self.told;
        let all = self.end == Some(self.credit);
        if done || !used_up || (more < self.window / 2 && !(all && more > 0)) {
            return None;
        }
        self.told = self.credit;
        Some(self.credit)
    }

    fn wait(&mut self, cx: &mut Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::budget::{Budget, MAX_WINDOW};
    use super::*;

    fn inlet(with_trailers: bool) -> Inlet {
        let budget = Budget::new(64 << 20, std::sync::Arc::default());
        Inlet::new(budget.open().unwrap(), None, with_trailers)
    }

    fn piece(offset: u64, len: usize) -> Piece {
        Piece {
            flight: Flight {
                offset,
                ..Flight::default()
            },
            head: None,
            tail: None,
            body: Message::from(vec![7; len]),
        }
    }

    fn last(offset: u64, len: usize) -> Piece {
        let mut piece = piece(offset, len);
        piece.flight.end = true;
        piece
    }

    enum Got {
        Data(usize),
        Trailers,
        End,
        Failed(Status),
        Nothing,
    }

    fn read(inlet: &Inlet) -> (Got, Option<u64>) {
        let mut cx = Context::from_waker(Waker::noop());
        let (polled, window) = inlet.poll_frame(&mut cx);
        let got = match polled {
            Poll::Pending => Got::Nothing,
            Poll::Ready(None) => Got::End,
            Poll::Ready(Some(Err(status))) => Got::Failed(status),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Got::Data(data.len()),
                Err(_) => Got::Trailers,
            },
        };
        (got, window)
    }

    #[test]
    fn a_body_is_read_in_order_and_ends_once() {
        let inlet = inlet(false);
        assert!(matches!(read(&inlet).0, Got::Nothing));
        assert_eq!(inlet.take(last(10, 5)).unwrap().credit, START_CREDIT);
        assert!(matches!(read(&inlet).0, Got::Nothing) && !inlet.is_complete());
        assert!(inlet.take(piece(0, 10)).unwrap().awaited && inlet.is_complete());
        assert!(matches!(read(&inlet).0, Got::Data(10)));
        assert!(matches!(read(&inlet).0, Got::Data(5)) && inlet.is_finished());
        assert!(matches!(read(&inlet).0, Got::End) && matches!(read(&inlet).0, Got::End));
        // What comes again is not wanted any more, and nothing can fail it.
        assert!(inlet.take(piece(0, 10)).unwrap().stop);
        assert!(!inlet.fail(Status::unavailable("late")));
    }

    #[test]
    fn trailers_come_last_and_a_response_without_them_has_failed() {
        let inlet = inlet(true);
        let mut end = last(3, 2);
        end.tail = Some(HeaderMap::new());
        inlet.take(end).unwrap();
        inlet.take(piece(0, 3)).unwrap();
        assert!(matches!(read(&inlet).0, Got::Data(3)) && matches!(read(&inlet).0, Got::Data(2)));
        assert!(matches!(read(&inlet).0, Got::Trailers) && matches!(read(&inlet).0, Got::End));

        let inlet = super::tests::inlet(true);
        inlet.take(last(0, 0)).unwrap();
        let Got::Failed(status) = read(&inlet).0 else {
            panic!("a response without a status");
        };
        assert_eq!(status.code(), tonic::Code::Unknown);
    }

    #[test]
    fn senders_are_held_to_credit_and_end() {
        let refused = |inlet: &Inlet, piece| inlet.take(piece).unwrap_err();
        let inlet = inlet(false);
        let credit = START_CREDIT;
        let end = credit + 1;
        assert_eq!(
            refused(&inlet, piece(credit, 1)),
            StreamError::PastCredit { end, credit }
        );
        inlet.take(piece(100, 10)).unwrap();
        let (told, now) = (110, 105);
        assert_eq!(
            refused(&inlet, last(100, 5)),
            StreamError::TwoEnds { told, now }
        );
        inlet.take(last(110, 10)).unwrap();
        let (end, total) = (121, 120);
        assert_eq!(
            refused(&inlet, piece(120, 1)),
            StreamError::PastEnd { end, total }
        );
        let (told, now) = (120, 119);
        assert_eq!(
            refused(&inlet, last(100, 19)),
            StreamError::TwoEnds { told, now }
        );
        let mut other = piece(0, 1);
        other.flight.total = Some(200);
        assert!(matches!(
            refused(&inlet, other),
            StreamError::TwoEnds { .. }
        ));
    }

    #[test]
    fn the_credit_follows_the_reader_and_opens_up_if_it_keeps_up() {
        let inlet = inlet(false);
        let mut sent = 0;
        let mut credit = START_CREDIT;
        let mut windows = 0;
        while credit - sent < MAX_WINDOW {
            let len = (credit - sent).min(100_000);
            credit = inlet.take(piece(sent, len as usize)).unwrap().credit;
            sent += len;
            while let (Got::Data(_), window) = read(&inlet) {
                windows += u32::from(window.is_some());
                credit = window.unwrap_or(credit);
            }
            assert!(sent < 64 << 20 && credit >= sent + START_CREDIT / 2);
        }
        assert!(windows <= 8, "{windows} times told beside the answers");
    }

    #[test]
    fn a_reader_that_does_not_read_gets_no_more_than_the_first_credit() {
        let inlet = inlet(false);
        for offset in (0..START_CREDIT).step_by(4_096) {
            assert_eq!(
                inlet.take(piece(offset, 4_096)).unwrap().credit,
                START_CREDIT
            );
        }
        assert!(inlet.take(piece(START_CREDIT, 1)).is_err());
    }

    #[test]
    fn bodies_go_on_however_much_others_hold() {
        let budget = Budget::new(1 << 20, std::sync::Arc::default());
        let slow = Inlet::new(budget.open().unwrap(), Some(1 << 20), false);
        assert_eq!(slow.credit(), 512 << 10);
        let inlet = Inlet::new(budget.open().unwrap(), None, false);
        for offset in (0..10 * START_CREDIT).step_by(4_096) {
            inlet.take(piece(offset, 4_096)).unwrap();
            assert!(matches!(read(&inlet).0, Got::Data(_)));
        }
        assert_eq!(inlet.credit(), 11 * START_CREDIT);
        // It gets more again as soon as there is more.
        drop(slow);
        for offset in (0..2 * START_CREDIT).step_by(4_096) {
            let offset = 10 * START_CREDIT + offset;
            inlet.take(piece(offset, 4_096)).unwrap();
            assert!(matches!(read(&inlet).0, Got::Data(_)));
        }
        assert!(inlet.credit() >= 15 * START_CREDIT);
    }

    #[test]
    fn failures_drop_what_is_buffered_and_give_back_its_share() {
        let budget = Budget::new(1 << 20, std::sync::Arc::default());
        let inlet = Inlet::new(budget.open().unwrap(), None, false);
        inlet.take(piece(0, 1_000)).unwrap();
        assert!(inlet.fail(Status::unavailable("gone")));
        assert_eq!(budget.used(), 0);
        assert!(matches!(read(&inlet).0, Got::Failed(_)) && matches!(read(&inlet).0, Got::End));
        drop(inlet);
        let inlet = Inlet::new(budget.open().unwrap(), None, false);
        inlet.take(piece(0, 1_000)).unwrap();
        inlet.abandon();
        assert_eq!(budget.used(), 0);
        assert!(inlet.take(piece(1_000, 5)).unwrap().stop);
    }
}
