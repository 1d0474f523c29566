//! [`ToHoma`]: passes calls on to a server on Homa.

use std::net::SocketAddr;
use std::time::Duration;

use homa_client::blocking::Client;
use homa_client::{Config, Message};

use crate::addr::{HostPort, resolve};
use crate::client::HomaError;
use crate::control::{self, Received};
use crate::process::{Answer, Caller, Response};
use crate::server::{CallOutcome, Forward};

/// A server on Homa.
pub(super) struct ToHoma {
    client: Client,
    to: SocketAddr,
    timeout: Duration,
}

impl ToHoma {
    pub(super) fn open(
        to: HostPort<'_>,
        config: &Config,
        timeout: Duration,
    ) -> thrift::Result<Self> {
        let to = resolve(to)?;
        Ok(Self {
            client: Client::bind(config).map_err(crate::error::not_open)?,
            to,
            timeout,
        })
    }
}

impl Forward for ToHoma {
    fn forward(&self, caller: &Caller, request: Message) -> Answer {
        let reply = match self.client.call_timeout(self.to, request, self.timeout) {
            Ok(Some(reply)) => reply,
            Ok(None) => {
                let (to, timeout) = (self.to, self.timeout);
                return caller.unavailable(&format!(
                    "no reply from {to} within {timeout:?}; the call may have run"
                ));
            }
            Err(error) => return caller.unavailable(&HomaError::from(error).to_string()),
        };
        let Some(first) = reply.parts().next() else {
            return caller.unavailable("an empty reply");
        };
        // Control replies are short: they come in one part.
        match control::classify(first) {
            Received::Message => caller.forwarded(reply),
            Received::Nothing => Answer {
                reply: Response::Accepted,
                outcome: CallOutcome::Oneway,
            },
            Received::NotUnderstood(why) => caller.unavailable(&format!(
                "{} did not understand the request: {why}",
                self.to
            )),
            Received::NotAccepted(why) => caller.refuse(&why),
            Received::Unknown(kind) => caller.unavailable(&format!(
                "{} answered by a control reply of unknown kind {kind:#04x}",
                self.to
            )),
        }
    }
}
