//! Errors, one type per operation, each telling whose fault it was.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::Unreachable;
use crate::{ConfigError, Message};

/// Why a call got no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The message is empty or longer than `max_message_bytes`; nothing was sent.
    #[error(
        "a Homa message holds 1 to {limit} bytes, this one has {size}: \
         split a longer one, or use a stream transport for it"
    )]
    BadSize {
        /// Bytes in the message.
        size: usize,
        /// The endpoint's `max_message_bytes`.
        limit: usize,
        /// The message, handed back.
        message: Message,
    },
    /// The destination cannot be called: its port is 0 or its address unspecified or multicast.
    #[error("cannot call {addr}: a Homa server has a unicast address and a port of 1 to 65535")]
    BadAddress {
        /// The address as given.
        addr: SocketAddr,
    },
    /// The endpoint's limit of outstanding RPCs or of buffered bytes is reached; nothing was sent.
    #[error("{what} is full ({limit}): wait for calls to finish, or raise the setting")]
    Busy {
        /// The setting that is exhausted.
        what: &'static str,
        /// Its value.
        limit: usize,
        /// The message, handed back.
        message: Message,
    },
    /// Nothing was heard from the peer about this RPC for the protocol's timeout (1 s over UDP,
    /// 0.1 s on IP protocol 146).
    #[error("no sign of life from {peer} for {silence:?}; the request may have run")]
    TimedOut {
        /// The server called.
        peer: SocketAddr,
        /// How long it was silent.
        silence: Duration,
    },
    /// The network says that nobody listens there (ICMP), or the local host has no way to it.
    #[error("{peer} cannot be reached: {reason}")]
    PeerUnreachable {
        /// The server called.
        peer: SocketAddr,
        /// What the network answered.
        reason: Unreachable,
        /// Whether a part of the request was already received there.
        executed: Executed,
    },
    /// The server process was restarted during the call, and its memory of the call is gone.
    #[error("{peer} was restarted during the call; the request may have run")]
    PeerRestarted {
        /// The server called.
        peer: SocketAddr,
    },
    /// The system, or the kernel module, failed.
    #[error("the system failed the call: {source}")]
    System {
        /// What it said.
        source: io::Error,
        /// Whether the request had been sent.
        executed: Executed,
    },
    /// The local endpoint is closed: its runtime has ended.
    #[error("the local Homa endpoint is closed")]
    Closed,
    /// A socket for the destination's address family cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl CallError {
    /// Whether the server may have executed the request.
    pub fn executed(&self) -> Executed {
        match self {
            Self::BadSize { .. } | Self::BadAddress { .. } | Self::Busy { .. } | Self::Bind(_) => {
                Executed::No
            }
            Self::PeerUnreachable { executed, .. } | Self::System { executed, .. } => *executed,
            _ => Executed::Maybe,
        }
    }
}

/// Whether a request whose call failed may have been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// Surely not: it may be sent again.
    No,
    /// It may have run, or still be running.
    Maybe,
}

/// Why a reply could not be handed over. The caller gets no response from this attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The reply is empty or too long. It is handed back with its request's responder, so that
    /// a shorter one can be sent.
    #[error("a Homa message holds 1 to {limit} bytes, this reply has {size}")]
    BadSize {
        /// Bytes in the reply.
        size: usize,
        /// The endpoint's `max_message_bytes`.
        limit: usize,
        /// What is needed to answer with something shorter.
        responder: Box<crate::Responder>,
        /// The reply, handed back.
        reply: Message,
    },
    /// The endpoint's limit of buffered bytes is reached by replies that are still being sent.
    #[error("{what} is full ({limit}): answer later, or raise the setting")]
    Busy {
        /// The setting that is exhausted.
        what: &'static str,
        /// Its value.
        limit: usize,
        /// What is needed to answer later.
        responder: Box<crate::Responder>,
        /// The reply, handed back.
        reply: Message,
    },
    /// The endpoint is closed.
    #[error("the local Homa endpoint is closed")]
    Closed,
}

/// Why an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Servers listen on ports 1 to 32767; clients use the ports above.
    #[error(
        "port {port} cannot be served: Homa servers use ports 1 to 32767 (0 picks a free one), \
         32768 and above belong to clients"
    )]
    PortOutOfRange {
        /// The port asked for.
        port: u16,
    },
    /// Another socket has the port; on IP protocol 146, another endpoint of this process.
    #[error("{addr} is in use by another socket: stop that program or choose another port")]
    AddressInUse {
        /// The address asked for, or that of [`Config::bulk_port`](crate::Config::bulk_port).
        addr: SocketAddr,
    },
    /// No free port was found for port 0.
    #[error("no free port was found on {addr}: name one below 32768")]
    NoFreePort {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// An asynchronous endpoint needs a tokio runtime with its IO and time drivers.
    #[error("no tokio runtime here: call this inside one, or use homa_client::blocking")]
    NoRuntime,
    /// A blocking endpoint needs a thread in the background and a file descriptor to wake threads.
    #[error(
        "no background thread for blocking endpoints: {source}; raise the limits of the process"
    )]
    NoThread {
        /// What the system said.
        source: io::Error,
    },
    /// The file named by `Config::capture` cannot be written.
    #[error("cannot write the packet capture to {}: {source}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// IP protocol 146 needs raw sockets, which this process may not open.
    #[error(
        "IP protocol 146 needs the capability CAP_NET_RAW ({source}): \
         run `setcap cap_net_raw+ep PROGRAM` as root, or use UDP"
    )]
    NoCapability {
        /// What the system said.
        source: io::Error,
    },
    /// The kernel module takes all packets of IP protocol 146.
    #[error(
        "the Homa kernel module is loaded (/proc/sys/net/homa exists) and takes all packets of \
         IP protocol 146: unload it with `rmmod homa` as root, or use UDP"
    )]
    ModuleLoaded,
    /// [`Backend::Kernel`](crate::Backend::Kernel) without a kernel module that can be used.
    #[error(
        "the Homa kernel module is not available ({0}); or use Backend::User, engine=udp in URIs"
    )]
    NoModule(#[from] homa_sys::probe::Unusable),
    /// The operating system refused a socket.
    #[error("cannot open a socket on {addr}: {source}")]
    Socket {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}
