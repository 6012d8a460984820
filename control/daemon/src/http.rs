//! A small HTTP server with a table of routes, on a thread of its own, so that a request does not delay the program,
//! nor a busy program the request. What a page holds is left to its route.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::runtime;

/// Connections served at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 16;
/// Maximum lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time to receive the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay after a failed accept, as when file descriptors run out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(200);
/// The content type of error messages.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// A page as it is at the time of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPage {
    /// Such as `text/plain; charset=utf-8`.
    pub content_type: &'static str,
    /// The text.
    pub body: String,
}

type PageSource = Box<dyn Fn() -> HttpPage + Send + Sync>;

/// The pages of a server, by their paths.
#[derive(Default)]
pub struct HttpRoutes(BTreeMap<&'static str, PageSource>);

impl fmt::Debug for HttpRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl HttpRoutes {
    /// Adds a page, which is made at each GET and HEAD of this path, on the server's thread: it must not block.
    #[must_use]
    pub fn get(mut self, path: &'static str, page: impl Fn() -> HttpPage + Send + Sync + 'static) -> Self {
        self.0.insert(path, Box::new(page));
        self
    }

    fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let error = |status, text: &str| {
            let page = HttpPage {
                content_type: PLAIN_TEXT,
                body: format!("{text}\n"),
            };
            response(status, page)
        };
        match self.0.get(path) {
            Some(page) if matches!(*method, Method::GET | Method::HEAD) => response(StatusCode::OK, page()),
            Some(_) => error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
            None => error(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }
}

fn response(status: StatusCode, page: HttpPage) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(page.content_type),
    );
    response
}

/// A server that is bound to its address and serves nothing yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpServer {
    /// Binds `address`: `host:port`, or `:port` for every interface.
    ///
    /// # Errors
    /// The address is in use, not local, or invalid.
    pub fn bind(address: &str) -> io::Result<Self> {
        let listener = match address.strip_prefix(':') {
            Some(port) => {
                TcpListener::bind(format!("[::]:{port}")).or_else(|_| TcpListener::bind(format!("0.0.0.0:{port}")))?
            }
            None => TcpListener::bind(address)?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
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
                serve(self.listener, Arc::new(routes)).await;
            });
        };
        std::thread::Builder::new().name(thread.to_owned()).spawn(run)?;
        Ok(())
    }
}

async fn serve(listener: TcpListener, routes: Arc<HttpRoutes>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot serve metrics");
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
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let routes = Arc::clone(&routes);
        tokio::spawn(async move {
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let response = routes.respond(request.method(), request.uri().path());
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            // However a connection ends, there is nothing to do about it.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(body: &str) -> HttpPage {
        HttpPage {
            content_type: PLAIN_TEXT,
            body: body.to_owned(),
        }
    }

    #[test]
    fn a_request_gets_the_page_of_its_path() {
        let routes = HttpRoutes::default()
            .get("/one", || page("1"))
            .get("/two", || HttpPage {
                content_type: "application/json",
                body: "{}".to_owned(),
            });
        let status = |method, path| routes.respond(&method, path).status().as_u16();
        assert_eq!(status(Method::GET, "/one"), 200);
        assert_eq!(status(Method::HEAD, "/one"), 200);
        assert_eq!(status(Method::POST, "/one"), 405);
        assert_eq!(status(Method::GET, "/one/"), 404);
        let two = routes.respond(&Method::GET, "/two");
        assert_eq!(two.headers()[header::CONTENT_TYPE], "application/json");
    }
}
