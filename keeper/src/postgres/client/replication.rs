//! Replication commands (keeper 13.1, Q8 and Q9): a small client for connections in physical replication mode, which
//! tokio-postgres cannot open. Each command uses a new connection, and a WAL sender for a moment.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use model::Lsn;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::postgres::client::connect::ConnectTarget;
use crate::postgres::client::refusal::ServerRefusal;
use crate::postgres::client::session_settings::{self, SessionUser};
use crate::postgres::client::wire::{WireError, WireProtocol};
use crate::postgres::config::credentials::Login;
use crate::postgres::data::history::{self, Ancestor, HistoryError};
use crate::postgres::programs::installation::Programs;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The connection failed or broke.
    #[error("{action}: replication connection to {at}")]
    Io {
        action: &'static str,
        /// Address.
        at: String,
        /// Why not.
        source: io::Error,
    },
    /// The server refused the login or the command.
    #[error("{action}: {at} responds: {message}")]
    Refused {
        action: &'static str,
        /// Address.
        at: String,
        /// The server's message with its SQLSTATE.
        message: String,
        /// The refusal, if it proves that the server is alive.
        refusal: Option<ServerRefusal>,
    },
    /// The server violates the protocol.
    #[error("{action}: {at} sends {what}")]
    Protocol {
        action: &'static str,
        /// Address.
        at: String,
        /// The unexpected message.
        what: String,
    },
    /// The server did not answer in time.
    #[error("{action}: no response from {at} within {limit:?}")]
    Timeout {
        action: &'static str,
        /// Address.
        at: String,
        /// The request timeout.
        limit: Duration,
    },
    /// A timeline's history cannot be parsed.
    #[error("{action}")]
    History { action: &'static str, source: HistoryError },
}

impl ReplicationError {
    /// Returns the refusal if the server's answer proves that it is alive.
    pub fn refusal(&self) -> Option<&ServerRefusal> {
        match self {
            Self::Refused { refusal, .. } => refusal.as_ref(),
            _ => None,
        }
    }
}

/// Result of `IDENTIFY_SYSTEM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    /// System identifier.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u64,
    /// Flushed position on a master; on a standby the greater of the replayed position and the received one of the same
    /// timeline.
    pub position: Lsn,
}

/// Sends replication commands to one instance.
#[derive(Debug, Clone)]
pub struct ReplicationClient {
    target: ConnectTarget,
    login: Login,
    limit: Duration,
    programs: Option<Arc<Programs>>,
}

impl ReplicationClient {
    /// Creates a client for `target` as `login`; `limit` applies to each command including its connection.
    pub fn new(target: ConnectTarget, login: Login, limit: Duration) -> Self {
        Self {
            target,
            login,
            limit,
            programs: None,
        }
    }

    /// Sets the major of the server: that of these programs.
    #[must_use]
    pub fn for_programs(mut self, programs: &Arc<Programs>) -> Self {
        self.programs = Some(Arc::clone(programs));
        self
    }

    /// Runs `IDENTIFY_SYSTEM` (keeper Q8).
    pub async fn identify(&self) -> Result<SystemIdentity, ReplicationError> {
        let action = "identify the system";
        let row = self.command(action, "IDENTIFY_SYSTEM").await?;
        let text = |index: usize| row.get(index).and_then(Option::as_deref).map(String::from_utf8_lossy);
        let identity = || {
            Some(SystemIdentity {
                system_id: text(0)?.parse().ok()?,
                timeline: text(1)?.parse().ok()?,
                position: Lsn::parse(&text(2)?)?,
            })
        };
        identity().ok_or_else(|| self.protocol(action, "a row of another form"))
    }

    /// Runs `TIMELINE_HISTORY` (keeper Q9): returns all ancestors of a timeline, oldest first; none for the first
    /// timeline, without a command (keeper T4).
    pub async fn history(&self, timeline: u64) -> Result<Vec<Ancestor>, ReplicationError> {
        let action = "read the history of a timeline";
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let row = self.command(action, &format!("TIMELINE_HISTORY {timeline}")).await?;
        // Declared as bytea up to 13 and text from 14 on; always the raw bytes of the file.
        let content = row.get(1).and_then(Option::as_deref).unwrap_or_default();
        history::parse(&String::from_utf8_lossy(content)).map_err(|source| ReplicationError::History { action, source })
    }

    async fn command(&self, action: &'static str, command: &str) -> Result<Vec<Option<Bytes>>, ReplicationError> {
        let at = || self.target.name();
        match timeout(self.limit, self.run_command(command)).await {
            Ok(Ok(row)) => Ok(row),
            Ok(Err(WireError::Io(source))) => Err(ReplicationError::Io {
                action,
                at: at(),
                source,
            }),
            Ok(Err(WireError::Refused { code, message })) => Err(ReplicationError::Refused {
                action,
                at: at(),
                refusal: ServerRefusal::new(&code, &message),
                message: format!("{message} ({code})"),
            }),
            Ok(Err(WireError::Protocol(what))) => Err(ReplicationError::Protocol { action, at: at(), what }),
            Err(_) => Err(ReplicationError::Timeout {
                action,
                at: at(),
                limit: self.limit,
            }),
        }
    }

    fn protocol(&self, action: &'static str, what: &str) -> ReplicationError {
        ReplicationError::Protocol {
            action,
            at: self.target.name(),
            what: what.to_owned(),
        }
    }

    async fn run_command(&self, command: &str) -> Result<Vec<Option<Bytes>>, WireError> {
        let mut wire = WireProtocol::new(self.target.open().await?);
        let major = session_settings::major(self.programs.as_deref()).await;
        let options = session_settings::options(major, SessionUser::Replication);
        let parameters = [
            ("user", self.login.user.as_str()),
            ("replication", "true"),
            ("application_name", "stolon-keeper"),
            ("options", options.as_str()),
        ];
        wire.send(|out| frontend::startup_message(parameters, out)).await?;
        self.authenticate(&mut wire).await?;
        wire.send(|out| frontend::query(command, out)).await?;
        let mut row = None;
        loop {
            match wire.next().await? {
                Message::DataRow(data) => {
                    let ranges: Vec<_> = data.ranges().collect()?;
                    let whole = data.buffer_bytes();
                    row = Some(
                        ranges
                            .into_iter()
                            .map(|range| range.map(|range| whole.slice(range)))
                            .collect(),
                    );
                }
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        let terminate = |out: &mut BytesMut| {
            frontend::terminate(out);
            Ok(())
        };
        // The result is complete: it does not matter whether the server receives the Terminate message.
        let _ = wire.send(terminate).await;
        row.ok_or_else(|| WireError::Protocol("no row".to_owned()))
    }

    /// Authenticates, until the server is ready for a command.
    async fn authenticate<S>(&self, wire: &mut WireProtocol<S>) -> Result<(), WireError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let password = || {
            let password = self.login.password().map(String::into_bytes);
            password.ok_or_else(|| WireError::Protocol("a demand for a password, and there is none".to_owned()))
        };
        let mut scram: Option<ScramSha256> = None;
        loop {
            match wire.next().await? {
                Message::AuthenticationOk => {}
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(self.login.user.as_bytes(), &password()?, body.salt());
                    wire.send(|out| frontend::password_message(hash.as_bytes(), out))
                        .await?;
                }
                Message::AuthenticationSasl(body) => {
                    let mut mechanisms = body.mechanisms();
                    let mut offered = false;
                    while let Some(mechanism) = mechanisms.next()? {
                        offered |= mechanism == SCRAM_SHA_256;
                    }
                    if !offered {
                        return Err(WireError::Protocol("no SASL mechanism that is known".to_owned()));
                    }
                    let exchange = ScramSha256::new(&password()?, ChannelBinding::unsupported());
                    let respond =
                        |out: &mut BytesMut| frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), out);
                    wire.send(respond).await?;
                    scram = Some(exchange);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let exchange = scram.as_mut().ok_or_else(unexpected_auth_message)?;
                    exchange.update(body.data())?;
                    wire.send(|out| frontend::sasl_response(exchange.message(), out))
                        .await?;
                }
                Message::AuthenticationSaslFinal(body) => scram
                    .as_mut()
                    .ok_or_else(unexpected_auth_message)?
                    .finish(body.data())?,
                Message::ReadyForQuery(_) => return Ok(()),
                Message::BackendKeyData(_) | Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
                // A password is never sent in clear text.
                _ => {
                    return Err(WireError::Protocol(
                        "an authentication method that is not supported".to_owned(),
                    ));
                }
            }
        }
    }
}

fn unexpected_auth_message() -> WireError {
    WireError::Protocol("an authentication message out of turn".to_owned())
}
