//! No amplification: whoever has not proven that it receives at its address is sent at most three
//! times the bytes that came from there. Source addresses of UDP packets are easily forged; an
//! engine that answers 100 bytes with a megabyte would be a weapon against whoever owns them.
//!
//! The proof is a cookie that has to come back. Only what we send as a server counts: whom we
//! call is our own choice, and a response that names our random id proves its sender as well.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::arrival::Arrival;
use super::outgoing::OutMessage;
use super::peer::PeerKey;
use super::rpc::RpcKey;
use super::transmit::route;
use super::wire::{Carrier, Cookie, DATA_HEADER_LEN, Packet, Route};
use super::{DropReason, Engine, Segment, Time, Transmit};

/// Bytes that may be sent for each byte received (as in QUIC, RFC 9000 section 8.1).
const FACTOR: u64 = 3;

/// Unproven endpoints whose bytes are counted. A flood from forged addresses pushes out the
/// oldest, which then start again from nothing.
const MAX_UNPROVEN: usize = 4096;

/// A blocked endpoint is asked again at most this often.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Cookies of this interval and the one before it are valid.
const COOKIE_LIFE: Duration = Duration::from_secs(60);

/// About the longest packet of most networks.
const FULL_PACKET: usize = 1472;

/// Bytes of a packet with a cookie.
const COOKIE_LEN: u64 = 36;

/// Which peers have to prove that they receive at their address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProveAddresses {
    /// None. For networks in which nobody can forge source addresses.
    Never,
    /// Those that are not loopback, private or link-local: across the others a first response of
    /// more than three times its request takes one round trip more.
    #[default]
    Public,
    /// All.
    Always,
}

impl ProveAddresses {
    /// Whether a peer at this address has to prove it.
    pub(super) fn of(self, carrier: Carrier, ip: IpAddr) -> bool {
        // Kernels know no cookies.
        carrier == Carrier::Udp
            && match self {
                Self::Never => false,
                Self::Public => is_public(ip),
                Self::Always => true,
            }
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            // RFC 6598: the addresses between a provider's customers and its translator.
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// What endpoints that have not proven themselves have sent and were sent.
#[derive(Debug)]
pub(super) struct Unproven {
    key: [u64; 2],
    accounts: HashMap<SocketAddr, Account>,
    /// Their addresses, oldest first.
    order: VecDeque<SocketAddr>,
}

#[derive(Debug, Default)]
struct Account {
    received: u64,
    sent: u64,
    asked: Option<Time>,
    /// When something came from it last. Only then can it be asked with any use.
    heard: Time,
    /// RPCs that have something to send to it and may not, longest first.
    waiting: VecDeque<RpcKey>,
}

impl Account {
    fn left(&self) -> u64 {
        (FACTOR * self.received).saturating_sub(self.sent)
    }
}

impl Unproven {
    pub(super) fn new(key: [u64; 2]) -> Self {
        Self {
            key,
            accounts: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// `bytes` have come from `addr`. Returns the RPCs that may try again: as many as there are
    /// packets in what may be sent, so that the work is in proportion to what came.
    fn received(&mut self, now: Time, addr: SocketAddr, bytes: usize) -> Vec<RpcKey> {
        let mut resumed = Vec::new();
        if !self.accounts.contains_key(&addr) {
            if self.order.len() >= MAX_UNPROVEN
                && let Some(oldest) = self.order.pop_front()
                && let Some(oldest) = self.accounts.remove(&oldest)
            {
                // They find themselves blocked again, and then in an account that is there.
                resumed.extend(oldest.waiting);
            }
            self.order.push_back(addr);
        }
        let account = self.accounts.entry(addr).or_default();
        account.heard = now;
        account.received += bytes as u64;
        let some = 1 + account.left() as usize / FULL_PACKET;
        let some = some.min(account.waiting.len());
        resumed.extend(account.waiting.drain(..some));
        resumed
    }

    /// It has proven itself. Returns the RPCs that waited for that.
    fn proven(&mut self, addr: SocketAddr) -> Vec<RpcKey> {
        let Some(account) = self.accounts.remove(&addr) else {
            return Vec::new();
        };
        self.order.retain(|other| *other != addr);
        account.waiting.into()
    }

    fn cookie(&self, addr: SocketAddr, interval: u64) -> Cookie {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        (addr.ip(), addr.port(), interval).hash(&mut hasher);
        Cookie {
            value: hasher.finish(),
        }
    }
}

fn interval(now: Time) -> u64 {
    now.as_nanos() / COOKIE_LIFE.as_nanos() as u64
}

impl Engine {
    /// Counts what has come from an endpoint that has not proven itself.
    pub(super) fn credit(&mut self, now: Time, peer: Option<PeerKey>, arrival: &Arrival) {
        if !self.is_proven(peer, arrival.from) {
            let waiting = self.unproven.received(now, arrival.from, arrival.len);
            self.resume(waiting);
        }
    }

    pub(super) fn is_proven(&self, peer: Option<PeerKey>, addr: SocketAddr) -> bool {
        match peer {
            Some(peer) => self.peers.get(peer).proven,
            None => !self.must_prove(addr),
        }
    }

    pub(super) fn must_prove(&self, addr: SocketAddr) -> bool {
        let Self { settings, .. } = self;
        settings.prove_addresses.of(settings.carrier, addr.ip())
    }

    /// A cookie has come back.
    pub(super) fn receive_echo(
        &mut self,
        now: Time,
        peer: Option<PeerKey>,
        from: SocketAddr,
        cookie: Cookie,
    ) -> Result<(), DropReason> {
        let this = interval(now);
        let valid = [this, this.wrapping_sub(1)]
            .iter()
            .any(|interval| self.unproven.cookie(from, *interval) == cookie);
        let peer = peer.filter(|_| valid).ok_or(DropReason::Cookie)?;
        self.prove(peer);
        Ok(())
    }

    /// The peer receives at its address.
    pub(super) fn prove(&mut self, peer: PeerKey) {
        let peer = self.peers.get_mut(peer);
        peer.proven = true;
        tracing::trace!(peer = %peer.addr, "the peer receives at its address");
        let waiting = self.unproven.proven(peer.addr);
        self.resume(waiting);
    }

    fn resume(&mut self, waiting: Vec<RpcKey>) {
        for key in waiting {
            if let Some(rpc) = self.rpcs.get_mut(key) {
                rpc.blocked = false;
            }
            self.enqueue_resend(key);
            self.enqueue(key);
        }
    }

    /// How many packets of a run that starts at `offset` may leave for this RPC, at most `most`.
    /// `None`: not even one, and the RPC waits.
    pub(super) fn admit(&mut self, key: RpcKey, offset: u32, most: usize) -> Option<usize> {
        let rpc = self.rpcs.get(key)?;
        let peer = self.peers.get(rpc.peer);
        if peer.proven || rpc.is_client() {
            return Some(most);
        }
        let account = self.unproven.accounts.get(&peer.addr);
        let left = account.map_or(0, Account::left) as usize;
        // The packets of a run are no longer than its first.
        let packet = rpc.outgoing.as_ref()?.packet_at(offset).len();
        let packets = left / (packet + DATA_HEADER_LEN);
        if packets == 0 {
            self.block(key);
            return None;
        }
        Some(packets.min(most))
    }

    /// Books what was sent for this RPC.
    pub(super) fn debit(&mut self, key: RpcKey, transmit: &Transmit) {
        if let Some(rpc) = self.rpcs.get(key)
            && !rpc.is_client()
        {
            let peer = self.peers.get(rpc.peer);
            if !peer.proven
                && let Some(account) = self.unproven.accounts.get_mut(&peer.addr)
            {
                let bytes: usize = transmit.segments.iter().map(Segment::len).sum();
                account.sent += bytes as u64;
            }
        }
    }

    /// The RPC has something to send and may not: it waits until more has come from its peer, or
    /// the proof.
    fn block(&mut self, key: RpcKey) {
        let Some(rpc) = self.rpcs.get_mut(key) else {
            return;
        };
        if let Some(rank) = rpc.send_rank.take() {
            let length = rpc.outgoing.as_ref().map_or(0, OutMessage::length);
            self.sending.update(length, Some(rank), None);
        }
        let route = route(rpc, self.incarnation);
        let (addr, local) = (self.peers.get(rpc.peer).addr, rpc.local_ip);
        if let Some(account) = self.unproven.accounts.get_mut(&addr)
            && !std::mem::replace(&mut rpc.blocked, true)
        {
            account.waiting.push_back(key);
        }
        self.ask_for_proof(addr, local, &route);
    }

    /// Books an answer of `bytes` to an endpoint that may be unproven; false: it may not be sent.
    /// The first answer, and one that is over the budget, come with a cookie.
    pub(super) fn may_answer(
        &mut self,
        addr: SocketAddr,
        local: Option<IpAddr>,
        route: &Route,
        bytes: usize,
    ) -> bool {
        let Some(account) = self.unproven.accounts.get(&addr) else {
            return false;
        };
        if account.asked.is_none() || account.left() < bytes as u64 {
            self.ask_for_proof(addr, local, route);
        }
        let Some(account) = self.unproven.accounts.get_mut(&addr) else {
            return false;
        };
        let fits = account.left() >= bytes as u64;
        if fits {
            account.sent += bytes as u64;
        }
        fits
    }

    fn ask_for_proof(&mut self, addr: SocketAddr, local: Option<IpAddr>, route: &Route) {
        let Some(account) = self.unproven.accounts.get_mut(&addr) else {
            return;
        };
        let now = account.heard;
        let due = account.asked.is_none_or(|at| now.since(at) >= ASK_EVERY);
        if !due || account.left() < COOKIE_LEN {
            return;
        }
        account.asked = Some(now);
        account.sent += COOKIE_LEN;
        let cookie = self.unproven.cookie(addr, interval(now));
        self.push_control(addr, local, route, &Packet::Cookie(cookie));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_asked_by_default() {
        let asked = |ip: &str| ProveAddresses::Public.of(Carrier::Udp, ip.parse().unwrap());
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.7.7",
            "169.254.1.1",
            "100.100.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!asked(ip), "{ip}");
        }
        for ip in ["8.8.8.8", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(asked(ip), "{ip}");
        }
        let ip = "8.8.8.8".parse().unwrap();
        assert!(!ProveAddresses::Always.of(Carrier::Ip, ip));
        assert!(!ProveAddresses::Never.of(Carrier::Udp, ip));
    }

    #[test]
    fn a_flood_of_forged_addresses_keeps_few_accounts() {
        let mut unproven = Unproven::new([1, 2]);
        for number in 0..3 * MAX_UNPROVEN as u32 {
            unproven.received(Time::ZERO, (number.to_be_bytes(), 1).into(), 100);
        }
        assert_eq!(unproven.accounts.len(), MAX_UNPROVEN);
        assert_eq!(unproven.order.len(), MAX_UNPROVEN);
        let first: SocketAddr = ([0, 0, 0, 0], 1).into();
        assert!(!unproven.accounts.contains_key(&first));
    }
}
