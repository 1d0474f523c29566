//! [`Outbound`]: the sending end of a stream.

use std::collections::VecDeque;

use super::Acknowledgment;
use super::round_trip::RoundTrip;
use super::window::{Feedback, Window};
use crate::sim::node::HostId;
use crate::sim::time::{Instant, Span};

/// Payload of a full segment: 1500 bytes less the headers of IP and TCP, 20 bytes each.
pub(super) const FULL_SEGMENT: u64 = 1460;

/// A timeout doubles with each further one, up to this many times.
const MAX_DOUBLINGS: u32 = 6;

/// The sending end of a stream.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) to: HostId,
    /// The stream's port at its receiver.
    pub(super) port: u32,
    /// Bytes that the application has written.
    written: u64,
    /// The first byte that was never sent.
    next: u64,
    /// All bytes before this one have arrived.
    acknowledged: u64,
    /// What was sent and is not covered by `acknowledged`, in order.
    sent: VecDeque<Sent>,
    in_flight: u32,
    /// Segments that have arrived although some before them have not.
    early: u32,
    /// Segments that are to be sent again.
    lost: u32,
    window: Window,
    round_trip: RoundTrip,
    last_sent: Instant,
    /// Of the segments that have arrived, when the one that was sent last was sent, and its round
    /// trip.
    newest: (Instant, Span),
    /// When it has to be looked again whether segments before early ones are lost.
    look_at: Option<Instant>,
    /// When the stream times out.
    timeout_at: Option<Instant>,
    timeouts: u32,
}

/// A segment that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    first: u64,
    end: u64,
    at: Instant,
    state: State,
    /// Whether it was sent more than once, so that it is not known which of them is acknowledged.
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    Early,
    Lost,
}

/// A segment to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) again: bool,
}

impl Outbound {
    pub(super) fn new(to: HostId, port: u32) -> Self {
        Self {
            to,
            port,
            written: 0,
            next: 0,
            acknowledged: 0,
            sent: VecDeque::new(),
            in_flight: 0,
            early: 0,
            lost: 0,
            window: Window::new(),
            round_trip: RoundTrip::default(),
            last_sent: Instant::ZERO,
            newest: (Instant::ZERO, Span::ZERO),
            look_at: None,
            timeout_at: None,
            timeouts: 0,
        }
    }

    pub(super) fn write(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// Bytes that were never sent.
    pub(super) fn unsent(&self) -> u64 {
        self.written - self.next
    }

    /// Whether everything has been sent and has arrived.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.unsent() == 0 && self.sent.is_empty() && self.in_flight + self.lost + self.early == 0
    }

    pub(super) fn can_send(&self) -> bool {
        (self.lost > 0 || self.unsent() > 0) && self.window.has_room(self.in_flight)
    }

    /// The next segment of a stream that can send: what was lost first, then as much as there is.
    pub(super) fn send(&mut self, now: Instant) -> Segment {
        if self.sent.is_empty() {
            let idle = now.since(self.last_sent);
            self.window.restart(idle, self.round_trip.timeout());
        }
        self.last_sent = now;
        self.in_flight += 1;
        if self.timeout_at.is_none() {
            self.timeout_at = Some(now + self.timeout());
        }
        let lost = |sent: &&mut Sent| sent.state == State::Lost;
        if self.lost > 0
            && let Some(sent) = self.sent.iter_mut().find(lost)
        {
            self.lost -= 1;
            (sent.at, sent.state, sent.again) = (now, State::InFlight, true);
            let Sent { first, end, .. } = *sent;
            return Segment {
                first,
                end,
                again: true,
            };
        }
        let first = self.next;
        let end = self.written.min(first + FULL_SEGMENT);
        self.next = end;
        self.sent.push_back(Sent {
            first,
            end,
            at: now,
            state: State::InFlight,
            again: false,
        });
        Segment {
            first,
            end,
            again: false,
        }
    }

    pub(super) fn acknowledge(&mut self, now: Instant, told: &Acknowledgment) {
        let in_flight = self.in_flight;
        let mut delivered = 0;
        while let Some(&sent) = self.sent.front()
            && sent.end <= told.next
        {
            self.sent.pop_front();
            delivered += self.arrived(now, sent);
        }
        let (first, end) = told.block;
        let from = self.sent.partition_point(|sent| sent.first < first);
        for place in from..self.sent.len() {
            let sent = self.sent[place];
            if sent.end > end {
                break;
            }
            if sent.state != State::Early {
                delivered += self.arrived(now, sent);
                self.sent[place].state = State::Early;
                self.early += 1;
            }
        }
        self.acknowledged = self.acknowledged.max(told.next);
        self.window.acknowledge(Feedback {
            delivered,
            marked: told.marked,
            in_flight,
            acknowledged: self.acknowledged,
            next: self.next,
        });
        if delivered > 0 {
            self.timeouts = 0;
            self.timeout_at = (!self.sent.is_empty()).then(|| now + self.timeout());
        }
        if self.early == 0 {
            self.look_at = None;
        } else if self.look_at.is_none_or(|at| at <= now) {
            self.look_for_losses(now);
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.timeout_at, self.look_at) {
            (Some(timeout), Some(look)) => Some(timeout.min(look)),
            (one, other) => one.or(other),
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_for_losses(now);
        }
        if self.timeout_at.is_some_and(|at| at <= now) {
            for sent in &mut self.sent {
                if sent.state == State::InFlight {
                    sent.state = State::Lost;
                }
            }
            self.lost += self.in_flight;
            self.in_flight = 0;
            self.look_at = None;
            self.window.time_out(self.timeouts == 0);
            self.timeouts = MAX_DOUBLINGS.min(self.timeouts + 1);
            self.timeout_at = Some(now + self.timeout());
        }
    }

    /// A segment has arrived: 1, if that was not known.
    fn arrived(&mut self, now: Instant, sent: Sent) -> u32 {
        match sent.state {
            State::InFlight => self.in_flight -= 1,
            State::Lost => self.lost -= 1,
            State::Early => {
                self.early -= 1;
                return 0;
            }
        }
        let took = now.since(sent.at);
        // Of one that was sent twice, the first may have arrived.
        if !sent.again {
            self.round_trip.sample(took);
        }
        if (!sent.again || took >= self.round_trip.least()) && sent.at >= self.newest.0 {
            self.newest = (sent.at, took);
        }
        1
    }

    /// Segments are lost that were sent before one that has arrived, and of which nothing is heard
    /// for twice the round trip of that one. This is RACK (RFC 8985) with a reordering window of a
    /// whole round trip, which is as wide as it lets it become: packets that are sprayed over
    /// several paths pass each other all the time.
    fn look_for_losses(&mut self, now: Instant) {
        let (newest, took) = self.newest;
        let patience = took + took;
        self.look_at = None;
        let mut found = 0;
        for sent in &mut self.sent {
            if sent.state != State::InFlight || sent.at > newest {
                continue;
            }
            let due = sent.at + patience;
            if due <= now {
                sent.state = State::Lost;
                found += 1;
            } else if self.look_at.is_none_or(|at| due < at) {
                self.look_at = Some(due);
            }
        }
        if found > 0 {
            self.in_flight -= found;
            self.lost += found;
            self.window.lose(self.next);
        }
    }

    fn timeout(&self) -> Span {
        let once = self.round_trip.timeout();
        Span::from_picos(once.as_picos() << self.timeouts)
    }
}
