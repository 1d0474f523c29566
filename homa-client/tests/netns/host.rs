//! Hosts for tests: threads with network namespaces of their own, joined by cables.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use homa_client::{Config, EndpointCounters, Server};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace, which ends with it. What it opens is in there.
pub(crate) struct Host {
    id: Pid,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Host {
    /// `None`, with a note for the log, where this is not permitted.
    pub(crate) fn new() -> Option<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, opened) = mpsc::channel();
        let thread = thread::spawn(move || {
            let id = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
            if ready.send(id).is_ok() {
                queue.into_iter().for_each(|job| job());
            }
        });
        let id = opened.recv().unwrap();
        let has_ip = Command::new("ip").arg("-V").stdout(Stdio::null()).status();
        match (id, has_ip) {
            (Err(error), _) => {
                println!("skipped: no network namespace for this test: {error}");
                None
            }
            (_, Err(error)) => {
                println!("skipped: the command `ip` cannot be run: {error}");
                None
            }
            (Ok(id), Ok(_)) => {
                let host = Self {
                    id,
                    jobs: Some(jobs),
                    thread: Some(thread),
                };
                host.ip("link set lo up");
                // Addresses are in use as soon as the link works.
                host.sysctl("ipv6/conf/default/accept_dad", "0");
                Some(host)
            }
        }
    }

    /// Runs `job` there, and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || drop(done.send(job()));
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        result.recv().expect("the job has panicked")
    }

    /// Runs a task there, and waits for it.
    pub(crate) fn block_on<T, F>(&self, task: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        self.run(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(task())
        })
    }

    /// Runs the command `ip` there; returns what it prints.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let words: Vec<String> = arguments.split_whitespace().map(Into::into).collect();
        let output = self.run(|| Command::new("ip").args(words).output().unwrap());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into()
    }

    /// Writes a file of `/proc/sys/net`.
    pub(crate) fn sysctl(&self, name: &str, value: &'static str) {
        let path = format!("/proc/sys/net/{name}");
        self.run(move || std::fs::write(path, value)).unwrap();
    }

    /// A cable between `self` and `other`, at which they have the addresses `10.0.NET.1` and
    /// `fd00:NET::1`, and 2.
    pub(crate) fn join(&self, other: &Self, net: u8) {
        self.ip(&format!(
            "link add veth{net} type veth peer name veth{net} netns {}",
            other.id
        ));
        for (host, number) in [(self, 1), (other, 2)] {
            host.ip(&format!("addr add 10.0.{net}.{number}/24 dev veth{net}"));
            host.ip(&format!(
                "addr add fd00:{net}::{number}/64 dev veth{net} nodad"
            ));
            host.ip(&format!("link set veth{net} up"));
        }
        // Until the system has noticed that the link works, packets are dropped.
        let began = Instant::now();
        for host in [self, other] {
            let works = || {
                host.ip(&format!("link show veth{net}"))
                    .contains("state UP")
                    && host.ip("-6 addr show scope link").contains("inet6 fe80")
                    && host.ip("-6 addr show tentative").is_empty()
            };
            while !works() {
                assert!(began.elapsed() < Duration::from_secs(10), "no link");
            }
        }
    }

    /// An echo server there, until it is dropped.
    pub(crate) fn serve(&self, addr: &str, config: &Config) -> Echo {
        let (ready, opened) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (addr, config) = (addr.parse().unwrap(), config.clone());
        let job = move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(async {
                    let server = Arc::new(Server::bind(addr, &config).unwrap());
                    ready.send(server.local_addr()).unwrap();
                    let accepting = server.clone();
                    tokio::spawn(async move {
                        while let Some(request) = accepting.accept().await {
                            let (message, responder) = request.into_parts();
                            responder.reply(message).unwrap();
                        }
                    });
                    let _ = stopped.await;
                    server.counters()
                })
        };
        let (done, counters) = mpsc::channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        Echo {
            addr: opened.recv().expect("the server cannot be opened"),
            stop,
            counters,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok(), "a job has panicked");
        }
    }
}

/// A running echo server, which keeps its host busy.
pub(crate) struct Echo {
    pub(crate) addr: SocketAddr,
    stop: oneshot::Sender<()>,
    counters: mpsc::Receiver<EndpointCounters>,
}

impl Echo {
    /// Ends it; what it has counted.
    pub(crate) fn stop(self) -> EndpointCounters {
        drop(self.stop);
        self.counters.recv().unwrap()
    }
}

/// `len` bytes of which no two packets are alike.
pub(crate) fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}
