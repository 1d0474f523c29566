//! [`Foreign`]: programs in Python, which take the place of the client or of the server and are on
//! TCP, with a gateway between them and Homa.

use std::io;
use std::path::{Path, PathBuf};
use std::process;

use tokio::process::Command;

use super::transport::Protocol;

/// One of two libraries on one of two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) library: Library,
    pub(super) side: Side,
}

/// A Thrift library for Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// Apache's.
    Thrift,
    /// One without a line in common with it.
    Thriftpy2,
}

/// What a program takes the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Library {
    /// By which pip and Python know it.
    fn name(self) -> &'static str {
        match self {
            Self::Thrift => "thrift",
            Self::Thriftpy2 => "thriftpy2",
        }
    }

    /// It and its version, or why `python` does not have it.
    pub(super) fn find(self, python: &Path) -> Result<String, String> {
        let name = self.name();
        let asked = format!(
            "import importlib.metadata, platform, {name}\n\
             print('{name}', importlib.metadata.version('{name}'), 'of Python', \
             platform.python_version())"
        );
        let answer = process::Command::new(python)
            .args(["-c", &asked])
            .stdin(process::Stdio::null())
            .output();
        let python = python.display();
        match answer {
            Ok(answer) if answer.status.success() => {
                Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
            }
            Ok(_) => Err(format!(
                "`{python}` has no package {name}: run interop/foreign/setup.sh"
            )),
            Err(error) => Err(format!("cannot run `{python}`: {error}")),
        }
    }
}

/// A file of `interop/foreign`, with its text.
macro_rules! file {
    ($name:literal) => {
        (
            concat!("foreign/", $name),
            include_str!(concat!("../../foreign/", $name)),
        )
    };
}

/// The programs, and what they read.
const FILES: &[(&str, &str)] = &[
    ("idl/suite.thrift", include_str!("../../idl/suite.thrift")),
    file!("client.py"),
    file!("server.py"),
    file!("cases.py"),
    file!("common.py"),
    file!("context.py"),
    file!("with_thrift.py"),
    file!("with_thriftpy2.py"),
    file!("suite/__init__.py"),
    file!("suite/constants.py"),
    file!("suite/ttypes.py"),
    file!("suite/Base.py"),
    file!("suite/Second.py"),
    file!("suite/Suite.py"),
];

impl Foreign {
    /// Starts with writing the program to `folder`, which is then to be removed by others.
    pub(super) fn command(self, python: &Path, folder: &Path) -> io::Result<Command> {
        for (name, text) in FILES {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(path, text)?;
        }
        let program = match self.side {
            Side::Client => "foreign/client.py",
            Side::Server => "foreign/server.py",
        };
        let mut command = Command::new(python);
        command.arg(folder.join(program));
        command.args(["--library", self.library.name()]);
        Ok(command)
    }

    /// Why a case cannot be run with it, if so.
    pub(super) fn why_not(self, case: &str, protocol: Option<Protocol>) -> Option<&'static str> {
        use Library::{Thrift, Thriftpy2};
        Some(match (self.side, self.library, case) {
            (Side::Client, _, "oneway_acknowledged") => "over TCP nothing answers a oneway call",
            (Side::Client, Thriftpy2, "too_deep") if protocol == Some(Protocol::Binary) => {
                "the library writes 64 levels at most"
            }
            (Side::Server, _, "panicking_handler") => "there are no panics in Python",
            (Side::Server, Thrift, "void_ends") => {
                "the library has one kind for all exceptions that are not declared, InternalError"
            }
            (Side::Server, Thriftpy2, "void_ends") => {
                "the library closes the connection at an exception that is not declared"
            }
            (Side::Server, Thriftpy2, "unknown_method") => {
                "of several services the library closes the connection in place of an answer"
            }
            (Side::Server, Thrift, "unknown_service") => {
                "the library closes the connection in place of an answer"
            }
            (Side::Server, Thriftpy2, "unknown_service") => {
                "the library's answer does not name the service"
            }
            _ => return None,
        })
    }
}

/// The Python of `interop/foreign/setup.sh` if it has made one where this program was built, else
/// that of the host.
pub(super) fn default_python() -> PathBuf {
    let of_setup = || {
        let program = std::env::current_exe().ok()?;
        let target = program.parent()?.parent()?;
        let python = target.join("foreign/bin/python3");
        python.exists().then_some(python)
    };
    of_setup().unwrap_or_else(|| "python3".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::thrift::CASES;

    #[test]
    fn the_python_client_has_every_case_that_it_can_have() {
        let (_, cases) = file!("cases.py");
        let mut left_out = Vec::new();
        for case in CASES {
            let is_there = cases.contains(&format!("@case\ndef {}(context):", case.name));
            if !is_there {
                left_out.push(case.name);
            }
            for library in [Library::Thrift, Library::Thriftpy2] {
                let side = Side::Client;
                let why_not = Foreign { library, side }.why_not(case.name, None);
                assert_eq!(why_not.is_none(), is_there, "{}", case.name);
            }
        }
        assert_eq!(left_out, ["oneway_acknowledged"]);
    }

    #[test]
    fn a_python_that_is_not_there_is_named() {
        let why = Library::Thrift.find(Path::new("/no/such/python"));
        let why = why.expect_err("there is none");
        assert!(why.contains("/no/such/python"), "{why}");
    }
}
