//! A connected socket and its events. At first the runtime is asked for what can be read alone: while a socket can be
//! written to, which it nearly always can, each arrival of bytes that are read already would be one more event. Who waits
//! for room asks for both. What is read and written is left to the paths.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sys;

/// A connected socket that does not block, registered with a runtime.
#[derive(Debug)]
pub struct Socket {
    /// Always there, but for a moment in `widen`.
    io: Option<Arc<AsyncFd<OwnedFd>>>,
    /// Whether its having room is an event.
    wide: bool,
}

impl Socket {
    /// Registers a socket with the current runtime. Errors as epoll_ctl(2) does.
    pub fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let io = Some(Arc::new(sys::readable(socket.into())?));
        Ok(Self { io, wide: false })
    }

    fn io(&self) -> &Arc<AsyncFd<OwnedFd>> {
        self.io.as_ref().expect("only `widen` takes it, and puts it back")
    }

    /// Another handle, to wait for what it alone waits for.
    pub(super) fn share(&self) -> Arc<AsyncFd<OwnedFd>> {
        Arc::clone(self.io())
    }

    /// Waits until the socket itself reports an error, which it does whatever else is waited for.
    pub async fn failed(&self) -> io::Result<()> {
        self.io().ready(Interest::ERROR).await.map(drop)
    }

    /// Whether there may be something to read; if not, leaves the task's waker.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_read_ready(cx).map_ok(drop)
    }

    /// Whether there may be room; if not, leaves the task's waker. Always yes before `widen`.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wide {
            self.io().poll_write_ready(cx).map_ok(drop)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Reads, unless it is known that there is nothing; `WouldBlock` makes that known.
    pub(super) fn try_read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.io().try_io(Interest::READABLE, |_| read())
    }

    /// Writes, unless it is known that there is no room; `WouldBlock` makes that known once it is an event.
    pub(super) fn try_write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.wide {
            self.io().try_io(Interest::WRITABLE, |_| write())
        } else {
            write()
        }
    }

    /// Whether its having room is an event.
    pub(super) fn is_wide(&self) -> bool {
        self.wide
    }

    /// Makes its having room an event, from now on. The new registration tells of what is so already (epoll(7)), but
    /// nobody's waker is left with it. No other handle may exist.
    pub(super) fn widen(&mut self) -> io::Result<()> {
        let shared = self.io.take().expect("it is put back below");
        let io = Arc::into_inner(shared).expect("who shares it has been dropped");
        self.io = Some(Arc::new(sys::readable_and_writable(io.into_inner())?));
        self.wide = true;
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io().get_ref().as_fd()
    }
}
