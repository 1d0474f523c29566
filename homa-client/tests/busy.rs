//! `busy_poll`: who receives looks on for packets before it sleeps.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use homa_client::{Client, Config, Server, blocking};

const CALLS: usize = 300;

fn busy() -> Config {
    let mut config = Config::default();
    config.busy_poll = Duration::from_millis(1);
    config
}

/// With one worker, the calling thread.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// How often this thread has gone to sleep.
fn sleeps() -> usize {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

/// One test at a time: each keeps two processors busy.
static ALONE: Mutex<()> = Mutex::new(());

/// Some calls may take longer than the server looks on, where others want the processor.
fn check(sleeps: usize) {
    assert!(sleeps < CALLS / 2, "{sleeps} sleeps for {CALLS} calls");
}

#[test]
fn a_task_that_receives_sleeps_less_often_than_it_is_called() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (addr, bound) = tokio::sync::oneshot::channel();
    let serving = std::thread::spawn(|| {
        runtime().block_on(async {
            let server = Server::bind(([127, 0, 0, 1], 0).into(), &busy()).unwrap();
            addr.send(server.local_addr()).unwrap();
            let before = sleeps();
            for _ in 0..CALLS {
                let request = server.accept().await.unwrap();
                let message = request.message().clone();
                request.reply(message).unwrap();
            }
            sleeps() - before
        })
    });
    runtime().block_on(async {
        let addr = bound.await.unwrap();
        let client = Client::bind(&busy()).unwrap();
        for _ in 0..CALLS {
            client.call(addr, "ping".into()).await.unwrap();
        }
    });
    check(serving.join().unwrap());
}

#[test]
fn a_thread_that_waits_sleeps_less_often_than_it_is_called() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let server = blocking::Server::bind(([127, 0, 0, 1], 0).into(), &busy()).unwrap();
    let addr = server.local_addr();
    let serving = std::thread::spawn(move || {
        let before = sleeps();
        for _ in 0..CALLS {
            let request = server.accept().unwrap();
            let message = request.message().clone();
            request.reply(message).unwrap();
        }
        sleeps() - before
    });
    let client = blocking::Client::bind(&busy()).unwrap();
    for _ in 0..CALLS {
        client.call(addr, "ping".into()).unwrap();
    }
    check(serving.join().unwrap());
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
