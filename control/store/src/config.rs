//! The store's configuration: endpoint list (store S-14 to S-18), TLS files (store 3.2), timeout. Everything is parsed
//! and read here, once; nothing is connected.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    keys::{DEFAULT_PREFIX, Keys, KeysError},
    tls::{self, TlsError, TlsOptions},
};

/// The default of `--store-endpoints` for etcd (store S-18).
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";
/// The default of `--store-timeout` (cli 2).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The store's options as given (cli 2).
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// `--store-endpoints`; empty means the default.
    pub endpoints: String,
    /// `--store-prefix`.
    pub prefix: String,
    /// `--cluster-name`.
    pub cluster_name: String,
    /// `--store-timeout`.
    pub timeout: Duration,
    /// The TLS files; used only when the endpoints are `https`.
    pub tls: TlsOptions,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            endpoints: String::new(),
            prefix: DEFAULT_PREFIX.to_owned(),
            cluster_name: String::new(),
            timeout: DEFAULT_TIMEOUT,
            tls: TlsOptions::default(),
        }
    }
}

/// The validated configuration of the store, with the TLS files loaded.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) timeout: Duration,
    pub(super) keys: Keys,
}

/// An error in the store's options.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The cluster name.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The endpoint list.
    #[error("cannot create kv store")]
    Endpoints(#[from] EndpointsError),
    /// A file named by a TLS option.
    #[error("cannot create store tls config")]
    Tls(#[from] TlsError),
    /// `--store-timeout` of zero (store S-19).
    #[error("--store-timeout must be greater than 0")]
    Timeout,
}

impl StoreConfig {
    /// Validates the options and reads the files they name. Returns all errors, in the order of store S-17.
    pub fn validate(options: &StoreOptions) -> Result<Self, Vec<ConfigError>> {
        let mut faults = Vec::new();
        let keys = Keys::new(&options.prefix, &options.cluster_name)
            .map_err(|e| faults.push(e.into()))
            .ok();
        let endpoints = parse_endpoints(&options.endpoints)
            .map_err(|e| faults.push(e.into()))
            .ok();
        let tls = match &endpoints {
            Some((Scheme::Https, _)) => tls::load(&options.tls).map_err(|e| faults.push(e.into())).ok(),
            _ => None, // plain text ignores every TLS option (store 3.2)
        };
        if options.timeout.is_zero() {
            faults.push(ConfigError::Timeout);
        }
        match (keys, endpoints) {
            (Some(keys), Some((_, endpoints))) if faults.is_empty() => Ok(Self {
                endpoints,
                tls,
                timeout: options.timeout,
                keys,
            }),
            _ => Err(faults),
        }
    }

    /// Returns the keys of the cluster.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Returns the timeout of each request.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// One etcd server's client address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The scheme, the same for all endpoints.
    pub scheme: Scheme,
    /// `host:port` as given. It may be invalid, and then never connects (store S-18).
    pub address: String,
}

/// The protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", without_userinfo(&self.address))
    }
}

impl Endpoint {
    /// Returns host and port; an IPv6 address without its brackets. None when there is no port.
    pub(super) fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
    }
}

/// An error in the endpoint list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointsError {
    /// Not a URL.
    #[error("invalid store endpoint {0:?}: expected http://host:port or https://host:port")]
    Syntax(String),
    /// `http` and `https` mixed; an endpoint without a scheme counts as `http`.
    #[error("all store endpoints must have the same scheme, but {0:?} and {1:?} differ")]
    MixedSchemes(String, String),
    /// Neither `http` nor `https`.
    #[error("unsupported scheme {0:?} of the store endpoints: use http or https")]
    Scheme(String),
}

/// Parses the option's value, in the order of checks of store S-17.
pub(super) fn parse_endpoints(list: &str) -> Result<(Scheme, Vec<Endpoint>), EndpointsError> {
    let list = if list.is_empty() { DEFAULT_ENDPOINT } else { list };
    let items = list.split(',').map(split_scheme).collect::<Result<Vec<_>, _>>()?;
    let first = items.first().map_or("http", |(scheme, _)| scheme.as_str());
    if let Some((other, _)) = items.iter().find(|(scheme, _)| scheme != first) {
        return Err(EndpointsError::MixedSchemes(first.to_owned(), other.clone()));
    }
    let scheme = match first {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => return Err(EndpointsError::Scheme(other.to_owned())),
    };
    let endpoints = items
        .into_iter()
        .map(|(_, address)| Endpoint { scheme, address })
        .collect();
    Ok((scheme, endpoints))
}

/// Returns an item's scheme in lower case, and its host and port (store S-15).
fn split_scheme(item: &str) -> Result<(String, String), EndpointsError> {
    let Some((scheme, rest)) = item.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return Ok(("http".to_owned(), item.to_owned()));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = without_userinfo(authority);
    let port_is_fine = match address.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => port.chars().all(|c| c.is_ascii_digit()),
        _ => true,
    };
    let brackets_match = address.starts_with('[') == address.contains(']');
    if !port_is_fine || !brackets_match || rest.chars().any(char::is_control) || address.contains(' ') {
        return Err(EndpointsError::Syntax(format!("{scheme}://{}", without_userinfo(rest))));
    }
    Ok((scheme.to_ascii_lowercase(), address.to_owned()))
}

/// Returns an address without the part before the `@`, which may hold a password and must not be shown.
fn without_userinfo(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, address)| address)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &str) -> Vec<String> {
        parse_endpoints(list)
            .unwrap()
            .1
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn endpoint_lists_are_parsed_as_in_go_stolon() {
        // store S-14 to S-18 and corner case 2
        assert_eq!(addresses(""), ["http://127.0.0.1:2379"]);
        assert_eq!(addresses("http://a:1,b:2"), ["http://a:1", "http://b:2"]);
        assert_eq!(addresses("HTTP://a:1"), ["http://a:1"]);
        assert_eq!(
            addresses("https://user:secret@a:1/path?query#fragment"),
            ["https://a:1"]
        );
        assert_eq!(addresses("http://[::1]:2379"), ["http://[::1]:2379"]);
        assert_eq!(addresses("a:1, b:2,"), ["http://a:1", "http:// b:2", "http://"]);
        // without a scheme it is used as an address unchanged (store S-15), and shown without its password
        let (_, endpoints) = parse_endpoints("user:secret@a:1").unwrap();
        assert_eq!(endpoints[0].address, "user:secret@a:1");
        assert_eq!(endpoints[0].to_string(), "http://a:1");
    }

    #[test]
    fn bad_endpoint_lists_are_refused_in_the_order_of_the_checks() {
        let refused = |list| parse_endpoints(list).unwrap_err();
        assert_eq!(
            refused("https://a:1,b:2"),
            EndpointsError::MixedSchemes("https".into(), "http".into())
        );
        assert_eq!(refused("ftp://a:1"), EndpointsError::Scheme("ftp".into()));
        assert_eq!(
            refused("ftp://a:1,http://b:x"),
            EndpointsError::Syntax("http://b:x".into())
        );
        assert_eq!(
            refused("ftp://a:1,http://b:2"),
            EndpointsError::MixedSchemes("ftp".into(), "http".into())
        );
        assert_eq!(refused("http://[::1:1"), EndpointsError::Syntax("http://[::1:1".into()));
        assert_eq!(
            refused("https://user:sec/ret@a:x"),
            EndpointsError::Syntax("https://a:x".into())
        );
    }

    #[test]
    fn an_endpoint_without_a_port_has_no_address() {
        let endpoint = |address: &str| Endpoint {
            scheme: Scheme::Http,
            address: address.to_owned(),
        };
        assert_eq!(endpoint("a").host_and_port(), None);
        assert_eq!(endpoint(":1").host_and_port(), None);
        assert_eq!(endpoint("[::1]:2379").host_and_port(), Some(("::1", 2379)));
    }

    #[test]
    fn all_errors_are_returned_at_once() {
        let options = StoreOptions {
            endpoints: "ftp://a:1".into(),
            timeout: Duration::ZERO,
            cluster_name: "..".into(),
            ..StoreOptions::default()
        };
        assert_eq!(StoreConfig::validate(&options).unwrap_err().len(), 3);
    }

    #[test]
    fn http_endpoints_ignore_every_tls_option() {
        let tls = TlsOptions {
            ca_file: Some("/does/not/exist".into()),
            ..TlsOptions::default()
        };
        let options = StoreOptions {
            cluster_name: "c".into(),
            tls,
            ..StoreOptions::default()
        };
        assert!(StoreConfig::validate(&options).unwrap().tls.is_none());
    }
}
