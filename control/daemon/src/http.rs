//! A small HTTP server with a table of routes, on a thread of its own, so that a request does not delay the program,
//! nor a busy program the request. Who may send requests is in `access`; what a page holds is left to its route.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::runtime;

mod access;

pub use access::{AccessError, AccessOptions, HttpAccess};

use access::{BearerToken, ConnectionAccess};

/// Connections served at once; more wait in the backlog, at most as long as [`HEADER_TIMEOUT`] for those of clients that
/// send nothing.
const MAX_CONNECTIONS: usize = 64;
/// Maximum lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time to receive the header of a request, also of the next one of a connection, and for a TLS handshake.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a request's header; a larger one gets status 431.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Delay after a failed accept, as when file descriptors run out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);
/// The content type of error messages.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Status of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpStatus {
    /// 200.
    Ok,
    /// 400: the query is not understood.
    BadRequest,
    /// 503: what was asked for is not the case.
    Unavailable,
}

/// A page as it is at the time of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPage {
    /// The status.
    pub status: HttpStatus,
    /// Such as `text/plain; charset=utf-8`.
    pub content_type: &'static str,
    /// The text.
    pub body: String,
}

impl HttpPage {
    /// Returns a page with a JSON object on one line.
    pub fn json(status: HttpStatus, body: &serde_json::Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: format!("{body}\n"),
        }
    }
}

/// The query of a request, such as `lag=16MB`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HttpQuery<'a>(&'a str);

impl<'a> From<&'a str> for HttpQuery<'a> {
    fn from(query: &'a str) -> Self {
        Self(query)
    }
}

impl<'a> HttpQuery<'a> {
    /// Returns the value of the first field of this name, as sent: nothing is decoded.
    pub fn get(self, name: &str) -> Option<&'a str> {
        let fields = self.0.split('&').filter_map(|field| field.split_once('='));
        fields
            .into_iter()
            .find_map(|(key, value)| (key == name).then_some(value))
    }
}

type PageSource = Arc<dyn Fn(HttpQuery<'_>) -> HttpPage + Send + Sync>;

/// The pages of a server, by their paths. Clones share them.
#[derive(Clone, Default)]
pub struct HttpRoutes(Arc<RwLock<BTreeMap<&'static str, PageSource>>>);

impl fmt::Debug for HttpRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.pages().keys()).finish()
    }
}

impl HttpRoutes {
    /// Adds a page, or replaces that of its path. It is made at each GET and HEAD, on the server's thread: it must not
    /// block.
    pub fn add(&self, path: &'static str, page: impl Fn(HttpQuery<'_>) -> HttpPage + Send + Sync + 'static) {
        let mut pages = self.0.write().unwrap_or_else(PoisonError::into_inner);
        pages.insert(path, Arc::new(page));
    }

    fn pages(&self) -> RwLockReadGuard<'_, BTreeMap<&'static str, PageSource>> {
        // A map that a panic interrupted is whole: pages are made outside the lock.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, method: &Method, path: &str, query: &str) -> Response<Full<Bytes>> {
        let page = self.pages().get(path).cloned();
        match page {
            Some(page) if matches!(*method, Method::GET | Method::HEAD) => {
                let page = page(query.into());
                let status = match page.status {
                    HttpStatus::Ok => StatusCode::OK,
                    HttpStatus::BadRequest => StatusCode::BAD_REQUEST,
                    HttpStatus::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                };
                response(status, page.content_type, page.body)
            }
            Some(_) => error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
            None => error(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }
}

fn error(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, PLAIN_TEXT, format!("{text}\n"))
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    match status {
        StatusCode::UNAUTHORIZED => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"))),
        _ => {}
    }
    response
}

/// A server that is bound to its address and serves nothing yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    access: HttpAccess,
}

impl HttpServer {
    /// Binds `address`: `host:port`, or `:port` for every interface.
    ///
    /// # Errors
    /// The address is in use, not local, or invalid.
    pub fn bind(address: &str, access: HttpAccess) -> io::Result<Self> {
        let listener = match address.strip_prefix(':') {
            Some(port) => {
                TcpListener::bind(format!("[::]:{port}")).or_else(|_| TcpListener::bind(format!("0.0.0.0:{port}")))?
            }
            None => TcpListener::bind(address)?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
            address,
            access,
        })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the routes until the process ends, on a thread of this name that also runs the background task.
    ///
    /// # Errors
    /// The thread or its runtime cannot be created.
    pub fn start(
        self,
        thread: &str,
        routes: HttpRoutes,
        background: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let runtime = runtime::current_thread()?;
        let run = move || {
            runtime.block_on(async {
                tokio::spawn(background);
                tokio::spawn(self.access.clone().follow_files());
                serve(self.listener, self.access, routes).await;
            });
        };
        std::thread::Builder::new().name(thread.to_owned()).spawn(run)?;
        Ok(())
    }
}

async fn serve(listener: TcpListener, access: HttpAccess, routes: HttpRoutes) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the HTTP server cannot serve");
            return;
        }
    };
    let connection_slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connection_slots).acquire_owned().await else {
            return; // unreachable: the semaphore is never closed
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the HTTP server cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let connection = serve_connection(stream, access.current(), routes.clone());
        tokio::spawn(async move {
            // However a connection ends, there is nothing to do about it.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

async fn serve_connection(stream: TcpStream, access: ConnectionAccess, routes: HttpRoutes) {
    match access.tls {
        None => serve_requests(stream, access.token, routes).await,
        Some(acceptor) => {
            // A client that speaks no TLS, or too slowly, is closed.
            if let Ok(Ok(stream)) = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await {
                serve_requests(stream, access.token, routes).await;
            }
        }
    }
}

async fn serve_requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    token: Option<Arc<BearerToken>>,
    routes: HttpRoutes,
) {
    let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let is_allowed = token
            .as_ref()
            .is_none_or(|token| token.admits(request.headers().get(header::AUTHORIZATION)));
        let response = match is_allowed {
            true => {
                let uri = request.uri();
                routes.respond(request.method(), uri.path(), uri.query().unwrap_or_default())
            }
            false => error(StatusCode::UNAUTHORIZED, "unauthorized"),
        };
        std::future::ready(Ok::<_, Infallible>(response))
    });
    // However a connection ends, there is nothing to do about it.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(body: &str) -> HttpPage {
        HttpPage {
            status: HttpStatus::Ok,
            content_type: PLAIN_TEXT,
            body: body.to_owned(),
        }
    }

    #[test]
    fn a_request_gets_the_page_of_its_path() {
        let routes = HttpRoutes::default();
        routes.add("/one", |_| page("1"));
        routes.add("/two", |query| {
            let status = match query.get("lag") {
                Some("16MB") => HttpStatus::Ok,
                Some(_) => HttpStatus::BadRequest,
                None => HttpStatus::Unavailable,
            };
            HttpPage::json(status, &serde_json::json!({}))
        });
        let status = |method, path, query| routes.respond(&method, path, query).status().as_u16();
        assert_eq!(status(Method::GET, "/one", ""), 200);
        assert_eq!(status(Method::HEAD, "/one", "a=b"), 200);
        assert_eq!(status(Method::POST, "/one", ""), 405);
        assert_eq!(status(Method::GET, "/one/", ""), 404);
        assert_eq!(status(Method::GET, "/two", ""), 503);
        assert_eq!(status(Method::GET, "/two", "x&lag&lag=1"), 400);
        let two = routes.respond(&Method::GET, "/two", "a=1&lag=16MB");
        assert_eq!(two.status(), StatusCode::OK);
        assert_eq!(two.headers()[header::CONTENT_TYPE], "application/json");
    }
}
