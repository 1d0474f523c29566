//! A module for tests: sockets of one machine whose messages arrive at once, with the rules of A.2 to
//! A.11 that the backend relies on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use homa_sys::{
    HOMA_BPAGE_SIZE, HOMA_FIRST_RPC_ID, HOMA_MAX_BPAGES, HOMA_MAX_MESSAGE_LENGTH,
    HOMA_MIN_DEFAULT_PORT, HOMA_SENDMSG_PRIVATE, homa_info, homa_recvmsg_args, homa_sendmsg_args,
};
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::calls::Calls;
use super::region::Region;

/// The machine with the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug)]
struct State {
    next_id: u64,
    next_port: u16,
    sockets: BTreeMap<usize, Side>,
    opened: usize,
    /// Messages that a socket may have sent without a response, or `EAGAIN`.
    send_limit: usize,
    /// Signals that are still to come while somebody waits.
    signals: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            next_id: HOMA_FIRST_RPC_ID,
            next_port: HOMA_MIN_DEFAULT_PORT,
            sockets: BTreeMap::new(),
            opened: 0,
            send_limit: usize::MAX,
            signals: 0,
        }
    }
}

/// What the module knows of a socket.
#[derive(Debug)]
struct Side {
    port: u16,
    accepts: bool,
    is_shut: bool,
    pool: Option<Pool>,
    /// By the id as this side has it.
    rpcs: BTreeMap<u64, Rpc>,
    /// What waits for a shared receive.
    ready: VecDeque<u64>,
    event: Arc<EventFd>,
}

#[derive(Debug)]
struct Rpc {
    /// The socket at the other end; `None`: nobody answers.
    peer: Option<usize>,
    peer_port: u16,
    cookie: u64,
    is_private: bool,
    has_waiter: bool,
    error: Option<i32>,
    incoming: Option<Vec<u8>>,
    /// A server's: whether the request has been received.
    is_delivered: bool,
    is_answered: bool,
}

/// A region: how many messages are in each bpage. A message has bpages of its own, and a short one
/// 1 KiB of a shared one.
#[derive(Debug)]
struct Pool {
    start: usize,
    users: Vec<u32>,
    /// A bpage for short messages, and how much of it is taken.
    shared: Option<(usize, usize)>,
}

impl Pool {
    fn free(&self) -> usize {
        self.users.iter().filter(|users| **users == 0).count()
    }

    fn take_page(&mut self) -> Option<usize> {
        let page = self.users.iter().position(|users| *users == 0)?;
        self.users[page] = 1;
        Some(page)
    }

    /// Room for the message: offsets; `None`: it has to wait.
    fn take(&mut self, length: usize) -> Option<Vec<u32>> {
        let whole = length / HOMA_BPAGE_SIZE;
        let rest = length % HOMA_BPAGE_SIZE;
        if self.free() < whole + usize::from(rest > 0) {
            return None;
        }
        let mut offsets = Vec::new();
        for _ in 0..whole {
            offsets.push((self.take_page()? * HOMA_BPAGE_SIZE) as u32);
        }
        if rest > 0 {
            let (page, used) = match self.shared {
                Some((page, used)) if used + rest <= HOMA_BPAGE_SIZE && self.users[page] > 0 => {
                    self.users[page] += 1;
                    (page, used)
                }
                _ => (self.take_page()?, 0),
            };
            self.shared = Some((page, used + rest));
            offsets.push((page * HOMA_BPAGE_SIZE + used) as u32);
        }
        Some(offsets)
    }

    fn give_back(&mut self, offset: u32) -> Result<(), i32> {
        let users = self.users.get_mut(offset as usize / HOMA_BPAGE_SIZE);
        match users {
            Some(users) if *users > 0 => {
                *users -= 1;
                // Whoever takes it next has it for itself.
                let is_free = *users == 0;
                let page = offset as usize / HOMA_BPAGE_SIZE;
                self.shared
                    .take_if(|(shared, _)| is_free && *shared == page);
                Ok(())
            }
            _ => Err(libc::EINVAL),
        }
    }
}

impl Machine {
    pub(crate) fn socket(&self) -> Box<dyn Calls> {
        let mut state = self.lock();
        let port = state.next_port;
        state.next_port += 1;
        let number = state.opened;
        state.opened += 1;
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an event");
        let event = Arc::new(event);
        state.sockets.insert(
            number,
            Side {
                port,
                accepts: false,
                is_shut: false,
                pool: None,
                rpcs: BTreeMap::new(),
                ready: VecDeque::new(),
                event: event.clone(),
            },
        );
        Box::new(FakeSocket {
            machine: self.clone(),
            number,
            event,
        })
    }

    pub(crate) fn limit_sends(&self, messages: usize) {
        self.lock().send_limit = messages;
    }

    /// So many waits end with `EINTR`.
    pub(crate) fn interrupt(&self, times: usize) {
        self.lock().signals = times;
    }

    /// The client RPCs of all sockets fail with this errno.
    pub(crate) fn fail_all(&self, errno: i32) {
        let mut state = self.lock();
        for side in state.sockets.values_mut() {
            let ids: Vec<u64> = side.rpcs.keys().copied().filter(|id| id % 2 == 0).collect();
            for id in ids {
                side.fail(id, errno);
            }
        }
        self.0.1.notify_all();
    }

    /// Sockets that are open and accept nothing.
    pub(crate) fn clients(&self) -> usize {
        let state = self.lock();
        let sides = state.sockets.values();
        sides.filter(|side| !side.accepts && !side.is_shut).count()
    }

    /// Client RPCs that have not ended.
    pub(crate) fn live_rpcs(&self) -> usize {
        let state = self.lock();
        let rpcs = state.sockets.values().flat_map(|side| side.rpcs.keys());
        rpcs.filter(|id| *id % 2 == 0).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().expect("nobody has panicked")
    }
}

impl Side {
    fn fail(&mut self, id: u64, errno: i32) {
        if let Some(rpc) = self.rpcs.get_mut(&id) {
            rpc.error = Some(errno);
            if !rpc.is_private && !self.ready.contains(&id) {
                self.ready.push_back(id);
            }
            self.signal();
        }
    }

    fn arrives(&mut self, id: u64) {
        if !self.rpcs[&id].is_private {
            self.ready.push_back(id);
        }
        self.signal();
    }

    fn signal(&self) {
        let _ = self.event.write(1);
    }

    fn is_ready(&self, id: u64) -> bool {
        let rpc = &self.rpcs[&id];
        rpc.error.is_some() || rpc.incoming.is_some()
    }
}

#[derive(Debug)]
struct FakeSocket {
    machine: Machine,
    number: usize,
    event: Arc<EventFd>,
}

fn errno<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

impl State {
    fn side(&mut self, number: usize) -> &mut Side {
        self.sockets.get_mut(&number).expect("it is open")
    }

    fn server_at(&self, port: u16) -> Option<usize> {
        let mut sides = self.sockets.iter();
        let side = sides.find(|(_, side)| side.port == port && side.accepts && !side.is_shut)?;
        Some(*side.0)
    }

    /// Finds a message for the arguments; `None`: there is none yet.
    fn find(&mut self, number: usize, args: &mut homa_recvmsg_args) -> Option<Result<u64, i32>> {
        let side = self.side(number);
        if args.id == 0 {
            if side.is_shut {
                return Some(Err(libc::ESHUTDOWN));
            }
            // What has no room waits, and does not hold up others.
            let place = side.ready.iter().position(|id| {
                let rpc = &side.rpcs[id];
                let room = side.pool.as_ref().map_or(0, Pool::free);
                rpc.error.is_some()
                    || rpc
                        .incoming
                        .as_ref()
                        .is_some_and(|message| message.len() / HOMA_BPAGE_SIZE < room)
            })?;
            return side.ready.remove(place).map(Ok);
        }
        match side.rpcs.get(&args.id) {
            None => Some(Err(libc::EINVAL)),
            Some(_) if side.is_ready(args.id) => Some(Ok(args.id)),
            Some(_) => None,
        }
    }

    fn deliver(
        &mut self,
        number: usize,
        id: u64,
        args: &mut homa_recvmsg_args,
    ) -> io::Result<(usize, SocketAddr)> {
        let side = self.side(number);
        let rpc = side.rpcs.get_mut(&id).expect("it was found");
        args.id = id;
        args.completion_cookie = rpc.cookie;
        if let Some(error) = rpc.error {
            side.rpcs.remove(&id);
            return errno(error);
        }
        let message = rpc.incoming.take().expect("it is ready");
        let from: SocketAddr = ([127, 0, 0, 1], rpc.peer_port).into();
        rpc.is_delivered = true;
        let pool = side.pool.as_mut().expect("there is a region");
        let offsets = pool.take(message.len()).expect("there was room");
        args.num_bpages = offsets.len() as u32;
        for (piece, offset) in message.chunks(HOMA_BPAGE_SIZE).zip(&offsets) {
            let to = pool.start + *offset as usize;
            // SAFETY: the region was given with `set_region`, and these bytes are nobody's.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), to as *mut u8, piece.len());
            }
        }
        args.bpage_offsets[..offsets.len()].copy_from_slice(&offsets);
        if id.is_multiple_of(2) {
            side.rpcs.remove(&id);
        }
        Ok((message.len(), from))
    }
}

impl Calls for FakeSocket {
    fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    unsafe fn set_region(&self, region: &Region) -> io::Result<()> {
        self.machine.lock().side(self.number).pool = Some(Pool {
            start: region.start().as_ptr().expose_provenance(),
            users: vec![0; region.length() / HOMA_BPAGE_SIZE],
            shared: None,
        });
        Ok(())
    }

    fn bind(&self, port: u16) -> io::Result<()> {
        let mut state = self.machine.lock();
        if port >= HOMA_MIN_DEFAULT_PORT {
            return errno(libc::EINVAL);
        }
        if state.sockets.values().any(|side| side.port == port) {
            return errno(libc::EADDRINUSE);
        }
        let side = state.side(self.number);
        side.port = port;
        side.accepts = true;
        Ok(())
    }

    fn send(
        &self,
        to: SocketAddr,
        message: &[IoSlice<'_>],
        args: &mut homa_sendmsg_args,
    ) -> io::Result<()> {
        let message: Vec<u8> = message.iter().flat_map(|part| part.to_vec()).collect();
        let mut state = self.machine.lock();
        let limit = state.send_limit;
        let side = state.side(self.number);
        if args.id == 0 && side.is_shut {
            return errno(libc::ESHUTDOWN);
        }
        if side.rpcs.len() >= limit {
            return errno(libc::EAGAIN);
        }
        let is_right = (1..=HOMA_MAX_MESSAGE_LENGTH).contains(&message.len());
        if args.id != 0 {
            let Some(rpc) = side.rpcs.get_mut(&args.id) else {
                return Ok(());
            };
            if rpc.is_answered || !is_right {
                return errno(libc::EINVAL);
            }
            let peer = rpc.peer;
            side.rpcs.remove(&args.id);
            let client = args.id ^ 1;
            if let Some(side) = peer.and_then(|peer| state.sockets.get_mut(&peer))
                && let Some(rpc) = side.rpcs.get_mut(&client)
            {
                rpc.incoming = Some(message);
                side.arrives(client);
            }
            self.machine.0.1.notify_all();
            return Ok(());
        }
        if !is_right {
            return errno(libc::EINVAL);
        }
        let own_port = side.port;
        args.id = state.next_id;
        state.next_id += 2;
        let peer = state.server_at(to.port());
        let rpc = Rpc {
            peer,
            peer_port: to.port(),
            cookie: args.completion_cookie,
            is_private: args.flags & HOMA_SENDMSG_PRIVATE != 0,
            has_waiter: false,
            error: None,
            incoming: None,
            is_delivered: false,
            is_answered: false,
        };
        let id = args.id;
        state.side(self.number).rpcs.insert(id, rpc);
        match peer {
            Some(peer) => {
                let side = state.side(peer);
                let request = Rpc {
                    peer: Some(self.number),
                    peer_port: own_port,
                    cookie: 0,
                    is_private: false,
                    has_waiter: false,
                    error: None,
                    incoming: Some(message),
                    is_delivered: false,
                    is_answered: false,
                };
                side.rpcs.insert(id | 1, request);
                side.arrives(id | 1);
            }
            None => state.side(self.number).fail(id, libc::ENOTCONN),
        }
        self.machine.0.1.notify_all();
        Ok(())
    }

    unsafe fn receive(
        &self,
        args: &mut homa_recvmsg_args,
        waits: bool,
    ) -> io::Result<(usize, SocketAddr)> {
        let mut state = self.machine.lock();
        let side = state.side(self.number);
        if args.num_bpages as usize > HOMA_MAX_BPAGES || side.pool.is_none() {
            return errno(libc::EINVAL);
        }
        let pool = side.pool.as_mut().expect("checked");
        let returned = &args.bpage_offsets[..args.num_bpages as usize];
        let result: Result<(), i32> = returned
            .iter()
            .try_for_each(|offset| pool.give_back(*offset));
        args.num_bpages = 0;
        if let Err(error) = result {
            return errno(error);
        }
        // What had no room may have some now.
        if !side.ready.is_empty() {
            side.signal();
        }
        self.machine.0.1.notify_all();
        if args.id != 0 {
            let Some(rpc) = side.rpcs.get_mut(&args.id) else {
                return errno(libc::EINVAL);
            };
            if !rpc.is_private || std::mem::replace(&mut rpc.has_waiter, true) {
                args.id = 0;
                return errno(libc::EINVAL);
            }
        }
        loop {
            if waits && state.signals > 0 {
                state.signals -= 1;
                if let Some(rpc) = state.side(self.number).rpcs.get_mut(&args.id) {
                    rpc.has_waiter = false;
                }
                args.id = 0;
                return errno(libc::EINTR);
            }
            match state.find(self.number, args) {
                Some(Ok(id)) => return state.deliver(self.number, id, args),
                Some(Err(error)) => return errno(error),
                None if waits => state = self.machine.0.1.wait(state).expect("nobody has panicked"),
                None => {
                    let side = state.side(self.number);
                    match side.rpcs.get_mut(&args.id) {
                        Some(rpc) => rpc.has_waiter = false,
                        // As an edge: what comes later signals again.
                        None => drop(self.event.read()),
                    }
                    args.id = 0;
                    return errno(libc::EAGAIN);
                }
            }
        }
    }

    fn info(&self) -> io::Result<homa_info> {
        let mut state = self.machine.lock();
        let side = state.side(self.number);
        let free = side.pool.as_ref().map_or(0, Pool::free);
        Ok(homa_info {
            bpool_avail_bytes: (free * HOMA_BPAGE_SIZE) as u64,
            port: side.port.into(),
            num_rpcs: side.rpcs.len() as u32,
            ..homa_info::default()
        })
    }

    fn abort(&self, id: u64, error: u32) -> io::Result<()> {
        let mut state = self.machine.lock();
        let side = state.side(self.number);
        if id % 2 == 1 || !side.rpcs.contains_key(&id) {
            return errno(libc::EINVAL);
        }
        match error {
            0 => {
                side.rpcs.remove(&id);
                side.ready.retain(|ready| *ready != id);
            }
            error => side.fail(id, error as i32),
        }
        self.machine.0.1.notify_all();
        Ok(())
    }

    fn shutdown(&self) -> io::Result<()> {
        let mut state = self.machine.lock();
        let side = state.side(self.number);
        side.is_shut = true;
        side.accepts = false;
        side.port = 0;
        side.rpcs.clear();
        side.ready.clear();
        side.signal();
        let number = self.number;
        let lost: HashMap<usize, Vec<u64>> = state
            .sockets
            .iter()
            .map(|(other, side)| {
                let rpcs = side.rpcs.iter();
                let lost = rpcs.filter(|(id, rpc)| {
                    rpc.peer == Some(number) && *id % 2 == 0 && rpc.incoming.is_none()
                });
                (*other, lost.map(|(id, _)| *id).collect())
            })
            .collect();
        for (other, ids) in lost {
            for id in ids {
                state.side(other).fail(id, libc::ENOTCONN);
            }
        }
        self.machine.0.1.notify_all();
        Ok(())
    }
}

impl Drop for FakeSocket {
    fn drop(&mut self) {
        let _ = self.shutdown();
        self.machine.lock().sockets.remove(&self.number);
    }
}
