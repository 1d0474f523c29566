//! What one short call costs a server: allocations without the network, and system calls with it.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use std::net::{Ipv4Addr, SocketAddr};

use allocation_counter::measure;
use common::{Echo, EchoClient};
use thrift_homa::{HomaServer, HomaTransport, Limits, process_message};

#[test]
fn a_short_call_takes_few_allocations() {
    let ping = b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\x01\0".as_slice();
    let mut echo = b"\x80\x01\0\x01\0\0\0\x04echo\0\0\0\x01\x0b\0\x01\0\0\0\x64".to_vec();
    echo.extend_from_slice(&[b'x'; 100]);
    echo.push(0);
    let (service, limits) = (Echo::default(), Limits::default());
    // The buffer in which replies are put together, and what a thread does once.
    drop(process_message(&service, ping, &limits));
    let count =
        |request: &[u8]| measure(|| drop(process_message(&service, request, &limits))).count_total;
    let (ping, echo) = (count(ping), count(&echo));
    println!("allocations: ping {ping}, echo of 100 B {echo}");
    // Of these the header takes 3 (its first bytes, its name, and the copy that the processor gets),
    // the reply's header and name as many in the service, the reply itself 2.
    assert!(ping <= 10 && echo <= 14, "{ping} and {echo}");
}

#[test]
fn a_call_on_an_idle_server_takes_one_receive_and_one_send_of_it() {
    const CALLS: u64 = 500;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let builder = HomaServer::builder(Echo::default()).workers(8);
    let server = builder.bind(any).expect("a port").spawn().expect("threads");
    let transport = HomaTransport::open(server.local_addr()).expect("an endpoint");
    let (input, output) = transport.protocols();
    let mut client = EchoClient::new(input, output);
    let text = "x".repeat(100);
    client.echo(&text).expect("a reply");
    let before = server.endpoint_counters().expect("it is on Homa");
    for _ in 0..CALLS {
        client.echo(&text).expect("a reply");
    }
    let after = server.endpoint_counters().expect("it is on Homa");
    let per_call = |count: fn(&homa_client::EndpointCounters) -> u64| {
        (count(&after) - count(&before)) as f64 / CALLS as f64
    };
    let sends = per_call(|counters| counters.sends);
    let inline = per_call(|counters| counters.inline_sends);
    let receives = per_call(|counters| counters.receives);
    let packets = per_call(|counters| counters.packets_sent + counters.packets_received);
    println!(
        "per call: {receives:.2} receives, {sends:.2} sends, {inline:.2} of them on the worker's \
         thread; {packets:.2} packets"
    );
    // Acknowledgments ride on the next request. A few more where the machine is busy.
    assert!(sends < 1.5 && receives < 1.5 && packets < 3.0);
    assert!(inline > 0.9, "a reply leaves on the thread that made it");
    assert!(
        server
            .shutdown(std::time::Duration::from_secs(10))
            .is_clean()
    );
}
