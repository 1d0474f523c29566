//! Timers (`homa-protocol` C.7, with the intervals and rules that user space needs).
//!
//! All of them run on the *silence clock*: real time less what the driver was late. A process
//! that did not run for 50 ms has not seen its peers be silent for 50 ms.

use std::time::Duration;

use super::receive::MAX_RESENDS;
use super::rpc::{RpcKey, RpcState};
use super::wire::{Packet, Resend};
use super::{Engine, Failure, Remember, Time, Timers};

/// Lateness up to this is ordinary timer slack and not taken off the silence clock. Without it
/// that clock would crawl when many RPCs have timers close together.
pub(super) const TIMER_SLACK: Duration = Duration::from_millis(2);

/// RPCs of one peer that may ask for bytes again after every `resend`.
const ASKED_AT_ONCE: u32 = 256;

/// The time between two questions of an RPC, one of so many of its peer. Where there are many, all
/// questions together would overflow the peer's socket, and those that are lost there would be asked
/// again. But some questions have to fit into `timeout`.
pub(super) fn questions_apart(timers: &Timers, rpcs: u32) -> Duration {
    let share = timers.resend * (rpcs / ASKED_AT_ONCE).max(1);
    share.min(timers.timeout / 3).max(timers.resend)
}

impl Engine {
    /// The time announced by [`Engine::poll_timeout`] has come. Drivers empty their sockets
    /// first: what has arrived is not silence.
    pub fn handle_timeout(&mut self, now: Time) {
        if let Some(first) = self.deadlines.first() {
            let late = now.since(first + self.lateness);
            if late > TIMER_SLACK {
                self.lateness += late;
            }
        }
        let clock = self.silence_clock(now);
        while let Some((at, key)) = self.deadlines.pop_due(clock) {
            if let Some(rpc) = self.rpcs.get_mut(key)
                && rpc.silence.armed == Some(at)
            {
                rpc.silence.armed = None;
                self.check_silence(now, key);
            }
        }
        self.finished.expire(now);
    }

    /// The deadline of one RPC may have come.
    fn check_silence(&mut self, now: Time, key: RpcKey) {
        let clock = self.silence_clock(now);
        let timers = self.settings.timers;
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        let silence = clock.since(rpc.silence.heard);
        let due = clock >= rpc.silence.next;
        match rpc.state {
            RpcState::InService | RpcState::Ended => return,
            RpcState::Replying if !due => {}
            RpcState::Replying if silence >= timers.give_up => {
                tracing::debug!(id = rpc.id, ?silence, "the client of a reply is gone");
                self.end(now, key, Remember::Yes);
                return;
            }
            RpcState::Replying => {
                rpc.silence.wait = (rpc.silence.wait * 2).min(timers.need_ack_max);
                rpc.silence.next = clock + rpc.silence.wait;
                self.send_control(key, &Packet::NeedAck, None);
            }
            RpcState::Arriving if rpc.starved.is_some() => {
                // Its client asks for the response all the while, unless it is gone.
                if silence >= timers.timeout {
                    self.end(now, key, Remember::No);
                    return;
                }
                rpc.silence.next = clock + timers.resend;
            }
            RpcState::Calling | RpcState::Receiving | RpcState::Arriving => {
                if !rpc.expects_bytes() {
                    self.expect(now, key);
                } else if due && silence >= timers.timeout {
                    self.fail(now, key, Failure::TimedOut(silence));
                    return;
                } else if due && !rpc.loopback && self.downlink.may_hold_back(now, silence) {
                    rpc.silence.next = clock + timers.resend;
                } else if due {
                    let apart = questions_apart(&timers, self.peers.get(rpc.peer).rpcs);
                    rpc.silence.next = clock + apart;
                    self.stall(key);
                    self.request_missing(key);
                }
            }
        }
        self.arm(key);
    }

    /// Asks the peer for what it owes us.
    pub(super) fn request_missing(&mut self, key: RpcKey) {
        let priority = self.priorities.control();
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        rpc.asked = true;
        let resends = match &rpc.incoming {
            Some(message) => message.missing(priority, MAX_RESENDS),
            None => vec![Resend {
                offset: 0,
                length: Resend::ALL,
                priority,
            }],
        };
        for resend in resends {
            self.send_control(key, &Packet::Resend(resend), None);
        }
    }

    /// Silence starts to count now: from here on it is the peer that has to act.
    pub(super) fn expect(&mut self, now: Time, key: RpcKey) {
        let clock = self.silence_clock(now);
        let wait = self.settings.timers.resend;
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        rpc.silence.heard = clock;
        rpc.silence.wait = wait;
        rpc.silence.next = clock + wait;
        self.arm(key);
    }

    /// We have sent, or are to send: the peer is not silent meanwhile.
    pub(super) fn our_turn(&mut self, now: Time, key: RpcKey) {
        let clock = self.silence_clock(now);
        let timers = self.settings.timers;
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        if rpc.state == RpcState::Replying {
            let sent = rpc
                .outgoing
                .as_ref()
                .is_some_and(|message| message.all_sent());
            let wait = if sent {
                timers.need_ack
            } else {
                timers.need_ack_max
            };
            rpc.silence.wait = wait;
            rpc.silence.next = clock + wait;
            rpc.silence.heard = clock;
            self.arm(key);
        } else {
            self.expect(now, key);
        }
    }

    /// Sees to it that the RPC's next deadline is looked at.
    pub(super) fn arm(&mut self, key: RpcKey) {
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        if rpc.state == RpcState::InService {
            return;
        }
        if rpc.silence.armed.is_none_or(|at| at > rpc.silence.next) {
            rpc.silence.armed = Some(self.deadlines.insert(rpc.silence.next, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_further_apart_where_there_are_many() {
        let udp = |rpcs| questions_apart(&Timers::UDP, rpcs).as_millis();
        assert_eq!([1, 256, 511].map(udp), [10; 3]);
        assert_eq!(
            [512, 2_560, 10_000, 1_000_000].map(udp),
            [20, 100, 333, 333]
        );
        let ip = |rpcs| questions_apart(&Timers::IP, rpcs).as_millis();
        assert_eq!([1, 512, 10_000].map(ip), [5, 10, 33]);
    }
}
