//! A stream that counts received bytes, can be closed from outside, and signals when it is dropped. What the counts
//! mean is left to `monitor`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::monitor::ConnectionMonitor;

/// A TCP stream, with or without TLS.
pub(super) trait AsyncIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> AsyncIo for T {}

/// The stream of one connection.
pub(super) struct MonitoredIo {
    io: Box<dyn AsyncIo>,
    monitor: Arc<ConnectionMonitor>,
    close_requested: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl MonitoredIo {
    pub(super) fn new(io: Box<dyn AsyncIo>, monitor: Arc<ConnectionMonitor>) -> Self {
        let close_requested = Box::pin(monitor.close_requested());
        Self {
            io,
            monitor,
            close_requested,
        }
    }
}

impl Drop for MonitoredIo {
    fn drop(&mut self) {
        self.monitor.set_closed();
    }
}

impl AsyncRead for MonitoredIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.close_requested.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, buf)) {
            self.monitor.record_error(&error.to_string());
            return Poll::Ready(Err(error));
        }
        self.monitor.record_received(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MonitoredIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
