//! The state of calls against models of it: whatever comes, what is read is what was sent, nobody
//! gets more than the budget holds, and nobody is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use homa_client::Message;
use tonic::Status;

use super::budget::MAX_WINDOW;
use super::*;
use crate::fuzz::{Source, fuzz};

/// Few enough bodies fit in that they feel each other.
const LIMIT: u64 = 6 * START_CREDIT;

const MAX_METADATA_BYTES: usize = 40;

/// As many pieces behind gaps as are kept.
const MAX_EARLY: usize = 64;

/// Counts how often it was woken.
#[derive(Debug, Default)]
struct Alarm(AtomicUsize);

impl Alarm {
    fn rung(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The initial metadata of a body.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    Awaited,
    Arrived,
    Taken,
}

/// A receiving end, and what it should be.
struct Receiver {
    inlet: Inlet,
    with_trailers: bool,
    /// What has arrived. 0 is nothing.
    body: Vec<u8>,
    /// Body offset up to which everything has.
    next: usize,
    /// Pieces behind gaps: where they begin and end.
    early: Vec<(usize, usize)>,
    read: u64,
    highest: u64,
    end: Option<u64>,
    /// The piece that says so has arrived.
    ended: bool,
    head: Head,
    tail: bool,
    failed: bool,
    abandoned: bool,
    finished: bool,
    /// What the sender knows that it may send.
    told: u64,
    credit: u64,
    alarm: Arc<Alarm>,
    /// The reader waits, and was last woken that often.
    asleep: Option<usize>,
}

impl Receiver {
    fn new(budget: &Arc<Budget>, total: Option<u64>, with_trailers: bool) -> Option<Self> {
        let inlet = Inlet::new(budget.open()?, total, with_trailers);
        let credit = inlet.credit();
        Some(Self {
            inlet,
            with_trailers,
            body: Vec::new(),
            next: 0,
            early: Vec::new(),
            read: 0,
            highest: 0,
            end: total,
            ended: false,
            head: Head::Awaited,
            tail: false,
            failed: false,
            abandoned: false,
            finished: false,
            told: credit,
            credit,
            alarm: Arc::default(),
            asleep: None,
        })
    }

    /// What it takes of the budget.
    fn promised(&self) -> u64 {
        if self.failed || self.abandoned {
            0
        } else {
            self.credit - self.read
        }
    }

    fn is_over(&self) -> bool {
        self.failed || self.abandoned || self.finished
    }

    /// A frame arrives that may say anything.
    fn arrive(&mut self, source: &mut Source<'_>, fill: u8) {
        let near = [self.next as u64, self.highest, self.told, self.read];
        let offset = match source.below(8) {
            0 => source.u64(),
            1 => near[source.below(4)].saturating_sub(source.below(200) as u64),
            2 => near[source.below(4)] + source.below(200) as u64,
            choice => near[choice % 4],
        };
        let len = match source.below(8) {
            0 => 0,
            1 => source.below(20_000),
            2 => usize::try_from(self.told.saturating_sub(offset)).unwrap_or(0),
            _ => source.below(500),
        };
        let kind = if source.once_in(6) { source.u8() } else { 0 };
        let flight = Flight {
            start: source.once_in(8),
            end: kind & 1 != 0,
            trailers: self.with_trailers && kind & 2 != 0,
            total: (kind & 4 != 0).then(|| match source.below(3) {
                0 => source.u64(),
                1 => self.end.unwrap_or(self.highest),
                _ => offset.saturating_add(len as u64),
            }),
            offset,
        };
        // A grpc-status, or what cannot be decoded, or is too long.
        let section = |here: bool, source: &mut Source<'_>| match source.below(16) {
            _ if !here => Vec::new(),
            0 => vec![0xFE],
            1 => vec![0x10; MAX_METADATA_BYTES + 1],
            _ => vec![0x10],
        };
        let head = section(flight.start, source);
        let tail = section(flight.trailers, source);
        let answered = !source.once_in(4);
        self.deliver(flight, (&head, &tail), len, fill, answered);
    }

    /// One gap beside the other.
    fn scatter(&mut self, fill: u8) {
        for gap in 0..=MAX_EARLY as u64 {
            let offset = self.next as u64 + 1 + 2 * gap;
            let flight = Flight {
                offset,
                ..Flight::default()
            };
            self.deliver(flight, (&[], &[]), 1, fill, true);
        }
    }

    /// A frame arrives, as a request that is answered or as an answer itself.
    fn deliver(
        &mut self,
        flight: Flight,
        (head, tail): (&[u8], &[u8]),
        len: usize,
        fill: u8,
        answered: bool,
    ) {
        let lengths = Lengths {
            head: head.len() as u32,
            tail: tail.len() as u32,
            ..Lengths::default()
        };
        let frame = Frame {
            epoch: 1,
            call: 1,
            going_away: false,
            kind: Kind::Data { flight, credit: 0 },
        };
        let mut message = Message::new();
        for part in [&frame.emit(lengths)[..], head, tail, &vec![fill; len]] {
            message.push(part.to_vec().into());
        }
        let sender = if self.with_trailers {
            Sender::ServerRequest
        } else {
            Sender::ClientRequest
        };
        let Ok((_, lengths)) = take_header(&mut message, sender) else {
            return;
        };
        let piece = match piece(flight, lengths, message, MAX_METADATA_BYTES) {
            Ok(piece) => piece,
            Err(_) => return self.fail(),
        };
        let expected = self.take(flight, len, fill);
        let taken = if answered {
            self.inlet.take(piece)
        } else {
            self.inlet.accept(piece)
        };
        match taken {
            Ok(taken) => {
                assert_eq!(Ok(taken.stop), expected.map(|()| self.is_over()));
                assert_eq!(taken.credit, self.credit);
                if answered {
                    self.told = self.credit;
                }
                if !taken.stop {
                    assert_eq!(taken.awaited, self.asleep.is_some());
                    self.awakes();
                }
            }
            Err(error) => {
                assert_eq!(expected, Err(error));
                self.fail();
            }
        }
    }

    /// What a piece should do.
    fn take(&mut self, flight: Flight, len: usize, fill: u8) -> Result<(), StreamError> {
        if self.is_over() {
            return Ok(());
        }
        let end = flight.offset + len as u64;
        let credit = self.credit;
        if end > credit {
            return Err(StreamError::PastCredit { end, credit });
        }
        if let Some(total) = self.end.filter(|total| end > *total) {
            return Err(StreamError::PastEnd { end, total });
        }
        let says = if flight.end { Some(end) } else { flight.total };
        if let Some(now) = says
            && (now < self.highest || self.end.is_some_and(|told| told != now))
        {
            let told = self.end.unwrap_or(now).max(self.highest);
            return Err(StreamError::TwoEnds { told, now });
        }
        self.end = self.end.or(says);
        self.ended |= flight.end;
        self.highest = self.highest.max(end);
        self.told = self.told.max(end);
        if flight.start && self.head == Head::Awaited {
            self.head = Head::Arrived;
        }
        self.tail |= flight.trailers;
        self.insert(flight.offset as usize, end as usize, fill)
    }

    fn insert(&mut self, start: usize, end: usize, fill: u8) -> Result<(), StreamError> {
        if self.body.len() < end {
            self.body.resize(end, 0);
        }
        let mut at = start;
        while at < end {
            let fresh = self.body[at] == 0;
            let run = self.body[at..end].iter();
            let run = run.take_while(|byte| (**byte == 0) == fresh).count();
            if fresh {
                self.body[at..at + run].fill(fill);
                if at == self.next {
                    self.next += run;
                } else if self.early.len() < MAX_EARLY {
                    self.early.push((at, at + run));
                } else {
                    return Err(StreamError::Gaps);
                }
            }
            at += run;
        }
        while let Some(index) = self.early.iter().position(|early| early.0 == self.next) {
            self.next = self.early.swap_remove(index).1;
        }
        Ok(())
    }

    /// The reader is woken, if it waits.
    fn awakes(&mut self) {
        if let Some(rung) = self.asleep.take() {
            assert!(self.alarm.rung() > rung, "a reader waits in vain");
        }
    }

    fn is_complete(&self) -> bool {
        self.finished || (self.end == Some(self.next as u64) && (!self.with_trailers || self.tail))
    }

    fn fail(&mut self) {
        let open = !self.failed && !self.is_complete();
        assert_eq!(self.inlet.fail(Status::aborted("fuzzed")), open);
        if open {
            self.failed = true;
            if !self.abandoned {
                self.awakes();
            }
        }
    }

    fn abandon(&mut self) {
        self.inlet.abandon();
        self.abandoned = true;
        self.asleep = None;
    }

    fn read_head(&mut self) {
        let waker = Waker::from(self.alarm.clone());
        let polled = self.inlet.poll_head(&mut Context::from_waker(&waker));
        match polled {
            Poll::Ready(Ok(_)) => {
                assert!(self.head == Head::Arrived && !self.failed);
                self.head = Head::Taken;
            }
            Poll::Ready(Err(_)) => {
                assert!(self.failed || (self.head == Head::Awaited && self.ended));
            }
            Poll::Pending => {
                assert!(!self.failed && self.head != Head::Arrived);
                if self.head == Head::Awaited {
                    self.asleep = Some(self.alarm.rung());
                }
            }
        }
    }

    /// Reads once. Returns whether there may be more.
    fn read(&mut self) -> bool {
        let waker = Waker::from(self.alarm.clone());
        let (polled, window) = self.inlet.poll_frame(&mut Context::from_waker(&waker));
        let drained = self.failed || self.read == self.next as u64;
        let at_end = drained && self.end == Some(self.read);
        match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    assert!(!data.is_empty() && !self.failed);
                    let from = self.read as usize;
                    assert!(from + data.len() <= self.next);
                    assert!(self.body[from..from + data.len()] == data[..]);
                    self.read += data.len() as u64;
                    self.raised();
                    if let Some(credit) = window {
                        assert!(credit == self.credit && credit > self.told);
                        self.told = credit;
                    }
                    return true;
                }
                Err(_) => {
                    assert!(at_end && self.tail && !self.failed && !self.finished);
                    self.finished = true;
                }
            },
            Poll::Ready(Some(Err(_))) => {
                let unfinished = at_end && self.ended && self.with_trailers && !self.tail;
                assert!(!self.finished && (self.failed || unfinished));
                self.finished = true;
            }
            Poll::Ready(None) => {
                assert!(self.finished || (at_end && !self.with_trailers));
                self.finished = true;
            }
            Poll::Pending => {
                assert!(drained && !self.finished && !self.failed);
                assert!(!at_end || (self.with_trailers && !self.tail && !self.ended));
                self.asleep = Some(self.alarm.rung());
                // Neither side waits for the other.
                let all = self.end.is_some_and(|end| end <= self.told);
                let gaps = self.highest > self.read;
                assert!(
                    gaps || all || self.told > self.highest,
                    "the sender waits in vain"
                );
            }
        }
        assert_eq!(window, None);
        false
    }

    /// The credit may have grown.
    fn raised(&mut self) {
        let credit = self.inlet.credit();
        assert!(credit >= self.credit, "a credit that shrinks");
        assert!(credit <= self.read + MAX_WINDOW);
        // However little room there is, nobody gets stuck.
        let least = self.read + START_CREDIT;
        assert!(credit >= self.end.map_or(least, |end| least.min(end)));
        self.credit = credit;
    }
}

fn any_pieces(mut source: Source<'_>) {
    let total = Arc::new(AtomicU64::new(0));
    let budget = Budget::new(LIMIT as usize, total.clone());
    let mut receivers: Vec<Receiver> = Vec::new();
    let mut fill = 0_u8;
    while !source.is_empty() {
        let number = source.below(receivers.len().max(1));
        match (source.below(16), receivers.get_mut(number)) {
            (0, _) | (_, None) => {
                let room = budget.used() + START_CREDIT <= LIMIT;
                let length = source.once_in(4).then(|| source.u64());
                let with_trailers = source.once_in(2);
                let receiver = Receiver::new(&budget, length, with_trailers);
                assert_eq!(receiver.is_some(), room);
                receivers.extend(receiver);
            }
            (1, Some(_)) if source.once_in(4) => drop(receivers.swap_remove(number)),
            (2, Some(receiver)) if source.once_in(4) => receiver.fail(),
            (3, Some(receiver)) if source.once_in(4) => receiver.abandon(),
            (4 | 5, Some(receiver)) if !receiver.abandoned => {
                receiver.read();
            }
            (6..9, Some(receiver)) if !receiver.abandoned => while receiver.read() {},
            (10, Some(receiver)) if source.once_in(4) => {
                fill = fill.wrapping_add(1).max(1);
                receiver.scatter(fill);
            }
            (11, Some(receiver)) => {
                assert_eq!(receiver.inlet.tell(), receiver.credit);
                receiver.told = receiver.credit;
            }
            (9, Some(receiver)) if !receiver.abandoned => receiver.read_head(),
            (_, Some(receiver)) => {
                fill = fill.wrapping_add(1).max(1);
                receiver.arrive(&mut source, fill);
            }
        }
        let promised: u64 = receivers.iter().map(Receiver::promised).sum();
        assert_eq!(
            (budget.used(), total.load(Ordering::Relaxed)),
            (promised, promised)
        );
        assert!(promised <= LIMIT);
    }
    drop(receivers);
    assert_eq!((budget.used(), total.load(Ordering::Relaxed)), (0, 0));
}

/// A sending end that hears anything, and respects what it heard.
fn any_credits(mut source: Source<'_>) {
    let first = source.below(START_CREDIT as usize + 1) as u64;
    let outlet = Outlet::new(first);
    let (mut sent, mut credit, mut in_flight) = (first, START_CREDIT, 0);
    let mut over = None;
    let alarm = Arc::<Alarm>::default();
    let waker = Waker::from(alarm.clone());
    // The pump could not send when it asked last, and the alarm had rung that often.
    let mut asleep: Option<usize> = None;
    while !source.is_empty() {
        match source.below(8) {
            0 | 1 => {
                let raised = source.u64();
                assert_eq!(outlet.raise(raised), raised < credit);
                credit = credit.max(raised);
            }
            2 if source.once_in(8) => {
                let reason = [Over::Unwanted, Over::Failed][source.below(2)];
                outlet.end(reason);
                over = over.or(Some(reason));
            }
            3 | 4 if in_flight > 0 => {
                outlet.landed();
                in_flight -= 1;
            }
            5 => {
                let asks = credit == sent && in_flight == 0;
                assert_eq!(outlet.probe(), asks.then_some(sent));
                in_flight += usize::from(asks);
            }
            _ => {
                let room = outlet.room(&mut Context::from_waker(&waker));
                let expected = (in_flight < 8).then(|| credit - sent);
                assert_eq!(room, over.map_or(Ok(expected), Err));
                asleep = None;
                match room {
                    Ok(Some(room)) if room > 0 => {
                        let bytes = room.min(source.below(40_000) as u64 + 1);
                        assert_eq!(outlet.launch(bytes as usize), sent);
                        sent += bytes;
                        in_flight += 1;
                    }
                    Ok(_) => asleep = Some(alarm.rung()),
                    Err(_) => {}
                }
            }
        }
        assert!(outlet.sent() == sent && sent <= credit);
        let may_send = over.is_some() || (in_flight < 8 && credit > sent);
        if let Some(rung) = asleep.filter(|_| may_send) {
            assert!(alarm.rung() > rung, "a pump waits in vain");
        }
    }
    let landed = outlet.poll_landed(&mut Context::from_waker(&waker));
    assert_eq!(
        landed.is_ready(),
        in_flight == 0 || over == Some(Over::Failed)
    );
}

#[test]
fn receiving_ends_follow_their_models_whatever_comes() {
    fuzz!(any_pieces, 4_000, 500);
}

#[test]
fn sending_ends_follow_their_models_whatever_is_answered() {
    fuzz!(any_credits, 4_000, 300);
}
