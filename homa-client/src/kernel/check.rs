//! What the kernel module promises (statements 84 to 99 of the protocol's checklist), looked at on a
//! machine that has it. For `homa-interop kernel-check`; not an API.

use std::fmt::Display;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use homa_sys::call::{self, Family};
use homa_sys::metrics::Metrics;
use homa_sys::probe::{self, Abi};
use homa_sys::{
    HOMA_BPAGE_SIZE, HOMA_MAX_MESSAGE_LENGTH, HOMA_MIN_DEFAULT_PORT, HOMA_SENDMSG_PRIVATE,
    homa_abort_args, homa_info, homa_rcvbuf_args, homa_recvmsg_args, homa_rpc_info,
    homa_sendmsg_args,
};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, recvmsg, sendmsg};

use super::calls::{Calls, Module};
use super::region::{self, Region};
use super::socket::{Of, Received, Socket};
use crate::Message;

/// Lengths of messages at which something changes (statement 97).
pub const SIZES: [usize; 12] = [
    1, 100, 1424, 1425, 39_999, 40_000, 40_001, 65_535, 65_536, 65_537, 100_000, 1_000_000,
];

/// RPCs after which nothing may be left (statement 99).
const MANY: usize = 10_000;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What the service at the peer does with a request that starts so: it calls the port that follows at
/// the sender's address, and answers with what came of it. Everything else it returns as it is.
pub const CALL_BACK: &[u8; 10] = b"call back ";

/// The answer if the call got one.
pub const CALLED: &str = "answered";

/// One statement.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number.
    pub statement: u8,
    /// What it is about.
    pub what: &'static str,
    /// `Err`: why it does not hold.
    pub holds: Result<(), String>,
}

type Check = Result<(), String>;

type Statement = (u8, &'static str, fn(&Checker) -> Check);

const STATEMENTS: [Statement; 15] = [
    (84, "structures have the sizes of the ABI", Checker::sizes),
    (
        85,
        "sendmsg wants a control length of 0",
        Checker::send_control,
    ),
    (
        86,
        "recvmsg wants a control length of 88",
        Checker::receive_control,
    ),
    (
        87,
        "messages of 1 to 1,000,000 bytes pass",
        Checker::lengths,
    ),
    (
        88,
        "an offset cannot be returned twice",
        Checker::returned_twice,
    ),
    (
        89,
        "a full region stalls, and goes on",
        Checker::full_region,
    ),
    (90, "ports that can be bound", Checker::ports),
    (91, "unbound sockets refuse requests", Checker::unbound),
    (92, "private RPCs are private", Checker::private),
    (
        93,
        "aborted RPCs return their errno, or vanish",
        Checker::aborted,
    ),
    (94, "a request is answered once", Checker::answered_once),
    (95, "shutdown wakes who waits", Checker::shut_down),
    (96, "IPv6 servers see IPv4 clients", Checker::mapped),
    (97, "sizes at which something changes", Checker::edges),
    (
        99,
        "10,000 RPCs leave nothing behind",
        Checker::nothing_left,
    ),
];

/// Statement 98, which is about what statement 97 has done.
const NO_RESENDS: (u8, &str) = (98, "nothing was asked for again");

/// All that [`run`] looks at, in the same order.
pub fn statements() -> impl Iterator<Item = (u8, &'static str)> {
    STATEMENTS.into_iter().flat_map(|(statement, what, _)| {
        let with_next = (statement == 97).then_some(NO_RESENDS);
        std::iter::once((statement, what)).chain(with_next)
    })
}

/// Goes through all of them with a service at `peer`; `tell` gets each as soon as it is known.
pub fn run(peer: SocketAddr, mut tell: impl FnMut(Line)) {
    let abi = match probe::probe() {
        Ok(abi) => abi,
        Err(error) => {
            return tell(Line {
                statement: 84,
                what: "the module can be used",
                holds: Err(error.to_string()),
            });
        }
    };
    let check = Checker { peer, abi };
    for (statement, what, holds) in STATEMENTS {
        let before = Metrics::read().ok();
        let result = holds(&check);
        tell(Line {
            statement,
            what,
            holds: result,
        });
        if statement == 97 {
            let (statement, what) = NO_RESENDS;
            tell(Line {
                statement,
                what,
                holds: no_resends(before.as_ref()),
            });
        }
    }
}

/// Counters are seen in the initial network namespace only.
fn no_resends(before: Option<&Metrics>) -> Check {
    let resends = |metrics: &Metrics| metrics.sent("RESEND");
    let now = Metrics::read().ok();
    match (before.and_then(resends), now.as_ref().and_then(resends)) {
        (Some(before), Some(now)) if before != now => {
            Err(format!("{} RESENDs were sent", now - before))
        }
        (Some(_), Some(_)) => Ok(()),
        _ => Err("skipped: no counters here".to_owned()),
    }
}

struct Checker {
    peer: SocketAddr,
    abi: Abi,
}

impl Checker {
    fn family(&self) -> Family {
        match self.peer {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        }
    }

    fn module(&self) -> Result<Module, String> {
        Module::open(self.family()).map_err(text)
    }

    fn socket(&self) -> Result<Arc<Socket>, String> {
        self.socket_with(region::default_bytes())
    }

    fn socket_with(&self, bytes: usize) -> Result<Arc<Socket>, String> {
        let socket = Socket::new(Box::new(self.module()?), bytes).map_err(text)?;
        Ok(Arc::new(socket))
    }

    fn sizes(&self) -> Check {
        let sizes = [
            (size_of::<homa_rcvbuf_args>(), 16),
            (size_of::<homa_sendmsg_args>(), 24),
            (size_of::<homa_recvmsg_args>(), 88),
            (size_of::<homa_abort_args>(), 32),
            (size_of::<homa_info>(), 136),
            (size_of::<homa_rpc_info>(), 184),
        ];
        for (size, expected) in sizes {
            equal("size", size, expected)?;
        }
        // The module takes the numbers of ioctls, which hold the sizes.
        let module = self.module()?;
        let _ = call::info(module.fd(), self.abi.numbers, &mut []).map_err(text)?;
        Ok(())
    }

    fn send_control(&self) -> Check {
        let module = self.module()?;
        let to = SockaddrStorage::from(self.peer);
        let fds = [module.fd().as_raw_fd()];
        let sent = sendmsg(
            module.fd().as_raw_fd(),
            &[IoSlice::new(b"x")],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_DONTWAIT,
            Some(&to),
        );
        equal("with control data", sent.err(), Some(nix::Error::EINVAL))?;
        let mut args = homa_sendmsg_args::default();
        module
            .send(self.peer, &[IoSlice::new(b"x")], &mut args)
            .map_err(|error| format!("without control data: {error}"))?;
        if args.id == 0 || args.id % 2 != 0 {
            return Err(format!("the id {} is not an even number", args.id));
        }
        module.abort(args.id, 0).map_err(text)
    }

    fn receive_control(&self) -> Check {
        let socket = self.socket()?;
        let mut control = [0u8; 96];
        let fd = socket.as_fd().as_raw_fd();
        let received =
            recvmsg::<SockaddrStorage>(fd, &mut [], Some(&mut control), MsgFlags::MSG_DONTWAIT);
        let error = received.map(drop).err();
        equal("with 96 bytes", error, Some(nix::Error::EINVAL))?;
        // With 88, set anew before each.
        for length in [10, 20] {
            self.echo(&socket, length)?;
        }
        Ok(())
    }

    fn lengths(&self) -> Check {
        let socket = self.socket()?;
        for length in [1, 65_535, 65_536, 65_537, 131_072, 999_999, 1_000_000] {
            self.echo(&socket, length)?;
        }
        let module = self.module()?;
        for length in [0, HOMA_MAX_MESSAGE_LENGTH + 1] {
            let message = vec![0; length];
            let mut args = homa_sendmsg_args::default();
            let sent = module.send(self.peer, &[IoSlice::new(&message)], &mut args);
            equal(&format!("{length} bytes"), errno(sent), Some(libc::EINVAL))?;
        }
        Ok(())
    }

    fn edges(&self) -> Check {
        let socket = self.socket()?;
        SIZES
            .iter()
            .try_for_each(|length| self.echo(&socket, *length))
    }

    fn returned_twice(&self) -> Check {
        let module = self.module()?;
        let region = Region::map(region::default_bytes()).map_err(text)?;
        // SAFETY: the region outlives the socket, which is dropped first, at the latest when this
        // returns; nothing in it is read.
        unsafe { module.set_region(&region).map_err(text)? };
        let message = vec![7; HOMA_BPAGE_SIZE];
        let mut request = homa_sendmsg_args {
            flags: HOMA_SENDMSG_PRIVATE,
            ..homa_sendmsg_args::default()
        };
        module
            .send(self.peer, &[IoSlice::new(&message)], &mut request)
            .map_err(text)?;
        let mut args = homa_recvmsg_args {
            id: request.id,
            ..homa_recvmsg_args::default()
        };
        // SAFETY: the region is as `set_region` wants it, and nothing is given back.
        unsafe { module.receive(&mut args, true).map_err(text)? };
        let mut again = homa_recvmsg_args {
            num_bpages: 1,
            ..homa_recvmsg_args::default()
        };
        again.bpage_offsets[0] = args.bpage_offsets[0];
        for expected in [libc::EAGAIN, libc::EINVAL] {
            // SAFETY: as above; what is given back, once too often, is not read.
            let returned = unsafe { module.receive(&mut again.clone(), false) };
            equal("returned", errno(returned.map(drop)), Some(expected))?;
        }
        drop(module);
        drop(region);
        Ok(())
    }

    fn full_region(&self) -> Check {
        let socket = self.socket_with(region::min_bytes())?;
        let before = socket.info().map_err(text)?.bpool_avail_bytes;
        let mut kept = Vec::new();
        loop {
            self.request(&socket, HOMA_MAX_MESSAGE_LENGTH, false)?;
            match poll_shared(&socket, Duration::from_secs(2))? {
                Some(message) => kept.push(message),
                None => break,
            }
            if kept.len() > 100 {
                return Err("a hundred messages fit into the smallest region".to_owned());
            }
        }
        if kept.is_empty() {
            return Err("not one message of 1,000,000 bytes fits".to_owned());
        }
        drop(kept);
        let message = poll_shared(&socket, LIMIT)?.ok_or("it did not go on")?;
        equal("length", message.len(), HOMA_MAX_MESSAGE_LENGTH)?;
        drop(message);
        let after = socket.info().map_err(text)?.bpool_avail_bytes;
        equal("bytes available", after, before)
    }

    fn ports(&self) -> Check {
        let (first, second) = (self.module()?, self.module()?);
        let bound = first.bind(HOMA_MIN_DEFAULT_PORT);
        equal("port 32768", errno(bound), Some(libc::EINVAL))?;
        let port = bind_any(&first)?;
        equal(
            "a used port",
            errno(second.bind(port)),
            Some(libc::EADDRINUSE),
        )?;
        let before = second.info().map_err(text)?.port;
        second.bind(0).map_err(text)?;
        equal(
            "port after binding 0",
            second.info().map_err(text)?.port,
            before,
        )
    }

    fn unbound(&self) -> Check {
        let socket = self.socket()?;
        let port = own_port(&socket)?;
        let outcome = self.have_peer_call(port)?;
        // The module says so to a module, and by ICMP to the engine.
        if !["not open", "nothing listens"]
            .iter()
            .any(|words| outcome.contains(words))
        {
            return Err(format!("before SO_HOMA_SERVER: {outcome}"));
        }
        call::set_server(socket.as_fd(), true).map_err(text)?;
        self.serve_one(socket, port, |_| Ok(()))
    }

    fn private(&self) -> Check {
        let socket = self.socket()?;
        let private = self.request(&socket, 100, true)?;
        self.request(&socket, 200, false)?;
        // The shared one is all that a shared receive gets.
        let message = poll_shared(&socket, LIMIT)?.ok_or("the shared response does not come")?;
        equal("length", message.len(), 200)?;
        thread::sleep(Duration::from_millis(100));
        let nothing = socket.receiving().next().map_err(text)?;
        if !matches!(nothing, Received::Nothing) {
            return Err(format!("a shared receive got {nothing:?}"));
        }
        let fd = socket.as_fd();
        let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
        let ready = poll(&mut polled, PollTimeout::ZERO).map_err(text)?;
        equal("sockets that poll as readable", ready, 0)?;
        let third = self.request(&socket, 300, false)?;
        match socket.wait(Of::Private(third)).map_err(text)? {
            Received::Closed => {}
            other => return Err(format!("a receive by the id of a shared RPC got {other:?}")),
        }
        socket.abort(third, 0).ok();
        match wait_a_while(&socket, private, LIMIT)? {
            Some(message) => equal("length", message.len(), 100),
            None => Err("the private response does not come".to_owned()),
        }
    }

    fn aborted(&self) -> Check {
        let socket = self.socket()?;
        let nobody = self.nobody();
        let message = pattern(10);
        let start = |cookie| {
            socket
                .request(nobody, &message, cookie, false)
                .map_err(text)
        };
        let id = start(77)?;
        socket.abort(id, libc::ECANCELED as u32).map_err(text)?;
        match socket.wait(Of::Shared).map_err(text)? {
            Received::Failed { cookie, errno } => {
                equal("cookie", cookie, 77)?;
                equal("errno", errno, libc::ECANCELED)?;
            }
            other => return Err(format!("{other:?}")),
        }
        let id = start(78)?;
        socket.abort(id, 0).map_err(text)?;
        equal(
            "a second abort",
            errno(socket.abort(id, 0)),
            Some(libc::EINVAL),
        )?;
        equal("RPCs", socket.info().map_err(text)?.num_rpcs, 0)
    }

    fn answered_once(&self) -> Check {
        let socket = self.socket()?;
        let port = bind_any_socket(&socket)?;
        let answering = socket.clone();
        self.serve_one(socket, port, move |(id, from)| {
            // It may be gone by now, and then it is nothing.
            match errno(answering.respond(from, id, &pattern(5))) {
                None | Some(libc::EINVAL) => Ok(()),
                other => Err(format!("the second answer: {other:?}")),
            }
        })
    }

    fn shut_down(&self) -> Check {
        let socket = self.socket()?;
        let waiting = socket.clone();
        let waiter = thread::spawn(move || waiting.wait(Of::Shared));
        thread::sleep(Duration::from_millis(50));
        socket.shutdown();
        let end = Instant::now() + LIMIT;
        while !waiter.is_finished() {
            if Instant::now() > end {
                return Err("it waits on".to_owned());
            }
            thread::sleep(Duration::from_millis(1));
        }
        match waiter.join() {
            Ok(Ok(Received::Closed)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn mapped(&self) -> Check {
        if !self.peer.is_ipv4() {
            return Err("skipped: the peer's address is not IPv4".to_owned());
        }
        let module = Module::open(Family::V6).map_err(text)?;
        let socket = Socket::new(Box::new(module), region::default_bytes()).map_err(text)?;
        let socket = Arc::new(socket);
        let port = bind_any_socket(&socket)?;
        let peer = self.peer.ip();
        self.serve_one(socket, port, move |(_, from)| match (from.ip(), peer) {
            (IpAddr::V6(seen), IpAddr::V4(peer)) => {
                equal("the client's address", seen, peer.to_ipv6_mapped())
            }
            other => Err(format!("{other:?}")),
        })
    }

    fn nothing_left(&self) -> Check {
        let socket = self.socket()?;
        let before = socket.info().map_err(text)?.bpool_avail_bytes;
        for number in 0..MANY {
            self.echo(&socket, 1 + number * 37 % 5000)?;
        }
        let end = Instant::now() + Duration::from_secs(1);
        loop {
            let info = socket.info().map_err(text)?;
            if (info.num_rpcs, info.bpool_avail_bytes) == (0, before) {
                return Ok(());
            }
            if Instant::now() > end {
                equal("RPCs", info.num_rpcs, 0)?;
                return equal("bytes available", info.bpool_avail_bytes, before);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a request to the service.
    fn request(&self, socket: &Socket, length: usize, is_private: bool) -> Result<u64, String> {
        let sent = socket.request(self.peer, &pattern(length), 0, is_private);
        sent.map_err(|error| format!("a request of {length} bytes: {error}"))
    }

    /// Sends a message and compares what comes back.
    fn echo(&self, socket: &Arc<Socket>, length: usize) -> Check {
        let id = self.request(socket, length, true)?;
        let message = wait_a_while(socket, id, LIMIT)?
            .ok_or_else(|| format!("no response to {length} bytes"))?;
        if message != pattern(length).into_bytes()[..] {
            return Err(format!(
                "other bytes came back: {} instead of {length}",
                message.len()
            ));
        }
        Ok(())
    }

    /// What comes of a call from the peer to that port here.
    fn have_peer_call(&self, port: u16) -> Result<String, String> {
        let socket = self.socket()?;
        let message: Vec<u8> = [&CALL_BACK[..], port.to_string().as_bytes()].concat();
        let sent = socket.request(self.peer, &message.into(), 0, true);
        let id = sent.map_err(text)?;
        let answer = wait_a_while(&socket, id, LIMIT)?.ok_or("the peer does not answer")?;
        Ok(String::from_utf8_lossy(&answer.into_bytes()).into_owned())
    }

    /// Has the peer call this socket, answers it, and looks at the request.
    fn serve_one(
        &self,
        socket: Arc<Socket>,
        port: u16,
        look: impl FnOnce((u64, SocketAddr)) -> Check + Send + 'static,
    ) -> Check {
        let serving = socket.clone();
        let server = thread::spawn(move || match serving.wait(Of::Shared).map_err(text)? {
            Received::Message {
                id, from, message, ..
            } => {
                serving.respond(from, id, &message).map_err(text)?;
                look((id, from))
            }
            other => Err(format!("instead of a request: {other:?}")),
        });
        let outcome = self.have_peer_call(port);
        // Whatever came of it, the server is not to wait for ever.
        if outcome.as_deref() != Ok(CALLED) {
            socket.shutdown();
        }
        let served = server.join().map_err(|_| "a panic".to_owned())?;
        equal("the peer's call", outcome?.as_str(), CALLED)?;
        served
    }

    /// An address where nobody answers, in networks for documentation.
    fn nobody(&self) -> SocketAddr {
        let ip: IpAddr = match self.peer {
            SocketAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
            SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        };
        // Without a route there it has to be the peer's port that nobody has.
        let any = Message::from(&b"x"[..]);
        let nobody = SocketAddr::new(ip, 1);
        let reaches = self
            .socket()
            .is_ok_and(|socket| socket.request(nobody, &any, 0, true).is_ok());
        if reaches { nobody } else { self.peer }
    }
}

/// The response to a private RPC; `None`: it has not come in time.
fn wait_a_while(socket: &Arc<Socket>, id: u64, limit: Duration) -> Result<Option<Message>, String> {
    let _armed = super::alarm::arm(Instant::now() + limit, socket, id);
    match socket.wait(Of::Private(id)).map_err(text)? {
        Received::Message { message, .. } => Ok(Some(message)),
        Received::Failed { errno, .. } if errno == super::alarm::ERRNO => Ok(None),
        other => Err(format!("{other:?}")),
    }
}

/// The next response to an RPC that is not private; `None`: none has come in time.
fn poll_shared(socket: &Arc<Socket>, limit: Duration) -> Result<Option<Message>, String> {
    let end = Instant::now() + limit;
    loop {
        match socket.receiving().next().map_err(text)? {
            Received::Message { message, .. } => return Ok(Some(message)),
            Received::Nothing if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
            Received::Nothing => return Ok(None),
            other => return Err(format!("{other:?}")),
        }
    }
}

fn own_port(socket: &Socket) -> Result<u16, String> {
    let port = socket.info().map_err(text)?.port;
    u16::try_from(port).map_err(text)
}

fn bind_any(module: &Module) -> Result<u16, String> {
    try_ports(|port| module.bind(port))
}

fn bind_any_socket(socket: &Socket) -> Result<u16, String> {
    try_ports(|port| socket.bind(port))
}

fn try_ports(bind: impl Fn(u16) -> io::Result<()>) -> Result<u16, String> {
    (20_000..20_100)
        .find(|port| bind(*port).is_ok())
        .ok_or_else(|| "no free port from 20000 to 20099".to_owned())
}

/// Bytes that tell where they belong.
pub fn pattern(length: usize) -> Message {
    let bytes: Vec<u8> = (0..length).map(|place| (place % 251) as u8).collect();
    bytes.into()
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Check {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?} instead of {expected:?}"))
}

fn text(error: impl Display) -> String {
    error.to_string()
}
