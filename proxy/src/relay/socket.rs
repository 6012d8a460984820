//! A connected socket and its events. At first the runtime is asked for what can be read alone: while a socket can be
//! written to, which it nearly always can, each arrival of bytes that are read already would be one more event. Who waits
//! for room asks for both. What is read and written is left to the paths.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sys;

/// A connected socket that does not block, registered with a runtime.
#[derive(Debug)]
pub struct Socket {
    /// Always there, but for a moment in `widen`, and if that fails.
    io: Option<Arc<SharedFd>>,
}

/// What handles of one socket share.
#[derive(Debug)]
pub(super) struct SharedFd {
    pub(super) fd: AsyncFd<OwnedFd>,
    /// Whether its having room is an event.
    watches_writable: bool,
}

impl Socket {
    /// Registers a socket with the current runtime. Errors as epoll_ctl(2) does.
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
        io.expect("only `widen` takes it, and if that fails the connection ends")
    }

    /// Another handle, to wait for what it alone waits for.
    pub(super) fn share(&self) -> Arc<SharedFd> {
        Arc::clone(self.io())
    }

    /// Waits until the socket itself reports an error, which it does whatever else is waited for.
    pub async fn failed(&self) -> io::Result<()> {
        self.io().fd.ready(Interest::ERROR).await.map(drop)
    }

    /// Whether there may be something to read; if not, leaves the task's waker.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().fd.poll_read_ready(cx).map_ok(drop)
    }

    /// Whether there may be room; if not, leaves the task's waker. Always yes before `widen`.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watches_writable() {
            self.io().fd.poll_write_ready(cx).map_ok(drop)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Reads, unless it is known that there is nothing; `WouldBlock` makes that known.
    pub(super) fn try_read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.io().fd.try_io(Interest::READABLE, |_| read())
    }

    /// Whether an event has told of urgent bytes since `forget_urgent`. Reading stops short before each, also where bytes
    /// follow, and splicing does not get past it. It is true of an ended stream, too.
    pub(super) fn is_urgent(&self) -> bool {
        self.io().fd.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    /// Says that everything up to now has been read, urgent bytes among it.
    pub(super) fn clear_urgent(&self) {
        let forget = |_: &OwnedFd| io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
        // It answers with that very error.
        let _ = self.io().fd.try_io(Interest::PRIORITY, forget);
    }

    /// Writes, unless it is known that there is no room; `WouldBlock` makes that known once it is an event.
    pub(super) fn try_write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.watches_writable() {
            self.io().fd.try_io(Interest::WRITABLE, |_| write())
        } else {
            write()
        }
    }

    /// Whether there is a socket, as there is but after an error of `widen`.
    pub(super) fn is_open(&self) -> bool {
        self.io.is_some()
    }

    /// Whether its having room is an event.
    pub(super) fn watches_writable(&self) -> bool {
        self.io().watches_writable
    }

    /// Makes its having room an event, from now on. The new registration tells of what is so already (epoll(7)), but
    /// nobody's waker is left with it. No other handle may exist. After an error the connection has been reset.
    pub(super) fn watch_writable(&mut self) -> io::Result<()> {
        let shared = self.io.take().expect("it is put back below");
        let io = Arc::into_inner(shared).expect("who shares it has been dropped");
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
}

impl Socket {
    /// Has the peer see a reset when the socket is closed, whatever is still under way to it.
    pub(super) fn reset_on_close(&self) {
        if let Some(io) = &self.io {
            set_zero_linger(SockRef::from(io.fd.get_ref()));
        }
    }
}

fn set_zero_linger(socket: SockRef<'_>) {
    // An error here means that the connection is gone already.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io().fd.get_ref().as_fd()
    }
}
