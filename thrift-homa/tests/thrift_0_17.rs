//! The halves of a transport know no types of the thrift crate: services on another version of it use
//! them as they are.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::Echo;
use thrift_0_17::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TFieldIdentifier, TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol,
    TStructIdentifier, TType,
};
use thrift_homa::{HomaServer, HomaTransport};

/// `string echo(1: string text)`, as code that was generated for 0.17 calls it.
fn echo(
    input: &mut dyn TInputProtocol,
    output: &mut dyn TOutputProtocol,
    text: &str,
) -> thrift_0_17::Result<String> {
    output.write_message_begin(&TMessageIdentifier::new("echo", TMessageType::Call, 1))?;
    output.write_struct_begin(&TStructIdentifier::new("arguments"))?;
    output.write_field_begin(&TFieldIdentifier::new("text", TType::String, 1))?;
    output.write_string(text)?;
    output.write_field_end()?;
    output.write_field_stop()?;
    output.write_struct_end()?;
    output.write_message_end()?;
    output.flush()?;
    let header = input.read_message_begin()?;
    assert_eq!(header.message_type, TMessageType::Reply);
    input.read_struct_begin()?;
    assert_eq!(input.read_field_begin()?.field_type, TType::String);
    let reply = input.read_string()?;
    input.read_field_end()?;
    assert_eq!(input.read_field_begin()?.field_type, TType::Stop);
    input.read_struct_end()?;
    input.read_message_end()?;
    Ok(reply)
}

#[test]
fn a_client_of_another_version_of_the_crate_calls_over_the_halves() {
    let server = HomaServer::builder(Echo::default())
        .bind("127.0.0.1:0")
        .and_then(HomaServer::spawn)
        .expect("a server");
    let transport = HomaTransport::open(server.local_addr()).expect("an endpoint");
    let (read, write) = transport.clone().into_halves();
    let mut binary = (
        TBinaryInputProtocol::new(read, true),
        TBinaryOutputProtocol::new(write, true),
    );
    let (read, write) = transport.into_halves();
    let mut compact = (
        TCompactInputProtocol::new(read),
        TCompactOutputProtocol::new(write),
    );
    for size in [0, 10, 5_000, 900_000] {
        let text = "x".repeat(size);
        let reply = echo(&mut binary.0, &mut binary.1, &text).expect("a reply");
        assert!(reply == text, "{size} bytes, binary");
        let reply = echo(&mut compact.0, &mut compact.1, &text).expect("a reply");
        assert!(reply == text, "{size} bytes, compact");
    }
}
