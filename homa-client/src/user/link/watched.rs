//! [`Watched`]: a socket of which the runtime tells when something has come.

use std::io;
use std::sync::OnceLock;
use std::task::Context;

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

/// A socket that is watched for packets alone. Tokio's own sockets are watched for room to send,
/// too, and there is news of that whenever a packet has left or, on loopback, is received: a
/// second wake-up for every packet that we send, for nothing. It made a short call take 25 %
/// longer.
#[derive(Debug)]
pub(super) struct Watched {
    reads: AsyncFd<Socket>,
    /// The same socket, watched for room since its buffer was full for the first time.
    writes: OnceLock<AsyncFd<Socket>>,
    runtime: Handle,
}

impl Watched {
    /// Must be called in a runtime.
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self {
            reads: watch(socket, Interest::READABLE)?,
            writes: OnceLock::new(),
            runtime: Handle::current(),
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        self.reads.get_ref()
    }

    /// Calls `read` if there may be something; "would block" says that there is not.
    pub(super) fn try_read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.reads.try_io(Interest::READABLE, |_| read())
    }

    /// Sends without asking the runtime, which may be blocked; only of a full socket it has to
    /// know, so that it tells when there is room.
    pub(super) fn send_now<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match write() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writes()?.try_io(Interest::WRITABLE, |_| write())
            }
            result => result,
        }
    }

    fn writes(&self) -> io::Result<&AsyncFd<Socket>> {
        if let Some(writes) = self.writes.get() {
            return Ok(writes);
        }
        // Callers may send on threads of their own.
        let _inside = self.runtime.enter();
        let writes = watch(self.socket().try_clone()?, Interest::WRITABLE)?;
        Ok(self.writes.get_or_init(|| writes))
    }

    pub(super) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> bool {
        self.reads.poll_read_ready(cx).is_ready()
    }

    pub(super) fn poll_send_ready(&self, cx: &mut Context<'_>) -> bool {
        let writes = self.writes.get();
        writes.is_some_and(|writes| writes.poll_write_ready(cx).is_ready())
    }

    /// Waits until something is put into the error queue. The runtime takes that for no news to
    /// readers.
    pub(super) async fn errors(&self) {
        // It fails only when the runtime ends, and this task with it.
        if self.reads.ready(Interest::ERROR).await.is_ok() {
            let seen = |_: &Socket| Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.reads.try_io(Interest::ERROR, seen);
        }
    }
}

#[allow(
    deprecated,
    reason = "deprecated since a type might close its descriptor, or name another one, while it \
              is watched; a socket does neither. The replacement is an unsafe function"
)]
fn watch(socket: Socket, interest: Interest) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, interest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};
    use std::future::poll_fn;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::task::Poll;
    use std::time::Duration;

    #[tokio::test]
    async fn a_socket_that_was_full_tells_when_there_is_room() {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        ours.set_nonblocking(true).unwrap();
        let watched = Watched::new(ours).unwrap();
        let send = || watched.send_now(|| watched.socket().send(&[0; 4096]));
        let mut sent = 0;
        // On a thread without a runtime, as callers may be.
        let error = std::thread::scope(|scope| {
            let fill = scope.spawn(|| {
                loop {
                    match send() {
                        Ok(bytes) => sent += bytes,
                        Err(error) => return error,
                    }
                }
            });
            fill.join().unwrap()
        });
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        tokio::task::yield_now().await;
        let has_room = poll_fn(|cx| Poll::Ready(watched.poll_send_ready(cx))).await;
        assert!(!has_room, "it is full");

        let mut theirs = UnixStream::from(theirs);
        theirs.read_exact(&mut vec![0; sent]).unwrap();
        let room = poll_fn(|cx| match watched.poll_send_ready(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        let told = tokio::time::timeout(Duration::from_secs(10), room).await;
        assert!(told.is_ok(), "nobody told that there is room");
        send().unwrap();
    }
}
