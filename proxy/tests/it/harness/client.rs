//! A client of the proxy.

use stolon_tests::deadlines::SHORT_TIMEOUT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client of the proxy.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
}

impl Client {
    /// Connects to this local port.
    pub(crate) async fn connect(port: u16) -> std::io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket })
    }

    /// Asks the master for its name; `None` if the connection has ended.
    pub(crate) async fn ask(&mut self) -> std::io::Result<Option<u8>> {
        self.socket.write_all(b"?").await?;
        self.answer().await
    }

    /// Returns the next byte of a response; `None` if the connection has ended in order.
    pub(crate) async fn answer(&mut self) -> std::io::Result<Option<u8>> {
        let mut answer = [0];
        let read = tokio::time::timeout(SHORT_TIMEOUT, self.socket.read(&mut answer))
            .await
            .expect("a response in time")?;
        Ok((read > 0).then_some(answer[0]))
    }

    /// Waits until the connection has ended, and returns what arrived before.
    pub(crate) async fn read_to_end(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = tokio::time::timeout(SHORT_TIMEOUT, self.socket.read_to_end(&mut rest))
            .await
            .expect("an end in time");
        rest
    }
}
