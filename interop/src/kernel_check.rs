//! `homa-interop kernel-check`: whether the kernel module does what its binding relies on, and talks
//! with the engine.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use homa_client::engine::wire::Kind;
use homa_client::kernel_check::{self, CALL_BACK, CALLED, Line, SIZES, pattern};
use homa_client::{Backend, Carrier, Client, Config, Message, blocking};
use homa_sys::probe::probe;
use serde::Serialize;

use crate::report;

/// Status of a check that could not run here.
const NOT_RUN: u8 = 77;

/// How long a response may take: emulated machines are slow.
const LIMIT: Duration = Duration::from_secs(20);

/// Checks the kernel module against a peer.
///
/// On one machine serve, on another one check: over the loopback device the module drops packets of
/// its own. Both need IP protocol 146 between them. Peers are named by their addresses. With the
/// module on both, all statements about it are checked; with `--engine raw` on one side, that the
/// engine in user space and the module understand each other. Exits with status 0 only if all that
/// could be checked holds, 77 without the module.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  homa-interop kernel-check --serve 4000                          # on 192.0.2.1
  homa-interop kernel-check --peer 192.0.2.1:4000                 # on another machine
  homa-interop kernel-check --peer 192.0.2.1:4000 --engine raw    # on one without the module
  homa-interop kernel-check --serve 4002 --engine auto            # with UDP as well
  homa-interop kernel-check --peer 192.0.2.1:4002 --engine auto")]
pub(crate) struct Arguments {
    /// Serves on this port until standard input ends
    #[arg(
        long,
        value_name = "PORT",
        conflicts_with = "peer",
        required_unless_present = "peer"
    )]
    serve: Option<u16>,
    /// The service to check with, by its address and port
    #[arg(long, value_name = "ADDR:PORT")]
    peer: Option<SocketAddr>,
    /// What carries messages on this side
    #[arg(long, value_enum, default_value = "kernel")]
    engine: Engine,
    /// Serves IPv6, which takes IPv4 clients of the module, too
    #[arg(long, conflicts_with = "peer")]
    ipv6: bool,
    /// Largest packet of the raw engine, in bytes; [default: 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// The raw engine waits for packets ten times as long as by default, and fails calls after 2 s:
    /// for emulated machines, whose module wants the same by `sysctl net.homa.resend_ticks=50
    /// net.homa.resend_interval=50 net.homa.timeout_ticks=2000 net.homa.request_ack_ticks=50`
    #[arg(long)]
    slow: bool,
    /// Writes the results as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "serve")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    /// The kernel module
    Kernel,
    /// The engine in user space, which needs the capability CAP_NET_RAW
    Raw,
    /// UDP, and the module as well
    Auto,
}

impl Engine {
    fn config(self, arguments: &Arguments) -> Config {
        let mut config = match self {
            Self::Kernel | Self::Auto => Config::default(),
            Self::Raw => Config::for_carrier(Carrier::Ip),
        };
        config.mtu = arguments.mtu;
        if arguments.slow {
            let timers = &mut config.protocol.timers;
            timers.resend *= 10;
            timers.need_ack *= 10;
            timers.timeout = Duration::from_secs(2);
        }
        config.backend = match self {
            Self::Kernel => Backend::Kernel,
            Self::Raw => Backend::User,
            Self::Auto => Backend::Auto,
        };
        config
    }
}

/// Of lines about this library alone.
const NO_STATEMENT: u8 = 0;

/// A line of the report.
#[derive(Clone, Debug, Serialize)]
struct Checked {
    /// Of the protocol's checklist, if it is one.
    statement: Option<u8>,
    what: &'static str,
    /// `None` if it could not be checked.
    holds: Option<bool>,
    /// Why it does not hold, or could not be checked.
    why: Option<String>,
}

impl From<Line> for Checked {
    fn from(line: Line) -> Self {
        let (holds, why) = match line.holds {
            Ok(()) => (Some(true), None),
            Err(why) if why.starts_with("skipped: ") => (None, Some(why)),
            Err(why) => (Some(false), Some(why)),
        };
        Self {
            statement: Some(line.statement).filter(|number| *number != NO_STATEMENT),
            what: line.what,
            holds,
            why,
        }
    }
}

/// Serves, or checks.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let config = arguments.engine.config(arguments);
    if let (Engine::Kernel | Engine::Auto, Err(why)) = (arguments.engine, probe()) {
        writeln!(io::stdout(), "skipped: no Homa module ({why})")?;
        return Ok(ExitCode::from(NOT_RUN));
    }
    if let Some(path) = &arguments.json {
        report::check_writable(path)?;
    }
    let Some(peer) = arguments.peer else {
        let port = arguments.serve.unwrap_or(0);
        let any = match arguments.ipv6 {
            false => SocketAddr::from(([0; 4], port)),
            true => SocketAddr::from(([0u16; 8], port)),
        };
        serve(any, &config)?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut lines: Vec<Checked> = Vec::new();
    let mut tell = |line: Line| {
        let checked = Checked::from(line);
        let result = match (&checked.holds, &checked.why) {
            (Some(true), _) => "ok".to_owned(),
            (Some(false), why) => format!("FAILED: {}", why.as_deref().unwrap_or_default()),
            (None, why) => why.clone().unwrap_or_default(),
        };
        let told = writeln!(
            io::stdout(),
            "{:>3} {}: {result}",
            checked
                .statement
                .map_or_else(|| "-".to_owned(), |number| number.to_string()),
            checked.what
        );
        lines.push(checked);
        told
    };
    match arguments.engine {
        Engine::Kernel => {
            kernel_check::run(peer, |line| drop(tell(line)));
            in_runtime(peer, &config, |line| drop(tell(line)))?;
        }
        Engine::Auto => auto(peer, &config, |line| drop(tell(line)))?,
        Engine::Raw => raw_to_kernel(peer, &config, |line| drop(tell(line)))?,
    }
    if let Some(path) = &arguments.json {
        report::write_json(path, &lines)?;
    }
    let fails = lines.iter().any(|line| line.holds == Some(false));
    Ok(if fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The asynchronous client, with many calls at a time and some that are given up.
fn in_runtime(
    peer: SocketAddr,
    config: &Config,
    mut tell: impl FnMut(Line),
) -> Result<(), Box<dyn Error>> {
    const AT_ONCE: usize = 16;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let holds = runtime.block_on(async {
        let client = Client::bind(config).map_err(|error| error.to_string())?;
        for round in 0..50 {
            let length = |number: usize| 1 + (round * AT_ONCE + number) * 331 % 120_000;
            let calls: Vec<_> = (0..AT_ONCE)
                .map(|number| client.call(peer, pattern(length(number))))
                .collect();
            for (number, call) in calls.into_iter().enumerate() {
                // Dropped, and with it the RPC.
                if number == round % AT_ONCE {
                    continue;
                }
                let answer = tokio::time::timeout(LIMIT, call).await;
                let answer = answer.map_err(|_| format!("no response in {LIMIT:?}"))?;
                let answer = answer.map_err(|error| error.to_string())?;
                if answer != pattern(length(number)).into_bytes()[..] {
                    return Err(format!("other bytes came back for {}", length(number)));
                }
            }
        }
        Ok(())
    });
    tell(Line {
        statement: NO_STATEMENT,
        what: "calls in a runtime, 16 at once, some given up",
        holds,
    });
    Ok(())
}

/// A client with both carriers: the service has to be one with both, too.
fn auto(
    peer: SocketAddr,
    config: &Config,
    mut tell: impl FnMut(Line),
) -> Result<(), Box<dyn Error>> {
    let client = blocking::Client::bind(config)?;
    let on_udp = || client.counters(peer).packets_sent;
    let before = on_udp();
    let first = echo(&client, peer, 100);
    tell(Line {
        statement: NO_STATEMENT,
        what: "the first call leaves on UDP",
        holds: first.and(match on_udp() {
            sent if sent > before => Ok(()),
            _ => Err("nothing was sent on UDP".to_owned()),
        }),
    });
    let end = Instant::now() + LIMIT;
    let holds = loop {
        let before = on_udp();
        let answered = echo(&client, peer, 100);
        // An acknowledgement may be sent between calls; a call takes at least one packet.
        if answered.is_err() || on_udp() == before {
            break answered;
        }
        if Instant::now() > end {
            break Err("calls stay on UDP".to_owned());
        }
    };
    tell(Line {
        statement: NO_STATEMENT,
        what: "later calls leave through the module",
        holds: holds.and_then(|()| {
            SIZES
                .iter()
                .try_for_each(|length| echo(&client, peer, *length))
        }),
    });
    Ok(())
}

/// The engine in user space calls the service: statements 97 to 99 from its side.
fn raw_to_kernel(
    peer: SocketAddr,
    config: &Config,
    mut tell: impl FnMut(Line),
) -> Result<(), Box<dyn Error>> {
    let client = blocking::Client::bind(config)?;
    let holds = SIZES
        .iter()
        .try_for_each(|length| echo(&client, peer, *length));
    let passed = holds.is_ok();
    tell(Line {
        statement: 97,
        what: "sizes at which something changes",
        holds,
    });
    let resends = client.counters(peer).protocol.sent(Kind::Resend);
    tell(Line {
        statement: 98,
        what: "nothing was asked for again",
        holds: match resends {
            _ if !passed => Err("skipped: not all passed".to_owned()),
            0 => Ok(()),
            resends => Err(format!("{resends} RESENDs were sent")),
        },
    });
    let many = (0..10_000).try_for_each(|number| echo(&client, peer, 1 + number * 37 % 5000));
    tell(Line {
        statement: 99,
        what: "10,000 RPCs pass",
        holds: many,
    });
    Ok(())
}

fn echo(client: &blocking::Client, peer: SocketAddr, length: usize) -> Result<(), String> {
    match client.call_timeout(peer, pattern(length), LIMIT) {
        Ok(Some(answer)) if answer == pattern(length).into_bytes()[..] => Ok(()),
        Ok(Some(answer)) => Err(format!(
            "other bytes came back: {} instead of {length}",
            answer.len()
        )),
        Ok(None) => Err(format!("no response to {length} bytes in {LIMIT:?}")),
        Err(error) => Err(format!("{length} bytes: {error}")),
    }
}

/// Answers until standard input ends.
fn serve(addr: SocketAddr, config: &Config) -> Result<(), Box<dyn Error>> {
    let server = Arc::new(blocking::Server::bind(addr, config)?);
    let client = blocking::Client::bind(config)?;
    writeln!(io::stdout(), "serving {}", server.local_addr())?;
    let serving = server.clone();
    std::thread::spawn(move || {
        while let Some(request) = serving.accept() {
            let (message, responder) = request.into_parts();
            let Some(port) = call_back(&message) else {
                // The client may be gone.
                let _ = responder.reply(message);
                continue;
            };
            let to = SocketAddr::new(responder.peer().ip().to_canonical(), port);
            let client = client.clone();
            // The server called back may wait for another answer of ours.
            std::thread::spawn(move || drop(responder.reply(outcome_of_call(&client, to))));
        }
    });
    io::stdin().read_to_end(&mut Vec::new())?;
    server.stop();
    Ok(())
}

/// The port that a request asks to be called.
fn call_back(message: &Message) -> Option<u16> {
    if message.len() > 32 {
        return None;
    }
    let bytes = message.clone().into_bytes();
    let port = bytes.strip_prefix(&CALL_BACK[..])?;
    std::str::from_utf8(port).ok()?.parse().ok()
}

/// What comes of a call, in words.
fn outcome_of_call(client: &blocking::Client, to: SocketAddr) -> Message {
    match client.call_timeout(to, "are you there?".into(), LIMIT) {
        Ok(Some(_)) => CALLED.into(),
        Ok(None) => format!("no answer from {to} in {LIMIT:?}").into(),
        Err(error) => error.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_asks_to_be_called_is_no_echo() {
        assert_eq!(call_back(&"call back 4000".into()), Some(4000));
        for other in ["call back", "call back x", "call back 70000", "hello"] {
            assert_eq!(call_back(&other.into()), None, "{other}");
        }
    }

    #[test]
    fn a_skipped_line_is_neither_ok_nor_a_failure() {
        let line = |holds| Line {
            statement: 98,
            what: "something",
            holds,
        };
        let of = |holds| Checked::from(line(holds)).holds;
        assert_eq!(of(Ok(())), Some(true));
        assert_eq!(of(Err("skipped: no counters here".to_owned())), None);
        assert_eq!(of(Err("2 RESENDs were sent".to_owned())), Some(false));
    }
}
