//! [`Routes`]: which peers are called through the module, by clients that may use both carriers.
//!
//! The first call to a peer leaves on UDP at once. Meanwhile a [probe](super::server::PROBE) goes through
//! the module, and only its answer moves later calls there. A call is never repeated because of that:
//! what may have run stays where it was sent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::Unreachable;
use crate::error::CallError;

/// How long a peer that has answered is called through the module before it is asked again, ...
const POSITIVE: Duration = Duration::from_secs(600);

/// ... and how long one that has not is called on UDP.
const NEGATIVE: Duration = Duration::from_secs(60);

/// How long a probe waits for its answer.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Calls in a row that nothing was heard of, after which a peer is called on UDP again.
const TIMEOUTS: u32 = 2;

/// Calls in a row that were given up, after which a peer is asked whether the module still reaches
/// it: deadlines may be shorter than the module's patience.
const GIVEN_UP: u32 = 8;

/// Most peers that are remembered. Others are called on UDP.
const MAX_PEERS: usize = 65_536;

#[derive(Debug, Default)]
pub(crate) struct Routes {
    peers: Mutex<HashMap<SocketAddr, Route>>,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    carrier: Carrier,
    /// When it is asked again.
    until: Instant,
    timeouts: u32,
    given_up: u32,
}

/// What carries a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    Module,
}

/// How to call a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) carrier: Carrier,
    /// Whether the caller should ask it, and tell [`Routes::probed`].
    pub(crate) probe: bool,
}

impl Routes {
    /// How to call this peer now.
    pub(crate) fn choose(&self, to: SocketAddr, now: Instant) -> Choice {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = peers.get_mut(&to) else {
            if peers.len() >= MAX_PEERS {
                peers.retain(|_, route| route.until > now);
            }
            let probe = peers.len() < MAX_PEERS;
            if probe {
                peers.insert(to, Route::on(Carrier::Udp, now + 2 * PROBE_TIMEOUT));
            }
            let carrier = Carrier::Udp;
            return Choice { carrier, probe };
        };
        let probe = route.until <= now;
        if probe {
            // Until the answer is there, or the asker gone, it stays as it is.
            route.until = now + 2 * PROBE_TIMEOUT;
        }
        Choice {
            carrier: route.carrier,
            probe,
        }
    }

    /// A probe was answered, or was not.
    pub(crate) fn probed(&self, to: SocketAddr, answered: bool, now: Instant) {
        let route = match answered {
            true => Route::on(Carrier::Module, now + POSITIVE),
            false => Route::on(Carrier::Udp, now + NEGATIVE),
        };
        self.set(to, route);
    }

    /// A call through the module has ended.
    pub(crate) fn ended(&self, to: SocketAddr, error: Option<&CallError>, now: Instant) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = peers.get_mut(&to) else {
            return;
        };
        route.given_up = 0;
        match error {
            Some(CallError::TimedOut { .. }) => route.timeouts += 1,
            Some(
                CallError::PeerUnreachable {
                    reason: Unreachable::Protocol | Unreachable::HomaPort,
                    ..
                }
                | CallError::System { .. }
                | CallError::Closed,
            ) => route.timeouts = TIMEOUTS,
            _ => route.timeouts = 0,
        }
        if route.timeouts >= TIMEOUTS {
            *route = Route::on(Carrier::Udp, now + NEGATIVE);
        }
    }

    /// Nobody waits any more for a call through the module.
    pub(crate) fn given_up(&self, to: SocketAddr, now: Instant) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = peers.get_mut(&to) else {
            return;
        };
        route.given_up += 1;
        if route.given_up >= GIVEN_UP {
            route.given_up = 0;
            route.until = now;
        }
    }

    fn set(&self, to: SocketAddr, route: Route) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.get_mut(&to) {
            *known = route;
        }
    }
}

impl Route {
    const fn on(carrier: Carrier, until: Instant) -> Self {
        Self {
            carrier,
            until,
            timeouts: 0,
            given_up: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Executed;

    fn to() -> SocketAddr {
        ([192, 0, 2, 1], 4000).into()
    }

    const UDP: Choice = Choice {
        carrier: Carrier::Udp,
        probe: false,
    };
    const MODULE: Choice = Choice {
        carrier: Carrier::Module,
        probe: false,
    };

    fn asking(choice: Choice) -> Choice {
        Choice {
            probe: true,
            ..choice
        }
    }

    #[test]
    fn only_an_answer_moves_a_peer_to_the_module() {
        let (routes, start) = (Routes::default(), Instant::now());
        assert_eq!(routes.choose(to(), start), asking(UDP));
        // One probe at a time.
        assert_eq!(routes.choose(to(), start), UDP);
        routes.probed(to(), true, start);
        assert_eq!(routes.choose(to(), start), MODULE);
        let late = start + POSITIVE;
        assert_eq!(routes.choose(to(), late), asking(MODULE));
        assert_eq!(routes.choose(to(), late), MODULE);
        routes.probed(to(), false, late);
        assert_eq!(routes.choose(to(), late), UDP);
        assert_eq!(routes.choose(to(), late + NEGATIVE), asking(UDP));
    }

    #[test]
    fn an_asker_that_disappears_is_replaced() {
        let (routes, start) = (Routes::default(), Instant::now());
        assert!(routes.choose(to(), start).probe);
        assert!(routes.choose(to(), start + 2 * PROBE_TIMEOUT).probe);
    }

    #[test]
    fn failures_of_the_module_move_a_peer_back() {
        let timed_out = CallError::TimedOut {
            peer: to(),
            silence: Duration::ZERO,
        };
        let unreachable = |reason| CallError::PeerUnreachable {
            peer: to(),
            reason,
            executed: Executed::Maybe,
        };
        let start = Instant::now();
        let moves_back = |errors: &[Option<&CallError>]| {
            let routes = Routes::default();
            routes.choose(to(), start);
            routes.probed(to(), true, start);
            for error in errors {
                routes.ended(to(), *error, start);
            }
            routes.choose(to(), start).carrier == Carrier::Udp
        };
        assert!(moves_back(&[Some(&unreachable(Unreachable::Protocol))]));
        assert!(moves_back(&[Some(&unreachable(Unreachable::HomaPort))]));
        assert!(!moves_back(&[Some(&unreachable(Unreachable::Host))]));
        assert!(moves_back(&[Some(&CallError::Closed)]));
        let late = Some(&timed_out);
        assert!(!moves_back(&[late]));
        assert!(moves_back(&[late, late]));
        assert!(!moves_back(&[late, None, late]));
    }

    #[test]
    fn a_peer_whose_calls_are_given_up_is_asked_again() {
        let (routes, start) = (Routes::default(), Instant::now());
        routes.choose(to(), start);
        routes.probed(to(), true, start);
        for _ in 1..GIVEN_UP {
            routes.given_up(to(), start);
        }
        assert_eq!(routes.choose(to(), start), MODULE);
        // One that is answered makes up for it.
        routes.ended(to(), None, start);
        for _ in 1..GIVEN_UP {
            routes.given_up(to(), start);
        }
        assert_eq!(routes.choose(to(), start), MODULE);
        routes.given_up(to(), start);
        assert_eq!(routes.choose(to(), start), asking(MODULE));
        routes.probed(to(), false, start);
        assert_eq!(routes.choose(to(), start), UDP);
    }

    #[test]
    fn more_peers_than_are_remembered_stay_on_udp() {
        let (routes, start) = (Routes::default(), Instant::now());
        let peer = |number: u32| SocketAddr::from((number.to_be_bytes(), 4000));
        for number in 0..MAX_PEERS as u32 {
            assert!(routes.choose(peer(number), start).probe);
        }
        assert_eq!(routes.choose(to(), start), UDP);
        // Those that were not heard of make room.
        assert!(routes.choose(to(), start + POSITIVE).probe);
    }
}
