//! Sending: batches are filled under a shard's lock, and sent without it, on any thread.
//!
//! One thread at a time sends a shard's batches until none is left. Another one that has something
//! to send meanwhile sends one batch, whose first packets are those of the shortest messages: a
//! short request or reply does not wait for a thread that is busy with a long one, and may have
//! lost its processor in the middle of it.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::thread;

use super::endpoint::{AWAKE, Endpoint};
use super::link::{Refusal, Refused};
use super::shard::{Batch, Shard, State};
use crate::engine::{Time, Transmit};

/// Batches that a caller sends before it leaves the rest to the driver: as much of a message as
/// threads send unasked on loopback.
const CALLER_BATCHES: usize = 8;

/// What became of a batch.
struct Unsent {
    rest: Vec<Transmit>,
    calls: u64,
}

impl Endpoint {
    /// Sends whatever is ready, on this thread; if another thread is at it, one batch of that.
    /// `now` was read with the shard's lock.
    pub(super) fn transmit<'a>(
        &'a self,
        mut now: Time,
        shard: &'a Shard,
        mut state: MutexGuard<'a, State>,
    ) {
        state.release_lazy(now);
        if !state.stalled.is_empty() {
            state.missed = true;
            return;
        }
        // The driver's next turn is on its way, and sends it at the latest.
        if state
            .company
            .as_mut()
            .is_some_and(|company| company.waits(now))
        {
            return;
        }
        if state.transmitting {
            let calls = self.send_beside(now, shard, state);
            self.inline_sends.fetch_add(calls, Ordering::Relaxed);
            return;
        }
        state.transmitting = true;
        for _ in 0..CALLER_BATCHES {
            let batch = state.fill(now);
            let full = batch.full;
            drop(state);
            let unsent = self.send(batch.transmits);
            self.inline_sends.fetch_add(unsent.calls, Ordering::Relaxed);
            if full && self.lead.is_some() {
                thread::yield_now();
            }
            state = shard.lock();
            state.take_back(unsent.rest);
            if !state.stalled.is_empty() {
                break;
            }
            if !full && !std::mem::take(&mut state.missed) {
                state.transmitting = false;
                return self.nudge_if_sooner(&state);
            }
            now = self.clock.now();
        }
        state.transmitting = false;
        // Whoever is nudged sends that, too.
        state.missed = false;
        self.nudge();
    }

    /// Sends one batch while another thread is at it. Returns how many system calls that took.
    fn send_beside<'a>(
        &'a self,
        now: Time,
        shard: &'a Shard,
        mut state: MutexGuard<'a, State>,
    ) -> u64 {
        let batch = state.fill(now);
        state.missed |= batch.full;
        self.nudge_if_sooner(&state);
        drop(state);
        let unsent = self.send(batch.transmits);
        if !unsent.rest.is_empty() {
            shard.lock().take_back(unsent.rest);
            self.nudge();
        }
        unsent.calls
    }

    /// One batch of each shard, sent by the driver. Returns whether there is more to send at once.
    pub(super) fn transmit_batches(&self) -> bool {
        let mut more = false;
        for shard in &self.shards {
            more |= self.transmit_batch(shard);
        }
        more
    }

    fn transmit_batch(&self, shard: &Shard) -> bool {
        let mut state = shard.lock();
        if state.transmitting {
            if state.stalled.is_empty() {
                self.send_beside(self.clock.now(), shard, state);
            } else {
                state.missed = true;
            }
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
            state.take_back(batch.transmits);
            return batch.full;
        }
        state.transmitting = true;
        drop(state);
        let unsent = self.send(batch.transmits);
        let mut state = shard.lock();
        state.take_back(unsent.rest);
        state.transmitting = false;
        let missed = std::mem::take(&mut state.missed);
        state.stalled.is_empty() && (batch.full || missed)
    }

    fn send(&self, mut batch: Vec<Transmit>) -> Unsent {
        let mut sent = self.link.send(&batch);
        if sent.errors_queued {
            self.link.drain_errors(&mut sent.refused);
        }
        self.refuse(sent.refused);
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
        }
    }

    /// Tells the engines what the network says of some destinations. Not to be called with a
    /// shard's lock: an error may be about any peer, and a peer's bulk port does not tell whose
    /// it is.
    pub(super) fn refuse(&self, refused: Vec<Refused>) {
        let refused = merge(refused);
        if refused.is_empty() {
            return;
        }
        for shard in &self.shards {
            let mut state = shard.lock();
            let now = self.clock.now();
            for Refused { to, refusal, quote } in &refused {
                match *refusal {
                    Refusal::Unreachable(reason) => {
                        tracing::debug!(%to, %reason, "unreachable");
                        state.engine.handle_unreachable(now, *to, reason, quote);
                    }
                    Refusal::TooLong { mtu } => state.engine.set_path_mtu(now, *to, mtu),
                }
            }
        }
        // The driver hands the failures over.
        self.nudge();
    }

    /// The driver sleeps too long for what was started just now.
    pub(super) fn nudge_if_sooner(&self, state: &State) {
        let sleep_until = match &self.lead {
            None => self.sleep_until.load(Ordering::Acquire),
            Some(lead) => lead.sleeps_until(&self.sleep_until),
        };
        if sleep_until == AWAKE {
            return;
        }
        if let Some(at) = state.next_wake()
            && at.as_nanos() < sleep_until
        {
            self.nudge();
        }
    }
}

/// One of those that say the same: an engine looks at all its RPCs for each, and a burst to a
/// closed port brings many. The first of them fails the peer's RPCs, or those of its port where
/// peers have several behind one address, and leaves nothing to the others.
fn merge(refused: Vec<Refused>) -> Vec<Refused> {
    let mut merged: Vec<Refused> = Vec::new();
    for next in refused {
        let same = |other: &&mut Refused| {
            // Ports, of the sender and of the receiver, come first.
            other.to == next.to && other.quote.get(..4) == next.quote.get(..4)
        };
        let found = merged.iter_mut().filter(same);
        let found = found.map(|other| &mut other.refusal);
        let repeated = match next.refusal {
            Refusal::Unreachable(_) => found.into_iter().any(|other| *other == next.refusal),
            Refusal::TooLong { mtu } => found.into_iter().any(|other| match other {
                Refusal::TooLong { mtu: least } => {
                    *least = mtu.min(*least);
                    true
                }
                Refusal::Unreachable(_) => false,
            }),
        };
        if !repeated {
            merged.push(next);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::sync::Arc;

    use super::*;
    use crate::Config;
    use crate::engine::Unreachable;
    use crate::user::endpoint::Role;
    use crate::user::lead::Lead;

    fn client() -> (Endpoint, UdpSocket) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let lead = Some(Arc::new(Lead::new().unwrap()));
        let endpoint = Endpoint::open(any, &Config::default(), Role::Client, lead).unwrap();
        (endpoint, UdpSocket::bind(any).unwrap())
    }

    #[test]
    fn a_short_message_leaves_while_another_thread_is_at_a_long_one() {
        let (endpoint, silent) = client();
        let to = silent.local_addr().unwrap();
        let shard = &endpoint.shards[0];
        shard.lock().transmitting = true;
        endpoint.call_detached(to, "short".into()).unwrap();
        assert_eq!(endpoint.counters().packets_sent, 1);
        assert!(!shard.lock().missed, "nothing is left to the other thread");

        endpoint.call_detached(to, vec![7; 300_000].into()).unwrap();
        let state = shard.lock();
        assert!(state.missed && state.transmitting, "only its first batch");
        drop(state);
        assert_eq!(endpoint.counters().packets_sent, 2);
    }

    #[test]
    fn a_batch_of_long_packets_is_short() {
        let (endpoint, silent) = client();
        let to = silent.local_addr().unwrap();
        let mut state = endpoint.shards[0].lock();
        let (now, message) = (endpoint.clock.now(), vec![7; 300_000].into());
        let sent = state
            .engine
            .send_request(now, endpoint.port, to, to.port(), message, 0);
        sent.unwrap();
        for _ in 0..2 {
            let batch = state.fill(now);
            assert!(batch.full && batch.transmits.len() == 1);
        }
    }

    #[test]
    fn what_is_said_many_times_is_heard_once() {
        let refused = |to: &str, quote: &[u8], refusal| Refused {
            to: to.parse().unwrap(),
            refusal,
            quote: quote.iter().copied().collect(),
        };
        let (one, other) = ("10.0.0.1:4000", "10.0.0.2:4000");
        let port = Refusal::Unreachable(Unreachable::Port);
        let too_long = |mtu| Refusal::TooLong { mtu };
        let said = [
            refused(one, &[128, 0, 15, 160, 1], port),
            refused(one, &[128, 0, 15, 160, 2], port),
            refused(one, &[128, 0, 15, 161, 2], port),
            refused(other, &[128, 0, 15, 160, 1], port),
            refused(one, &[], too_long(1400)),
            refused(one, &[], too_long(1300)),
            refused(one, &[], too_long(1350)),
        ];
        let heard = merge(said.into());
        let heard: Vec<_> = heard
            .iter()
            .map(|refused| (refused.to.to_string(), &refused.quote[..], refused.refusal))
            .collect();
        assert_eq!(
            heard,
            [
                (one.to_owned(), &[128, 0, 15, 160, 1][..], port),
                (one.to_owned(), &[128, 0, 15, 161, 2], port),
                (other.to_owned(), &[128, 0, 15, 160, 1], port),
                (one.to_owned(), &[], too_long(1300)),
            ]
        );
    }
}
