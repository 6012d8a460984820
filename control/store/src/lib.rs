//! Access to etcd: reads, watches, transactions, leases, election. The meaning of the values is left to `model` and the
//! programs.
//!
//! Every request is limited by the store timeout; while no endpoint is reachable a request waits until then (store
//! 3.3). StoreConnections are re-established automatically, and one log line each reports when the store becomes unreachable
//! and when it is reachable again.

#![forbid(unsafe_code)]
// These panic when the reader of the output is gone.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod config;
mod connections;
pub mod election;
mod election_ttl;
mod error;
mod etcd_fault;
pub mod keys;
mod latency;
mod lease;
mod session;
mod tls;
mod txn;
mod watch;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use base::Clock;
use etcd_client::{Client, GetOptions, KeyValue, PutOptions, TxnOp, TxnOpResponse};
use tokio::time::{sleep, timeout};

use self::connections::{Connection, ConnectionGone, StoreConnections};
use self::etcd_fault::RequestKind;
pub use self::{
    config::{
        ConfigError, DEFAULT_ENDPOINT, DEFAULT_TIMEOUT, Endpoint, EndpointsError, Scheme, StoreConfig, StoreOptions,
    },
    error::{Cause, StoreError, UNREACHABLE_HINT},
    etcd_fault::EtcdFault,
    keys::{Keys, KeysError},
    lease::{INFO_TTL_MIN, LeaseGrant, LeaseId, LeaseTtl, info_ttl},
    tls::{TlsError, TlsOptions},
    txn::{CommitOrRead, Committed, Txn, TxnOutcome},
    watch::{Changes, KeyChange, Watch},
};

/// Maximum size of a request that is sent (store S-13); the server's own limit is lower.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Delay between attempts of a read that the server could not serve.
const READ_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A revision of the store. Revisions grow with every write, whatever key it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision of a key that does not exist.
    pub const ABSENT: Self = Self(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value, as read at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole key. Invalid UTF-8 is replaced.
    pub key: String,
    /// The exact bytes.
    pub value: Vec<u8>,
    /// Changes with every put.
    pub mod_revision: Revision,
    /// Stays until the key is deleted or expires.
    pub create_revision: Revision,
    /// The lease of the key, if any.
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// Returns the part of the key after this prefix; the whole key when it does not begin with it.
    pub fn name(&self, prefix: &str) -> &str {
        self.key.strip_prefix(prefix).unwrap_or(&self.key)
    }
}

impl From<&KeyValue> for Entry {
    fn from(kv: &KeyValue) -> Self {
        Self {
            key: String::from_utf8_lossy(kv.key()).into_owned(),
            value: kv.value().to_vec(),
            mod_revision: Revision(kv.mod_revision()),
            create_revision: Revision(kv.create_revision()),
            lease: (kv.lease() != 0).then(|| LeaseId(kv.lease())),
        }
    }
}

/// The keys to read or watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// One key.
    Key(String),
    /// All keys with this prefix.
    Prefix(String),
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// The result of a read at one revision (sentinel E-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision of the store at the read; a watch from here on misses nothing.
    pub revision: Revision,
    /// The entries of each requested range, in the order of the request; those of a prefix in ascending order.
    pub found: Vec<Vec<Entry>>,
}

impl Snapshot {
    /// Takes the entries of the range with this index; a single key has one at most.
    pub fn take(&mut self, index: usize) -> Vec<Entry> {
        self.found.get_mut(index).map(std::mem::take).unwrap_or_default()
    }

    /// Takes the entry of a range that is a single key.
    pub fn take_one(&mut self, index: usize) -> Option<Entry> {
        self.take(index).pop()
    }
}

/// A handle to the store for one cluster. Clones share their connections.
#[derive(Clone)]
pub struct Store {
    connections: Arc<StoreConnections>,
    timeout: Duration,
    /// A request that could not be sent by then is not sent at all.
    send_limit: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("endpoints", &self.connections.config().endpoints)
            .finish_non_exhaustive()
    }
}

/// Whether a request may be sent again when the outcome of the first attempt is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RetryPolicy {
    /// Reads and idempotent requests.
    Always,
    /// Only if the request was certainly not sent.
    OnlyIfUnsent,
}

impl Store {
    /// Returns a handle that connects at its first request; never fails because etcd is unreachable. The clock measures
    /// latencies and the validity of an election lease; timeouts are tokio's.
    pub fn connect(config: StoreConfig, clock: Clock) -> Self {
        let timeout = config.timeout;
        Self {
            connections: Arc::new(StoreConnections::new(config, clock)),
            timeout,
            send_limit: timeout,
        }
    }

    /// The cluster's keys.
    pub fn keys(&self) -> &Keys {
        self.connections.config().keys()
    }

    /// Returns the clock that the handle was made with.
    pub(crate) fn clock(&self) -> &Clock {
        self.connections.clock()
    }

    /// Returns the timeout of each request.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the recently measured latency of the fastest connection; zero while unknown.
    pub fn latency(&self) -> Duration {
        self.connections.latency()
    }

    /// Returns a handle with a shorter timeout of each request; a longer one has no effect.
    #[must_use]
    pub fn with_timeout(&self, limit: Duration) -> Self {
        let limit = limit.min(self.connections.config().timeout);
        Self {
            connections: Arc::clone(&self.connections),
            timeout: limit,
            send_limit: limit,
        }
    }

    /// Returns a handle whose requests are not sent once they have waited for a connection for longer than this
    /// (fencing F-7). The timeout of requests that are sent is unchanged.
    #[must_use]
    pub fn sent_within(&self, limit: Duration) -> Self {
        Self {
            send_limit: limit.min(self.timeout),
            ..self.clone()
        }
    }

    /// Reads one key, linearizably. None when it does not exist.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut read = self.snapshot(&[KeyRange::Key(key.to_owned())]).await?;
        Ok(read.take_one(0))
    }

    /// Reads all keys with this prefix, which ends with a slash, in ascending order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let mut read = self.snapshot(&[KeyRange::Prefix(prefix.to_owned())]).await?;
        Ok(read.take(0))
    }

    /// Reads several keys and prefixes in one transaction, linearizably (sentinel E-2).
    pub async fn snapshot(&self, targets: &[KeyRange]) -> Result<Snapshot, StoreError> {
        let ops: Vec<TxnOp> = targets.iter().map(read_op).collect();
        self.read_all(describe("read", targets), ops).await
    }

    /// Puts a key without a lease, and returns its revision.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<Revision, StoreError> {
        self.put_with(key, value.into(), None).await
    }

    /// Puts a key under a new lease, and returns its revision (store 2, "put with TTL": two requests, each with its own
    /// timeout).
    ///
    /// The TTL is truncated to whole seconds; [`info_ttl`] returns the TTL of an info.
    pub async fn put_leased(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        ttl: Duration,
    ) -> Result<Revision, StoreError> {
        let granted = self.grant(ttl).await?;
        self.put_with(key, value.into(), Some(granted.lease)).await
    }

    async fn put_with(&self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        let options = PutOptions::new().with_lease(lease.map_or(0, |lease| lease.0));
        let attempt = format!("write {key}");
        check_size(&attempt, key.len() + value.len())?;
        self.request(attempt, RetryPolicy::OnlyIfUnsent, |client| {
            let (value, options) = (value.clone(), options.clone());
            async move {
                let answer = kv(&client).put(key, value, Some(options)).await?;
                Ok(header_revision(answer.header()))
            }
        })
        .await
        .inspect(|_| self.connections.etcd_faults.record_success(RequestKind::Write))
    }

    async fn read_all(&self, attempt: String, ops: Vec<TxnOp>) -> Result<Snapshot, StoreError> {
        self.request(attempt, RetryPolicy::Always, |client| {
            let txn = etcd_client::Txn::new().and_then(ops.clone());
            async move {
                let answer = kv(&client).txn(txn).await?;
                let found = answer.op_responses().iter().map(entries).collect();
                Ok(Snapshot {
                    revision: header_revision(answer.header()),
                    found,
                })
            }
        })
        .await
    }

    /// Runs one request within the timeout, on the fastest endpoint (store 3.3: reads are repeated when they fail, and
    /// sent on a second connection when the first is slow; writes only if they were certainly not sent).
    async fn request<T, F, Fut>(&self, attempt: String, repeat: RetryPolicy, send: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut under_way = InFlight::default();
        // boxed because the client library's futures are large and are nested
        let tries = Box::pin(self.retry_until_answered(&mut under_way, repeat, send));
        let outcome = timeout(self.timeout, tries).await;
        let limit = self.timeout;
        match outcome {
            Ok(Ok(value)) => {
                self.connections.etcd_faults.record_success(RequestKind::Read);
                Ok(value)
            }
            Ok(Err(RequestFailure::Refused(source))) => Err(StoreError::Refused { attempt, source }),
            Ok(Err(RequestFailure::TooLate)) => Err(StoreError::Unreachable {
                attempt,
                limit: self.send_limit,
                source: self.connections.last_failures().or(under_way.last_error),
            }),
            Ok(Err(RequestFailure::Unknown(source))) => Err(StoreError::Unanswered {
                attempt,
                limit,
                source: Some(source),
            }),
            Err(_) => {
                for link in &under_way.sent {
                    // slightly less, for the time before the request was sent
                    let patience = self.connections.config().timeout;
                    link.close_if_silent_for(patience - patience / 20);
                }
                if under_way.sent.is_empty() {
                    let source = self.connections.last_failures().or(under_way.last_error);
                    return Err(StoreError::Unreachable { attempt, limit, source });
                }
                Err(StoreError::Unanswered {
                    attempt,
                    limit,
                    source: under_way.last_error,
                })
            }
        }
    }

    async fn retry_until_answered<T, F, Fut>(
        &self,
        under_way: &mut InFlight,
        repeat: RetryPolicy,
        send: F,
    ) -> Result<T, RequestFailure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut too_late = std::pin::pin!(sleep(self.send_limit));
        loop {
            let link = tokio::select! {
                biased;
                () = &mut too_late => return Err(RequestFailure::TooLate),
                link = self.connections.ready() => link,
            };
            let (link, error) = match self.send_hedged(link, under_way, repeat, &send).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            let (verdict, words) = classify_error(&error);
            if let etcd_client::Error::GRpcStatus(status) = &error {
                self.connections.etcd_faults.record_error(status.message());
            }
            match verdict {
                ErrorClass::Unsent => link.close("connection has ended"),
                ErrorClass::Unknown if repeat == RetryPolicy::OnlyIfUnsent => {
                    return Err(RequestFailure::Unknown(words));
                }
                ErrorClass::Refused => return Err(RequestFailure::Refused(words)),
                ErrorClass::NotServed | ErrorClass::Unknown => sleep(READ_RETRY_DELAY).await,
            }
            *under_way = InFlight {
                sent: Vec::new(),
                last_error: Some(words),
            };
        }
    }

    /// Sends one request. An idempotent one is also sent on a second connection when the first does not respond for a
    /// while. The first response counts; at most two are in flight.
    async fn send_hedged<T, F, Fut>(
        &self,
        link: Connection,
        under_way: &mut InFlight,
        repeat: RetryPolicy,
        send: &F,
    ) -> Result<T, (Connection, etcd_client::Error)>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let sent = |link: Connection| {
            link.note_sent();
            async move {
                let answer = link.timed(send(link.client().clone()), is_server_response).await;
                answer.map_err(|error| (link.clone(), error))
            }
        };
        under_way.sent.push(link.clone());
        let mut first = std::pin::pin!(sent(link.clone()));
        if repeat == RetryPolicy::OnlyIfUnsent {
            return first.await;
        }
        tokio::select! {
            biased;
            answer = &mut first => return answer,
            () = sleep(link.hedge_after()) => {}
        }
        let Some(other) = self.connections.other_than(&link) else {
            return first.await;
        };
        under_way.sent.push(other.clone());
        let mut second = std::pin::pin!(sent(other));
        tokio::select! {
            answer = &mut first => match answer {
                Err((_, error)) if !is_server_response(&error) => second.await,
                answer => answer,
            },
            answer = &mut second => match answer {
                Err((_, error)) if !is_server_response(&error) => first.await,
                answer => answer,
            },
        }
    }
}

/// The state of a request when its timeout expires.
#[derive(Default)]
struct InFlight {
    /// The connections on which it was sent.
    sent: Vec<Connection>,
    /// The error after which it was sent again.
    last_error: Option<Cause>,
}

enum RequestFailure {
    TooLate,
    Refused(Cause),
    Unknown(Cause),
}

/// What an error of the client library means for the request.
#[derive(Debug, PartialEq, Eq)]
enum ErrorClass {
    /// It was not sent.
    Unsent,
    /// The server rejected it before processing it, and may accept it later.
    NotServed,
    /// It may or may not have been executed.
    Unknown,
    /// It was processed and not executed.
    Refused,
}

/// Returns whether an error is a response of the server, not that of a broken connection.
fn is_server_response(error: &etcd_client::Error) -> bool {
    matches!(classify_error(error).0, ErrorClass::Refused | ErrorClass::NotServed)
}

fn classify_error(error: &etcd_client::Error) -> (ErrorClass, Cause) {
    use tonic::Code;
    let etcd_client::Error::GRpcStatus(status) = error else {
        return (ErrorClass::Unknown, Cause::new(error.to_string()));
    };
    if let Some(source) = std::error::Error::source(status) {
        // created by the client: the connection broke, or there was none
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source);
        while let Some(error) = cause {
            if error.is::<ConnectionGone>() {
                return (ErrorClass::Unsent, Cause::new(error.to_string()));
            }
            cause = error.source();
        }
        return (ErrorClass::Unknown, Cause::deepest(source));
    }
    let verdict = match status.code() {
        Code::Unavailable if status.message().contains("no leader") => ErrorClass::NotServed,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
            ErrorClass::Unknown
        }
        _ => ErrorClass::Refused,
    };
    (verdict, Cause::from_server(status.message()))
}

fn kv(client: &Client) -> etcd_client::KvClient {
    client.kv_client().max_decoding_message_size(usize::MAX)
}

/// Rejects requests that are too large to be sent.
fn check_size(attempt: &str, bytes: usize) -> Result<(), StoreError> {
    if bytes <= REQUEST_BYTES_MAX {
        return Ok(());
    }
    let why = format!("{bytes} bytes are more than the {REQUEST_BYTES_MAX} of the largest request");
    Err(StoreError::Refused {
        attempt: attempt.to_owned(),
        source: Cause::from_server(&why),
    })
}

fn read_op(target: &KeyRange) -> TxnOp {
    match target {
        KeyRange::Key(key) => TxnOp::get(key.as_str(), None),
        KeyRange::Prefix(prefix) => TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix())),
    }
}

fn entries(answer: &TxnOpResponse) -> Vec<Entry> {
    match answer {
        TxnOpResponse::Get(range) => range.kvs().iter().map(Entry::from).collect(),
        _ => Vec::new(),
    }
}

fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(Revision::ABSENT, |header| Revision(header.revision()))
}

fn describe(act: &str, targets: &[KeyRange]) -> String {
    let names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    format!("{act} {}", names.join(", "))
}
