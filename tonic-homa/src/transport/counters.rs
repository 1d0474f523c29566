//! [`CallCounters`]: what operators want to know of the calls over Homa.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has happened to the calls of a server, or of a client with one server, since it
        /// began: see [`Listener::call_monitor`](crate::transport::Listener::call_monitor) and
        /// [`Channel::call_counters`](crate::transport::Channel::call_counters). "Troubleshooting" in
        /// `docs/tonic.md` says what each rise means. Counters of packets are those of
        /// [`homa_client::Monitor`].
        ///
        /// ```
        /// use tonic_homa::transport::CallCounters;
        ///
        /// fn is_attacked(counters: &CallCounters) -> bool {
        ///     counters.malformed_frames + counters.protocol_errors > 1_000
        /// }
        /// # assert!(!is_attacked(&CallCounters::default()));
        /// ```
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct CallCounters {
            $($(#[$doc])* pub $name: u64,)*
            /// Bytes of message bodies that are buffered, or may be sent without being asked for
            /// again. Bounded by `max_stream_buffer_bytes` for each peer.
            pub stream_bytes: u64,
        }

        /// The same while they count.
        #[derive(Debug, Default)]
        pub(crate) struct Counting {
            $(pub(crate) $name: Counter,)*
        }

        impl Counting {
            pub(crate) fn read(&self, stream_bytes: u64) -> CallCounters {
                CallCounters {
                    $($name: self.$name.0.load(Ordering::Relaxed),)*
                    stream_bytes,
                }
            }
        }

        impl CallCounters {
            /// Names and values, for printing and for exporters of metrics.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![
                    $((stringify!($name), self.$name),)*
                    ("stream_bytes", self.stream_bytes),
                ]
            }
        }
    };
}

counters! {
    /// Calls that were opened.
    calls,
    /// Those of them that needed more than one message in a direction.
    streams,
    /// Calls that ended because their caller cancelled them.
    cancelled,
    /// Messages that are no frame of this protocol, or of a kind that does not come this way.
    malformed_frames,
    /// Frames of calls that are not open, mostly because these have just ended.
    unknown_calls,
    /// Frames that break the protocol: past the credit or the end of a body, too many gaps.
    protocol_errors,
    /// Calls that were opened before, or cancelled before they came. They do not run again.
    duplicate_calls,
    /// Calls that were refused for want of room.
    refused_calls,
    /// Frames from a host that has nothing to do with the call that they name.
    foreign_frames,
    /// Credits below an earlier one. They change nothing.
    shrunk_credits,
    /// Pieces of a body that came before the call was opened and were kept for it.
    early_pieces,
    /// Peers that were given up with calls open.
    lost_peers,
}

/// Counts one kind of event.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load(Ordering::Relaxed).fmt(f)
    }
}

/// Reads the counters of a server's calls while it serves.
///
/// ```no_run
/// use tonic_homa::transport::{Listener, Server};
///
/// # async fn run(routes: tonic::service::Routes) -> Result<(), tonic_homa::transport::Error> {
/// let listener = Listener::bind("homa://0.0.0.0:4000").await?;
/// let monitor = listener.call_monitor();
/// tokio::spawn(async move {
///     loop {
///         tokio::time::sleep(std::time::Duration::from_secs(60)).await;
///         for (name, value) in monitor.counters().rows() {
///             println!("{name} {value}");
///         }
///     }
/// });
/// Server::builder().add_routes(routes).serve_on([listener]).await
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct CallMonitor {
    counting: Arc<Counting>,
    stream_bytes: Arc<AtomicU64>,
}

impl CallMonitor {
    /// What was counted so far.
    pub fn counters(&self) -> CallCounters {
        self.counting
            .read(self.stream_bytes.load(Ordering::Relaxed))
    }

    pub(crate) fn counting(&self) -> Arc<Counting> {
        self.counting.clone()
    }

    /// Where all budgets of the server sum up what they promise.
    pub(crate) fn stream_bytes(&self) -> Arc<AtomicU64> {
        self.stream_bytes.clone()
    }
}
