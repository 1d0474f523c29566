//! A filter for raw sockets of which there are several. The system gives each of them a copy of
//! every packet of the protocol; those that are for others it throws away by this, before they
//! cost memory and a wake-up.

use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{SockFilter, Socket};

/// One of so many packets for others passes all the same, a power of two: by those we notice when
/// the others are gone.
const SAMPLE: u32 = 16;

/// Whether a socket has the filter.
#[derive(Debug, Default)]
pub(super) struct Filter(AtomicBool);

impl Filter {
    /// Puts it on the socket, which then takes packets to the Homa port `port`, or takes it off.
    pub(super) fn set(&self, socket: &Socket, ipv4: bool, port: u16, on: bool) {
        if self.0.swap(on, Ordering::Relaxed) == on {
            return;
        }
        let result = if on {
            socket.attach_filter(&program(ipv4, port))
        } else {
            socket.detach_filter()
        };
        // Without it everything works, only more slowly.
        if let Err(error) = result {
            tracing::debug!(%error, port, on, "socket filter");
        }
    }
}

/// Classic BPF (Linux `Documentation/networking/filter.rst`). An IPv4 packet begins with its IP
/// header, an IPv6 packet with Homa's; the destination port is in bytes 2 and 3 of that.
fn program(ipv4: bool, port: u16) -> Vec<SockFilter> {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_AFTER_X: u16 = 0x48;
    const LOAD_IP_HEADER_LEN_TO_X: u16 = 0xb1;
    const LOAD_WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_RANDOM`: a random number in place of packet bytes.
    const RANDOM: u32 = 0xffff_f000 + 56;
    const WHOLE: u32 = u32::MAX;

    let plain = |code, k| SockFilter::new(code, 0, 0, k);
    let mut program = if ipv4 {
        vec![
            plain(LOAD_IP_HEADER_LEN_TO_X, 0),
            plain(LOAD_HALF_AFTER_X, 2),
        ]
    } else {
        vec![plain(LOAD_HALF, 2)]
    };
    program.extend([
        // To the end if it is ours.
        SockFilter::new(JUMP_IF_EQUAL, 4, 0, port.into()),
        plain(LOAD_WORD, RANDOM),
        plain(AND, SAMPLE - 1),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, 0),
        plain(RETURN, 0),
        plain(RETURN, WHOLE),
    ]);
    program
}
