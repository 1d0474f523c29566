//! [`Context`]: what cases call through.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use thrift_homa::{BoxedInputProtocol, BoxedOutputProtocol, Endpoint, OnewayMode};

use super::SERVICES;
use super::suite::{CallId, Runs, SecondSyncClient, SuiteSyncClient, TSuiteSyncClient};
use crate::case::{Failure, ensure};
use crate::ledger::Session;
use crate::suite::Amount;

/// A client of the service `Suite`.
pub(super) type Suite = SuiteSyncClient<BoxedInputProtocol, BoxedOutputProtocol>;

/// A client of the service `Second`.
pub(super) type Second = SecondSyncClient<BoxedInputProtocol, BoxedOutputProtocol>;

/// How long one call may take where a case says nothing else.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take until a oneway call has run.
const ONEWAY_LIMIT: Duration = Duration::from_secs(10);

/// What a case has to work with.
#[derive(Clone)]
pub(crate) struct Context {
    endpoint: Endpoint,
    session: Arc<Session>,
    pub(super) amount: Amount,
}

impl Context {
    /// For one case, whose calls the server counts apart.
    pub(super) fn new(endpoint: &Endpoint, amount: Amount) -> Self {
        let mut endpoint = endpoint.clone();
        endpoint.options_mut().timeout.get_or_insert(CALL_LIMIT);
        Self {
            endpoint,
            session: Session::start(),
            amount,
        }
    }

    /// The same with another time for each call.
    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        let mut context = self.clone();
        context.endpoint.options_mut().timeout = Some(timeout);
        context
    }

    /// The same with another way to send oneway calls.
    pub(super) fn with_oneway(&self, mode: OnewayMode) -> Self {
        let mut context = self.clone();
        context.endpoint.options_mut().oneway = mode;
        context
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A new client of the service that the URI names, or else of the server's default one.
    pub(super) fn suite(&self) -> Result<Suite, Failure> {
        let (input, output) = self.endpoint.client().map_err(|error| connecting(&error))?;
        Ok(SuiteSyncClient::new(input, output))
    }

    /// A new client of the other service.
    pub(super) fn second(&self) -> Result<Second, Failure> {
        let (input, output) = self.protocols_of(SERVICES[1])?;
        Ok(SecondSyncClient::new(input, output))
    }

    /// Of a service by its name.
    pub(super) fn protocols_of(
        &self,
        service: &str,
    ) -> Result<(BoxedInputProtocol, BoxedOutputProtocol), Failure> {
        let client = self.endpoint.client_for_service(service);
        client.map_err(|error| connecting(&error))
    }

    /// A number for a call.
    pub(super) fn next_id(&self) -> CallId {
        let id = self.session.next();
        CallId::new(id.session.cast_signed(), id.number.cast_signed())
    }

    /// How often the calls that were given numbers have run.
    pub(super) fn runs(&self) -> Result<(u64, u64), Failure> {
        let runs = self.suite()?.runs(self.session.id.cast_signed());
        let Runs { calls, again } = runs.map_err(Failure::from)?;
        let unsigned = |count: Option<i64>| count.unwrap_or_default().cast_unsigned();
        Ok((unsigned(calls), unsigned(again)))
    }

    /// Whether every call that was given a number runs exactly once; oneway calls may still be on
    /// their way.
    pub(super) fn ran_once(&self) -> Result<(), Failure> {
        let made = self.session.calls_made();
        let deadline = Instant::now() + ONEWAY_LIMIT;
        let (mut calls, mut again) = self.runs()?;
        while calls < made && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
            (calls, again) = self.runs()?;
        }
        ensure!(
            calls == made && again == 0,
            "of {made} numbered calls {calls} ran, and {again} ran again"
        );
        Ok(())
    }

    /// How many calls were given numbers.
    pub(super) fn calls_made(&self) -> u64 {
        self.session.calls_made()
    }
}

fn connecting(error: &thrift::Error) -> Failure {
    Failure::new(describe(error)).during("connecting")
}

/// An error with its kind.
pub(crate) fn describe(error: &thrift::Error) -> String {
    match error {
        thrift::Error::Transport(error) => {
            format!("Transport/{:?}: {}", error.kind, error.message)
        }
        thrift::Error::Protocol(error) => format!("Protocol/{:?}: {}", error.kind, error.message),
        thrift::Error::Application(error) => {
            format!("Application/{:?}: {}", error.kind, error.message)
        }
        thrift::Error::User(error) => format!("User: {error}"),
    }
}

impl From<thrift::Error> for Failure {
    /// Of a call that should have succeeded.
    fn from(error: thrift::Error) -> Self {
        Self::new(describe(&error))
    }
}
