//! The suite `thrift` of `bench compare`: Apache Thrift over framed TCP and over Homa.

use tokio::runtime::Handle;

use super::CompareError;
use super::closed::{self, Kind, Payload, Stack};
use super::plan::{
    Bound, Claim, KB, SHORT_ALONE, SHORT_BEHIND_BULK, Scenario, Sides, Suite, Variant, behind_bulk,
    plain,
};
use crate::bench::call::CallFailed;
use crate::bench::connect::{Place, ThriftClient};
use crate::child::Serving;
use crate::echo::Options;
use crate::echo::thrift::{self, Addresses};
use crate::thrift::echo::TEchoSyncClient as _;

/// Name of the row whose rate is a claim.
const MANY_THREADS: &str = "100 B, 64 threads";
/// Name of the row whose tail is a claim, too.
const SHORT_BEHIND_SHARED: &str = "100 B behind 4 x 500 KB, one TCP connection";

/// Connections that the server over TCP takes: more than any row has.
const CONNECTIONS: u16 = 80;

/// Where rows are measured, and the process that serves them.
pub(super) struct Thrift {
    tcp: Place,
    homa: Place,
    shared: Place,
    server: Serving<Addresses>,
}

impl Suite for Thrift {
    type Stack = Place;

    const WHAT: &'static str = "Thrift";

    const ROWS: &'static [Scenario] = &[
        plain(SHORT_ALONE, 100, 1),
        plain(MANY_THREADS, 100, 64),
        plain("10 KB, 16 threads", 10 * KB, 16),
        plain("500 KB, 1 in flight", 500 * KB, 1),
        behind_bulk(SHORT_BEHIND_BULK),
        behind_bulk(SHORT_BEHIND_SHARED).with(Variant::Gateway),
    ];

    const CLAIMS: &'static [Claim] = &[
        Claim {
            row: SHORT_ALONE,
            what: "p50",
            ratio: |row| Some(row.ratio_p50),
            bound: Bound::AtMost(1.3),
        },
        Claim {
            row: MANY_THREADS,
            what: "calls/s",
            ratio: |row| Some(row.ratio_rate),
            bound: Bound::AtLeast(1.0),
        },
        Claim {
            row: SHORT_BEHIND_BULK,
            what: "p99",
            ratio: |row| row.ratio_p99,
            bound: Bound::AtMost(1.0),
        },
        Claim {
            row: SHORT_BEHIND_SHARED,
            what: "p99",
            ratio: |row| row.ratio_p99,
            bound: Bound::AtMost(0.1),
        },
    ];

    async fn start() -> Result<Self, CompareError> {
        let server = thrift::start(&Options::default(), CONNECTIONS).await?;
        let homa = |addr| Place::Homa(addr, Box::default());
        let at = &server.at;
        Ok(Self {
            tcp: Place::Tcp(at.tcp),
            homa: homa(at.homa),
            shared: homa(at.shared),
            server,
        })
    }

    fn sides(&self, variant: Variant) -> Sides<Place> {
        let tcp = match variant {
            Variant::Gateway => &self.shared,
            _ => &self.tcp,
        };
        Sides {
            tcp: tcp.clone(),
            homa: self.homa.clone(),
            runtime: Handle::current(),
            server: self.server.at.pid,
        }
    }
}

impl Stack for Place {
    type Caller = Caller;

    fn caller(&self, _kind: Kind, payload: Payload) -> Result<Caller, CallFailed> {
        let client = self.client()?;
        Ok(Caller { client, payload })
    }
}

/// A thread with a client of its own.
pub(crate) struct Caller {
    client: ThriftClient,
    payload: Payload,
}

impl closed::Caller for Caller {
    const BLOCKS: bool = true;

    async fn exchange(&mut self) -> Result<(), CallFailed> {
        let received = self.client.call(self.payload.bytes().to_vec())?;
        self.payload.check(&received)
    }
}
