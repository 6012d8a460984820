//! The options of `register`, and the variables of Consul's own clients for what has no option (cli 15.1). Everything is
//! read and checked here; nothing is connected.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use base::host::check_host;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon::args::{Faults, GoInt, Switch, given, given_path};
use http::uri::Authority;
use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;
use store::{TlsOptions, client_tls};

use super::consul::{ConsulConfig, TokenSource, token_header};
use super::http_client::{EndpointTls, HttpEndpoint};
use super::services::ServiceOptions;

const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:8500";
const DEFAULT_SLEEP_SECONDS: GoInt = GoInt(10);
/// A day: a larger number is a mistake.
const SLEEP_SECONDS_MAX: u64 = 86_400;
/// Limit of each request to Consul.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a response: the catalogue has about 1 KiB for each service.
const BODY_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Default, clap::Args)]
pub(in super::super) struct Args {
    /// Service catalogue: consul [default: consul]
    #[arg(long, value_name = "BACKEND")]
    register_backend: Option<String>,
    /// URL of the Consul agent [default: http://127.0.0.1:8500]
    #[arg(long, value_name = "URL")]
    register_endpoints: Option<String>,
    /// Client certificate for Consul; no effect with http
    #[arg(long, value_name = "FILE")]
    register_cert_file: Option<PathBuf>,
    /// Key of the client certificate; no effect with http
    #[arg(long, value_name = "FILE")]
    register_key: Option<PathBuf>,
    /// CA certificates for Consul's certificate; no effect with http [default: those of the system]
    #[arg(long, value_name = "FILE")]
    register_ca_file: Option<PathBuf>,
    /// Do not verify Consul's certificate; no effect with http
    #[arg(long)]
    register_skip_tls_verify: Option<Switch>,
    /// Register the master, too
    #[arg(long)]
    register_master: Option<Switch>,
    /// Comma-separated tags of the master [default: master]
    #[arg(long, value_name = "TAGS")]
    tag_master_as: Option<String>,
    /// Comma-separated tags of the standbys [default: slave]
    #[arg(long, value_name = "TAGS")]
    tag_slave_as: Option<String>,
    /// Seconds between two rounds, 1 to 86400 [default: 10]
    #[arg(long, value_name = "SECONDS")]
    sleep_interval: Option<GoInt>,
    /// The same as --log-level=debug
    #[arg(long)]
    debug: Option<Switch>,
    /// Print the version
    #[arg(long)]
    version: Option<Switch>,
    #[command(flatten)]
    ignored: super::super::IgnoredArguments,
}

/// The validated options.
pub(in super::super) struct Config {
    pub(super) consul: ConsulConfig,
    pub(super) services: ServiceOptions,
    pub(super) sleep_interval: Duration,
    pub(super) debug: bool,
}

impl Args {
    /// Returns whether the version is asked for, which needs no other option (cli 16).
    pub(in super::super) fn asks_for_version(&self) -> bool {
        self.version == Some(Switch(true))
    }

    /// Validates the options and reads the files that they name. Returns none when there are errors, which are added to
    /// `faults`.
    pub(in super::super) fn check(
        &self,
        environment: &dyn Fn(&str) -> Option<OsString>,
        faults: &mut Faults,
    ) -> Option<Config> {
        let mut variables = Variables { environment, faults };
        let backend = given(&self.register_backend);
        if !matches!(backend, "" | "consul") {
            variables.faults.push(format!(
                "unknown register backend: {backend:?}: use --register-backend=consul"
            ));
        }
        let consul = self.consul(&mut variables);
        let GoInt(seconds) = self.sleep_interval.unwrap_or(DEFAULT_SLEEP_SECONDS);
        let seconds = u64::try_from(seconds)
            .ok()
            .filter(|seconds| (1..=SLEEP_SECONDS_MAX).contains(seconds));
        if seconds.is_none() {
            variables.faults.push(format!(
                "--sleep-interval must be from 1 to {SLEEP_SECONDS_MAX} seconds"
            ));
        }
        let tags = |option: &Option<String>, default: &str| {
            let list = option.as_deref().unwrap_or(default);
            list.split(',').map(str::to_owned).collect()
        };
        Some(Config {
            consul: consul?,
            services: ServiceOptions {
                register_master: self.register_master == Some(Switch(true)),
                master_tags: tags(&self.tag_master_as, "master"),
                standby_tags: tags(&self.tag_slave_as, "slave"),
            },
            sleep_interval: Duration::from_secs(seconds?),
            debug: self.debug == Some(Switch(true)),
        })
    }

    fn consul(&self, variables: &mut Variables<'_>) -> Option<ConsulConfig> {
        let endpoint = Some(given(&self.register_endpoints)).filter(|url| !url.is_empty());
        let endpoint = match parse_endpoint(endpoint.unwrap_or(DEFAULT_ENDPOINT)) {
            Ok(endpoint) => Some(endpoint),
            Err(fault) => {
                variables.faults.push(fault);
                None
            }
        };
        let token = variables.token();
        let authorization = variables
            .text("CONSUL_HTTP_AUTH")
            .map(|credentials| basic(&credentials));
        let namespace = variables.text("CONSUL_NAMESPACE");
        let ConsulEndpoint {
            is_tls,
            address,
            authority,
        } = endpoint?;
        let tls = match is_tls {
            true => Some(self.tls(&address.0, variables)?),
            false => None,
        };
        Some(ConsulConfig {
            server: HttpEndpoint {
                address,
                authority,
                tls,
                timeout: REQUEST_TIMEOUT,
                body_bytes_max: BODY_BYTES_MAX,
            },
            token: token?,
            authorization,
            namespace,
        })
    }

    fn tls(&self, host: &str, variables: &mut Variables<'_>) -> Option<EndpointTls> {
        let mut file = |option: &Option<PathBuf>, variable| {
            given_path(option).or_else(|| variables.text(variable).map(PathBuf::from))
        };
        let options = TlsOptions {
            ca_file: file(&self.register_ca_file, "CONSUL_CACERT"),
            cert_file: file(&self.register_cert_file, "CONSUL_CLIENT_CERT"),
            key_file: file(&self.register_key, "CONSUL_CLIENT_KEY"),
            skip_verify: self.register_skip_tls_verify == Some(Switch(true))
                || variables.switch("CONSUL_HTTP_SSL_VERIFY") == Some(false),
        };
        if options.ca_file.is_none() && variables.text("CONSUL_CAPATH").is_some() {
            let fault = "CONSUL_CAPATH is not supported: give one file with all CA certificates in --register-ca-file";
            variables.faults.push(fault);
        }
        if options.cert_file.is_some() != options.key_file.is_some() {
            variables
                .faults
                .push("--register-cert-file and --register-key must be given together");
            return None;
        }
        let name = variables
            .text("CONSUL_TLS_SERVER_NAME")
            .unwrap_or_else(|| host.to_owned());
        let name = ServerName::try_from(name.clone())
            .map_err(|_| format!("{name:?} cannot be the name in a certificate: check CONSUL_TLS_SERVER_NAME"));
        let config = client_tls(&options, b"http/1.1")
            .map_err(|error| format!("cannot set up TLS to Consul: {}", Chain(&error)));
        for fault in [name.as_ref().err(), config.as_ref().err()].into_iter().flatten() {
            variables.faults.push(fault.clone());
        }
        Some(EndpointTls {
            config: Arc::clone(&config.ok()?),
            name: name.ok()?,
        })
    }
}

/// The environment, and where its faults go.
struct Variables<'a> {
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    faults: &'a mut Faults,
}

impl Variables<'_> {
    /// Returns the value of a variable; an empty one counts as absent. A fault never shows a value, which may be secret.
    fn text(&mut self, name: &str) -> Option<String> {
        let value = (self.environment)(name).filter(|value| !value.is_empty())?;
        let text = value.into_string();
        if text.is_err() {
            self.faults.push(format!("the variable {name} is not UTF-8"));
        }
        text.ok()
    }

    fn switch(&mut self, name: &str) -> Option<bool> {
        match self.text(name)?.parse() {
            Ok(Switch(value)) => Some(value),
            Err(why) => {
                self.faults
                    .push(format!("invalid value for the variable {name}: {why}"));
                None
            }
        }
    }

    /// Returns where the token is. A token file wins over a token, as in Consul's own clients.
    fn token(&mut self) -> Option<TokenSource> {
        let (file, token) = (self.text("CONSUL_HTTP_TOKEN_FILE"), self.text("CONSUL_HTTP_TOKEN"));
        let (name, source) = match (file, token) {
            (Some(path), _) => {
                let source = TokenSource::File(path.into());
                ("CONSUL_HTTP_TOKEN_FILE", source.header().map(|_| source))
            }
            (None, Some(token)) => ("CONSUL_HTTP_TOKEN", token_header(&token).map(TokenSource::Value)),
            (None, None) => return Some(TokenSource::None),
        };
        source
            .map_err(|why| self.faults.push(format!("cannot use {name}: {}", Chain(&why))))
            .ok()
    }
}

/// Returns the header for `user:password` (RFC 7617, section 2).
fn basic(credentials: &str) -> HeaderValue {
    let header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(credentials)));
    let mut header = header.expect("base64 is visible ASCII");
    header.set_sensitive(true);
    header
}

#[derive(Debug, PartialEq, Eq)]
struct ConsulEndpoint {
    is_tls: bool,
    /// Host without brackets, and port.
    address: (String, u16),
    authority: Authority,
}

/// Parses the URL of one agent. A path is dropped, as in Go stolon.
fn parse_endpoint(url: &str) -> Result<ConsulEndpoint, String> {
    if url.contains(',') {
        return Err(format!(
            "consul does not support multiple endpoints: {}",
            without_user(url)
        ));
    }
    let refuse = |why: &str| {
        let shown = without_user(url);
        format!("invalid --register-endpoints {shown:?}: {why}; give http://host:port or https://host:port")
    };
    if url.contains('@') {
        return Err(refuse("a user and a password belong into CONSUL_HTTP_AUTH"));
    }
    let Some((scheme, _)) = url.split_once("://") else {
        return Err(refuse("the scheme is missing"));
    };
    let is_tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(refuse("the scheme is neither http nor https")),
    };
    let uri: Uri = url
        .parse()
        .map_err(|why: http::uri::InvalidUri| refuse(&why.to_string()))?;
    let authority = uri.authority().cloned().ok_or_else(|| refuse("the host is missing"))?;
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let bare = bare.unwrap_or(host).to_owned();
    check_host(&bare).map_err(|why| refuse(&why.to_string()))?;
    let behind = authority.as_str()[host.len()..].trim_start_matches(':');
    let port = match (behind, is_tls) {
        ("", false) => 80,
        ("", true) => 443,
        (port, _) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| refuse("the port is not a number from 1 to 65535"))?,
    };
    Ok(ConsulEndpoint {
        is_tls,
        address: (bare, port),
        authority,
    })
}

/// Returns the text without what may be a password.
fn without_user(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (_, None) => url.to_owned(),
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        (None, Some((_, rest))) => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests;
