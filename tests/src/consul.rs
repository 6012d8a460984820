//! A fake Consul agent with its catalogue: the three requests of `stolonctl register` over HTTP/1.1, with or without
//! TLS. It refuses what a real agent would, and can be made to fail in several ways.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::etcd::ServerTls;

/// Limit of a read from a client.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How the agent responds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsulMode {
    /// As it should.
    Serve,
    /// Reads are served, changes have this status.
    RefuseChanges(u16),
    /// Every request has this status, and a body.
    Status(u16),
    /// These bytes, then the end of the connection.
    Bytes(Vec<u8>),
    /// A response of this many bytes of JSON.
    Huge(usize),
    /// Nothing, on an open connection.
    Silent,
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsulRequest {
    /// Such as `PUT`.
    pub method: String,
    /// Path and query, still escaped.
    pub target: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

#[derive(Debug)]
struct State {
    mode: ConsulMode,
    /// The bodies of the registrations, by id.
    services: BTreeMap<String, Value>,
    requests: Vec<ConsulRequest>,
    is_stopped: bool,
}

/// What the connections share; the condition is signalled when the agent stops.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

/// An agent on a free port of the loopback interface. It ends with this value.
#[derive(Debug)]
pub struct FakeConsul {
    url: String,
    address: String,
    shared: Arc<Shared>,
}

impl FakeConsul {
    /// Starts an agent without services.
    ///
    /// # Panics
    ///
    /// It cannot listen.
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// Starts an agent that speaks TLS, and requires a client certificate if an authority is given.
    ///
    /// # Panics
    ///
    /// It cannot listen, or the files cannot be used.
    pub fn start_with_tls(tls: &ServerTls) -> Self {
        Self::listen(Some(Arc::new(server_config(tls))))
    }

    fn listen(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback interface is free");
        let address = listener.local_addr().expect("it listens").to_string();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mode: ConsulMode::Serve,
                services: BTreeMap::new(),
                requests: Vec::new(),
                is_stopped: false,
            }),
            stopped: Condvar::new(),
        });
        let agent = Self {
            url: format!("{scheme}://{address}"),
            address,
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.with(|state| state.is_stopped) {
                    return;
                }
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                // A client that breaks off is no failure of the agent.
                thread::spawn(move || stream.and_then(|stream| serve_connection(stream, tls, &shared)));
            }
        });
        agent
    }

    /// Returns its URL, for `--register-endpoints`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lets it respond in this way from now on.
    pub fn set_mode(&self, mode: ConsulMode) {
        self.shared.with(|state| state.mode = mode);
    }

    /// Puts a service into the catalogue, as the body of a registration.
    pub fn add(&self, id: &str, registration: Value) {
        self.shared
            .with(|state| state.services.insert(id.to_owned(), registration));
    }

    /// Returns the catalogue: the bodies of the registrations, by id.
    pub fn services(&self) -> BTreeMap<String, Value> {
        self.shared.with(|state| state.services.clone())
    }

    /// Returns all requests so far.
    pub fn requests(&self) -> Vec<ConsulRequest> {
        self.shared.with(|state| state.requests.clone())
    }
}

impl Drop for FakeConsul {
    fn drop(&mut self) {
        self.shared.with(|state| state.is_stopped = true);
        self.shared.stopped.notify_all();
        // Wakes the loop that accepts; it may have ended.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn with<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        access(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wait_for_stop(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = self.stopped.wait_while(state, |state| !state.is_stopped);
        drop(stopped.unwrap_or_else(PoisonError::into_inner));
    }
}

fn server_config(tls: &ServerTls) -> ServerConfig {
    let certificates = |path: &Path| -> Vec<CertificateDer<'static>> {
        let blocks = CertificateDer::pem_file_iter(path).expect("the certificates can be read");
        blocks.map(|block| block.expect("it is a certificate")).collect()
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions");
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(ca));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is an authority"))
        }
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key).expect("the key can be read");
    let mut config = builder
        .with_single_cert(certificates(&tls.cert), key)
        .expect("certificate and key belong together");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn serve_connection(stream: TcpStream, tls: Option<Arc<ServerConfig>>, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    match tls {
        None => serve_request(stream, shared),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(connection, stream);
            serve_request(&mut stream, shared)?;
            stream.conn.send_close_notify();
            stream.flush()
        }
    }
}

/// Serves one request: `register` opens a connection for each.
fn serve_request(mut stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let request = read_request(&mut stream)?;
    let mode = shared.with(|state| {
        state.requests.push(request.clone());
        state.mode.clone()
    });
    let (status, body) = match mode {
        ConsulMode::Serve => shared.with(|state| serve(state, &request)),
        ConsulMode::RefuseChanges(status) if request.method != "GET" => (status, "refused".to_owned()),
        ConsulMode::RefuseChanges(_) => shared.with(|state| serve(state, &request)),
        ConsulMode::Status(status) => (status, "Permission denied: \u{1b}[31mno".to_owned()),
        ConsulMode::Bytes(bytes) => return stream.write_all(&bytes),
        ConsulMode::Huge(bytes) => (200, format!("[{}]", " ".repeat(bytes))),
        ConsulMode::Silent => {
            shared.wait_for_stop();
            return Ok(());
        }
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

fn read_request(stream: &mut impl Read) -> io::Result<ConsulRequest> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        Ok::<_, io::Error>(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(ConsulRequest {
        method,
        target,
        headers,
        body: String::from_utf8(body).map_err(io::Error::other)?,
    })
}

/// Returns status and body, and changes the catalogue.
fn serve(state: &mut State, request: &ConsulRequest) -> (u16, String) {
    let path = request.target.split('?').next().unwrap_or_default();
    let segments: Vec<String> = path.split('/').skip(1).map(unescaped).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (request.method.as_str(), segments.as_slice()) {
        ("GET", ["v1", "catalog", "service", name]) => {
            let named = state.services.values().filter(|service| service["Name"] == *name);
            let listed: Vec<Value> = named.map(catalog_entry).collect();
            (200, Value::Array(listed).to_string())
        }
        ("PUT", ["v1", "agent", "service", "register"]) => match registration(&request.body) {
            Ok((id, body)) => {
                state.services.insert(id, body);
                (200, String::new())
            }
            Err(why) => (400, why),
        },
        ("PUT", ["v1", "agent", "service", "deregister", id]) => match state.services.remove(*id) {
            Some(_) => (200, String::new()),
            None => (404, format!("Unknown service ID {id:?}")),
        },
        _ => (405, format!("{} {path} is not served", request.method)),
    }
}

fn catalog_entry(service: &Value) -> Value {
    json!({
        "ID": "0b1f5f0e", "Node": "n1", "Address": "127.0.0.1",
        "ServiceID": service["ID"], "ServiceName": service["Name"], "ServiceTags": service["Tags"],
        "ServiceAddress": service["Address"], "ServicePort": service["Port"],
    })
}

/// Checks the body of a registration; returns the id of its service, too.
fn registration(body: &str) -> Result<(String, Value), String> {
    let value: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let text = |value: &Value, field: &str| {
        let text = value[field].as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned)
            .ok_or_else(|| format!("{field} is missing in {body}"))
    };
    for field in ["Name", "Address"] {
        text(&value, field)?;
    }
    for field in ["Interval", "TCP"] {
        text(&value["Check"], field)?;
    }
    let port = value["Port"].as_i64().filter(|port| (1..=65535).contains(port));
    port.ok_or_else(|| format!("no Port in {body}"))?;
    let tags = value["Tags"]
        .as_array()
        .filter(|tags| tags.iter().all(Value::is_string));
    tags.ok_or_else(|| format!("no Tags in {body}"))?;
    Ok((text(&value, "ID")?, value))
}

fn unescaped(segment: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
