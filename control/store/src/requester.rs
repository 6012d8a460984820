//! Sends requests to etcd: each within a timeout, on the fastest connection, repeated where that is safe (store 3.3).
//! The contents of a request are left to its caller.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use tokio::time::{sleep, timeout};

use crate::client_error::{ErrorClass, classify_error, is_server_response};
use crate::config::StoreConfig;
use crate::connections::{Connection, StoreConnections};
use crate::error::{Cause, StoreError};
use crate::etcd_fault::{EtcdFaults, RequestKind};
use crate::keys::Keys;
use crate::metrics::{Operation, StoreMetrics};

/// Maximum size of a request that is sent (store S-13); the server's own limit is lower.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Delay before a request is sent again that was not served, or whose outcome is unknown.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Whether a request may be sent again when the outcome of the first attempt is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryPolicy {
    /// Reads and idempotent requests.
    Always,
    /// Only if the request was certainly not sent.
    OnlyIfUnsent,
}

/// Sends the requests of one store. Clones share their connections.
#[derive(Clone)]
pub(crate) struct Requester {
    connections: Arc<StoreConnections>,
    /// Faults that responses have revealed.
    etcd_faults: Arc<EtcdFaults>,
    metrics: Arc<StoreMetrics>,
    timeout: Duration,
    /// A request that could not be sent by then is not sent at all.
    send_limit: Duration,
}

impl Requester {
    pub(crate) fn new(config: StoreConfig, clock: Clock) -> Self {
        let timeout = config.timeout;
        Self {
            connections: Arc::new(StoreConnections::new(config, clock)),
            etcd_faults: Arc::default(),
            metrics: Arc::new(StoreMetrics::register()),
            timeout,
            send_limit: timeout,
        }
    }

    pub(crate) fn config(&self) -> &StoreConfig {
        self.connections.config()
    }

    pub(crate) fn keys(&self) -> &Keys {
        self.config().keys()
    }

    pub(crate) fn clock(&self) -> &Clock {
        self.connections.clock()
    }

    pub(crate) fn connections(&self) -> &StoreConnections {
        &self.connections
    }

    pub(crate) fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Shortens the timeout of each request; a longer one has no effect.
    pub(crate) fn with_timeout(&self, limit: Duration) -> Self {
        let limit = limit.min(self.config().timeout);
        Self {
            timeout: limit,
            send_limit: limit,
            ..self.clone()
        }
    }

    /// Limits how long a request may wait for a connection; the timeout of requests that are sent is unchanged.
    pub(crate) fn sent_within(&self, limit: Duration) -> Self {
        Self {
            send_limit: limit.min(self.timeout),
            ..self.clone()
        }
    }

    /// Records that etcd has accepted a write.
    pub(crate) fn record_write(&self) {
        self.etcd_faults.record_success(RequestKind::Write);
    }

    /// Runs one request within the timeout, on the fastest endpoint (store 3.3: reads are repeated when they fail, and
    /// sent on a second connection when the first is slow; writes only if they were certainly not sent).
    pub(crate) async fn send<T, F, Fut>(
        &self,
        operation: Operation,
        request: String,
        retry: RetryPolicy,
        send: F,
    ) -> Result<T, StoreError>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let sent = self.clock().now();
        let outcome = self.send_within_timeout(request, retry, send).await;
        self.metrics.record(operation, self.clock().now().since(sent), &outcome);
        outcome
    }

    async fn send_within_timeout<T, F, Fut>(
        &self,
        request: String,
        retry: RetryPolicy,
        send: F,
    ) -> Result<T, StoreError>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut in_flight = InFlight::default();
        // boxed because the client library's futures are large and are nested
        let attempts = Box::pin(self.retry_until_answered(&mut in_flight, retry, send));
        let outcome = timeout(self.timeout, attempts).await;
        let limit = self.timeout;
        match outcome {
            Ok(Ok(value)) => {
                self.etcd_faults.record_success(RequestKind::Read);
                Ok(value)
            }
            Ok(Err(RequestFailure::Refused(source))) => Err(StoreError::Refused { request, source }),
            Ok(Err(RequestFailure::TooLate)) => Err(StoreError::Unreachable {
                request,
                limit: self.send_limit,
                source: self.connections.last_failures().or(in_flight.last_error),
            }),
            Ok(Err(RequestFailure::Unknown(source))) => Err(StoreError::Unanswered {
                request,
                limit,
                source: Some(source),
            }),
            Err(_) => {
                for connection in &in_flight.sent {
                    // slightly less, for the time before the request was sent
                    let limit = self.connections.config().timeout;
                    connection.close_if_silent_for(limit - limit / 20);
                }
                if in_flight.sent.is_empty() {
                    let source = self.connections.last_failures().or(in_flight.last_error);
                    return Err(StoreError::Unreachable { request, limit, source });
                }
                Err(StoreError::Unanswered {
                    request,
                    limit,
                    source: in_flight.last_error,
                })
            }
        }
    }

    async fn retry_until_answered<T, F, Fut>(
        &self,
        in_flight: &mut InFlight,
        retry: RetryPolicy,
        send: F,
    ) -> Result<T, RequestFailure>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut too_late = std::pin::pin!(sleep(self.send_limit));
        loop {
            let connection = tokio::select! {
                biased;
                () = &mut too_late => return Err(RequestFailure::TooLate),
                connection = self.connections.ready() => connection,
            };
            let (connection, error) = match self.send_hedged(connection, in_flight, retry, &send).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            let (class, cause) = classify_error(&error);
            if let etcd_client::Error::GRpcStatus(status) = &error {
                self.etcd_faults.record_error(status.message());
            }
            match class {
                ErrorClass::Unsent => connection.close("connection has ended"),
                ErrorClass::Unknown if retry == RetryPolicy::OnlyIfUnsent => {
                    return Err(RequestFailure::Unknown(cause));
                }
                ErrorClass::Refused => return Err(RequestFailure::Refused(cause)),
                ErrorClass::NotServed | ErrorClass::Unknown => sleep(RETRY_DELAY).await,
            }
            *in_flight = InFlight {
                sent: Vec::new(),
                last_error: Some(cause),
            };
        }
    }

    /// Sends one request. An idempotent one is also sent on a second connection when the first does not respond for a
    /// while. The first response counts; at most two are in flight.
    async fn send_hedged<T, F, Fut>(
        &self,
        connection: Connection,
        in_flight: &mut InFlight,
        retry: RetryPolicy,
        send: &F,
    ) -> Result<T, (Connection, etcd_client::Error)>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let send_on = |connection: Connection| {
            connection.note_sent();
            async move {
                let answer = connection.timed(send(connection.clone()), is_server_response).await;
                answer.map_err(|error| (connection.clone(), error))
            }
        };
        in_flight.sent.push(connection.clone());
        let mut first = std::pin::pin!(send_on(connection.clone()));
        if retry == RetryPolicy::OnlyIfUnsent {
            return first.await;
        }
        tokio::select! {
            biased;
            answer = &mut first => return answer,
            () = sleep(connection.hedge_after()) => {}
        }
        let Some(other) = self.connections.other_than(&connection) else {
            return first.await;
        };
        in_flight.sent.push(other.clone());
        let mut second = std::pin::pin!(send_on(other));
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

/// Refuses requests that are too large to be sent.
pub(crate) fn check_size(request: &str, bytes: usize) -> Result<(), StoreError> {
    if bytes <= REQUEST_BYTES_MAX {
        return Ok(());
    }
    let why = format!("{bytes} bytes are more than the {REQUEST_BYTES_MAX} of the largest request");
    Err(StoreError::Refused {
        request: request.to_owned(),
        source: Cause::from_server(&why),
    })
}
