//! Peers that take their time, against servers with less of it than there is by default.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use homa_client::Message;

use super::*;
use crate::limits::Limits;
use crate::process::Answer;
use crate::server::{CallOutcome, Forward};

const TIME: Duration = Duration::from_millis(300);

/// Much more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const PING: &[u8] = b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\x01\0";

/// Answers `ping` by a string of so many bytes.
struct Long(usize);

impl Forward for Long {
    fn forward(&self, caller: &Caller, _: Message) -> Answer {
        let mut reply = b"\x80\x01\0\x02\0\0\0\x04ping\0\0\0\x01\x0b\0\0".to_vec();
        reply.extend((self.0 as u32).to_be_bytes());
        reply.resize(reply.len() + self.0, b'x');
        reply.push(0);
        caller.forwarded(reply.into())
    }
}

fn serve(listener: StreamListener, framing: Framing, reply: usize) -> ServerHandle {
    // The same for long messages.
    let patience = Patience {
        least: TIME,
        per_megabyte: Duration::ZERO,
    };
    serve_with(listener, framing, reply, patience)
}

fn serve_with(
    listener: StreamListener,
    framing: Framing,
    reply: usize,
    patience: Patience,
) -> ServerHandle {
    let options = ServerOptions {
        limits: Limits::for_messages(reply + 1_000_000),
        ..ServerOptions::default()
    };
    let service = Service::Forward(Box::new(Long(reply)));
    serve_patiently(listener, framing, service, options, patience).unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}

fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to pass");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_message_that_trickles_in_has_no_more_time_than_any_other() {
    let folder = tempfile::tempdir().unwrap();
    for framing in [Framing::Framed, Framing::Buffered] {
        let path = folder.path().join(format!("{framing:?}"));
        let server = serve(StreamListener::unix(&path).unwrap(), framing, 10);
        let mut idle = UnixStream::connect(&path).unwrap();
        // Of an argument of a megabyte nearly all is missing.
        let start = b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\x01\x0b\0\x01\0\x0e\0\0";
        let (start, ping) = match framing {
            Framing::Framed => ([b"\0\x0f\0\0", &start[..]].concat(), framed(PING)),
            Framing::Buffered => (start.to_vec(), PING.to_vec()),
        };
        let mut slow = UnixStream::connect(&path).unwrap();
        let began = Instant::now();
        slow.write_all(&start).unwrap();
        while slow.write_all(b"x").is_ok() {
            assert!(began.elapsed() < PATIENCE, "it still reads");
            thread::sleep(TIME / 30);
        }
        assert!(began.elapsed() >= TIME, "{:?}", began.elapsed());
        until(|| server.stats().connections_broken == 1);
        // Between messages there is all the time in the world.
        idle.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..2 {
            idle.write_all(&ping).unwrap();
            let mut reply = vec![0; ping.len() + 17];
            idle.read_exact(&mut reply).unwrap();
        }
        assert_eq!(server.stats().of(CallOutcome::Reply), 2);
        server.shutdown(PATIENCE);
    }
}

/// Reads on, slowly, until the server has given up or all is read.
fn sip(server: &ServerHandle, mut stream: impl Read) -> usize {
    let began = Instant::now();
    let (mut total, mut chunk) = (0, [0; 4_096]);
    while server.stats().connections_broken == 0 {
        assert!(began.elapsed() < PATIENCE, "it still writes");
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(count) => total += count,
        }
        thread::sleep(Duration::from_millis(2));
    }
    total
}

/// Each system call would have the whole time, and all of them together more than the test.
#[test]
fn a_reply_that_is_sipped_has_no_more_time_than_any_other() {
    const REPLY: usize = 16_000_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let unix = serve(StreamListener::unix(&path).unwrap(), Framing::Framed, REPLY);
    let any = crate::addr::HostPort("127.0.0.1", 0);
    let tcp = serve(StreamListener::tcp(any).unwrap(), Framing::Framed, REPLY);

    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(&framed(PING)).unwrap();
    let sipped = sip(&unix, stream);
    assert!(sipped < REPLY, "all was written");

    let addr = tcp.local_addr();
    let kind = socket2::Type::STREAM;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
    // So that not all of it fits in between.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&addr.into()).unwrap();
    (&socket).write_all(&framed(PING)).unwrap();
    let sipped = sip(&tcp, &socket);
    assert!(sipped < REPLY, "all was written");

    for server in [unix, tcp] {
        until(|| server.stats().connections == 0);
        let stats = server.stats();
        assert_eq!((stats.connections_broken, stats.undelivered), (1, 1));
    }
}

/// Half of it is there before it has taken more than a short one may, and the rest comes later.
#[test]
fn a_long_message_has_more_time_in_either_direction() {
    const LONG: usize = 4_000_000;
    let patience = Patience {
        least: TIME,
        per_megabyte: PATIENCE,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = StreamListener::unix(&path).unwrap();
    let server = serve_with(listener, Framing::Framed, LONG, patience);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = framed(&[PING, &vec![0; LONG - PING.len()]].concat());
    let (start, end) = request.split_at(LONG / 2);
    stream.write_all(start).unwrap();
    thread::sleep(2 * TIME);
    stream.write_all(end).unwrap();
    let mut reply = vec![0; LONG];
    let (start, end) = reply.split_at_mut(LONG / 2);
    stream.read_exact(start).unwrap();
    thread::sleep(2 * TIME);
    stream.read_exact(end).unwrap();
    assert_eq!(server.stats().connections_broken, 0);
    server.shutdown(PATIENCE);
}

/// As when a service is restarted: the next one starts while the last one ends.
#[test]
fn a_server_that_stops_does_not_remove_the_socket_of_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let start = || {
        let listener = StreamListener::unix_again(&path)?;
        thrift::Result::Ok(serve(listener, Framing::Framed, 10))
    };
    let mut server = start().unwrap();
    for _ in 0..30 {
        let next = thread::scope(|scope| {
            let next = scope.spawn(|| {
                let mut next = None;
                until(|| {
                    next = start().ok();
                    next.is_some()
                });
                next
            });
            server.shutdown(PATIENCE);
            next.join().unwrap()
        });
        let mut stream = UnixStream::connect(&path).expect("the next one's");
        stream.write_all(&framed(PING)).unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        server = next.unwrap();
    }
    server.shutdown(PATIENCE);
    assert!(!path.exists());
}

#[test]
fn a_server_whose_socket_was_replaced_by_hand_leaves_the_new_one_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let start = || serve(StreamListener::unix(&path).unwrap(), Framing::Framed, 10);
    let first = start();
    std::fs::remove_file(&path).unwrap();
    let second = start();
    first.shutdown(PATIENCE);
    UnixStream::connect(&path).expect("that of the second");
    second.shutdown(PATIENCE);
    assert!(!path.exists());
}
