//! A plain TCP server in its own process, for loads that PostgreSQL does not allow here: thousands of connections, or
//! sending at the speed of the path. The first nine bytes of a client are its request.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Context;
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::ports::{self, Port};
use stolon_tests::process::Process;
use stolon_tests::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The hidden option that makes the benchmark program this server.
pub const SERVE_OPTION: &str = "--serve-plain";
/// Bytes per write or read.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// The size of a request: one letter and a little-endian number.
pub const REQUEST_BYTES: usize = 9;

/// A client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Send the server's name, one byte; then echo.
    Name,
    /// Send this many bytes.
    Send(u64),
    /// Read this many bytes, then answer with one byte.
    Receive(u64),
}

impl Request {
    /// Returns its encoding.
    pub fn bytes(self) -> [u8; REQUEST_BYTES] {
        let (letter, count) = match self {
            Self::Name => (b'n', 0),
            Self::Send(count) => (b's', count),
            Self::Receive(count) => (b't', count),
        };
        let mut bytes = [letter; REQUEST_BYTES];
        bytes[1..].copy_from_slice(&u64::to_le_bytes(count));
        bytes
    }

    fn parse(bytes: [u8; REQUEST_BYTES]) -> Option<Self> {
        let [letter, count @ ..] = bytes;
        let count = u64::from_le_bytes(count);
        match letter {
            b'n' => Some(Self::Name),
            b's' => Some(Self::Send(count)),
            b't' => Some(Self::Receive(count)),
            _ => None,
        }
    }
}

/// Requests the name of a server on a new connection; `None` when the server closes it.
///
/// # Errors
///
/// The connection fails.
pub async fn request_name(socket: &mut TcpStream) -> io::Result<Option<u8>> {
    socket.write_all(&Request::Name.bytes()).await?;
    let mut name = [0];
    let read = socket.read(&mut name).await?;
    Ok((read > 0).then_some(name[0]))
}

/// The server's process.
#[derive(Debug)]
pub struct PlainServer {
    /// Its response to [`Request::Name`].
    pub name: u8,
    port: Port,
    _process: Process,
}

impl PlainServer {
    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    ///
    /// The path of the benchmark program is unknown.
    pub async fn start(name: u8, log: &std::path::Path) -> anyhow::Result<Self> {
        let port = ports::free();
        let program = std::env::current_exe().context("find the benchmark program")?;
        let mut command = Command::new(program);
        command.arg(format!("{SERVE_OPTION}={port}{}", char::from(name)));
        let mut process = Process::start("plain server", command, None, log);
        eventually("the plain server to listen", SHORT_TIMEOUT, async || {
            assert!(process.try_wait().is_none(), "it does not start: {}", process.tail(5));
            TcpStream::connect(("127.0.0.1", port.number())).await.map(drop)
        })
        .await;
        Ok(Self {
            name,
            port,
            _process: process,
        })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }
}

/// Runs the server until the process is killed. `what` is the port and the name: `12345A`.
///
/// # Errors
///
/// The port cannot be bound.
pub fn serve(what: &str) -> anyhow::Result<()> {
    let (port, name) = what.split_at(what.len().saturating_sub(1));
    let port: u16 = port.parse().context("a port and a letter")?;
    let name = *name.as_bytes().first().context("a port and a letter")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("make a runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("listen")?;
        loop {
            // An accept fails because of one client.
            let Ok((client, _)) = listener.accept().await else {
                continue;
            };
            tokio::spawn(answer(client, name));
        }
    })
}

async fn answer(mut client: TcpStream, name: u8) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut request = [0; REQUEST_BYTES];
    client.read_exact(&mut request).await?;
    match Request::parse(request) {
        Some(Request::Name) => {
            client.write_all(&[name]).await?;
            let mut echoed = [0; 64];
            loop {
                match client.read(&mut echoed).await? {
                    0 => return Ok(()),
                    read => client.write_all(&echoed[..read]).await?,
                }
            }
        }
        Some(Request::Send(mut left)) => {
            let chunk = vec![b'x'; CHUNK_BYTES];
            while left > 0 {
                let now = left.min(CHUNK_BYTES as u64) as usize;
                client.write_all(&chunk[..now]).await?;
                left -= now as u64;
            }
            client.shutdown().await
        }
        Some(Request::Receive(mut left)) => {
            let mut chunk = vec![0; CHUNK_BYTES];
            while left > 0 {
                match client.read(&mut chunk).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => left = left.saturating_sub(read as u64),
                }
            }
            client.write_all(b"k").await
        }
        None => Ok(()),
    }
}
