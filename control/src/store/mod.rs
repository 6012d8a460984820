//! etcd: read, watch, compare-and-swap, leases, election. What the values mean is others' business.
//!
//! Every request is limited by the store timeout; while no endpoint is reachable a request waits until its limit
//! ends (store 3.3). Connections come back by themselves, and one log line tells when the store goes and when it
//! is back.

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

use etcd_client::{Client, GetOptions, KeyValue, PutOptions, TxnOp, TxnOpResponse};
use tokio::time::{sleep, timeout};

use self::connections::{Connection, ConnectionGone, Connections};
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

/// The client sends at most this much in one request (store S-13); the server's own limit is lower.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Between two attempts at a read that the server could not serve just then.
const READ_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A revision of the store. Revisions grow with every write, whatever key it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl Revision {
    /// What stands for the revision of a key that does not exist.
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
    /// The whole key. A stranger's key that is not UTF-8 is read with replacement characters.
    pub key: String,
    /// The exact bytes.
    pub value: Vec<u8>,
    /// Changes with every put.
    pub mod_revision: Revision,
    /// Stays until the key is deleted or expires.
    pub create_revision: Revision,
    /// The lease that the key hangs on, if any.
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// The part of the key below this prefix; the whole key when it is not below it.
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

/// What to read or to watch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// One key.
    Key(String),
    /// All keys that begin so.
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

/// What was read together, at one revision (sentinel E-2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision of the store at the read; a watch continues from here without a gap.
    pub revision: Revision,
    /// For each target its entries, in the order of the targets; those of a prefix ascending by key.
    pub found: Vec<Vec<Entry>>,
}

impl Snapshot {
    /// Takes out what was found for the target of this index; of a single key that is one entry at most.
    pub fn take(&mut self, index: usize) -> Vec<Entry> {
        self.found.get_mut(index).map(std::mem::take).unwrap_or_default()
    }

    /// Takes out the only entry of a target that is one key.
    pub fn take_one(&mut self, index: usize) -> Option<Entry> {
        self.take(index).pop()
    }
}

/// The store, as one cluster's programs use it. Clones share their connections.
#[derive(Clone)]
pub struct Store {
    connections: Arc<Connections>,
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

/// Whether a request may be sent again when nobody knows what became of the first one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RetryPolicy {
    /// Reads, and what does no harm done twice.
    Always,
    /// Only when the request surely was not sent.
    OnlyIfUnsent,
}

impl Store {
    /// A store that dials at its first request; never fails because etcd is away.
    pub fn connect(config: StoreConfig) -> Self {
        let timeout = config.timeout;
        Self {
            connections: Arc::new(Connections::new(config)),
            timeout,
            send_limit: timeout,
        }
    }

    /// The cluster's keys.
    pub fn keys(&self) -> &Keys {
        self.connections.config().keys()
    }

    /// The limit of each request.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long the store takes to answer, as measured lately over the fastest connection; zero while that is not known.
    pub fn latency(&self) -> Duration {
        self.connections.latency()
    }

    /// The same store with a shorter limit of each request; a longer one changes nothing.
    #[must_use]
    pub fn with_timeout(&self, limit: Duration) -> Self {
        let limit = limit.min(self.connections.config().timeout);
        Self {
            connections: Arc::clone(&self.connections),
            timeout: limit,
            send_limit: limit,
        }
    }

    /// The same store, but a request that waits for a connection for longer than this is not sent (fencing F-7). Once
    /// sent, it is waited for as ever.
    #[must_use]
    pub fn sent_within(&self, limit: Duration) -> Self {
        Self {
            send_limit: limit.min(self.timeout),
            ..self.clone()
        }
    }

    /// Reads one key, linearizably. Nothing when it does not exist.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut read = self.snapshot(&[KeyRange::Key(key.to_owned())]).await?;
        Ok(read.take_one(0))
    }

    /// Reads all keys that begin with this prefix, which ends with a slash; ascending by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let mut read = self.snapshot(&[KeyRange::Prefix(prefix.to_owned())]).await?;
        Ok(read.take(0))
    }

    /// Reads several keys and prefixes in one transaction, linearizably (sentinel E-2).
    pub async fn snapshot(&self, targets: &[KeyRange]) -> Result<Snapshot, StoreError> {
        let ops: Vec<TxnOp> = targets.iter().map(read_op).collect();
        self.read_all(describe("read", targets), ops).await
    }

    /// Puts a key that no lease bounds, and returns its revision.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<Revision, StoreError> {
        self.put_with(key, value.into(), None).await
    }

    /// Puts a key under a fresh lease, and returns its revision (store 2, "put with TTL": two requests, two limits).
    ///
    /// The TTL's fraction of a second is cut off; [`info_ttl`] gives the TTL of an info.
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

    /// Runs one request within the limit, on the endpoint that answers fastest (store 3.3: reads are sent again when they
    /// fail, and over a second connection when the first is slow; writes only when they surely were not sent).
    async fn request<T, F, Fut>(&self, attempt: String, repeat: RetryPolicy, send: F) -> Result<T, StoreError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut under_way = InFlight::default();
        // boxed: the client library's futures are large, and these are held within others
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
                    // a little less, for what passed before the request went out
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

    /// Sends one request, and where that does no harm the same one over another connection when the first has not been
    /// answered for a while. The first answer counts; never more than two are under way.
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
                let answer = link.timed(send(link.client.clone()), is_answer).await;
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
                Err((_, error)) if !is_answer(&error) => second.await,
                answer => answer,
            },
            answer = &mut second => match answer {
                Err((_, error)) if !is_answer(&error) => first.await,
                answer => answer,
            },
        }
    }
}

/// What a request was doing when its limit ended.
#[derive(Default)]
struct InFlight {
    /// The connections that it went out on.
    sent: Vec<Connection>,
    /// Why it was sent again.
    last_error: Option<Cause>,
}

enum RequestFailure {
    TooLate,
    Refused(Cause),
    Unknown(Cause),
}

/// What an error of the client library says about the request.
#[derive(Debug, PartialEq, Eq)]
enum ErrorClass {
    /// It never left.
    Unsent,
    /// The server turned it away before looking at it, and may take it later.
    NotServed,
    /// It may or may not have been carried out.
    Unknown,
    /// It was looked at and not carried out.
    Refused,
}

/// Whether an error is what the server answered, rather than that of a connection that broke.
fn is_answer(error: &etcd_client::Error) -> bool {
    matches!(classify_error(error).0, ErrorClass::Refused | ErrorClass::NotServed)
}

fn classify_error(error: &etcd_client::Error) -> (ErrorClass, Cause) {
    use tonic::Code;
    let etcd_client::Error::GRpcStatus(status) = error else {
        return (ErrorClass::Unknown, Cause::new(error.to_string()));
    };
    if let Some(source) = std::error::Error::source(status) {
        // made on this side: the connection broke, or there was none
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

/// Refuses what is too large to be sent at all.
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
