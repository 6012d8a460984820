//! One HTTP/1.1 request on a connection of its own, with a limit for its time and for the size of the response. What is
//! requested is left to `consul`.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Maximum wait for a TCP connection to one of a name's addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The server that requests go to.
#[derive(Clone)]
pub(super) struct HttpEndpoint {
    /// Host without brackets, and port.
    pub(super) address: (String, u16),
    /// Host and port as they stand in requests.
    pub(super) authority: Authority,
    /// For `https`.
    pub(super) tls: Option<EndpointTls>,
    /// Limit of one request, from the name lookup to the end of the response.
    pub(super) timeout: Duration,
    /// Most bytes of a response's body.
    pub(super) body_bytes_max: usize,
}

/// How TLS is set up.
#[derive(Clone)]
pub(super) struct EndpointTls {
    pub(super) config: Arc<rustls::ClientConfig>,
    /// The name that the certificate must have.
    pub(super) name: ServerName<'static>,
}

/// The scheme, host and port.
impl fmt::Display for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// A complete response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("no complete response within {0:?}")]
    Timeout(Duration),
    #[error("look up the name")]
    Lookup(#[source] io::Error),
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error("TLS")]
    Tls(#[source] io::Error),
    #[error("the response is not HTTP, or ended early")]
    Http(#[source] hyper::Error),
    #[error("the response is larger than {0} bytes")]
    TooLarge(usize),
}

impl HttpEndpoint {
    /// Sends a request and returns the response, whatever its status.
    pub(super) async fn send(&self, request: Request<String>) -> Result<Response, RequestError> {
        let response = timeout(self.timeout, Box::pin(self.exchange(request))).await;
        response.map_err(|_| RequestError::Timeout(self.timeout))?
    }

    async fn exchange(&self, request: Request<String>) -> Result<Response, RequestError> {
        let (host, port) = (self.address.0.as_str(), self.address.1);
        let addresses = lookup_host((host, port)).await.map_err(RequestError::Lookup)?;
        let tcp = connect(addresses).await.map_err(RequestError::Connect)?;
        match &self.tls {
            None => self.exchange_on(tcp, request).await,
            Some(EndpointTls { config, name }) => {
                let tls = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await;
                self.exchange_on(tls.map_err(RequestError::Tls)?, request).await
            }
        }
    }

    async fn exchange_on(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin,
        request: Request<String>,
    ) -> Result<Response, RequestError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(RequestError::Http)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(RequestError::Http)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.body_bytes_max).collect().await;
            match body {
                Ok(body) => Ok(Response {
                    status,
                    body: body.to_bytes().to_vec(),
                }),
                Err(error) => Err(self.body_error(error)),
            }
        };
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            response = &mut exchange => return response,
            // Its error, if any, is that of the exchange.
            _ = connection => {}
        }
        exchange.await
    }

    fn body_error(&self, error: Box<dyn Error + Send + Sync>) -> RequestError {
        match error.downcast::<hyper::Error>() {
            Ok(error) => RequestError::Http(*error),
            Err(other) => {
                debug_assert!(other.is::<LengthLimitError>(), "{other}");
                RequestError::TooLarge(self.body_bytes_max)
            }
        }
    }
}

/// Connects to the first address that responds.
async fn connect(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("the name has no address");
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, "no response to the connection request"),
        }
    }
    Err(failed)
}
