//! The runs: both stacks in turns, on one link after the other.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::LinkError;
use super::figures::{Call, Round, deciles, same_arrivals};
use super::generator::{self, Offered, Told};
use super::host::{Processors, TcpCounters};
use super::incast::{BURST_TIME, BurstArguments, Order, now_ns, until};
use super::plan::{Disturbed, INCAST_BYTES, INCAST_CALLS, MOST_AGAIN, Plan, RESPONSE_BYTES};
use super::process::{Burster, ProcessError, Worker, command_in};
use super::rows::{HomaCounters, Incast, IncastRow, IncastSide, LoadRow, RoundFacts};
use super::switch::{self, Watch};
use super::topology::{SERVER_PORT, Topology, address};
use crate::child::{Serving, StartError};
use crate::echo::{self, Uris};
use crate::progress::Progress;
use crate::report::{median, rounded};

/// Time that all clients of an incast have to read when it begins.
const SOON: Duration = Duration::from_millis(50);

/// How often the queues of the switch are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Time between two incasts.
const PAUSE: Duration = Duration::from_millis(200);

/// How long clients may take beyond the time in which they make calls.
const PATIENCE: Duration = Duration::from_secs(60);

/// What carries the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    Tcp,
    Homa,
}

impl Stack {
    /// In the order in which they take turns.
    const BOTH: [Self; 2] = [Self::Tcp, Self::Homa];

    /// As `bench load` calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tonic-tcp",
            Self::Homa => "tonic-homa",
        }
    }

    fn uri(self, uris: &Uris) -> &str {
        match self {
            Self::Tcp => &uris.tcp,
            Self::Homa => &uris.homa,
        }
    }
}

/// A link with a server, of which each row has its own.
#[derive(Debug)]
struct Site {
    // Dropped before the hosts are.
    server: Serving<Uris>,
    topology: Topology,
}

impl Site {
    async fn open(plan: &Plan) -> Result<Self, LinkError> {
        let topology = Topology::create(plan.port)?;
        let options = echo::Options {
            listen: (address(1), 0).into(),
            workers: None,
            link_mbps: Some(plan.port.mbps),
        };
        let mut command = command_in(&topology.server).map_err(StartError::Spawn)?;
        command.arg("serve-echo").args(options.to_arguments());
        Ok(Self {
            server: Serving::start_command(command).await?,
            topology,
        })
    }

    fn queues(&self) -> Result<switch::Queues, LinkError> {
        Ok(switch::queues(&self.topology.switch, SERVER_PORT)?)
    }

    /// Of all clients.
    fn tcp(&self) -> Option<TcpCounters> {
        let clients = self.topology.clients.iter().map(TcpCounters::of);
        clients.reduce(|one, other| Some(one?.plus(other?)))?
    }
}

/// What was counted between the two.
fn difference(before: Option<TcpCounters>, after: Option<TcpCounters>) -> Option<TcpCounters> {
    Some(after?.since(before?))
}

/// A workload, on both stacks.
pub(super) async fn load(
    plan: &Plan,
    offered: &Offered,
    folder: &Path,
    progress: &Progress,
) -> Result<LoadRow, LinkError> {
    let site = Site::open(plan).await?;
    let mut rounds = [Vec::new(), Vec::new()];
    let mut facts = [Vec::new(), Vec::new()];
    for number in 0..plan.rounds {
        let mut arrivals: Option<Vec<Call>> = None;
        for (at, stack) in Stack::BOTH.into_iter().enumerate() {
            let turn = Turn {
                plan,
                offered,
                stack,
                number,
            };
            progress.bar.set_message(turn.name());
            let (calls, said) = turn.take_undisturbed(&site, folder, progress).await?;
            // Else the two were not compared.
            if arrivals
                .as_ref()
                .is_some_and(|first| !same_arrivals(first, &calls))
            {
                return Err(LinkError::Arrivals { turn: turn.name() });
            }
            rounds[at].push(Round::of(calls.clone())?);
            facts[at].push(said);
            arrivals = Some(calls);
            progress.bar.inc(1);
        }
    }
    let [tcp, homa] = facts;
    Ok(LoadRow {
        workload: offered.workload.published().name.to_owned(),
        load: plan.load,
        payload_mbps: rounded(offered.payload_mbps),
        calls_per_s: rounded(offered.calls_per_s()),
        seconds: offered.seconds(plan).as_secs_f64(),
        deciles: deciles(&rounds[0], &rounds[1]),
        tcp,
        homa,
    })
}

/// One stack's round of a workload.
struct Turn<'a> {
    plan: &'a Plan,
    offered: &'a Offered,
    stack: Stack,
    number: u32,
}

impl Turn<'_> {
    fn name(&self) -> String {
        format!(
            "{}, {}, round {}",
            self.offered.workload.published().name,
            self.stack.name(),
            self.number + 1
        )
    }

    /// Again if it was disturbed, with the same calls.
    async fn take_undisturbed(
        &self,
        site: &Site,
        folder: &Path,
        progress: &Progress,
    ) -> Result<(Vec<Call>, RoundFacts), LinkError> {
        let mut again = Again::default();
        loop {
            match self.take(site, folder).await {
                Err(LinkError::Disturbed(why)) => again.or_fail(why, progress)?,
                taken => {
                    let (calls, mut facts) = taken?;
                    facts.refused = again.refused;
                    return Ok((calls, facts));
                }
            }
        }
    }

    async fn take(&self, site: &Site, folder: &Path) -> Result<(Vec<Call>, RoundFacts), LinkError> {
        let failed = |source: ProcessError| LinkError::Process {
            what: self.name(),
            source,
        };
        let clients = &site.topology.clients;
        let tcp_before = site.tcp();
        let start_at_ns = now_ns() + u64::try_from(generator::LEAD.as_nanos()).unwrap_or(u64::MAX);
        let file = |client: usize| folder.join(format!("client{client}.json"));
        let mut workers = Vec::new();
        for (client, host) in clients.iter().enumerate() {
            let generator = generator::Arguments {
                uri: self.stack.uri(&site.server.at),
                stack: self.stack,
                client,
                round: self.number,
                start_at_ns,
                server_pid: site.server.at.pid,
                json: &file(client),
            };
            let arguments = generator.to_arguments(self.plan, self.offered);
            let worker = Worker::start(client + 1, host, &arguments);
            workers.push(worker.map_err(failed)?);
        }
        let begin_ns = start_at_ns + self.plan.warm_up.as_nanos() as u64;
        let end_ns = begin_ns + self.offered.seconds(self.plan).as_nanos() as u64;
        while !until(begin_ns).is_zero() {
            check(&mut workers).await.map_err(failed)?;
            sleep(until(begin_ns).min(LOOK)).await;
        }
        let processors = Processors::now()?;
        let (began_ns, first) = (now_ns(), site.queues()?);
        let mut watch = Watch::new(first);
        let mut failure = None;
        while failure.is_none() && !until(end_ns).is_zero() {
            sleep(until(end_ns).min(LOOK)).await;
            failure = check(&mut workers).await.err();
            watch.look(site.queues()?);
        }
        let busy = Processors::now()?.busy_since(processors);
        let watched = Duration::from_nanos(now_ns() - began_ns);
        for worker in workers {
            if failure.is_none() {
                failure = worker.end(PATIENCE).await.err();
            }
        }
        // Before calls that failed or were late: these follow from it.
        self.plan.check_busy(busy, || self.name())?;
        if let Some(failure) = failure {
            return Err(failed(failure));
        }
        let told = (0..clients.len()).map(|client| generator::read(&file(client), client));
        let told: Vec<Told> = told.collect::<Result<_, _>>()?;
        let (lag, cpu) = (Told::lag(&told), Told::cpu(&told));
        self.plan.check_late(lag, || self.name())?;
        let calls: Vec<Call> = told.into_iter().flat_map(|told| told.calls).collect();
        let queues = watch.counted();
        let bytes: u64 = queues.iter().map(|queue| queue.bytes).sum();
        let can = f64::from(self.plan.port.mbps) * 1e6 / 8.0 * watched.as_secs_f64();
        let facts = RoundFacts {
            calls: calls.len() as u64,
            lag,
            cpu,
            refused: 0,
            busy: rounded(busy),
            used: rounded(bytes as f64 / can),
            queues,
            tcp: difference(tcp_before, site.tcp()),
        };
        Ok((calls, facts))
    }
}

/// How often a turn was taken that does not count.
#[derive(Debug, Default)]
struct Again {
    refused: u32,
}

impl Again {
    fn or_fail(&mut self, why: Disturbed, progress: &Progress) -> Result<(), LinkError> {
        if self.refused == MOST_AGAIN {
            return Err(why.into());
        }
        self.refused += 1;
        progress.print(&format!("taken again: {why}\n"))?;
        Ok(())
    }
}

async fn check(workers: &mut [Worker]) -> Result<(), ProcessError> {
    for worker in workers {
        worker.check().await?;
    }
    Ok(())
}

/// Many calls of all clients at once, on both stacks.
pub(super) async fn incast(plan: &Plan, progress: &Progress) -> Result<IncastRow, LinkError> {
    let site = Site::open(plan).await?;
    let mut clients = [Vec::new(), Vec::new()];
    for (stack, clients) in Stack::BOTH.into_iter().zip(&mut clients) {
        let arguments = BurstArguments {
            uri: stack.uri(&site.server.at).to_owned(),
            calls: INCAST_CALLS,
            bytes: INCAST_BYTES,
            response_bytes: RESPONSE_BYTES,
            link_mbps: plan.port.mbps,
        };
        for (host, client) in site.topology.clients.iter().zip(1..) {
            let started = Burster::start(client, host, &arguments).await;
            clients.push(started.map_err(|source| incast_failed(stack, source))?);
        }
    }
    let mut rounds = [Vec::new(), Vec::new()];
    let mut homa_before = HomaCounters::default();
    // One more round before those that count, for connections and caches.
    for number in 0..=plan.rounds {
        for (at, stack) in Stack::BOTH.into_iter().enumerate() {
            progress.bar.set_message(incast_name(stack));
            let mut again = Again::default();
            loop {
                sleep(PAUSE).await;
                let mut round = burst(&site, stack, &mut clients[at]).await?;
                if let Some(counted) = round.homa {
                    round.homa = Some(counted.since(homa_before));
                    homa_before = counted;
                }
                if number == 0 {
                    break;
                }
                if let Err(why) = plan.check_busy(round.busy, || incast_name(stack)) {
                    again.or_fail(why, progress)?;
                    continue;
                }
                round.refused = again.refused;
                rounds[at].push(round);
                progress.bar.inc(1);
                break;
            }
        }
    }
    let [tcp, homa] = rounds.map(|rounds| IncastSide {
        completion_ms: median(rounds.iter().map(|round| round.completion_ms).collect()),
        rounds,
    });
    let bytes = f64::from(INCAST_BYTES) * f64::from(INCAST_CALLS) * clients[0].len() as f64;
    Ok(IncastRow {
        clients: clients[0].len(),
        calls: INCAST_CALLS,
        bytes: INCAST_BYTES.into(),
        least_ms: rounded(bytes * 8.0 / f64::from(plan.port.mbps) / 1e3),
        ratio: rounded(homa.completion_ms / tcp.completion_ms),
        tcp,
        homa,
    })
}

fn incast_name(stack: Stack) -> String {
    format!("incast, {}", stack.name())
}

fn incast_failed(stack: Stack, source: ProcessError) -> LinkError {
    LinkError::Process {
        what: incast_name(stack),
        source,
    }
}

/// One incast. Homa's counters are those since the clients were started.
async fn burst(site: &Site, stack: Stack, clients: &mut [Burster]) -> Result<Incast, LinkError> {
    let failed = |source| incast_failed(stack, source);
    let tcp_before = site.tcp();
    let mut watch = Watch::new(site.queues()?);
    let processors = Processors::now()?;
    let start_at_ns = now_ns() + SOON.as_nanos() as u64;
    for client in &mut *clients {
        client.order(Order { start_at_ns }).await.map_err(failed)?;
    }
    let mut all = Vec::new();
    for client in clients {
        all.push(client.done(BURST_TIME + PATIENCE).await.map_err(failed)?);
    }
    let busy = Processors::now()?.busy_since(processors);
    watch.look(site.queues()?);
    let last_ns = all
        .iter()
        .map(|done| done.last_ns)
        .fold(start_at_ns, u64::max);
    let homa = all.iter().map(|done| done.homa);
    Ok(Incast {
        completion_ms: rounded((last_ns - start_at_ns) as f64 / 1e6),
        failed: all.iter().map(|done| done.failed).sum(),
        refused: 0,
        busy: rounded(busy),
        queues: watch.counted(),
        tcp: difference(tcp_before, site.tcp()),
        homa: homa.reduce(|one, other| Some(one?.plus(other?))).flatten(),
    })
}
