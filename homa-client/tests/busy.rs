//! `busy_poll`: who receives looks on for packets before it sleeps. That it does not sleep is tested
//! where the driver is; here, that calls are answered and time out as ever.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use homa_client::{CallError, Client, Config, Server, blocking};

const CALLS: usize = 300;

fn busy() -> Config {
    let mut config = Config::default();
    config.busy_poll = Duration::from_millis(1);
    config
}

fn localhost() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

#[tokio::test]
async fn tasks_are_answered_and_time_out() {
    let server = Server::bind(localhost(), &busy()).unwrap();
    let addr = server.local_addr();
    let serving = tokio::spawn(async move {
        for _ in 0..CALLS {
            let (message, responder) = server.accept().await.unwrap().into_parts();
            responder.reply(message).unwrap();
        }
    });
    let client = Client::bind(&busy()).unwrap();
    for number in 0..CALLS {
        let text = number.to_string();
        let response = client.call(addr, text.clone().into()).await.unwrap();
        assert_eq!(response.into_bytes(), text);
    }
    serving.await.unwrap();
    let silent = UdpSocket::bind(localhost()).unwrap();
    let called = client.call(silent.local_addr().unwrap(), "ping".into());
    let error = called.await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
}

#[test]
fn threads_are_answered_and_time_out() {
    let server = blocking::Server::bind(localhost(), &busy()).unwrap();
    let addr = server.local_addr();
    let serving = std::thread::spawn(move || {
        for _ in 0..CALLS {
            let (message, responder) = server.accept().unwrap().into_parts();
            responder.reply(message).unwrap();
        }
    });
    let client = blocking::Client::bind(&busy()).unwrap();
    for number in 0..CALLS {
        let text = number.to_string();
        let response = client.call(addr, text.clone().into()).unwrap();
        assert_eq!(response.into_bytes(), text);
    }
    serving.join().unwrap();
    let silent = UdpSocket::bind(localhost()).unwrap();
    let called = client.call(silent.local_addr().unwrap(), "ping".into());
    let error = called.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
}

#[test]
fn more_than_a_millisecond_is_refused() {
    let mut config = busy();
    config.check().unwrap();
    config.busy_poll += Duration::from_nanos(1);
    let error = config.check().unwrap_err();
    assert_eq!(
        error.to_string(),
        "busy_poll = 1.000001ms is out of range: 0 to 1ms, default 0"
    );
}
