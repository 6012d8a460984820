//! Messages of the frontend/backend protocol over a stream (PostgreSQL manual 55.7), for connections that tokio-postgres
//! cannot open, and the first response of a server to a login. Which commands are sent is left to `replication`.

use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::postgres::client::connect::PgStream;
use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::client::session_settings::DATABASE;

/// First response of a server to a startup message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstResponse {
    /// It continues the login.
    Login,
    /// An error; the refusal, if it proves that the server is alive and working.
    Error(Option<ServerRefusal>),
}

/// Why an exchange of messages failed.
pub(crate) enum WireError {
    /// The connection failed or broke.
    Io(io::Error),
    /// The server refused the login or the command, with this SQLSTATE.
    Refused { code: String, message: String },
    /// The server violates the protocol, or sends what is not supported.
    Protocol(String),
}

impl From<io::Error> for WireError {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

/// Messages over a stream.
pub(crate) struct WireProtocol<S> {
    stream: S,
    read: BytesMut,
    write: BytesMut,
}

/// Sends a startup message for `user` and closes the connection after the first response. A server that requests a
/// password and gets none logs nothing (`auth_failed` in PostgreSQL's auth.c).
pub(crate) async fn first_response(stream: PgStream, user: &str) -> io::Result<FirstResponse> {
    let mut wire = WireProtocol::new(stream);
    let parameters = [("user", user), ("application_name", "stolon-keeper")];
    let parameters = parameters.into_iter().chain([("database", DATABASE)]);
    wire.send(|out| frontend::startup_message(parameters, out)).await?;
    match wire.next().await {
        Ok(_) => Ok(FirstResponse::Login),
        Err(WireError::Refused { code, message }) => Ok(FirstResponse::Error(ServerRefusal::new(&code, &message))),
        Err(WireError::Io(source)) => Err(source),
        Err(WireError::Protocol(what)) => Err(io::Error::new(io::ErrorKind::InvalidData, what)),
    }
}

/// Maximum bytes of a response: a history file has a few hundred bytes per ancestor.
const READ_BYTES_MAX: usize = 4 << 20;

impl<S: AsyncRead + AsyncWrite + Unpin> WireProtocol<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            write: BytesMut::new(),
        }
    }

    /// Sends the message that `build` writes.
    pub(crate) async fn send(&mut self, build: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> io::Result<()> {
        build(&mut self.write)?;
        self.stream.write_all_buf(&mut self.write).await?;
        self.stream.flush().await
    }

    /// Returns the next message; an error response is returned as an error.
    pub(crate) async fn next(&mut self) -> Result<Message, WireError> {
        loop {
            match Message::parse(&mut self.read)? {
                Some(Message::ErrorResponse(body)) => return Err(refused(body.fields())?),
                Some(message) => return Ok(message),
                None if self.read.len() > READ_BYTES_MAX => {
                    return Err(WireError::Protocol("an unlimited response".to_owned()));
                }
                None => {}
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(WireError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// Parses an error response: SQLSTATE and message.
fn refused(mut fields: ErrorFields<'_>) -> io::Result<WireError> {
    let (mut message, mut code) = (String::new(), String::new());
    while let Some(field) = fields.next()? {
        match field.type_() {
            b'M' => message = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            b'C' => code = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            _ => {}
        }
    }
    Ok(WireError::Refused { code, message })
}
