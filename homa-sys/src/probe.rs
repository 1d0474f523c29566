//! [`probe`]: whether the module is there, and which one.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use libc::Ioctl;

use crate::call::{self, Family};
use crate::legacy::{HOMAIOCABORT_2025, HOMAIOCINFO_2025, IPPROTO_HOMA_2022};
use crate::{HOMAIOCABORT, HOMAIOCINFO, IPPROTO_HOMA, sysctl};

/// A module whose structures are those of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Abi {
    /// Which ioctl numbers it has.
    pub numbers: Numbers,
    /// Whether its [parameters](crate::sysctl) can be seen from here: only in the initial network
    /// namespace, and not with the reduced build that was offered for inclusion in Linux, which
    /// has no priorities, no grants and no HOMAIOCABORT either.
    pub parameters: bool,
}

/// ioctl numbers, by when they were introduced (A.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// October 2025.
    Of2025,
    /// 13 April 2026, the present ones.
    Of2026,
}

impl Numbers {
    /// The number of HOMAIOCINFO.
    pub const fn info(self) -> Ioctl {
        match self {
            Self::Of2025 => HOMAIOCINFO_2025,
            Self::Of2026 => HOMAIOCINFO,
        }
    }

    /// The number of HOMAIOCABORT.
    pub const fn abort(self) -> Ioctl {
        match self {
            Self::Of2025 => HOMAIOCABORT_2025,
            Self::Of2026 => HOMAIOCABORT,
        }
    }
}

impl fmt::Display for Abi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = match self.numbers {
            Numbers::Of2025 => "October 2025",
            Numbers::Of2026 => "April 2026",
        };
        write!(f, "ABI of {numbers}")
    }
}

/// Why the module cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unusable {
    /// It is not loaded.
    Missing,
    /// It has protocol number 253, as modules before 25 October 2024.
    Before2024,
    /// It has none of the ioctl numbers since October 2025, and so maybe other structures.
    Before2025,
    /// This process may not have such a socket.
    Denied(io::Error),
    /// The system refused a socket for another reason.
    Socket(io::Error),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DOCS: &str = "see docs/kernel.md";
        match self {
            Self::Missing => write!(
                f,
                "no protocol 146: EPROTONOSUPPORT; load the homa module, {DOCS}"
            ),
            Self::Before2024 => write!(
                f,
                "the homa module is older than October 2024 (protocol 253); load a newer one, {DOCS}"
            ),
            Self::Before2025 => write!(
                f,
                "the homa module is older than October 2025 (no HOMAIOCINFO); load a newer one, {DOCS}"
            ),
            Self::Denied(error) => write!(
                f,
                "this process may not open a socket of protocol 146: {error}; allow it in the \
                 sandbox or security module, {DOCS}"
            ),
            Self::Socket(error) => write!(f, "cannot open a socket of protocol 146: {error}"),
        }
    }
}

impl std::error::Error for Unusable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // Told in the message.
        None
    }
}

/// Looks whether the module is loaded, with the structures of this crate (A.13). Opens a socket and
/// closes it again.
///
/// # Errors
/// [`Unusable`]: why it cannot be used.
pub fn probe() -> Result<Abi, Unusable> {
    let socket = match call::socket(Family::V4, IPPROTO_HOMA) {
        Ok(socket) => socket,
        Err(error) => return Err(unusable(error)),
    };
    abi(socket.as_fd())
}

/// Which module a socket of protocol 146 is of.
///
/// # Errors
/// [`Unusable::Before2025`].
pub fn abi(socket: BorrowedFd<'_>) -> Result<Abi, Unusable> {
    for numbers in [Numbers::Of2026, Numbers::Of2025] {
        if call::info(socket, numbers, &mut []).is_ok() {
            return Ok(Abi {
                numbers,
                parameters: sysctl::UNSCHED_BYTES.read().is_ok(),
            });
        }
    }
    Err(Unusable::Before2025)
}

fn unusable(error: io::Error) -> Unusable {
    match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT) => {
            match call::socket(Family::V4, IPPROTO_HOMA_2022) {
                Ok(_) => Unusable::Before2024,
                Err(_) => Unusable::Missing,
            }
        }
        Some(libc::EPERM | libc::EACCES) => Unusable::Denied(error),
        _ => Unusable::Socket(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_module_says_so_and_what_to_do() {
        match probe() {
            Ok(abi) => println!("skipped: the module is loaded, {abi}"),
            Err(error @ Unusable::Missing) => assert_eq!(
                error.to_string(),
                "no protocol 146: EPROTONOSUPPORT; load the homa module, see docs/kernel.md"
            ),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |errno| unusable(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EPERM), Unusable::Denied(_)));
        assert!(matches!(of(libc::EACCES), Unusable::Denied(_)));
        assert!(matches!(of(libc::EMFILE), Unusable::Socket(_)));
        let denied = of(libc::EPERM).to_string();
        assert!(denied.contains("Operation not permitted"), "{denied}");
    }

    #[test]
    fn a_socket_of_another_protocol_is_no_homa_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        assert!(matches!(abi(socket.as_fd()), Err(Unusable::Before2025)));
    }
}
