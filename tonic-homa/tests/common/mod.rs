//! A service that does as it is told, and a server for it on a free port.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::error::Error as _;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use homa_client::CallError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_homa::transport::{
    CallMonitor, Channel, Endpoint, Error, HomaConnectInfo, Listener, Router, Server,
};

#[allow(missing_docs, unreachable_pub, reason = "generated")]
pub(crate) mod proto {
    include!("../generated/tonic_homa.test.v1.rs");
}

pub(crate) use proto::test_client::TestClient;
pub(crate) use proto::test_server::{Test, TestServer};
pub(crate) use proto::{CallReply, CallRequest};

pub(crate) const BOTH: [&str; 2] = ["homa", "http"];

/// Where calls can stream.
pub(crate) const STREAMS: &[&str] = &BOTH;

/// Counts what happens in the handlers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub(crate) started: Arc<AtomicUsize>,
    /// Handlers that are in progress.
    pub(crate) running: Arc<AtomicUsize>,
    /// Handlers that reached their end.
    pub(crate) finished: Arc<AtomicUsize>,
    /// How the requests of `up` ended, as its handler saw it.
    pub(crate) ends: Arc<Mutex<Vec<String>>>,
    /// Replies of `down` that were taken from the handler.
    pub(crate) taken: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service {
    fn enter(&self) -> Running {
        self.started.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(self.running.clone())
    }

    pub(crate) fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(crate) fn ends(&self) -> Vec<String> {
        self.ends.lock().unwrap().clone()
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    pub(crate) fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<CallReply, Status>> + Send>>;

#[tonic::async_trait]
impl Test for Service {
    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallReply>, Status> {
        let _running = self.enter();
        let text = |addr: Option<SocketAddr>| addr.map(|addr| addr.to_string()).unwrap_or_default();
        let header = |name: &str| {
            let value = request
                .metadata()
                .get(name)
                .map(|value| value.to_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        let mut reply = CallReply {
            remote_addr: text(request.remote_addr()),
            local_addr: text(request.local_addr()),
            timeout: header("grpc-timeout"),
            user_agent: header("user-agent"),
            over_homa: request.extensions().get::<HomaConnectInfo>().is_some(),
            ..CallReply::default()
        };
        let echo = echo(request.metadata());
        let ask = request.into_inner();
        sleep(Duration::from_millis(ask.delay_ms.into())).await;
        assert!(!ask.panic, "as told");
        if ask.fail_code != 0 {
            let code = Code::from_i32(ask.fail_code as i32);
            let details = ask.payload.into();
            return Err(Status::with_details_and_metadata(
                code, ask.text, details, echo,
            ));
        }
        reply.received_bytes = ask.payload.len() as u32;
        reply.payload = match ask.reply_bytes {
            0 => ask.payload,
            len => vec![b'r'; len as usize],
        };
        reply.text = ask.text;
        let mut response = Response::new(reply);
        *response.metadata_mut() = echo;
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(response)
    }

    type DownStream = Replies;

    async fn down(&self, request: Request<CallRequest>) -> Result<Response<Replies>, Status> {
        let running = self.enter();
        let ask = request.into_inner();
        let taken = self.taken.clone();
        let fails = (ask.fail_code != 0).then(|| {
            let code = Code::from_i32(ask.fail_code as i32);
            Err(Status::new(code, ask.text.clone()))
        });
        let replies = (0..ask.count).map(move |number| {
            let _running = &running;
            taken.fetch_add(1, Ordering::SeqCst);
            let payload = vec![b's'; ask.reply_bytes as usize];
            Ok(CallReply {
                text: number.to_string(),
                payload,
                ..CallReply::default()
            })
        });
        let replies = tokio_stream::iter(replies.chain(fails));
        if ask.delay_ms > 0 {
            // The last reply comes late.
            let late = Duration::from_millis(ask.delay_ms.into());
            let last = tokio_stream::iter([()]).then(move |()| async move {
                sleep(late).await;
                Ok(CallReply::default())
            });
            return Ok(Response::new(Box::pin(replies.chain(last))));
        }
        if ask.pause {
            let paused = replies.then(|reply| async {
                sleep(Duration::from_millis(5)).await;
                reply
            });
            return Ok(Response::new(Box::pin(paused)));
        }
        Ok(Response::new(Box::pin(replies)))
    }

    async fn up(
        &self,
        request: Request<Streaming<CallRequest>>,
    ) -> Result<Response<CallReply>, Status> {
        let _running = self.enter();
        if request.metadata().contains_key("x-refused") {
            return Err(Status::permission_denied("as told"));
        }
        let mut stream = request.into_inner();
        let mut reply = CallReply::default();
        loop {
            let next = stream.message().await;
            let end = match &next {
                Ok(Some(_)) => None,
                Ok(None) => Some("end".to_owned()),
                Err(status) => Some(format!("{:?}", status.code())),
            };
            self.ends.lock().unwrap().extend(end);
            let Some(ask) = next? else { break };
            reply.received_bytes += ask.payload.len() as u32;
            reply.text += &ask.text;
            pause(ask.delay_ms).await;
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(reply))
    }

    type ChatStream = Replies;

    async fn chat(
        &self,
        request: Request<Streaming<CallRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let running = self.enter();
        let greeting = request.metadata().contains_key("x-greeting");
        let echo = echo(request.metadata());
        let replies = request.into_inner().then(move |ask| {
            let _running = &running;
            async move {
                let ask = ask?;
                pause(ask.delay_ms).await;
                assert!(!ask.panic, "as told");
                if ask.fail_code != 0 {
                    return Err(Status::new(Code::from_i32(ask.fail_code as i32), ask.text));
                }
                Ok(CallReply {
                    text: ask.text,
                    received_bytes: ask.payload.len() as u32,
                    payload: vec![b'c'; ask.reply_bytes as usize],
                    ..CallReply::default()
                })
            }
        });
        let greeting = greeting.then(|| {
            Ok(CallReply {
                text: "hello".into(),
                ..CallReply::default()
            })
        });
        let replies = tokio_stream::iter(greeting).chain(replies);
        let mut response = Response::new(Box::pin(replies) as Replies);
        *response.metadata_mut() = echo;
        Ok(response)
    }
}

/// A sleep of no time would wait for the timer all the same.
async fn pause(millis: u32) {
    if millis > 0 {
        sleep(Duration::from_millis(millis.into())).await;
    }
}

/// All metadata whose names begin with `x-`.
fn echo(metadata: &MetadataMap) -> MetadataMap {
    let mut headers = metadata.clone().into_headers();
    let other: Vec<_> = headers
        .keys()
        .filter(|name| !name.as_str().starts_with("x-"))
        .cloned()
        .collect();
    for name in other {
        headers.remove(name);
    }
    MetadataMap::from_headers(headers)
}

/// A server that runs until it is stopped or dropped.
pub(crate) struct TestHost {
    pub(crate) uri: String,
    pub(crate) addr: SocketAddr,
    pub(crate) service: Service,
    pub(crate) calls: CallMonitor,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
}

/// Serves the service over `scheme` with a plain server.
pub(crate) async fn serve(scheme: &str) -> TestHost {
    serve_with(scheme, Server::builder()).await
}

/// Serves the service over `scheme`.
pub(crate) async fn serve_with(scheme: &str, mut server: Server) -> TestHost {
    let service = Service::default();
    serve_router(scheme, service.clone(), server.add_service(big(service))).await
}

/// The service without tonic's limit of 4 MiB, so that only the transport's own limits count.
pub(crate) fn big(service: Service) -> TestServer<Service> {
    TestServer::new(service).max_decoding_message_size(usize::MAX)
}

pub(crate) async fn serve_router(scheme: &str, service: Service, router: Router) -> TestHost {
    serve_future(scheme, service, |listener, stop| async move {
        router.serve_on_with_shutdown([listener], stop).await
    })
    .await
}

/// For routers of any type.
pub(crate) async fn serve_future<F>(
    scheme: &str,
    service: Service,
    run: impl FnOnce(Listener, Pin<Box<dyn Future<Output = ()> + Send>>) -> F,
) -> TestHost
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let listener = Listener::bind(format!("{scheme}://127.0.0.1:0"))
        .await
        .unwrap();
    let (uri, addr) = (listener.uri(), listener.local_addr());
    let calls = listener.call_monitor();
    let (stop, stopped) = oneshot::channel();
    let signal = Box::pin(async {
        let _ = stopped.await;
    });
    let task = tokio::spawn(run(listener, signal));
    TestHost {
        uri,
        addr,
        service,
        calls,
        stop: Some(stop),
        task,
    }
}

impl TestHost {
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(self.uri.clone()).unwrap()
    }

    /// With options in its URI.
    pub(crate) fn endpoint_at(&self, query: &str) -> Endpoint {
        Endpoint::from_shared(format!("{}{query}", self.uri)).unwrap()
    }

    pub(crate) async fn client_at(&self, query: &str) -> TestClient<Channel> {
        big_client(self.endpoint_at(query).connect().await.unwrap())
    }

    pub(crate) async fn client(&self) -> TestClient<Channel> {
        big_client(self.endpoint().connect().await.unwrap())
    }

    /// Asks it to stop.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        // Kept, so that waiting is not the same as stopping.
        let _stop = self.stop;
        self.task.await.unwrap()
    }
}

pub(crate) fn big_client(channel: Channel) -> TestClient<Channel> {
    TestClient::new(channel).max_decoding_message_size(usize::MAX)
}

pub(crate) fn ask(text: &str) -> CallRequest {
    CallRequest {
        text: text.into(),
        ..CallRequest::default()
    }
}

/// The transport's error behind a status.
pub(crate) fn call_error(status: &Status) -> Option<&CallError> {
    status.source()?.downcast_ref()
}

/// Waits until something is so, at most two seconds.
pub(crate) async fn eventually(what: &str, so: impl Fn() -> bool) {
    within(Duration::from_secs(2), what, so).await;
}

/// Waits until something is so, at most `limit`.
pub(crate) async fn within(limit: Duration, what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < limit, "not so after {limit:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
