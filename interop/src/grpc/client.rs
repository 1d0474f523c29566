//! `grpc`: runs cases against a server.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_homa::transport::{self, Channel, Endpoint};
use tower_service::Service;

use super::MESSAGE_LIMIT;
use super::cases::{CASES, Case};
use super::marks::{Compress, Note, Noting, Unpacking};
use super::proto::probe::probe_client::ProbeClient;
use super::proto::probe::{RunsRequest, RunsResponse};
use super::proto::testing::test_service_client::TestServiceClient;
use super::proto::testing::unimplemented_service_client::UnimplementedServiceClient;
use super::proto::xds::service::orca::v3::open_rca_service_client::OpenRcaServiceClient;
use crate::case::{self, Failure, NAME_WIDTH, Ran};
use crate::faults::FaultArguments;
use crate::progress::Progress;
use crate::{report, values};

/// Runs cases of gRPC's interoperability suite, and of our own, against a server.
///
/// The server is one of `homa-interop serve`, or any of the suite's official ones, on which only
/// our own cases fail. Where the server counts runs, every case also fails if a call of it ran
/// more than once. The exit status is 0 if all cases passed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  homa-interop grpc --uri homa://127.0.0.1:4000 --case all --json out.json    # of `serve`")]
pub(crate) struct Arguments {
    /// The server: homa://HOST:PORT or http://HOST:PORT.
    #[arg(long, value_name = "URI", required_unless_present = "list")]
    uri: Option<String>,
    /// The case to run, or `all`; may be given several times. [default: all]
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Print the names of the cases and what they check, and run none.
    #[arg(long)]
    list: bool,
    /// Seconds after which a case fails, 0.01 to 3600.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = CASE_LIMIT, value_parser = values::parse_seconds)]
    timeout: Duration,
    #[command(flatten)]
    faults: FaultArguments,
    #[command(flatten)]
    load: Load,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Seconds that a case may take by default.
pub(crate) const CASE_LIMIT: &str = "30";

/// How much the larger cases do.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Load {
    /// End within seconds: smaller numbers in place of the following defaults.
    #[arg(long)]
    quick: bool,
    /// Parallel calls of concurrent_large_unary. [default: 1000, quick: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    calls: Option<u32>,
    /// Calls of rpc_soak and channels of channel_soak. [default: 100, quick: 5]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    soak_iterations: Option<u32>,
    /// Seconds that a call of a soak may take.
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          default_value = "1", value_parser = values::parse_seconds)]
    soak_latency: Duration,
    /// Calls of a soak that may fail or take longer.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    soak_failures: u32,
    /// Seconds without calls in long_lived_channel. [default: 2, quick: 0.05]
    #[arg(long, value_name = "S", allow_negative_numbers = true,
          value_parser = values::parse_seconds)]
    idle: Option<Duration>,
    /// Bytes of the longest message of large_message_up and large_message_down, besides one of
    /// 5,000,000. [default: 67108864, quick: 8388608]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(1..=(MESSAGE_LIMIT - 1_000) as u64))]
    large: Option<u64>,
}

impl Load {
    fn or<T>(&self, given: Option<T>, full: T, quick: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }

    /// The same options for another process.
    pub(crate) fn to_arguments(self) -> Vec<String> {
        vec![
            format!("--calls={}", self.calls()),
            format!("--soak-iterations={}", self.soak_iterations()),
            format!("--soak-latency={}", self.soak_latency().as_secs_f64()),
            format!("--soak-failures={}", self.soak_failures()),
            format!("--idle={}", self.idle().as_secs_f64()),
            format!("--large={}", self.large()),
        ]
    }

    pub(super) fn calls(&self) -> u32 {
        self.or(self.calls, 1_000, 50)
    }

    pub(super) fn soak_iterations(&self) -> u32 {
        self.or(self.soak_iterations, 100, 5)
    }

    pub(super) fn soak_latency(&self) -> Duration {
        self.soak_latency
    }

    pub(super) fn soak_failures(&self) -> u32 {
        self.soak_failures
    }

    pub(super) fn idle(&self) -> Duration {
        let (full, quick) = (Duration::from_secs(2), Duration::from_millis(50));
        self.or(self.idle, full, quick)
    }

    pub(super) fn large(&self) -> u64 {
        self.or(self.large, 64 << 20, 8 << 20)
    }
}

/// Metadata of each call: which it is, so that a server can tell whether it ran twice.
pub(super) const CALL_ID: HeaderName = HeaderName::from_static("homa-interop-call");

/// How long the server may take to tell how often calls ran.
const RUNS_LIMIT: Duration = Duration::from_secs(10);

/// How long there may be no server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// One call of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallId {
    pub(super) session: u64,
    pub(super) number: u64,
}

impl CallId {
    pub(super) fn from_header(value: &HeaderValue) -> Option<Self> {
        let (session, number) = value.to_str().ok()?.split_once('-')?;
        Some(Self {
            session: session.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    fn to_header(self) -> HeaderValue {
        let text = format!("{}-{}", self.session, self.number);
        HeaderValue::from_str(&text).expect("digits and a hyphen")
    }
}

/// Numbers the calls of a client; dense from 0, so that a server can keep them all.
#[derive(Debug)]
struct Session {
    id: u64,
    next: AtomicU64,
}

impl Session {
    fn start() -> Arc<Self> {
        Arc::new(Self {
            id: fastrand::u64(..),
            next: AtomicU64::new(0),
        })
    }
}

/// What a case has to work with.
#[derive(Clone)]
pub(super) struct Context {
    endpoint: Endpoint,
    channel: Channel,
    session: Arc<Session>,
    pub(super) load: Load,
}

impl Context {
    async fn connect(endpoint: Endpoint, load: Load) -> Result<Self, transport::Error> {
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
        self.session.next.load(Ordering::Relaxed)
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
        let id = CallId {
            session: self.session.id,
            number: self.session.next.fetch_add(1, Ordering::Relaxed),
        };
        request.headers_mut().insert(CALL_ID, id.to_header());
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

/// What `--json` has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) uri: String,
    pub(crate) passed: bool,
    pub(crate) cases: Vec<Ran>,
}

/// Why no case was run.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("cannot connect to {uri}")]
    Connect {
        uri: String,
        source: Box<transport::Error>,
    },
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

/// Runs them.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if arguments.list {
        list()?;
        return Ok(ExitCode::SUCCESS);
    }
    let cases = case::chosen(CASES, |case| case.name, &arguments.case)?;
    let uri = arguments.uri.clone().unwrap_or_default();
    arguments.faults.check(&uri)?;
    let endpoint = Endpoint::from_shared(uri.clone())?
        .connect_timeout(CONNECT_LIMIT)
        .homa_config(arguments.faults.config());
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let cases = runtime.block_on(run_cases(arguments, endpoint, uri.clone(), &cases))?;
    let failed = cases.iter().filter(|ran| !ran.passed).count();
    let summary = Summary {
        uri,
        passed: failed == 0,
        cases,
    };
    if let Some(path) = &arguments.json {
        report::write_json(path, &summary)?;
    }
    let of = summary.cases.len();
    let verdict = if summary.passed {
        format!("passed: all of {of} cases")
    } else {
        format!("FAILED: {failed} of {of} cases")
    };
    writeln!(io::stdout(), "{verdict}")?;
    Ok(if summary.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn list() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for case in CASES {
        writeln!(out, "{:NAME_WIDTH$} {}", case.name, case.summary)?;
    }
    Ok(())
}

async fn run_cases(
    arguments: &Arguments,
    endpoint: Endpoint,
    uri: String,
    cases: &[&Case],
) -> Result<Vec<Ran>, ClientError> {
    let context = Context::connect(endpoint, arguments.load).await;
    let context = context.map_err(|source| ClientError::Connect {
        uri,
        source: source.into(),
    })?;
    let progress = Progress::if_it_lasts(cases.len() as u64);
    let mut all = Vec::new();
    for case in cases {
        progress.bar.set_message(case.name);
        let began = Instant::now();
        let outcome = run_case(case, &context, arguments.timeout).await;
        let ran = Ran::new(case.name, outcome, began.elapsed());
        progress.print(&ran.line())?;
        progress.bar.inc(1);
        all.push(ran);
    }
    progress.bar.finish_and_clear();
    Ok(all)
}

async fn run_case(case: &Case, context: &Context, limit: Duration) -> Result<(), Failure> {
    let context = context.with_new_session();
    // On a task of its own: a case that panics fails alone, and one on a worker thread is woken
    // without another one.
    let mut running = tokio::spawn((case.run)(context.clone()));
    match timeout(limit, &mut running).await {
        Ok(Ok(outcome)) => outcome?,
        Ok(Err(panicked)) => return Err(Failure::new(panicked.to_string())),
        Err(_) => {
            running.abort();
            let _ = running.await;
            return Err(Failure::new(format!("it did not end within {limit:?}")));
        }
    }
    match context.runs().await {
        Ok(runs) => case::ensure!(
            runs.again == 0,
            "{} handlers were run for {} calls",
            runs.calls + runs.again,
            runs.calls
        ),
        // A server of others does not count.
        Err(status) if status.code() == Code::Unimplemented => {}
        Err(status) => return Err(Failure::from(status).during("asking how often calls ran")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_gets_the_same_load() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            load: Load,
        }
        let parse = |line: &[String]| {
            let line = [&["homa-interop".to_owned()], line].concat();
            <Line as clap::Parser>::try_parse_from(line)
                .expect("valid")
                .load
        };
        for given in [
            &[][..],
            &["--quick"],
            &["--quick", "--calls=7", "--idle=0.3"],
        ] {
            let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
            let load = parse(&given);
            let line = load.to_arguments();
            assert_eq!(parse(&line).to_arguments(), line);
        }
        let quick = parse(&["--quick".to_owned()]);
        assert_eq!((quick.calls(), quick.soak_iterations()), (50, 5));
    }

    #[test]
    fn a_call_s_number_reads_back_and_nonsense_is_none() {
        let id = CallId {
            session: u64::MAX,
            number: 7,
        };
        assert_eq!(CallId::from_header(&id.to_header()), Some(id));
        for nonsense in ["", "1", "1-", "-1", "1-2-3", "x-1"] {
            let value = HeaderValue::from_static(nonsense);
            assert_eq!(CallId::from_header(&value), None, "{nonsense}");
        }
    }
}
