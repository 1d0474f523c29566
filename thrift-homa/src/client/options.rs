//! [`ClientOptions`]: what can be set on a client.

use std::time::Duration;

use homa_client::Config;

use crate::limits::Limits;
use crate::pieces::PieceOptions;
use crate::protocol::Protocol;

/// Settings of a [`HomaTransport`](crate::HomaTransport).
///
/// ```
/// use std::time::Duration;
/// use thrift_homa::{ClientOptions, Protocol};
///
/// let mut options = ClientOptions::default();
/// options.timeout = Some(Duration::from_millis(50));
/// options.protocol = Protocol::Compact;
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Longest time from the flush of a request until its reply has come. Default `None`: as long
    /// as the server shows signs of life. On expiry the RPC is cancelled and the call fails with
    /// `TimedOut`; it may have run. A reply that comes later is dropped, never given to another
    /// call. To change it later there is [`HomaTransport::set_timeout`](crate::HomaTransport).
    pub timeout: Option<Duration>,
    /// When sending a oneway message returns. Default: at once.
    pub oneway: OnewayMode,
    /// How much one message may take, sent or received. Over Homa, `message_bytes` above
    /// `homa.protocol.max_message_bytes` (1,000,000) has no effect.
    pub limits: Limits,
    /// How messages are encoded, for [`HomaTransport::protocols`](crate::HomaTransport). Default
    /// binary.
    pub protocol: Protocol,
    /// Messages over 1,000,000 bytes. Default `None`: they are refused.
    pub pieces: Option<PieceOptions>,
    /// The endpoint: all transports of a process with equal settings share one. `linger` in there
    /// is how long oneway messages have to be delivered after the last transport was dropped.
    pub homa: Config,
}

/// When sending a oneway message returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnewayMode {
    /// As soon as it is on its way. It is delivered as any other message, though nobody waits, also
    /// after the transport was dropped. Two messages are not ordered: the next call may run before
    /// it. The default.
    #[default]
    Detach,
    /// When the server has accepted it, and fails when it does not. With a server that accepts
    /// after the handler has run, the next call runs after it. Only
    /// [`HomaTransport::protocols`](crate::HomaTransport) knows oneway messages from others: the
    /// halves detach.
    AwaitAck,
}
