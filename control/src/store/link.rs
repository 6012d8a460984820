//! The connections to the store: one for each endpoint, dialled at the first request and then again for as long as
//! it takes (store 3.3). Which request goes where, and what its failure means, is `store`'s business.

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
    error::{AWAY_HINT, Cause},
    latency::{Latency, fastest, hedge_after, is_worth_moving},
    trouble::Troubles,
};
use crate::clock::Boottime;

/// etcd refuses clients that ping more often than every 5 s (store 3.3).
const PING_EVERY: Duration = Duration::from_secs(10);
/// A server that has not spoken by then is not waited for, however long requests may take (store 3.3).
const SPEAK_LIMIT: Duration = Duration::from_secs(20);
/// A name server that does not answer costs its resolver five seconds before the next one is asked (resolv.conf(5)).
const LOOK_UP_LIMIT: Duration = Duration::from_secs(20);
/// A connection request that the network lost is not worth more: the next one starts afresh.
const TCP_CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Pauses between two dialling attempts (store 3.3, **REC**).
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A connection of several that no request has measured for this long is measured by one that only counts.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// All connections of one store.
pub(super) struct Links {
    config: StoreConfig,
    /// What the server's answers show.
    pub(super) troubles: Troubles,
    board: Arc<Board>,
    dialling: OnceLock<Tasks>,
    turn: AtomicUsize,
}

/// One connection that has spoken with its server.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) client: Client,
    pulse: Arc<Pulse>,
}

/// What is known of each endpoint, and whether the operator was told that none answers.
struct Board {
    state: Mutex<State>,
    /// Changes whenever a link appears.
    news: watch::Sender<u64>,
}

struct State {
    endpoints: Vec<EndpointState>,
    told_away: bool,
    /// Some endpoint has been there once.
    was_there: bool,
}

#[derive(Default)]
struct EndpointState {
    link: Option<Link>,
    failed: Option<Cause>,
}

/// Ends the dialling when the last clone of the store is gone.
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Links {
    pub(super) fn new(config: StoreConfig) -> Self {
        let endpoints = config.endpoints.iter().map(|_| EndpointState::default()).collect();
        let state = Mutex::new(State {
            endpoints,
            told_away: false,
            was_there: false,
        });
        let board = Arc::new(Board {
            state,
            news: watch::Sender::new(0),
        });
        Self {
            config,
            troubles: Troubles::default(),
            board,
            dialling: OnceLock::new(),
            turn: AtomicUsize::new(0),
        }
    }

    pub(super) fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Waits for a connection: the fastest of those that stand, in turns where several are alike. Must be called within
    /// a tokio runtime.
    pub(super) async fn ready(&self) -> Link {
        self.dialling.get_or_init(|| self.dial_all());
        let mut news = self.board.news.subscribe();
        loop {
            news.mark_unchanged();
            if let Some(link) = self.next(None) {
                return link;
            }
            // the sender lives in `self.board`, so this cannot fail
            let _ = news.changed().await;
        }
    }

    /// What became of each endpoint, if none of them has a connection.
    pub(super) fn why_away(&self) -> Option<Cause> {
        let state = self.board.lock();
        if state.endpoints.iter().any(|endpoint| endpoint.link.is_some()) {
            return None;
        }
        let told = state
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
        Some(Cause::new(told.collect::<Vec<_>>().join("; ")))
    }

    /// Another connection than this one, if there is one: where the same request may be answered sooner.
    pub(super) fn other_than(&self, link: &Link) -> Option<Link> {
        self.next(Some(link))
    }

    /// Whether another connection is so much faster than this one that a watch should move there.
    pub(super) fn is_left_behind(&self, link: &Link) -> bool {
        let best = self.standing().iter().map(Link::expected).min();
        best.is_some_and(|best| is_worth_moving(link.expected(), best))
    }

    /// The measured latency of the fastest connection; zero when none stands.
    pub(super) fn latency(&self) -> Duration {
        let measured = self.standing().iter().map(Link::measured).min();
        measured.unwrap_or_default()
    }

    fn standing(&self) -> Vec<Link> {
        let state = self.board.lock();
        let links = state.endpoints.iter().filter_map(|endpoint| endpoint.link.as_ref());
        links.filter(|link| !link.pulse.is_over()).cloned().collect()
    }

    fn next(&self, besides: Option<&Link>) -> Option<Link> {
        let mut standing = self.standing();
        standing.retain(|link| besides.is_none_or(|other| !Arc::ptr_eq(&link.pulse, &other.pulse)));
        let expected: Vec<Duration> = standing.iter().map(Link::expected).collect();
        let choice = fastest(&expected);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = *choice.get(turn.checked_rem(choice.len())?)?;
        standing.into_iter().nth(chosen)
    }

    fn dial_all(&self) -> Tasks {
        let dialler = |index| keep_linked(self.config.clone(), index, Arc::clone(&self.board));
        Tasks(
            (0..self.config.endpoints.len())
                .map(|index| tokio::spawn(dialler(index)).abort_handle())
                .collect(),
        )
    }
}

impl Link {
    /// Bytes received so far: a request that saw none arrive has a silent connection.
    pub(super) fn received(&self) -> u64 {
        self.pulse.received.load(Ordering::Relaxed)
    }

    /// Notes that a request goes out now.
    #[expect(clippy::disallowed_methods, reason = "silence is measured where it is met")]
    pub(super) fn ask(&self) {
        let (mut asked, received) = (self.pulse.lock_asked(), self.received());
        if asked.is_none_or(|(received_then, _)| received_then != received) {
            *asked = Some((received, Boottime::now()));
        }
    }

    /// How long an answer takes that is asked for now.
    #[expect(clippy::disallowed_methods, reason = "latency is measured where it is met")]
    pub(super) fn expected(&self) -> Duration {
        self.pulse.lock_latency().expected(Boottime::now())
    }

    fn measured(&self) -> Duration {
        self.pulse.lock_latency().measured()
    }

    /// How long this connection is waited for before the same is asked elsewhere.
    pub(super) fn hedge_after(&self) -> Duration {
        hedge_after(self.expected())
    }

    /// Times one request. An error of the connection is no answer, one of the server is.
    #[expect(clippy::disallowed_methods, reason = "latency is measured where it is met")]
    pub(super) async fn timed<T, E>(
        &self,
        request: impl Future<Output = Result<T, E>>,
        is_answer: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let timer = Timer {
            pulse: &self.pulse,
            number: self.pulse.lock_latency().ask(Boottime::now()),
        };
        let outcome = request.await;
        if outcome.as_ref().map_or_else(is_answer, |_| true) {
            timer.answered();
        }
        outcome
    }

    /// Measures a connection over which nothing else goes, for as long as it stands.
    #[expect(clippy::disallowed_methods, reason = "latency is measured where it is met")]
    async fn probe(&self, key: String, limit: Duration) -> std::convert::Infallible {
        loop {
            sleep(PROBE_EVERY).await;
            let idle = self
                .pulse
                .lock_latency()
                .is_unmeasured_for(PROBE_EVERY, Boottime::now());
            if idle {
                let mut client = self.client.kv_client();
                let count = client.get(key.as_str(), Some(GetOptions::new().with_count_only()));
                let received = self.received();
                // what an answer is worth is in the measurement
                let outcome = timeout(limit, self.timed(count, |_| false)).await;
                if outcome.is_err() && self.received() == received {
                    // requests keep away from this connection, so none of them would find out
                    self.give_up(&format!("no answer to a probe within {limit:?}"));
                }
            }
        }
    }

    /// Ends the connection if not a byte has come since the first of the requests that still wait, and that is this
    /// long ago. A request of its own with a short limit is no reason.
    #[expect(clippy::disallowed_methods, reason = "silence is measured where it is met")]
    pub(super) fn give_up_if_silent_for(&self, patience: Duration) {
        let asked = *self.pulse.lock_asked();
        let is_silent = |(received, since)| received == self.received() && Boottime::now().since(since) >= patience;
        if asked.is_some_and(is_silent) {
            self.give_up(&format!("no answer within {patience:?}"));
        }
    }

    /// Ends the connection, so that another one is dialled.
    pub(super) fn give_up(&self, why: &str) {
        self.pulse.give_up(why);
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self, index: usize, link: Link, config: &StoreConfig) {
        let was_away = {
            let mut state = self.lock();
            if let Some(endpoint) = state.endpoints.get_mut(index) {
                *endpoint = EndpointState {
                    link: Some(link),
                    failed: None,
                };
            }
            state.was_there = true;
            std::mem::take(&mut state.told_away)
        };
        self.news.send_modify(|news| *news = news.wrapping_add(1));
        if was_away {
            info!(endpoint = %config.endpoints[index], "store is reachable again");
        }
    }

    fn down(&self, index: usize, why: Option<Cause>, config: &StoreConfig) {
        let told = {
            let mut state = self.lock();
            if let Some(endpoint) = state.endpoints.get_mut(index) {
                *endpoint = EndpointState {
                    link: None,
                    failed: why,
                };
            }
            let news = state.why_away(&config.endpoints).filter(|_| !state.told_away);
            state.told_away |= news.is_some();
            // who has found it before knows where it is
            let hint = (!state.was_there).then_some(AWAY_HINT);
            news.map(|error| (error, hint))
        };
        if let Some((error, hint)) = told {
            warn!(%error, hint, "store is unreachable, trying again until it is back");
        }
    }
}

impl State {
    /// Every endpoint's last failure, once all of them have failed.
    fn why_away(&self, endpoints: &[Endpoint]) -> Option<Cause> {
        let failures: Option<Vec<String>> = self
            .endpoints
            .iter()
            .zip(endpoints)
            .map(|(state, endpoint)| state.failed.as_ref().map(|why| format!("{endpoint}: {why}")))
            .collect();
        Some(Cause::new(failures?.join("; ")))
    }
}

/// Dials one endpoint again and again; a pause follows each failure and each connection that did not last.
async fn keep_linked(config: StoreConfig, index: usize, board: Arc<Board>) {
    let endpoint = &config.endpoints[index];
    let mut pause = Duration::ZERO;
    loop {
        sleep(pause).await;
        pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        match dial(&config, index).await {
            Ok(link) => {
                debug!(%endpoint, "connected to the store");
                let pulse = Arc::clone(&link.pulse);
                board.up(index, link.clone(), &config);
                let is_one_of_several = config.endpoints.len() > 1;
                tokio::select! {
                    () = pulse.ended() => {}
                    () = sleep(PAUSE_MAX) => {
                        pause = Duration::ZERO;
                        tokio::select! {
                            () = pulse.ended() => {}
                            _ = link.probe(config.keys.cluster_data(), config.timeout), if is_one_of_several => {}
                        }
                    }
                }
                debug!(%endpoint, "connection to the store ended");
                board.down(index, pulse.reason.get().cloned(), &config);
            }
            Err(why) => {
                debug!(%endpoint, error = %why, "cannot connect to the store");
                board.down(index, Some(why), &config);
            }
        }
    }
}

/// Connects, and waits for the server's first bytes: a stopped server's kernel still accepts connections.
async fn dial(config: &StoreConfig, index: usize) -> Result<Link, Cause> {
    let endpoint = &config.endpoints[index];
    let (host, port) = endpoint
        .host_and_port()
        .ok_or_else(|| Cause::new("not an address of the form host:port, nothing to dial"))?;
    let addresses = timeout(LOOK_UP_LIMIT, lookup_host((host, port)))
        .await
        .map_err(|_| Cause::new("no answer from the name service"))?
        .map_err(|error| Cause::deepest(&error))?;
    let tcp = connect(addresses).await?;
    // best effort: without it small requests are slower, nothing else
    let _ = tcp.set_nodelay(true);
    // each of the two has to be answered once, and an answer may take as long as that of any request
    let limit = config.timeout.min(SPEAK_LIMIT);
    let silence = |_| Cause::new(format!("no answer within {limit:?} after connecting"));
    let io: Box<dyn Io> = match &config.tls {
        None => Box::new(tcp),
        Some(tls) => Box::new(timeout(limit, tls_handshake(tls, host, tcp)).await.map_err(silence)??),
    };
    timeout(limit, speak(io, config, index)).await.map_err(silence)?
}

/// Connects to the first address that answers: a name may have one that leads nowhere, as of a broken IPv6.
async fn connect(addresses: impl Iterator<Item = SocketAddr>) -> Result<TcpStream, Cause> {
    let mut failed = Cause::new("the name has no address");
    for address in addresses {
        match timeout(TCP_CONNECT_LIMIT, TcpStream::connect(address)).await {
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

#[expect(clippy::disallowed_methods, reason = "latency is measured where it is met")]
async fn speak(io: Box<dyn Io>, config: &StoreConfig, index: usize) -> Result<Link, Cause> {
    let endpoint = &config.endpoints[index];
    let began = Boottime::now();
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
    let pulse = Arc::new(Pulse::default());
    let mut stream = Some(TokioIo::new(Watched::new(io, Arc::clone(&pulse))));
    // tonic would dial again through this: it gets the one stream, and then learns that the link is gone
    let connector = tower::service_fn(move |_: Uri| std::future::ready(stream.take().ok_or(LinkGone)));
    let channel = tonic::transport::Endpoint::from(uri)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(config.timeout)
        .keep_alive_while_idle(false)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Cause::deepest(&error))?;
    tokio::select! {
        () = pulse.spoke.notified() => {}
        () = pulse.ended() => {
            let closed = || Cause::new("connection closed by the server");
            return Err(pulse.reason.get().cloned().unwrap_or_else(closed));
        }
    }
    // the server's first bytes answer ours: the first measurement
    let now = Boottime::now();
    pulse.lock_latency().measure(now.since(began), now);
    // without a leader etcd then says so at once instead of keeping requests and watches waiting
    let options = ConnectOptions::new().with_require_leader(true);
    let client = Client::from_channel(Channel::Tonic(channel), Some(options)).await;
    let client = client.map_err(|error| Cause::deepest(&error))?;
    Ok(Link { client, pulse })
}

/// The connection that a request was to go out on has ended: the request was not sent.
#[derive(Debug, thiserror::Error)]
#[error("connection has ended")]
pub(super) struct LinkGone;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The signs of life of one connection.
#[derive(Default)]
struct Pulse {
    received: AtomicU64,
    /// What had been received when the first request went out that may still be unanswered, and when that was.
    asked: Mutex<Option<(u64, Boottime)>>,
    latency: Mutex<Latency>,
    spoke: Notify,
    give_up: CancellationToken,
    ended: CancellationToken,
    reason: OnceLock<Cause>,
}

impl Pulse {
    fn lock_asked(&self) -> MutexGuard<'_, Option<(u64, Boottime)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_latency(&self) -> MutexGuard<'_, Latency> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self, why: &str) {
        self.reason.get_or_init(|| Cause::new(why));
        self.give_up.cancel();
    }

    /// Whether the connection has ended, or is about to.
    fn is_over(&self) -> bool {
        self.give_up.is_cancelled() || self.ended.is_cancelled()
    }

    async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Times one request; one that is dropped without an answer counts as given up.
struct Timer<'p> {
    pulse: &'p Pulse,
    number: Option<u64>,
}

impl Timer<'_> {
    #[expect(clippy::disallowed_methods, reason = "latency is measured where it is met")]
    fn answered(mut self) {
        if let Some(number) = self.number.take() {
            self.pulse.lock_latency().answered(number, Boottime::now());
        }
    }
}

impl Drop for Timer<'_> {
    #[expect(clippy::disallowed_methods, reason = "latency is measured where it is met")]
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.pulse.lock_latency().abandoned(number, Boottime::now());
        }
    }
}

/// A stream that counts what arrives, can be ended from outside, and tells when it is dropped.
struct Watched {
    io: Box<dyn Io>,
    pulse: Arc<Pulse>,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watched {
    fn new(io: Box<dyn Io>, pulse: Arc<Pulse>) -> Self {
        let given_up = Box::pin(pulse.give_up.clone().cancelled_owned());
        Self { io, pulse, given_up }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.pulse.ended.cancel();
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given_up.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, buf)) {
            self.pulse.reason.get_or_init(|| Cause::new(error.to_string()));
            return Poll::Ready(Err(error));
        }
        let more = buf.filled().len() - before;
        if more > 0 && self.pulse.received.fetch_add(more as u64, Ordering::Relaxed) == 0 {
            self.pulse.spoke.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
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
    async fn an_address_that_leads_nowhere_is_not_in_the_way_of_the_next() {
        // a backlog that is full: the kernel answers no further connection request
        let nowhere = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&nowhere, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        listen(&nowhere, 0).unwrap();
        let dead = SocketAddr::try_from(getsockname(&nowhere).unwrap()).unwrap();
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
