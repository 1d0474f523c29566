//! What needs the kernel module, and a service on another machine:
//!
//! ```console
//! $ homa-interop kernel-check --serve 4000                                  # there
//! $ HOMA_KERNEL_PEER=192.0.2.1:4000 cargo test -p homa-client --test kernel # here
//! ```
//!
//! Without either the tests are ignored, and say why.

use std::net::SocketAddr;
use std::process::ExitCode;

use homa_client::kernel_check;
use libtest_mimic::{Arguments, Failed, Trial};

const PEER: &str = "HOMA_KERNEL_PEER";

fn peer() -> Result<SocketAddr, String> {
    homa_sys::probe::probe().map_err(|error| format!("no Homa module ({error})"))?;
    let peer = std::env::var(PEER).map_err(|_| format!("{PEER} names no service to check with"))?;
    peer.parse()
        .map_err(|_| format!("{PEER} = {peer} is not an address and a port"))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match peer() {
        Err(why) => {
            println!("skipped: {why}");
            let ignored = kernel_check::statements()
                .map(|about| Trial::test(name(about), || Ok(())).with_ignored_flag(true));
            ignored.collect()
        }
        Ok(_) if arguments.list => Vec::new(),
        Ok(peer) => {
            let mut trials = Vec::new();
            kernel_check::run(peer, |line| {
                let is_skipped = matches!(&line.holds, Err(why) if why.starts_with("skipped: "));
                let holds = line.holds.map_err(Failed::from);
                let name = name((line.statement, line.what));
                trials.push(Trial::test(name, || holds).with_ignored_flag(is_skipped));
            });
            trials
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn name((statement, what): (u8, &str)) -> String {
    format!("e{statement:03}_{}", what.replace([' ', ','], "_"))
}
