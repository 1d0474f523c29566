//! [`Observer`]: is told of every call. [`CallMetrics`]: one that counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::CallTransport;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallOutcome {
    /// The handler's reply was sent. A declared exception is a reply, too.
    Reply,
    /// The reply was an exception of the application: the handler failed with something that the
    /// service does not declare, or there is no such method. Also a oneway whose handler failed.
    Exception,
    /// A oneway was executed.
    Oneway,
    /// The handler panicked.
    Panic,
    /// The request could not be decoded.
    Malformed,
    /// The request, or its reply, was over the limit.
    Oversize,
    /// The request was not executed: too many waited, it waited for too long, or the server was
    /// shutting down.
    Rejected,
    /// The handler ran when the call's time, or that of the shutdown, was over; the caller was told.
    /// Whatever the handler answers later is thrown away.
    Abandoned,
    /// The server behind a [gateway](crate::gateway) could not be reached or did not answer in time;
    /// it may have executed the call.
    Unavailable,
}

impl CallOutcome {
    /// All outcomes.
    pub const ALL: [Self; 9] = [
        Self::Reply,
        Self::Exception,
        Self::Oneway,
        Self::Panic,
        Self::Malformed,
        Self::Oversize,
        Self::Rejected,
        Self::Abandoned,
        Self::Unavailable,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Exception => "exception",
            Self::Oneway => "oneway",
            Self::Panic => "panic",
            Self::Malformed => "malformed",
            Self::Oversize => "oversize",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A call that is over.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CallRecord<'a> {
    /// The method by the name in the message, which is the network's: bound what you keep of it.
    /// Empty where the request had no header that could be read.
    pub method: &'a str,
    /// What became of it.
    pub outcome: CallOutcome,
    /// Bytes of the request.
    pub bytes_in: usize,
    /// Bytes of the reply, control replies included.
    pub bytes_out: usize,
    /// From the request's reception to its reply, or for oneways to the end of the handler.
    pub latency: Duration,
    /// The part of `latency` before the handler started.
    pub waited: Duration,
    /// The client's address, if it has one.
    pub peer: Option<SocketAddr>,
    /// What carried it.
    pub transport: CallTransport,
}

/// Is told of every call, on the thread that handles it; of those that are refused because too many
/// wait on the thread that receives. So it has to be short. If it panics, that is ignored.
pub trait Observer: Send + Sync {
    /// A handler is about to run. The name is the network's: bound what you keep of it.
    fn started(&self, method: &str) {
        let _ = method;
    }

    /// A request was answered, or a oneway executed. Some of them were never started.
    fn finished(&self, record: &CallRecord<'_>);
}

/// Methods counted by their own names, at most.
const MAX_NAMES: usize = 256;

/// The name under which all others are counted.
const OTHER: &str = "other";

/// An observer that counts calls by method.
///
/// Names come from the network. So a method gets an entry of its own only when a handler has
/// answered it, and at most 256 do; everything else is counted as `other`.
///
/// ```no_run
/// use std::sync::Arc;
/// use thrift_homa::{CallMetrics, CallOutcome, HomaServer};
///
/// # fn main() -> thrift::Result<()> {
/// # let processor = thrift::server::TMultiplexedProcessor::new();
/// let metrics = Arc::new(CallMetrics::default());
/// let server = HomaServer::builder(processor)
///     .observer(metrics.clone())
///     .bind("0.0.0.0:4000")?
///     .spawn()?;
/// for (method, counts) in metrics.snapshot() {
///     println!("{method}: {} replies", counts.of(CallOutcome::Reply));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct CallMetrics {
    methods: Mutex<BTreeMap<String, MethodCounts>>,
}

/// What was counted of one method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodCounts {
    outcomes: [u64; CallOutcome::ALL.len()],
    /// Bytes of requests.
    pub bytes_in: u64,
    /// Bytes of replies.
    pub bytes_out: u64,
    /// The latencies of all calls together.
    pub total_latency: Duration,
    /// The longest of them.
    pub max_latency: Duration,
    /// The times that calls waited for a worker, together.
    pub total_waited: Duration,
}

impl MethodCounts {
    /// Calls with this outcome.
    pub fn of(&self, outcome: CallOutcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    fn add(&mut self, record: &CallRecord<'_>) {
        self.outcomes[record.outcome as usize] += 1;
        self.bytes_in += record.bytes_in as u64;
        self.bytes_out += record.bytes_out as u64;
        self.total_latency += record.latency;
        self.max_latency = self.max_latency.max(record.latency);
        self.total_waited += record.waited;
    }
}

impl CallMetrics {
    /// What was counted so far, by method in the order of their names.
    pub fn snapshot(&self) -> Vec<(String, MethodCounts)> {
        let methods = self.methods();
        methods
            .iter()
            .map(|(method, counts)| (method.clone(), counts.clone()))
            .collect()
    }

    fn methods(&self) -> MutexGuard<'_, BTreeMap<String, MethodCounts>> {
        self.methods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for CallMetrics {
    fn finished(&self, record: &CallRecord<'_>) {
        let mut methods = self.methods();
        if let Some(counts) = methods.get_mut(record.method) {
            return counts.add(record);
        }
        let exists = matches!(
            record.outcome,
            CallOutcome::Reply | CallOutcome::Oneway | CallOutcome::Panic
        );
        let name = if exists && methods.len() < MAX_NAMES {
            record.method
        } else {
            OTHER
        };
        methods.entry(name.to_owned()).or_default().add(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(method: &str, outcome: CallOutcome) -> CallRecord<'_> {
        CallRecord {
            method,
            outcome,
            bytes_in: 10,
            bytes_out: 20,
            latency: Duration::from_millis(3),
            waited: Duration::from_millis(1),
            peer: None,
            transport: CallTransport::Homa,
        }
    }

    #[test]
    fn names_that_no_handler_knows_and_those_beyond_the_bound_are_counted_together() {
        let metrics = CallMetrics::default();
        for made_up in 0..1_000 {
            metrics.finished(&record(&format!("m{made_up}"), CallOutcome::Exception));
        }
        assert_eq!(metrics.snapshot().len(), 1);
        for method in 0..1_000 {
            metrics.finished(&record(&format!("n{method}"), CallOutcome::Reply));
        }
        let counted = metrics.snapshot();
        assert_eq!(counted.len(), MAX_NAMES);
        let of = |name: &str| &counted.iter().find(|(method, _)| method == name).unwrap().1;
        assert_eq!(of(OTHER).of(CallOutcome::Exception), 1_000);
        assert_eq!(of(OTHER).calls(), 2_000 - (MAX_NAMES as u64 - 1));
        assert_eq!(of("n0").of(CallOutcome::Reply), 1);
        assert_eq!((of("n0").bytes_in, of("n0").bytes_out), (10, 20));
    }

    #[test]
    fn every_outcome_has_a_place_and_a_name_of_its_own() {
        for (place, outcome) in CallOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place, "{}", outcome.name());
        }
    }
}
