//! [`Context`]: what cases call through, with a number for each call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic_health::pb::health_client::HealthClient;
use tonic_homa::transport::{self, Channel, Endpoint};
use tower_service::Service;

use super::MESSAGE_LIMIT;
use super::client::Load;
use super::marks::{Compress, Note, Noting, Unpacking};
use super::proto::probe::probe_client::ProbeClient;
use super::proto::probe::{RunsRequest, RunsResponse};
use super::proto::testing::test_service_client::TestServiceClient;
use super::proto::testing::unimplemented_service_client::UnimplementedServiceClient;
use super::proto::xds::service::orca::v3::open_rca_service_client::OpenRcaServiceClient;
use crate::case::Failure;
use crate::ledger::{CallId, Session};
use crate::report;

/// Metadata of each call: which it is, so that a server can tell whether it ran twice.
pub(super) const CALL_ID: HeaderName = HeaderName::from_static("homa-interop-call");

/// How long the server may take to tell how often calls ran.
const RUNS_LIMIT: Duration = Duration::from_secs(10);

/// The call that a header is about.
pub(super) fn call_id(value: &HeaderValue) -> Option<CallId> {
    let (session, number) = value.to_str().ok()?.split_once('-')?;
    Some(CallId {
        session: session.parse().ok()?,
        number: number.parse().ok()?,
    })
}

fn to_header(id: CallId) -> HeaderValue {
    let text = format!("{}-{}", id.session, id.number);
    HeaderValue::from_str(&text).expect("digits and a hyphen")
}

/// What a case has to work with.
#[derive(Clone)]
pub(crate) struct Context {
    endpoint: Endpoint,
    channel: Channel,
    session: Arc<Session>,
    pub(super) load: Load,
}

impl Context {
    pub(super) async fn connect(endpoint: Endpoint, load: Load) -> Result<Self, transport::Error> {
        let channel = endpoint.connect().await?;
        let session = Session::start();
        Ok(Self {
            endpoint,
            channel,
            session,
            load,
        })
    }

    /// The same on a channel of its own.
    pub(super) async fn with_new_channel(&self) -> Result<Self, Failure> {
        let channel = self.endpoint.connect().await;
        let channel = channel.map_err(|error| {
            Failure::new(format!("connecting: {}", report::with_causes(&error)))
        })?;
        Ok(Self {
            channel,
            ..self.clone()
        })
    }

    /// The same with calls that the server counts apart.
    pub(super) fn with_new_session(&self) -> Self {
        Self {
            session: Session::start(),
            ..self.clone()
        }
    }

    /// Whether calls are ours to carry; else they are tonic's.
    pub(super) fn is_homa(&self) -> bool {
        self.endpoint
            .uri()
            .scheme_str()
            .is_some_and(|scheme| scheme.starts_with("homa"))
    }

    pub(super) fn tests(&self) -> TestServiceClient<Numbered> {
        TestServiceClient::new(self.numbered())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    pub(super) fn unimplemented(&self) -> UnimplementedServiceClient<Numbered> {
        UnimplementedServiceClient::new(self.numbered())
    }

    pub(super) fn probe(&self) -> ProbeClient<Numbered> {
        ProbeClient::new(self.numbered())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// How many calls of this session were made.
    pub(super) fn calls_made(&self) -> u64 {
        self.session.calls_made()
    }

    /// What the server has counted of this session.
    pub(super) async fn runs(&self) -> Result<RunsResponse, Status> {
        let session = self.session.id;
        let mut request = tonic::Request::new(RunsRequest { session });
        request.set_timeout(RUNS_LIMIT);
        // Not numbered: it would count itself.
        let mut probe = ProbeClient::new(self.channel.clone());
        Ok(probe.runs(request).await?.into_inner())
    }

    pub(super) fn load_reports(&self) -> OpenRcaServiceClient<Numbered> {
        OpenRcaServiceClient::new(self.numbered())
    }

    pub(super) fn health(&self) -> HealthClient<Numbered> {
        HealthClient::new(self.numbered())
    }

    pub(super) fn numbered(&self) -> Numbered {
        Numbered {
            channel: self.channel.clone(),
            session: Arc::clone(&self.session),
        }
    }
}

/// A channel that gives each call a number, and marks compressed messages where that is asked for.
#[derive(Clone)]
pub(super) struct Numbered {
    channel: Channel,
    session: Arc<Session>,
}

impl Service<Request<Body>> for Numbered {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let id = to_header(self.session.next());
        request.headers_mut().insert(CALL_ID, id);
        let note = request.extensions_mut().remove::<Note>();
        if let Some(compress) = request.extensions_mut().remove::<Compress>() {
            request = request.map(|body| Body::new(Unpacking::new(body, compress)));
        }
        let response = self.channel.call(request);
        Box::pin(async move {
            let response = response.await?;
            Ok(match note {
                Some(note) => response.map(|body| Body::new(Noting::new(body, note))),
                None => response,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_s_number_reads_back_and_nonsense_is_none() {
        let id = CallId {
            session: u64::MAX,
            number: 7,
        };
        assert_eq!(call_id(&to_header(id)), Some(id));
        for nonsense in ["", "1", "1-", "-1", "1-2-3", "x-1"] {
            let value = HeaderValue::from_static(nonsense);
            assert_eq!(call_id(&value), None, "{nonsense}");
        }
    }
}
