//! Opens connections to PostgreSQL: over the unix socket only to the keeper's own server, and never sending a password
//! in clear text. The protocols are in `sql` and `replication`.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::postgres::config::conninfo::Address;
use crate::postgres::data::access::DataAccess;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::file_status;
use crate::postgres::server::postmaster::ChildStatus;
use crate::postgres::server::process;

/// Address of a server.
#[derive(Debug, Clone)]
pub enum ConnectTarget {
    /// The instance's own unix socket.
    Local(LocalSocket),
    /// Another instance, over TCP.
    Remote(Address),
}

/// The unix socket of the local instance, and the conditions for sending anything there.
#[derive(Debug, Clone)]
pub struct LocalSocket {
    pub dir: PathBuf,
    /// Port of the server, part of the socket's name.
    pub port: u16,
    /// User that the server must run as; the password is sent to no other.
    pub owner: u32,
    /// The server that must be running.
    pub server: OwnServer,
}

/// Identifies the server on the own PGDATA.
#[derive(Debug, Clone)]
pub struct OwnServer {
    /// Its PGDATA.
    pub access: DataAccess,
    /// Status of the server that this keeper has started.
    pub child_status: watch::Receiver<ChildStatus>,
}

/// What the files show of the own server before a connection is opened.
struct OwnServerStatus {
    is_running: bool,
    /// Its lock file reports that it accepts connections, or cannot be read.
    is_ready: bool,
}

impl OwnServer {
    /// Returns the status of the child, or of a server left by an earlier keeper. Also looks for its `socket`: connect(2)
    /// resolves the path on this thread, which a hanging file system must not block (keeper 12.13).
    async fn status(&self, socket: PathBuf) -> Result<OwnServerStatus, FileError> {
        let is_child = self.child_status.borrow().is_running();
        let look = move |data: &Path| {
            let is_running = is_child || process::postmaster(data)?.is_some();
            let is_ready = file_status::reports_ready(data).unwrap_or(true);
            // Whether it is missing shows when connecting.
            let _ = socket.try_exists();
            Ok(OwnServerStatus { is_running, is_ready })
        };
        self.access.read(look).await
    }
}

impl ConnectTarget {
    /// Returns its name for errors.
    pub fn name(&self) -> String {
        match self {
            Self::Local(socket) => format!("{}:{}", socket.dir.display(), socket.port),
            Self::Remote(address) => format!("{}:{}", address.host, address.port),
        }
    }

    /// Connects, without sending anything.
    ///
    /// # Errors
    ///
    /// No server listens there; over the unix socket also if the own server is not running, or if the listener runs as
    /// another user (`SO_PEERCRED`, unix(7): credentials of the process that called listen).
    pub async fn open(&self) -> io::Result<PgStream> {
        let inner = match self {
            Self::Local(socket) => StreamKind::Unix(socket.open().await?),
            Self::Remote(address) => {
                let port = address.port.parse::<u16>();
                let port = port.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the port is not a number"))?;
                let stream = TcpStream::connect((address.host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                StreamKind::Tcp(stream)
            }
        };
        Ok(PgStream::new(inner))
    }

    /// Connects as [`Self::open`] does; `None` if the own server reports that it does not accept connections, since it
    /// logs every attempt.
    pub async fn open_if_ready(&self) -> io::Result<Option<PgStream>> {
        match self {
            Self::Local(socket) => {
                let stream = socket.open_if_ready().await?;
                Ok(stream.map(|stream| PgStream::new(StreamKind::Unix(stream))))
            }
            Self::Remote(_) => self.open().await.map(Some),
        }
    }
}

impl LocalSocket {
    async fn open(&self) -> io::Result<UnixStream> {
        let status = self.status().await?;
        self.connect(&status).await
    }

    async fn open_if_ready(&self) -> io::Result<Option<UnixStream>> {
        let status = self.status().await?;
        if !status.is_ready {
            return Ok(None);
        }
        self.connect(&status).await.map(Some)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}", self.port))
    }

    async fn status(&self) -> io::Result<OwnServerStatus> {
        self.server.status(self.path()).await.map_err(io::Error::other)
    }

    async fn connect(&self, status: &OwnServerStatus) -> io::Result<UnixStream> {
        if !status.is_running {
            let why = "the keeper's PostgreSQL is not running, not connecting";
            return Err(io::Error::new(io::ErrorKind::NotConnected, why));
        }
        let path = self.path();
        let stream = UnixStream::connect(&path).await?;
        let peer = stream.peer_cred()?.uid();
        if peer != self.owner {
            let why = format!(
                "the server at {} runs as user {peer} instead of {}, nothing was sent to it: find out which process listens there",
                path.display(),
                self.owner
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(stream)
    }
}

/// A connection that fails when the server requests a password in clear text.
#[derive(Debug)]
pub struct PgStream {
    inner: StreamKind,
    guard: Option<CleartextPasswordGuard>,
}

#[derive(Debug)]
enum StreamKind {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl PgStream {
    fn new(inner: StreamKind) -> Self {
        let guard = Some(CleartextPasswordGuard::default());
        Self { inner, guard }
    }
}

impl AsyncRead for PgStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.inner {
            StreamKind::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            StreamKind::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        ready!(read)?;
        if let Some(guard) = &mut self.guard
            && guard.check(buf.filled().get(before..).unwrap_or_default())?
        {
            self.guard = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PgStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            StreamKind::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            StreamKind::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            StreamKind::Unix(stream) => Pin::new(stream).poll_flush(cx),
            StreamKind::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            StreamKind::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            StreamKind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Inspects messages until the login is complete (PostgreSQL manual 55.7, message formats).
///
/// tokio-postgres cannot disable `AuthenticationCleartextPassword`; it would send the password.
#[derive(Debug, Default)]
struct CleartextPasswordGuard {
    /// Type, length and, of an authentication message, its code.
    header: Vec<u8>,
    /// Remaining bytes of the current message.
    skip: usize,
}

const AUTHENTICATION: u8 = b'R';
const OK: u32 = 0;
const CLEARTEXT_PASSWORD: u32 = 3;

impl CleartextPasswordGuard {
    /// Inspects received bytes; returns whether the login is complete.
    fn check(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some((byte, rest)) = bytes.split_first() {
                self.header.push(*byte);
                bytes = rest;
            }
            let (kind, length, code) = match *self.header.as_slice() {
                [AUTHENTICATION, a, b, c, d, e, f, g, h] => {
                    let code = u32::from_be_bytes([e, f, g, h]);
                    (AUTHENTICATION, u32::from_be_bytes([a, b, c, d]), code)
                }
                [kind, a, b, c, d] if kind != AUTHENTICATION => (kind, u32::from_be_bytes([a, b, c, d]), OK),
                _ => continue,
            };
            // The length includes itself but not the type byte before it.
            let whole = usize::try_from(length).ok().and_then(|length| length.checked_add(1));
            let rest = whole.and_then(|whole| whole.checked_sub(self.header.len()));
            self.skip =
                rest.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "message with an invalid length"))?;
            self.header.clear();
            match (kind, code) {
                (AUTHENTICATION, OK) => return Ok(true),
                (AUTHENTICATION, CLEARTEXT_PASSWORD) => {
                    let why = "the server requests the password in clear text, which is never sent: use the method \
                               scram-sha-256 or md5 in its pg_hba.conf";
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base::Clock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;
    use crate::postgres::client::sql::SqlClient;
    use crate::postgres::config::credentials::{AuthMethod, Login, Secret};
    use crate::postgres::data::changes::DataChanges;

    const LONG: Duration = Duration::from_secs(30);
    const PASSWORD: &str = "the superuser's secret";
    const ASKS_FOR_CLEARTEXT: [u8; 9] = [AUTHENTICATION, 0, 0, 0, 8, 0, 0, 0, 3];

    fn login() -> Login {
        Login {
            user: "stolon".into(),
            method: AuthMethod::Md5,
            password: Some(Secret::new(PASSWORD)),
        }
    }

    fn socket(dir: &std::path::Path, owner: u32, child_status: ChildStatus) -> LocalSocket {
        LocalSocket {
            dir: dir.to_owned(),
            port: 5432,
            owner,
            server: OwnServer {
                access: DataAccess::new(&dir.join("postgres"), DataChanges::default()),
                child_status: watch::channel(child_status).1,
            },
        }
    }

    /// A server that requests the password in clear text, and everything that one client sends to it.
    async fn record(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<u8> {
        // the client may have closed the connection already, as it should
        let _ = stream.write_all(&ASKS_FOR_CLEARTEXT).await;
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
        got
    }

    fn holds_password(bytes: &[u8]) -> bool {
        bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes())
    }

    fn chain(error: &dyn std::error::Error) -> String {
        base::Chain(error).to_string()
    }

    #[tokio::test]
    async fn nothing_is_sent_to_a_server_of_another_user() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let sql = SqlClient::new(
            ConnectTarget::Local(socket(dir.path(), own + 1, ChildStatus::Running { pid: 1 })),
            &login(),
            LONG,
            Clock::system(),
        );
        let impostor = async { record(listener.accept().await.unwrap().0).await };
        let (asked, got) = tokio::join!(sql.ping(), impostor);
        let refused = chain(&asked.unwrap_err());
        assert!(refused.contains(&format!("runs as user {own} instead of")), "{refused}");
        assert_eq!(got, b"", "not even who we are");
    }

    #[tokio::test]
    async fn nothing_is_sent_while_the_own_server_is_not_running() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let own = rustix::process::geteuid().as_raw();
        for child_status in [ChildStatus::NotStarted, ChildStatus::Ended { pid: 1, status: None }] {
            let sql = SqlClient::new(
                ConnectTarget::Local(socket(dir.path(), own, child_status)),
                &login(),
                LONG,
                Clock::system(),
            );
            let refused = chain(&sql.ping().await.unwrap_err());
            assert!(refused.contains("the keeper's PostgreSQL is not running"), "{refused}");
        }
        let connected = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(connected.is_err(), "somebody has connected");
    }

    #[tokio::test]
    async fn a_server_that_reports_that_it_is_not_ready_is_not_connected_to_unless_it_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("postgres");
        std::fs::create_dir(&data).unwrap();
        let _listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let local = ConnectTarget::Local(socket(dir.path(), own, ChildStatus::Running { pid: 1 }));
        assert!(local.open_if_ready().await.unwrap().is_none(), "no lock file");
        for (line, is_ready) in [("starting", false), ("ready   ", true), ("standby ", false)] {
            let lock = format!("1\n/data\n2\n5432\n/socket\nlocalhost\n3\n{line}\n");
            std::fs::write(data.join("postmaster.pid"), lock).unwrap();
            assert_eq!(local.open_if_ready().await.unwrap().is_some(), is_ready, "{line}");
            assert!(local.open().await.is_ok(), "{line}");
        }
    }

    #[tokio::test]
    async fn a_password_is_never_sent_in_clear_text() {
        let dir = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let local = ConnectTarget::Local(socket(dir.path(), own, ChildStatus::Running { pid: 1 }));
        let (asked, got) = tokio::join!(
            async { SqlClient::new(local, &login(), LONG, Clock::system()).ping().await },
            async { record(unix.accept().await.unwrap().0).await }
        );
        let refused = chain(&asked.unwrap_err());
        assert!(refused.contains("clear text"), "{refused}");
        assert!(!holds_password(&got), "{got:?}");

        let tcp = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let remote = ConnectTarget::Remote(Address {
            host: "127.0.0.1".into(),
            port: tcp.local_addr().unwrap().port().to_string(),
        });
        let (asked, got) = tokio::join!(
            async { SqlClient::new(remote, &login(), LONG, Clock::system()).ping().await },
            async { record(tcp.accept().await.unwrap().0).await }
        );
        let refused = chain(&asked.unwrap_err());
        assert!(refused.contains("clear text"), "{refused}");
        assert!(!holds_password(&got), "{got:?}");
    }

    #[test]
    fn the_guard_works_however_the_bytes_arrive() {
        let notice = [b'N', 0, 0, 0, 7, 1, 2, 3];
        let salt = [AUTHENTICATION, 0, 0, 0, 12, 0, 0, 0, 5, 9, 9, 9, 9];
        let ok = [AUTHENTICATION, 0, 0, 0, 8, 0, 0, 0, 0];
        let login = [&notice[..], &salt, &ok].concat();
        let refused = [&notice[..], &salt, &ASKS_FOR_CLEARTEXT].concat();
        for size in 1..=login.len() {
            let mut guard = CleartextPasswordGuard::default();
            let passed: Vec<bool> = login.chunks(size).map(|piece| guard.check(piece).unwrap()).collect();
            assert_eq!(passed.iter().filter(|passed| **passed).count(), 1, "{size}: {passed:?}");
            let mut guard = CleartextPasswordGuard::default();
            let last = refused.chunks(size).map(|piece| guard.check(piece)).last().unwrap();
            assert!(last.is_err(), "{size}");
        }
        assert!(
            CleartextPasswordGuard::default().check(&[b'N', 0, 0, 0, 3, 0]).is_err(),
            "no valid length"
        );
    }
}
