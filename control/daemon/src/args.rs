//! Command-line options that all four programs share, and their validation. Options of one program are in its own
//! crate; endpoints are parsed by `store`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::http::AccessOptions;
use crate::telemetry::{LogConfig, LogFormat};
pub use crate::version::VERSION;
use base::Chain;
use base::host::{check_host, parse_port};
use model::GoDuration;
use store::keys::DEFAULT_PREFIX;
use store::{ConfigError, DEFAULT_TIMEOUT, KeysError, StoreConfig, StoreOptions, TlsOptions};

mod parse;
mod values;

pub use parse::{ArgsError, CTL, KEEPER, PROXY, ParsedArgs, Program, SENTINEL, command, parse, try_parse};
pub use values::{GoInt, IntError, Switch, SwitchError};

const COMMON: &str = "Common options";

/// The options of all four programs, as given (cli 2).
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CommonArgs {
    /// Name of the cluster (required)
    #[arg(long, global = true, help_heading = COMMON, value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Type of the store: etcdv3 (required)
    #[arg(long, global = true, help_heading = COMMON, value_name = "BACKEND")]
    pub store_backend: Option<String>,
    /// Comma-separated store endpoints [default: http://127.0.0.1:2379]
    #[arg(long, global = true, help_heading = COMMON, value_name = "URLS")]
    pub store_endpoints: Option<String>,
    /// Timeout of each store request [default: 5s]
    #[arg(long, global = true, help_heading = COMMON, value_name = "DURATION")]
    pub store_timeout: Option<GoDuration>,
    /// Prefix of every key [default: stolon/cluster]
    #[arg(long, global = true, help_heading = COMMON, value_name = "PREFIX")]
    pub store_prefix: Option<String>,
    /// Client certificate for the store; no effect with http
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILE")]
    pub store_cert_file: Option<PathBuf>,
    /// Key of the client certificate; no effect with http
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILE")]
    pub store_key: Option<PathBuf>,
    /// CA certificates for the store's certificate; no effect with http [default: those of the system]
    #[arg(long, global = true, help_heading = COMMON, value_name = "FILE")]
    pub store_ca_file: Option<PathBuf>,
    /// Do not verify the store's certificate; no effect with http
    #[arg(long, global = true, help_heading = COMMON)]
    pub store_skip_tls_verify: Option<Switch>,
    /// Address of the HTTP server with metrics and health, such as 127.0.0.1:9102 [default: none]
    #[arg(long, global = true, help_heading = COMMON, value_name = "ADDRESS")]
    pub metrics_listen_address: Option<String>,
    /// Option of the kubernetes backend, which is not supported
    #[arg(long, global = true, help_heading = COMMON, hide = true, value_name = "KIND")]
    pub kube_resource_kind: Option<String>,
    /// Log level: error, warn, info or debug [default: info]
    #[arg(long, global = true, help_heading = COMMON, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// The options of the three daemons, as given (cli 2).
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DaemonArgs {
    #[expect(missing_docs, reason = "clap would take it for help text")]
    #[command(flatten)]
    pub common: CommonArgs,
    /// Colour the level in log lines [default: when standard error is a terminal]
    #[arg(long, help_heading = COMMON)]
    pub log_color: Option<Switch>,
    /// Log format: text, json or tab [default: text]
    #[arg(long, help_heading = COMMON, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Certificate of the HTTP server, for HTTPS [default: none, plain HTTP]
    #[arg(long, help_heading = COMMON, value_name = "FILE")]
    pub metrics_cert_file: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, help_heading = COMMON, value_name = "FILE")]
    pub metrics_key_file: Option<PathBuf>,
    /// File with the bearer token that all requests to the HTTP server must have [default: none]
    #[arg(long, help_heading = COMMON, value_name = "FILE")]
    pub metrics_token_file: Option<PathBuf>,
    /// The same as --log-level=debug
    #[arg(long, hide = true)]
    pub debug: Option<Switch>,
    /// Arguments that belong to no option: ignored, with a notice (cli O-7)
    #[arg(hide = true)]
    pub ignored: Vec<OsString>,
}

/// The validated common options.
#[derive(Debug, Clone)]
pub struct CommonConfig {
    /// The cluster.
    pub cluster_name: String,
    /// The configuration of its store.
    pub store: StoreConfig,
    /// The address of the metrics server, if configured.
    pub metrics_listen_address: Option<String>,
    /// Who may ask it.
    pub metrics_access: AccessOptions,
}

/// All faults in the arguments, in the order of the checks, so that one run shows every mistake. A fault is a text for the
/// user: what is wrong, and how to fix it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Faults {
    /// Adds a fault.
    pub fn push(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns one line for each.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// All of them on one line.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Faults {}

/// Result of checking a daemon's arguments.
#[derive(Debug)]
pub struct CheckedArgs<C> {
    /// How to log; usable even if other options are invalid.
    pub log: LogConfig,
    /// To be logged before the errors, in order.
    pub warnings: Vec<ArgsWarning>,
    /// The configuration, or all errors.
    pub config: Result<C, Faults>,
}

/// Something odd in the arguments that does not prevent a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgsWarning {
    /// The message.
    pub text: String,
    /// The file that it is about, if any.
    pub file: Option<PathBuf>,
}

impl From<String> for ArgsWarning {
    fn from(text: String) -> Self {
        Self { text, file: None }
    }
}

impl CommonArgs {
    /// Validates the common options (cli 2). Returns none when there are errors, which are added to `faults`.
    pub fn check(&self, faults: &mut Faults) -> Option<CommonConfig> {
        let cluster_name = given(&self.cluster_name);
        if cluster_name.is_empty() {
            faults.push("cluster name required: set --cluster-name");
        }
        let backend_fault = backend_error(given(&self.store_backend));
        let is_supported = backend_fault.is_none();
        if let Some(fault) = backend_fault {
            faults.push(fault);
        }
        let options = StoreOptions {
            endpoints: given(&self.store_endpoints).to_owned(),
            prefix: self.store_prefix.clone().unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
            cluster_name: cluster_name.to_owned(),
            timeout: self.store_timeout.map_or(DEFAULT_TIMEOUT, GoDuration::to_std),
            tls: TlsOptions {
                ca_file: given_path(&self.store_ca_file),
                cert_file: given_path(&self.store_cert_file),
                key_file: given_path(&self.store_key),
                skip_verify: self.store_skip_tls_verify == Some(Switch(true)),
            },
        };
        let store = match StoreConfig::validate(&options) {
            Ok(store) => is_supported.then_some(store),
            Err(store_faults) => {
                let reported = |fault: &ConfigError| matches!(fault, ConfigError::Keys(KeysError::NoClusterName));
                for fault in store_faults.iter().filter(|fault| !reported(fault)) {
                    faults.push(Chain(fault).to_string());
                }
                None
            }
        };
        let metrics_listen_address = Some(given(&self.metrics_listen_address)).filter(|address| !address.is_empty());
        if let Some(why) = metrics_listen_address.and_then(listen_address_fault) {
            faults.push(why);
            return None;
        }
        Some(CommonConfig {
            cluster_name: cluster_name.to_owned(),
            store: store?,
            metrics_listen_address: metrics_listen_address.map(str::to_owned),
            metrics_access: AccessOptions::default(),
        })
    }

    /// Returns the log level (cli 17.2). `stolonctl` only checks it, but for `register`.
    pub fn log_level(&self, faults: &mut Faults) -> tracing::Level {
        let Some(name) = self.log_level.as_deref() else {
            return tracing::Level::INFO;
        };
        level_by_name(name).unwrap_or_else(|| {
            faults.push(format!("log level {name:?} is unknown: use error, warn, info or debug"));
            tracing::Level::INFO
        })
    }
}

/// Returns why a metrics server can never listen on this address, if so.
fn listen_address_fault(address: &str) -> Option<String> {
    let refuse = |why: &dyn fmt::Display| {
        Some(format!(
            "--metrics-listen-address {address:?} is not valid: {why}; give host:port or :port"
        ))
    };
    let Some((host, port)) = address.rsplit_once(':') else {
        return refuse(&"the port is missing");
    };
    if parse_port(port).is_none() {
        return refuse(&"the port is not a number from 0 to 65535");
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    let is_every_interface = host.is_empty() && bare.is_none();
    match check_host(host) {
        Err(why) if !is_every_interface => refuse(&why),
        _ => None,
    }
}

impl DaemonArgs {
    /// Validates the options that all daemons share. Returns none when there are errors, which are added to `faults`.
    pub fn check(&self, faults: &mut Faults) -> Option<CommonConfig> {
        let common = self.common.check(faults);
        let metrics_access = self.metrics_access(faults);
        common.map(|common| CommonConfig {
            metrics_access,
            ..common
        })
    }

    fn metrics_access(&self, faults: &mut Faults) -> AccessOptions {
        let certificate = given_path(&self.metrics_cert_file);
        let key = given_path(&self.metrics_key_file);
        if certificate.is_some() != key.is_some() {
            faults.push("--metrics-cert-file and --metrics-key-file must be given together");
        }
        let options = AccessOptions {
            tls: certificate.zip(key),
            token: given_path(&self.metrics_token_file),
        };
        if options != AccessOptions::default() && given(&self.common.metrics_listen_address).is_empty() {
            faults.push("--metrics-cert-file and --metrics-token-file need --metrics-listen-address");
        }
        options
    }

    /// Returns the log configuration (cli 2, 17.2). It is usable for the fatal message even when there are errors.
    pub fn log(&self, faults: &mut Faults) -> LogConfig {
        let level = self.common.log_level(faults);
        let format = match self.log_format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some("tab") => LogFormat::Tab,
            Some(name) => {
                faults.push(format!("log format {name:?} is unknown: use text, json or tab"));
                LogFormat::Text
            }
        };
        let debug = self.debug == Some(Switch(true));
        LogConfig {
            level: if debug { tracing::Level::DEBUG } else { level },
            format,
            color: self.log_color.map(|Switch(on)| on),
        }
    }
}

/// Returns the value of an option. An option that is not given equals an empty one (cli O-9 and the defaults of cli 2).
pub fn given(option: &Option<String>) -> &str {
    option.as_deref().unwrap_or_default()
}

/// Returns the value of an option that takes a path; an empty one equals none.
pub fn given_path(option: &Option<PathBuf>) -> Option<PathBuf> {
    option.clone().filter(|path| !path.as_os_str().is_empty())
}

fn level_by_name(name: &str) -> Option<tracing::Level> {
    match name {
        "error" => Some(tracing::Level::ERROR),
        "warn" => Some(tracing::Level::WARN),
        "info" => Some(tracing::Level::INFO),
        "debug" => Some(tracing::Level::DEBUG),
        _ => None,
    }
}

/// Returns why this store backend is not usable (cli 2, rows 2 to 4). Only etcd v3 is supported: the other backends are
/// deprecated in Go stolon or lack the transactions that fencing needs.
fn backend_error(name: &str) -> Option<String> {
    match name {
        "etcdv3" => None,
        "" => Some("store backend type required: set --store-backend=etcdv3".to_owned()),
        "etcdv2" | "etcd" | "consul" | "kubernetes" => Some(format!(
            "store backend {name:?} is not supported: the store is etcd v3, use --store-backend=etcdv3"
        )),
        _ => Some(format!("unknown store backend {name:?}: use --store-backend=etcdv3")),
    }
}

#[cfg(test)]
mod tests;
