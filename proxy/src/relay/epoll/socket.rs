//! A connected socket and its readiness. At first only reading is watched: a socket is nearly always writable, and a
//! registration for both would report every arrival of bytes twice. Whoever waits for room registers for both. What is
//! read and written is left to the methods.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::relay::sys;

/// A connected non-blocking socket, registered with a runtime.
#[derive(Debug)]
pub struct Socket {
    /// `None` only within `watch_writable`, and after its failure.
    io: Option<Arc<SharedFd>>,
}

/// The descriptor that all handles of one socket share.
#[derive(Debug)]
pub(super) struct SharedFd {
    pub(super) fd: AsyncFd<OwnedFd>,
    /// Whether it is registered for being writable.
    watches_writable: bool,
}

impl Socket {
    /// Registers a socket with the current runtime. Errors as of epoll_ctl(2).
    pub fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let fd = sys::readable(socket.into())?;
        let io = Some(Arc::new(SharedFd {
            fd,
            watches_writable: false,
        }));
        Ok(Self { io })
    }

    fn io(&self) -> &Arc<SharedFd> {
        let io = self.io.as_ref();
        io.expect("it is absent only within `watch_writable` and after its failure, which ends the connection")
    }

    /// Returns another handle, to wait for errors only.
    pub(super) fn share(&self) -> Arc<SharedFd> {
        Arc::clone(self.io())
    }

    /// Waits until the socket reports an error, which it does regardless of the registration.
    pub async fn failed(&self) -> io::Result<()> {
        self.io().fd.ready(Interest::ERROR).await.map(drop)
    }

    /// Whether there may be something to read; if not, registers the task's waker.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().fd.poll_read_ready(cx).map_ok(drop)
    }

    /// Whether there may be room to write; if not, registers the task's waker. Always ready before `watch_writable`.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watches_writable() {
            self.io().fd.poll_write_ready(cx).map_ok(drop)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Runs a read unless the socket is known to be empty; `WouldBlock` from it clears the readiness.
    pub(super) fn try_read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.io().fd.try_io(Interest::READABLE, |_| read())
    }

    /// Whether an event has announced urgent bytes since `clear_urgent`. Reads stop before each of them, even with more
    /// bytes behind, and splice(2) does not get past them. Also true after the end of the stream.
    pub(super) fn is_urgent(&self) -> bool {
        self.io().fd.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    /// Records that everything so far has been read, including urgent bytes.
    pub(super) fn clear_urgent(&self) {
        let forget = |_: &OwnedFd| io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
        // It returns that very error.
        let _ = self.io().fd.try_io(Interest::PRIORITY, forget);
    }

    /// Runs a write unless the socket is known to be full; `WouldBlock` from it clears the readiness if it is watched.
    pub(super) fn try_write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.watches_writable() {
            self.io().fd.try_io(Interest::WRITABLE, |_| write())
        } else {
            write()
        }
    }

    /// Whether the socket is open, which it is except after an error of `watch_writable`.
    pub(super) fn is_open(&self) -> bool {
        self.io.is_some()
    }

    /// Whether it is registered for being writable.
    pub(super) fn watches_writable(&self) -> bool {
        self.io().watches_writable
    }

    /// Registers the socket anew, for being writable as well. The new registration reports what is ready already
    /// (epoll(7)), but has no waker yet. There must be no other handle. After an error the connection has been reset.
    pub(super) fn watch_writable(&mut self) -> io::Result<()> {
        let shared = self.io.take().expect("it is put back below");
        let io = Arc::into_inner(shared).expect("other handles have been dropped");
        let fd = sys::readable_and_writable(io.fd.into_inner()).map_err(|(fd, err)| {
            set_zero_linger(SockRef::from(&fd));
            err
        })?;
        self.io = Some(Arc::new(SharedFd {
            fd,
            watches_writable: true,
        }));
        Ok(())
    }

    /// Makes the peer receive a reset when the socket is closed, even with bytes in transit.
    pub(super) fn reset_on_close(&self) {
        if let Some(io) = &self.io {
            set_zero_linger(SockRef::from(io.fd.get_ref()));
        }
    }
}

fn set_zero_linger(socket: SockRef<'_>) {
    // An error means that the connection is gone already.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io().fd.get_ref().as_fd()
    }
}
