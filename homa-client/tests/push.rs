//! Requests from servers to clients, over UDP between real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use homa_client::{CallError, Client, Config, Message, Pusher, Request, RequestHandler, Server};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

fn config() -> Config {
    Config::default()
}

/// A handler that queues, and its queue.
fn queue() -> (RequestHandler, UnboundedReceiver<Request>) {
    let (sender, receiver) = unbounded_channel();
    let handler = Arc::new(move |request| drop(sender.send(request)));
    (handler, receiver)
}

/// Calls the server, which answers, and returns the way back.
async fn call(client: &Client, server: &Server, addr: SocketAddr) -> Pusher {
    let calling = client.call(addr, "hello".into());
    let (message, responder) = server.accept().await.unwrap().into_parts();
    let pusher = responder.pusher().unwrap();
    responder.reply(message).unwrap();
    calling.await.unwrap();
    pusher
}

#[tokio::test]
async fn a_server_calls_its_client_back_with_messages_of_any_size() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &config()).unwrap();
    let (handler, mut pushes) = queue();
    let client = Client::bind_accepting(&config(), handler).unwrap();
    assert!(client.accepts_from(server.local_addr()));
    let pusher = call(&client, &server, server.local_addr()).await;
    for size in [1, 1_400, 1_500, 100_000, 1_000_000] {
        let pushed = pusher.call(Message::from(vec![7; size]));
        let request = timeout(SOON, pushes.recv()).await.unwrap().unwrap();
        assert_eq!(request.peer(), server.local_addr());
        assert_eq!(request.message().len(), size);
        request.reply(Message::from(vec![8; size])).unwrap();
        assert_eq!(timeout(SOON, pushed).await.unwrap().unwrap().len(), size);
    }
}

#[tokio::test]
async fn pushes_leave_from_the_address_that_was_called() {
    // Bound to all addresses, called by one that is not the first.
    let server = Server::bind("0.0.0.0:0".parse().unwrap(), &config()).unwrap();
    let (handler, mut pushes) = queue();
    let client = Client::bind_accepting(&config(), handler).unwrap();
    let called = SocketAddr::from(([127, 0, 0, 9], server.local_addr().port()));
    let pusher = call(&client, &server, called).await;
    let pushed = pusher.call("hi".into());
    let request = timeout(SOON, pushes.recv()).await.unwrap().unwrap();
    assert_eq!(request.peer(), called);
    request.reply("ho".into()).unwrap();
    assert_eq!(pushed.await.unwrap().into_bytes(), "ho");
}

#[tokio::test]
async fn clients_without_a_handler_refuse_pushes() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &config()).unwrap();
    let client = Client::bind(&config()).unwrap();
    assert!(!client.accepts_from(server.local_addr()));
    let pusher = call(&client, &server, server.local_addr()).await;
    let refused = timeout(SOON, pusher.call("hi".into())).await.unwrap();
    assert!(
        matches!(refused, Err(CallError::PeerUnreachable { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_handler_of_a_server_takes_what_waited_and_what_comes() {
    let server = Arc::new(Server::bind("127.0.0.1:0".parse().unwrap(), &config()).unwrap());
    let addr = server.local_addr();
    let client = Client::bind(&config()).unwrap();
    let waiting = client.call(addr, "waits".into());
    // It has arrived before there is a handler.
    let early = client.call(addr, "early".into());
    server
        .accept()
        .await
        .unwrap()
        .reply("taken".into())
        .unwrap();
    let serving = tokio::spawn({
        let server = server.clone();
        async move {
            let echo = |request: Request| {
                let (message, responder) = request.into_parts();
                drop(responder.reply_lazily(message).unwrap());
            };
            server.hand_to(Arc::new(echo)).await;
        }
    });
    let first = timeout(SOON, waiting).await.unwrap().unwrap().into_bytes();
    let second = timeout(SOON, early).await.unwrap().unwrap().into_bytes();
    assert!(first == "taken" || second == "taken");
    let late = timeout(SOON, client.call(addr, "late".into()))
        .await
        .unwrap();
    assert_eq!(late.unwrap().into_bytes(), "late");
    server.stop();
    timeout(SOON, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lazy_reply_leaves_with_the_next_packet_and_alone_after_a_while() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &config()).unwrap();
    let addr = server.local_addr();
    let client = Client::bind(&config()).unwrap();
    let alone = client.call(addr, "alone".into());
    let (message, responder) = server.accept().await.unwrap().into_parts();
    responder.reply_lazily(message).unwrap();
    assert_eq!(
        timeout(SOON, alone).await.unwrap().unwrap().into_bytes(),
        "alone"
    );

    let (first, second) = (client.call(addr, "1".into()), client.call(addr, "2".into()));
    let (lazy, prompt) = (
        server.accept().await.unwrap(),
        server.accept().await.unwrap(),
    );
    let sends = server.counters().sends;
    let (message, responder) = lazy.into_parts();
    responder.reply_lazily(message).unwrap();
    prompt.reply("2".into()).unwrap();
    assert_eq!(
        server.counters().sends,
        sends + 1,
        "both in one system call"
    );
    timeout(SOON, first).await.unwrap().unwrap();
    timeout(SOON, second).await.unwrap().unwrap();

    // Another answer can take its place, until it has left.
    let call = client.call(addr, "3".into());
    let (message, responder) = server.accept().await.unwrap().into_parts();
    let waiting = responder.reply_lazily(message).unwrap().unwrap();
    waiting.replace("better".into()).unwrap();
    let answer = timeout(SOON, call).await.unwrap().unwrap();
    assert_eq!(answer.into_bytes(), "better");
    let call = client.call(addr, "4".into());
    let (message, responder) = server.accept().await.unwrap().into_parts();
    let waiting = responder.reply_lazily(message).unwrap().unwrap();
    timeout(SOON, call).await.unwrap().unwrap();
    assert!(waiting.replace("too late".into()).is_err());
}

#[tokio::test]
async fn what_runs_after_a_call_gets_its_response_or_its_failure() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), &config()).unwrap();
    let addr = server.local_addr();
    let client = Client::bind(&config()).unwrap();
    let (done, mut outcomes) = unbounded_channel();
    for _ in 0..2 {
        let done = done.clone();
        client
            .call_then(addr, "x".into(), move |outcome| drop(done.send(outcome)))
            .unwrap();
    }
    server.accept().await.unwrap().reply("y".into()).unwrap();
    let answered = timeout(SOON, outcomes.recv()).await.unwrap().unwrap();
    assert_eq!(answered.unwrap().into_bytes(), "y");
    drop(server);
    let failed = timeout(SOON, outcomes.recv()).await.unwrap().unwrap();
    assert!(
        matches!(failed, Err(CallError::PeerUnreachable { .. })),
        "{failed:?}"
    );
}
