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
use homa_client::{Backend, Carrier, Config, Message, blocking};
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
  homa-interop kernel-check --peer 192.0.2.1:4000 --engine raw    # on one without the module")]
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
    #[arg(long, requires = "serve")]
    ipv6: bool,
    /// Largest packet of the raw engine, in bytes; [default: 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Writes the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    /// The kernel module
    Kernel,
    /// The engine in user space, which needs the capability CAP_NET_RAW
    Raw,
}

impl Engine {
    fn config(self, mtu: Option<u16>) -> Config {
        let mut config = match self {
            Self::Kernel => Config::default(),
            Self::Raw => Config::for_carrier(Carrier::Ip),
        };
        config.mtu = mtu;
        if self == Self::Kernel {
            config.backend = Backend::Kernel;
        }
        config
    }
}

/// A line of the report.
#[derive(Clone, Debug, Serialize)]
struct Checked {
    statement: u8,
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
            statement: line.statement,
            what: line.what,
            holds,
            why,
        }
    }
}

/// Serves, or checks.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let config = arguments.engine.config(arguments.mtu);
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
    if let (Engine::Kernel, Err(why)) = (arguments.engine, probe()) {
        writeln!(io::stdout(), "skipped: no Homa module ({why})")?;
        return Ok(ExitCode::from(NOT_RUN));
    }
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
            "{:3} {}: {result}",
            checked.statement,
            checked.what
        );
        lines.push(checked);
        told
    };
    match arguments.engine {
        Engine::Kernel => kernel_check::run(peer, |line| drop(tell(line))),
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
            let client = client.clone();
            // A call back waits for a server that waits for its answer.
            std::thread::spawn(move || {
                let (message, responder) = request.into_parts();
                let answer = answer(&client, responder.peer(), message);
                // The client may be gone.
                let _ = responder.reply(answer);
            });
        }
    });
    io::stdin().read_to_end(&mut Vec::new())?;
    server.stop();
    Ok(())
}

/// What the service answers a request with.
fn answer(client: &blocking::Client, from: SocketAddr, message: Message) -> Message {
    if message.len() > 32 {
        return message;
    }
    let bytes = message.clone().into_bytes();
    let port = bytes.strip_prefix(&CALL_BACK[..]);
    let Some(port) = port.and_then(|port| std::str::from_utf8(port).ok()?.parse().ok()) else {
        return message;
    };
    let to = SocketAddr::new(from.ip().to_canonical(), port);
    let start = Instant::now();
    let text = match client.call_timeout(to, "are you there?".into(), LIMIT) {
        Ok(Some(_)) => CALLED.to_owned(),
        Ok(None) => format!("no answer from {to} in {:?}", start.elapsed()),
        Err(error) => error.to_string(),
    };
    text.into()
}
