//! Requests to a Consul agent (cli 15.3): the catalogue's services of one name, and registrations at the agent. What
//! should be registered is left to `services`.

use std::fmt;
use std::path::PathBuf;

use base::printable;
use base::user_file::{ReadLimits, read_user_file};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use model::{from_slice, to_compact};
use serde::{Deserialize, Serialize};

use super::http_client::{HttpEndpoint, RequestError};
use super::services::Service;

/// The interval of the health check, as in Go stolon.
const CHECK_INTERVAL: &str = "10s";
/// Most characters of a refusal that are shown.
const REASON_CHARS_MAX: usize = 200;
/// Limits of reading a token file.
const TOKEN_LIMITS: ReadLimits = ReadLimits {
    bytes: 64 << 10,
    time: std::time::Duration::from_secs(10),
};

/// The agent and what it is asked with.
#[derive(Clone)]
pub(super) struct ConsulConfig {
    pub(super) server: HttpEndpoint,
    pub(super) token: TokenSource,
    /// `Authorization` of every request.
    pub(super) authorization: Option<HeaderValue>,
    /// The namespace of the services, with Consul Enterprise.
    pub(super) namespace: Option<String>,
}

/// Where the ACL token is.
#[derive(Clone)]
pub(super) enum TokenSource {
    /// The agent's default token applies.
    None,
    Value(HeaderValue),
    /// Read for every request, so that a renewed token needs no restart.
    File(PathBuf),
}

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the token must be one line of visible ASCII characters")]
    Characters,
}

/// Returns the header with this token, which is not shown by its debug form.
pub(super) fn token_header(token: &str) -> Result<HeaderValue, TokenError> {
    let is_visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let header = HeaderValue::from_str(token).ok().filter(|_| is_visible);
    let mut header = header.ok_or(TokenError::Characters)?;
    header.set_sensitive(true);
    Ok(header)
}

impl TokenSource {
    /// Returns the header of the next request.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>, TokenError> {
        match self {
            Self::None => Ok(None),
            Self::Value(header) => Ok(Some(header.clone())),
            Self::File(path) => {
                let (text, _) = read_user_file(path, TOKEN_LIMITS).map_err(|source| TokenError::Read {
                    path: path.clone(),
                    source,
                })?;
                let text = String::from_utf8(text).map_err(|_| TokenError::Characters)?;
                token_header(text.trim()).map(Some)
            }
        }
    }
}

/// A failed request: what was attempted, where, and what to do. The cause is its source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} at Consul {server} ({})", .cause.remedy())]
pub(super) struct ConsulError {
    action: String,
    server: String,
    #[source]
    cause: ConsulFault,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
enum ConsulFault {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the name cannot stand in a URL")]
    Path(#[source] http::uri::InvalidUri),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("status {status}{}", Reason(.reason))]
    Status { status: StatusCode, reason: String },
    #[error("the response is not a list of services: {0}")]
    NotServices(#[source] model::JsonError),
}

impl ConsulFault {
    fn remedy(&self) -> &'static str {
        match self {
            Self::Token(_) => "check CONSUL_HTTP_TOKEN and CONSUL_HTTP_TOKEN_FILE",
            Self::Request(RequestError::Tls(_)) => {
                "check --register-ca-file, --register-cert-file and --register-key, and that the agent speaks HTTPS there"
            }
            Self::Status { status, .. } if [401, 403].contains(&status.as_u16()) => {
                "give a token that may write this service in CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE"
            }
            Self::Status { status, .. } if status.is_redirection() => {
                "redirects are not followed, give --register-endpoints the address of an agent"
            }
            Self::Status { status, .. } if *status == StatusCode::NOT_FOUND => {
                "check that --register-endpoints is a Consul agent; a service registered through another agent must be \
                 deregistered there"
            }
            Self::Status { .. } => "see the agent's log",
            Self::Path(_) => "give it another name",
            Self::Request(_) | Self::NotServices(_) => "check that --register-endpoints is a running Consul agent",
        }
    }
}

/// The text of a refusal, shortened, behind a colon.
struct Reason<'a>(&'a str);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.trim();
        if text.is_empty() {
            return Ok(());
        }
        let shown: String = text.chars().take(REASON_CHARS_MAX).collect();
        let more = if shown.len() < text.len() { "…" } else { "" };
        write!(f, ": {}{more}", printable(&shown))
    }
}

/// A client of one agent.
pub(super) struct Consul(ConsulConfig);

impl Consul {
    pub(super) fn new(config: ConsulConfig) -> Self {
        Self(config)
    }

    /// Returns the services of this name in the whole catalogue.
    pub(super) async fn services(&self, name: &str) -> Result<Vec<Service>, ConsulError> {
        let path = format!("/v1/catalog/service/{}", escaped(name));
        let read = self.request(Method::GET, &path, String::new()).await;
        let services = read.and_then(|body| {
            let services: Option<Vec<CatalogService>> = from_slice(&body).map_err(ConsulFault::NotServices)?;
            Ok(services.unwrap_or_default().into_iter().map(Service::from).collect())
        });
        services.map_err(|cause| self.error(format!("read the services named {name:?}"), cause))
    }

    /// Registers a service at the agent, which checks from then on that its port can be connected to.
    pub(super) async fn register(&self, service: &Service) -> Result<(), ConsulError> {
        let body = to_compact(&Registration::from(service));
        let sent = self.request(Method::PUT, "/v1/agent/service/register", body).await;
        sent.map(drop)
            .map_err(|cause| self.error(format!("register the service {:?}", service.id), cause))
    }

    /// Removes a service from the agent.
    pub(super) async fn deregister(&self, id: &str) -> Result<(), ConsulError> {
        let path = format!("/v1/agent/service/deregister/{}", escaped(id));
        let sent = self.request(Method::PUT, &path, String::new()).await;
        sent.map(drop)
            .map_err(|cause| self.error(format!("deregister the service {id:?}"), cause))
    }

    fn error(&self, action: String, cause: ConsulFault) -> ConsulError {
        ConsulError {
            action,
            server: self.0.server.to_string(),
            cause,
        }
    }

    /// Sends a request; returns the body of a response with status 200.
    async fn request(&self, method: Method, path: &str, body: String) -> Result<Vec<u8>, ConsulFault> {
        let namespace = self.0.namespace.as_deref();
        let query = namespace.map_or_else(String::new, |namespace| format!("?ns={}", escaped(namespace)));
        let mut request = Request::new(body);
        *request.method_mut() = method;
        // A service id of the catalogue may be of any length.
        *request.uri_mut() = format!("{path}{query}").parse().map_err(ConsulFault::Path)?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(self.0.server.authority.as_str());
        headers.insert(HOST, host.expect("an authority is visible ASCII"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = self.0.token.header()? {
            headers.insert("x-consul-token", token);
        }
        if let Some(authorization) = &self.0.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let response = self.0.server.send(request).await?;
        if response.status != StatusCode::OK {
            return Err(ConsulFault::Status {
                status: response.status,
                reason: String::from_utf8_lossy(&response.body).into_owned(),
            });
        }
        Ok(response.body)
    }
}

/// Returns the text as one segment of a path or as a value of a query (RFC 3986, sections 2.1 and 2.3). Dots are
/// escaped, too: a segment `..` would be another path.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// A service in the catalogue; what is not compared is left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CatalogService {
    #[serde(rename = "ServiceID")]
    id: String,
    #[serde(rename = "ServiceName")]
    name: String,
    #[serde(rename = "ServiceTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "ServiceAddress")]
    address: String,
    #[serde(rename = "ServicePort")]
    port: i64,
}

impl From<CatalogService> for Service {
    fn from(found: CatalogService) -> Self {
        Self {
            id: found.id,
            name: found.name,
            tags: found.tags.unwrap_or_default(),
            address: found.address,
            port: found.port,
        }
    }
}

/// The body of a registration, in Go stolon's order of fields.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Registration<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    tags: &'a [String],
    port: i64,
    address: &'a str,
    check: TcpCheck,
    /// Always `null`.
    checks: Option<()>,
}

#[derive(Debug, Serialize)]
struct TcpCheck {
    #[serde(rename = "Interval")]
    interval: &'static str,
    #[serde(rename = "TCP")]
    tcp: String,
}

impl<'a> From<&'a Service> for Registration<'a> {
    fn from(service: &'a Service) -> Self {
        let Service { address, port, .. } = service;
        Self {
            id: &service.id,
            name: &service.name,
            tags: &service.tags,
            port: *port,
            address,
            check: TcpCheck {
                interval: CHECK_INTERVAL,
                tcp: if address.contains(':') {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                },
            },
            checks: None,
        }
    }
}

#[cfg(test)]
mod tests;
