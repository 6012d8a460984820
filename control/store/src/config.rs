//! The store's configuration: endpoint list, TLS files (store 3.2), timeout. Everything is read here, once; nothing is
//! connected.

use std::{sync::Arc, time::Duration};

use crate::{
    endpoint::{Endpoint, EndpointsError, Scheme, parse_endpoints},
    keys::{DEFAULT_PREFIX, Keys, KeysError},
    tls::{self, TlsError, TlsOptions},
};

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
            Some((Scheme::Https, _)) => tls::client_tls(&options.tls, b"h2")
                .map_err(|e| faults.push(e.into()))
                .ok(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
