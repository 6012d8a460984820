//! Establishes one connection: name lookup, TCP, TLS, and the first bytes of HTTP/2, each within a limit. When to
//! connect is left to `connections`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use etcd_client::{Channel, Client, ConnectOptions};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::connection::Connection;
use super::io::{AsyncIo, MonitoredIo};
use super::monitor::ConnectionMonitor;
use crate::config::StoreConfig;
use crate::error::Cause;

/// HTTP/2 keepalive interval. etcd refuses clients that ping more often than every 5 s (store 3.3).
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum wait for each step of a handshake, however long the store timeout is (store 3.3).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum wait for a name lookup. A resolver waits five seconds for each name server (resolv.conf(5)).
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum wait for a TCP connection to one address; after lost packets a new attempt is faster.
const TCP_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection ended before the request was sent on it.
#[derive(Debug, thiserror::Error)]
#[error("connection has ended")]
pub(crate) struct ConnectionGone;

/// Connects, and waits for the server's first bytes: the kernel of a stopped server still accepts connections.
pub(super) async fn connect_endpoint(config: &StoreConfig, clock: &Clock, index: usize) -> Result<Connection, Cause> {
    let endpoint = &config.endpoints[index];
    let (host, port) = endpoint.host_and_port();
    let addresses = timeout(LOOKUP_TIMEOUT, lookup_host((host, port)))
        .await
        .map_err(|_| Cause::new("no response from the name service"))?
        .map_err(|error| Cause::deepest(&error))?;
    let tcp = connect(addresses).await?;
    // best effort: without it small requests are slower
    let _ = tcp.set_nodelay(true);
    // each of the two steps has its own timeout, because a response may take as long as that of any request
    let limit = config.timeout.min(HANDSHAKE_TIMEOUT);
    let no_response = |_| Cause::new(format!("no response within {limit:?} after connecting"));
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
            Err(_) => failed = Cause::new("no response to the connection request"),
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
    let uri = Uri::builder()
        .scheme(endpoint.scheme.as_str())
        .authority(endpoint.authority().clone())
        .path_and_query("/")
        .build();
    let uri = uri.map_err(|error| Cause::deepest(&error))?;
    let monitor = Arc::new(ConnectionMonitor::new(clock.clone()));
    let mut stream = Some(TokioIo::new(MonitoredIo::new(io, Arc::clone(&monitor))));
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
        () = monitor.first_bytes() => {}
        () = monitor.closed() => {
            let closed = || Cause::new("connection closed by the server");
            return Err(monitor.reason().unwrap_or_else(closed));
        }
    }
    // the server's first bytes are a response to the client's: the first measurement
    monitor.measure_since(began);
    // without a leader etcd then returns an error at once instead of blocking requests and watches
    let options = ConnectOptions::new().with_require_leader(true);
    let client = Client::from_channel(Channel::Tonic(channel), Some(options)).await;
    let client = client.map_err(|error| Cause::deepest(&error))?;
    Ok(Connection::new(client, monitor))
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
        assert_eq!(failed.to_string(), "no response to the connection request");
    }
}
