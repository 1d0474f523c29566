//! Several services behind one port.

use thrift::protocol::TInputProtocol;

use super::{Context, Outcome, names, returned, returned_this};
use crate::case::{Failure, ensure};
use crate::thrift::SERVICES;
use crate::thrift::context::describe;
use crate::thrift::suite::{
    BaseSyncClient, SuiteSyncClient, TBaseSyncClient, TSecondSyncClient, TSuiteSyncClient,
};

pub(super) fn two_services(context: &Context) -> Outcome {
    let (input, output) = context.protocols_of(SERVICES[0])?;
    let mut suite = SuiteSyncClient::new(input, output);
    let mut second = context.second()?;
    // In turns, so that neither has a connection to itself.
    for _ in 0..3 {
        let joined = suite.join("a".to_owned(), 2, "c".to_owned());
        returned_this("Suite:join", joined, &"a, 2, c".to_owned())?;
        let joined = second.join(vec!["a".to_owned(), "b".to_owned()]);
        returned_this("Second:join", joined, &"ab".to_owned())?;
        let twice = second.twice("ab".to_owned());
        returned_this("Second:twice", twice, &"abab".to_owned())?;
    }
    returned("Second:note", second.note(context.next_id()))?;
    returned("Suite:note", suite.note(context.next_id(), false))?;
    context.ran_once()
}

pub(super) fn default_service(context: &Context) -> Outcome {
    let mut client = context.suite()?;
    returned_this("name", client.name(), &SERVICES[0].to_owned())
}

pub(super) fn unknown_service(context: &Context) -> Outcome {
    let (input, output) = context.protocols_of("Nobody")?;
    let mut client = BaseSyncClient::new(input, output);
    for _ in 0..2 {
        match client.ping() {
            Err(thrift::Error::Application(error)) => names(&error.message, &["Nobody"])?,
            Err(other) => return Err(Failure::new(describe(&other)).during("ping")),
            Ok(()) => return Err(Failure::new("a service that nobody has answered")),
        }
    }
    // The exception was read to its end.
    returned("another", context.suite()?.ping())
}

pub(super) fn inheritance(context: &Context) -> Outcome {
    for service in SERVICES {
        let (input, output) = context.protocols_of(service)?;
        // A client of the service that both extend.
        let mut client = BaseSyncClient::new(input, output);
        returned("ping", client.ping())?;
        returned_this("name", client.name(), &service.to_owned())?;
    }
    let (mut input, _) = context.protocols_of(SERVICES[0])?;
    ensure!(
        input.read_message_begin().is_err(),
        "a reply to what was never asked"
    );
    Ok(())
}
