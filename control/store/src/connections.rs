//! The connections to the store: one for each endpoint, established at the first request and again whenever they end
//! (store 3.3). The choice of connection and the handling of errors are left to `store`.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use etcd_client::{Channel, Client, ConnectOptions, GetOptions};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    sync::{Notify, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{debug, info, warn};

use super::{
    config::{Endpoint, Scheme, StoreConfig},
    error::{Cause, UNREACHABLE_HINT},
    etcd_fault::EtcdFaults,
    latency::{Latency, fastest, hedge_after, is_worth_moving},
};
use base::{Clock, clock::Boottime};

/// HTTP/2 keepalive interval. etcd rejects clients that ping more often than every 5 s (store 3.3).
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum wait for each step of a handshake, however long the store timeout is (store 3.3).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum wait for a name lookup. A resolver waits five seconds for each name server (resolv.conf(5)).
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum wait for a TCP connection to one address; after lost packets a new attempt is faster.
const TCP_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Delays between two attempts to connect (store 3.3, **REC**).
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A connection without measurements for this long is measured by a small request, if there are several.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// All connections of one store.
pub(super) struct StoreConnections {
    config: StoreConfig,
    clock: Clock,
    /// Faults that responses have revealed.
    pub(super) etcd_faults: EtcdFaults,
    endpoints: Arc<EndpointTable>,
    connect_tasks: OnceLock<ConnectTasks>,
    next_index: AtomicUsize,
}

/// An established connection.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    liveness: Arc<ConnLiveness>,
}

/// The state of each endpoint, and whether an outage was logged.
struct EndpointTable {
    state: Mutex<EndpointStates>,
    /// Changes whenever a connection is established.
    connected: watch::Sender<u64>,
}

struct EndpointStates {
    endpoints: Vec<EndpointState>,
    outage_logged: bool,
    /// An endpoint was connected at least once.
    was_reachable: bool,
}

#[derive(Default)]
struct EndpointState {
    connection: Option<Connection>,
    failed: Option<Cause>,
}

/// Stops connecting when the last clone of the store is dropped.
struct ConnectTasks(Vec<AbortHandle>);

impl Drop for ConnectTasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl StoreConnections {
    pub(super) fn new(config: StoreConfig, clock: Clock) -> Self {
        let endpoints = config.endpoints.iter().map(|_| EndpointState::default()).collect();
        let state = Mutex::new(EndpointStates {
            endpoints,
            outage_logged: false,
            was_reachable: false,
        });
        let endpoints = Arc::new(EndpointTable {
            state,
            connected: watch::Sender::new(0),
        });
        Self {
            config,
            clock,
            etcd_faults: EtcdFaults::default(),
            endpoints,
            connect_tasks: OnceLock::new(),
            next_index: AtomicUsize::new(0),
        }
    }

    pub(super) fn config(&self) -> &StoreConfig {
        &self.config
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Waits for a connection: the fastest, or those of similar latency in turns. Must be called within a tokio
    /// runtime.
    pub(super) async fn ready(&self) -> Connection {
        self.connect_tasks.get_or_init(|| self.connect_all());
        let mut news = self.endpoints.connected.subscribe();
        loop {
            news.mark_unchanged();
            if let Some(connection) = self.choose(None) {
                return connection;
            }
            // the sender is part of `self`, so this cannot fail
            let _ = news.changed().await;
        }
    }

    /// Returns the last error of each endpoint, if none of them is connected.
    pub(super) fn last_failures(&self) -> Option<Cause> {
        let state = self.endpoints.lock();
        if state.endpoints.iter().any(|endpoint| endpoint.connection.is_some()) {
            return None;
        }
        let failures = state
            .endpoints
            .iter()
            .zip(&self.config.endpoints)
            .map(|(state, endpoint)| {
                let why = state
                    .failed
                    .as_ref()
                    .map_or("no answer yet".to_owned(), Cause::to_string);
                format!("{endpoint}: {why}")
            });
        Some(Cause::new(failures.collect::<Vec<_>>().join("; ")))
    }

    /// Returns another connection than this one, if there is one.
    pub(super) fn other_than(&self, connection: &Connection) -> Option<Connection> {
        self.choose(Some(connection))
    }

    /// Returns whether another connection is so much faster that a watch should move to it.
    pub(super) fn is_much_slower(&self, connection: &Connection) -> bool {
        let best = self.live().iter().map(Connection::expected).min();
        best.is_some_and(|best| is_worth_moving(connection.expected(), best))
    }

    /// Returns the measured latency of the fastest connection; zero when there is none.
    pub(super) fn latency(&self) -> Duration {
        let measured = self.live().iter().map(Connection::measured).min();
        measured.unwrap_or_default()
    }

    fn live(&self) -> Vec<Connection> {
        let state = self.endpoints.lock();
        let connections = state
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.connection.as_ref());
        connections
            .filter(|connection| !connection.liveness.is_closed())
            .cloned()
            .collect()
    }

    fn choose(&self, besides: Option<&Connection>) -> Option<Connection> {
        let mut live = self.live();
        live.retain(|connection| besides.is_none_or(|other| !Arc::ptr_eq(&connection.liveness, &other.liveness)));
        let expected: Vec<Duration> = live.iter().map(Connection::expected).collect();
        let choice = fastest(&expected);
        let turn = self.next_index.fetch_add(1, Ordering::Relaxed);
        let chosen = *choice.get(turn.checked_rem(choice.len())?)?;
        live.into_iter().nth(chosen)
    }

    fn connect_all(&self) -> ConnectTasks {
        let connect = |index| {
            let (config, clock) = (self.config.clone(), self.clock.clone());
            maintain_connection(config, clock, index, Arc::clone(&self.endpoints))
        };
        ConnectTasks(
            (0..self.config.endpoints.len())
                .map(|index| tokio::spawn(connect(index)).abort_handle())
                .collect(),
        )
    }
}

impl Connection {
    /// Returns the number of bytes received so far. If it does not change during a request, the connection is silent.
    pub(super) fn received(&self) -> u64 {
        self.liveness.received.load(Ordering::Relaxed)
    }

    /// Records that a request is sent now.
    pub(super) fn note_sent(&self) {
        let (mut asked, received) = (self.liveness.lock_oldest_pending(), self.received());
        if asked.is_none_or(|(received_then, _)| received_then != received) {
            *asked = Some((received, self.liveness.clock.now()));
        }
    }

    /// Returns the latency to expect of a request sent now.
    pub(super) fn expected(&self) -> Duration {
        self.liveness.lock_latency().expected(self.liveness.clock.now())
    }

    fn measured(&self) -> Duration {
        self.liveness.lock_latency().measured()
    }

    /// Returns how long to wait before the request is sent on another connection, too.
    pub(super) fn hedge_after(&self) -> Duration {
        hedge_after(self.expected())
    }

    /// Times one request. An error response of the server counts, an error of the connection does not.
    pub(super) async fn timed<T, E>(
        &self,
        request: impl Future<Output = Result<T, E>>,
        is_server_response: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let timer = RequestTimer {
            liveness: &self.liveness,
            number: self.liveness.lock_latency().sent(self.liveness.clock.now()),
        };
        let outcome = request.await;
        if outcome.as_ref().map_or_else(is_server_response, |_| true) {
            timer.answered();
        }
        outcome
    }

    /// Measures an otherwise idle connection for as long as it exists.
    async fn probe(&self, key: String, limit: Duration) -> std::convert::Infallible {
        loop {
            sleep(PROBE_INTERVAL).await;
            let idle = self
                .liveness
                .lock_latency()
                .is_unmeasured_for(PROBE_INTERVAL, self.liveness.clock.now());
            if idle {
                let mut client = self.client.kv_client();
                let count = client.get(key.as_str(), Some(GetOptions::new().with_count_only()));
                let received = self.received();
                // the result does not matter, only its latency
                let outcome = timeout(limit, self.timed(count, |_| false)).await;
                if outcome.is_err() && self.received() == received {
                    // other requests avoid this connection, so they would not detect it
                    self.close(&format!("no answer to a probe within {limit:?}"));
                }
            }
        }
    }

    /// Closes the connection if no byte has arrived since the oldest pending request was sent, at least this long ago.
    /// The short timeout of a single request is not a reason to close.
    pub(super) fn close_if_silent_for(&self, limit: Duration) {
        let asked = *self.liveness.lock_oldest_pending();
        let now = self.liveness.clock.now();
        let is_silent = |(received, since)| received == self.received() && now.since(since) >= limit;
        if asked.is_some_and(is_silent) {
            self.close(&format!("no answer within {limit:?}"));
        }
    }

    /// Closes the connection; a new one is established.
    pub(super) fn close(&self, why: &str) {
        self.liveness.close(why);
    }
}

impl EndpointTable {
    fn lock(&self) -> MutexGuard<'_, EndpointStates> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_connected(&self, index: usize, connection: Connection, config: &StoreConfig) {
        let was_away = {
            let mut state = self.lock();
            if let Some(endpoint) = state.endpoints.get_mut(index) {
                *endpoint = EndpointState {
                    connection: Some(connection),
                    failed: None,
                };
            }
            state.was_reachable = true;
            std::mem::take(&mut state.outage_logged)
        };
        self.connected.send_modify(|news| *news = news.wrapping_add(1));
        if was_away {
            info!(endpoint = %config.endpoints[index], "store is reachable again");
        }
    }

    fn set_failed(&self, index: usize, why: Option<Cause>, config: &StoreConfig) {
        let failures = {
            let mut state = self.lock();
            if let Some(endpoint) = state.endpoints.get_mut(index) {
                *endpoint = EndpointState {
                    connection: None,
                    failed: why,
                };
            }
            let news = state.all_failures(&config.endpoints).filter(|_| !state.outage_logged);
            state.outage_logged |= news.is_some();
            // the hint helps only if the store was never reached
            let hint = (!state.was_reachable).then_some(UNREACHABLE_HINT);
            news.map(|error| (error, hint))
        };
        if let Some((error, hint)) = failures {
            warn!(%error, hint, "store is unreachable, trying again until it is back");
        }
    }
}

impl EndpointStates {
    /// Returns every endpoint's last error, once all of them have failed.
    fn all_failures(&self, endpoints: &[Endpoint]) -> Option<Cause> {
        let failures: Option<Vec<String>> = self
            .endpoints
            .iter()
            .zip(endpoints)
            .map(|(state, endpoint)| state.failed.as_ref().map(|why| format!("{endpoint}: {why}")))
            .collect();
        Some(Cause::new(failures?.join("; ")))
    }
}

/// Keeps one endpoint connected. A delay follows each failure and each connection that ended soon.
async fn maintain_connection(config: StoreConfig, clock: Clock, index: usize, endpoints: Arc<EndpointTable>) {
    let endpoint = &config.endpoints[index];
    let mut pause = Duration::ZERO;
    loop {
        sleep(pause).await;
        pause = (pause * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        match connect_endpoint(&config, &clock, index).await {
            Ok(connection) => {
                debug!(%endpoint, "connected to the store");
                let liveness = Arc::clone(&connection.liveness);
                endpoints.set_connected(index, connection.clone(), &config);
                let is_one_of_several = config.endpoints.len() > 1;
                tokio::select! {
                    () = liveness.closed() => {}
                    () = sleep(BACKOFF_MAX) => {
                        pause = Duration::ZERO;
                        tokio::select! {
                            () = liveness.closed() => {}
                            _ = connection.probe(config.keys.cluster_data(), config.timeout), if is_one_of_several => {}
                        }
                    }
                }
                debug!(%endpoint, "connection to the store ended");
                endpoints.set_failed(index, liveness.reason.get().cloned(), &config);
            }
            Err(why) => {
                debug!(%endpoint, error = %why, "cannot connect to the store");
                endpoints.set_failed(index, Some(why), &config);
            }
        }
    }
}

/// Connects, and waits for the server's first bytes: the kernel of a stopped server still accepts connections.
async fn connect_endpoint(config: &StoreConfig, clock: &Clock, index: usize) -> Result<Connection, Cause> {
    let endpoint = &config.endpoints[index];
    let (host, port) = endpoint
        .host_and_port()
        .ok_or_else(|| Cause::new("not an address of the form host:port, no host to connect to"))?;
    let addresses = timeout(LOOKUP_TIMEOUT, lookup_host((host, port)))
        .await
        .map_err(|_| Cause::new("no answer from the name service"))?
        .map_err(|error| Cause::deepest(&error))?;
    let tcp = connect(addresses).await?;
    // best effort: without it small requests are slower
    let _ = tcp.set_nodelay(true);
    // each of the two steps has its own timeout, because a response may take as long as that of any request
    let limit = config.timeout.min(HANDSHAKE_TIMEOUT);
    let no_response = |_| Cause::new(format!("no answer within {limit:?} after connecting"));
    let io: Box<dyn AsyncIo> = match &config.tls {
        None => Box::new(tcp),
        Some(tls) => Box::new(
            timeout(limit, tls_handshake(tls, host, tcp))
                .await
                .map_err(no_response)??,
        ),
    };
    timeout(limit, http2_handshake(io, config, clock, index))
        .await
        .map_err(no_response)?
}

/// Connects to the first address that responds: a name may have unreachable ones, as with broken IPv6.
async fn connect(addresses: impl Iterator<Item = SocketAddr>) -> Result<TcpStream, Cause> {
    let mut failed = Cause::new("the name has no address");
    for address in addresses {
        match timeout(TCP_CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => failed = Cause::deepest(&error),
            Err(_) => failed = Cause::new("no answer to the connection request"),
        }
    }
    Err(failed)
}

async fn tls_handshake(
    tls: &Arc<rustls::ClientConfig>,
    host: &str,
    tcp: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Cause> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Cause::deepest(&error))?;
    let connected = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
    connected.map_err(|error| Cause::new(format!("TLS: {error}")))
}

async fn http2_handshake(
    io: Box<dyn AsyncIo>,
    config: &StoreConfig,
    clock: &Clock,
    index: usize,
) -> Result<Connection, Cause> {
    let endpoint = &config.endpoints[index];
    let began = clock.now();
    let scheme = if endpoint.scheme == Scheme::Https {
        "https"
    } else {
        "http"
    };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(endpoint.address.as_str())
        .path_and_query("/")
        .build();
    let uri = uri.map_err(|error| Cause::deepest(&error))?;
    let liveness = Arc::new(ConnLiveness::new(clock.clone()));
    let mut stream = Some(TokioIo::new(MonitoredIo::new(io, Arc::clone(&liveness))));
    // tonic would reconnect through this: it gets the one stream, and an error afterwards
    let connector = tower::service_fn(move |_: Uri| std::future::ready(stream.take().ok_or(ConnectionGone)));
    let channel = tonic::transport::Endpoint::from(uri)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(config.timeout)
        .keep_alive_while_idle(false)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Cause::deepest(&error))?;
    tokio::select! {
        () = liveness.first_bytes.notified() => {}
        () = liveness.closed() => {
            let closed = || Cause::new("connection closed by the server");
            return Err(liveness.reason.get().cloned().unwrap_or_else(closed));
        }
    }
    // the server's first bytes are a response to the client's: the first measurement
    let now = clock.now();
    liveness.lock_latency().measure(now.since(began), now);
    // without a leader etcd then returns an error at once instead of blocking requests and watches
    let options = ConnectOptions::new().with_require_leader(true);
    let client = Client::from_channel(Channel::Tonic(channel), Some(options)).await;
    let client = client.map_err(|error| Cause::deepest(&error))?;
    Ok(Connection { client, liveness })
}

/// The connection ended before the request was sent on it.
#[derive(Debug, thiserror::Error)]
#[error("connection has ended")]
pub(super) struct ConnectionGone;

trait AsyncIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> AsyncIo for T {}

/// The liveness of one connection.
struct ConnLiveness {
    clock: Clock,
    received: AtomicU64,
    /// Bytes received when the oldest request that may still be pending was sent, and when that was.
    oldest_pending: Mutex<Option<(u64, Boottime)>>,
    latency: Mutex<Latency>,
    first_bytes: Notify,
    close: CancellationToken,
    closed: CancellationToken,
    reason: OnceLock<Cause>,
}

impl ConnLiveness {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            received: AtomicU64::new(0),
            oldest_pending: Mutex::default(),
            latency: Mutex::default(),
            first_bytes: Notify::new(),
            close: CancellationToken::new(),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
        }
    }

    fn lock_oldest_pending(&self) -> MutexGuard<'_, Option<(u64, Boottime)>> {
        self.oldest_pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_latency(&self) -> MutexGuard<'_, Latency> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, why: &str) {
        self.reason.get_or_init(|| Cause::new(why));
        self.close.cancel();
    }

    /// Returns whether the connection has ended, or is about to.
    fn is_closed(&self) -> bool {
        self.close.is_cancelled() || self.closed.is_cancelled()
    }

    async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

/// Times one request; one that is dropped without a response counts as abandoned.
struct RequestTimer<'p> {
    liveness: &'p ConnLiveness,
    number: Option<u64>,
}

impl RequestTimer<'_> {
    fn answered(mut self) {
        if let Some(number) = self.number.take() {
            self.liveness.lock_latency().answered(number, self.liveness.clock.now());
        }
    }
}

impl Drop for RequestTimer<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.liveness
                .lock_latency()
                .abandoned(number, self.liveness.clock.now());
        }
    }
}

/// A stream that counts received bytes, can be closed from outside, and signals when it is dropped.
struct MonitoredIo {
    io: Box<dyn AsyncIo>,
    liveness: Arc<ConnLiveness>,
    close_requested: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl MonitoredIo {
    fn new(io: Box<dyn AsyncIo>, liveness: Arc<ConnLiveness>) -> Self {
        let close_requested = Box::pin(liveness.close.clone().cancelled_owned());
        Self {
            io,
            liveness,
            close_requested,
        }
    }
}

impl Drop for MonitoredIo {
    fn drop(&mut self) {
        self.liveness.closed.cancel();
    }
}

impl AsyncRead for MonitoredIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.close_requested.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, buf)) {
            self.liveness.reason.get_or_init(|| Cause::new(error.to_string()));
            return Poll::Ready(Err(error));
        }
        let more = buf.filled().len() - before;
        if more > 0 && self.liveness.received.fetch_add(more as u64, Ordering::Relaxed) == 0 {
            self.liveness.first_bytes.notify_one();
        }
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

    use super::*;

    #[tokio::test]
    async fn an_unreachable_address_does_not_prevent_the_next_one() {
        // a full backlog: the kernel answers no further connection request
        let full_listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&full_listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        listen(&full_listener, 0).unwrap();
        let dead = SocketAddr::try_from(getsockname(&full_listener).unwrap()).unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(tcp)) = timeout(Duration::from_millis(200), TcpStream::connect(dead)).await {
            waiting.push(tcp);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let open = listener.local_addr().unwrap();
        let tcp = connect([dead, open].into_iter()).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open);
        let failed = connect([dead].into_iter()).await.unwrap_err();
        assert_eq!(failed.to_string(), "no answer to the connection request");
    }
}
