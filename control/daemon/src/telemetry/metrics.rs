//! The metrics of a daemon: their recorder, and the page that shows them. Serving is left to `http`, what is measured
//! to the programs.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;

use super::shared::{BUILD_INFO, CLUSTER_IDENTIFIER};
use super::{process, series, shared, table};
use crate::http::{AccessError, AccessOptions, HttpAccess, HttpPage, HttpQuery, HttpRoutes, HttpServer, HttpStatus};
use crate::version::VERSION;

/// Interval in which histograms are aggregated if there are no scrapes. Until then each value takes 8 bytes: a proxy with
/// 10,000 connections a second keeps about a megabyte. It wakes an idle program.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(15);

/// Upper bounds of all histogram buckets; all histograms are in seconds.
const BUCKET_SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What runs before each scrape, see [`on_scrape`].
static ON_SCRAPE: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// The label `component` of `stolon_cluster_identifier` (cli 17.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// stolon-keeper.
    Keeper,
    /// stolon-sentinel.
    Sentinel,
    /// stolon-proxy.
    Proxy,
}

impl Component {
    fn name(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Sentinel => "sentinel",
            Self::Proxy => "proxy",
        }
    }

    /// Returns the pages that fail while the program starts.
    fn readiness_pages(self) -> &'static [&'static str] {
        match self {
            Self::Keeper => &["/readyz", "/primary", "/standby"],
            Self::Sentinel | Self::Proxy => &["/readyz"],
        }
    }
}

/// The error of starting the metrics server.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address is in use, not local, or invalid.
    #[error("listen on {address} for metrics: give --metrics-listen-address a free address, host:port or :port")]
    Bind {
        /// As given.
        address: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file that restricts access cannot be used.
    #[error("restrict access to metrics")]
    Access(#[from] AccessError),
    /// The thread or its runtime could not be created.
    #[error("start the metrics server")]
    Start(#[source] std::io::Error),
    /// Another metrics recorder is installed.
    #[error("install the metrics recorder")]
    Recorder,
}

/// A running server of metrics and other pages; it runs until the process ends.
#[derive(Debug)]
pub struct MetricsServer {
    /// Where it listens.
    pub address: SocketAddr,
    routes: HttpRoutes,
}

impl MetricsServer {
    /// Adds a page, or replaces that of its path. It is made at each request, on the server's thread: it must not block.
    pub fn add_page(&self, path: &'static str, page: impl Fn(HttpQuery<'_>) -> HttpPage + Send + Sync + 'static) {
        self.routes.add(path, page);
    }
}

/// Binds `address` (`host:port`, or `:port` for every interface), installs the recorder of the `metrics` macros and
/// serves `/metrics` from now on. Call it before metric handles are created: earlier handles record nothing.
pub fn serve_metrics(
    address: &str,
    access: AccessOptions,
    component: Component,
    cluster_name: &str,
) -> Result<MetricsServer, MetricsError> {
    let bind_error = |source| MetricsError::Bind {
        address: address.to_owned(),
        source,
    };
    let access = HttpAccess::load(access)?;
    let server = HttpServer::bind(address, access).map_err(bind_error)?;
    let address = server.address();
    let recorder = match PrometheusBuilder::new().set_buckets(&BUCKET_SECONDS) {
        Ok(builder) => builder.build_recorder(),
        Err(_no_buckets) => return Err(MetricsError::Recorder), // unreachable: there are buckets
    };
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Recorder)?;
    register_shared(component, cluster_name);
    let rendered = handle.clone();
    let routes = HttpRoutes::default();
    routes.add("/metrics", move |_| page(&rendered));
    // From the first request on: a page that does not exist yet would be taken for a wrong path.
    routes.add("/healthz", |_| starting_page(HttpStatus::Ok, "ok"));
    for path in component.readiness_pages() {
        routes.add(path, |_| starting_page(HttpStatus::Unavailable, "unavailable"));
    }
    server
        .start("metrics", routes.clone(), run_upkeep(handle))
        .map_err(MetricsError::Start)?;
    Ok(MetricsServer { address, routes })
}

/// Registers `update` to run before each scrape, for values that change with time or are summed from other counters. It
/// runs on the server's thread. Only the first call has an effect.
pub fn on_scrape(update: impl Fn() + Send + Sync + 'static) {
    // A second call would be a bug that only makes a metric stale.
    let _ = ON_SCRAPE.set(Box::new(update));
}

/// Registers the metrics that all daemons have. Those of the process are written at each scrape.
fn register_shared(component: Component, cluster_name: &str) {
    let is_process = |row: &&table::MetricRow| row.name.starts_with("process_");
    let rows = shared::TABLE.iter().filter(|row| !is_process(row)).copied();
    table::register_metrics(&rows.collect::<Vec<_>>());
    let names = vec![cluster_name.to_owned(), component.name().to_owned()];
    CLUSTER_IDENTIFIER.replace_series([(names, 1.0)]);
    BUILD_INFO.replace_series([(vec![VERSION.to_owned()], 1.0)]);
}

/// Converts nanoseconds since 1970 to the seconds of a metric.
#[expect(clippy::cast_precision_loss, reason = "a metric needs no nanoseconds")]
pub fn unix_seconds(nanos: i128) -> f64 {
    nanos as f64 / 1e9
}

fn page(handle: &PrometheusHandle) -> HttpPage {
    if let Some(update) = ON_SCRAPE.get() {
        update();
    }
    HttpPage {
        status: HttpStatus::Ok,
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        body: handle.render() + &series::text() + &process::metrics(),
    }
}

fn starting_page(status: HttpStatus, word: &str) -> HttpPage {
    HttpPage::json(status, &json!({ "status": word, "summary": "starting" }))
}

async fn run_upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn metrics_are_served_at_their_path_only() {
        // cli 17.3, cli 18.25; the recorder is one per process, so one test has it all
        let serve = |address: &str| {
            let access = AccessOptions::default();
            serve_metrics(address, access, Component::Keeper, "main")
        };
        let server = serve("127.0.0.1:0").unwrap();
        let text = get(server.address, "/metrics");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(
            text.contains("\nstolon_cluster_identifier{cluster_name=\"main\",component=\"keeper\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        assert!(get(server.address, "/").starts_with("HTTP/1.1 404 "));
        // The program has not added its own pages yet.
        assert!(get(server.address, "/healthz").starts_with("HTTP/1.1 200 "));
        for path in ["/readyz", "/primary", "/standby?lag=1MB"] {
            let text = get(server.address, path);
            assert!(
                text.starts_with("HTTP/1.1 503 ") && text.contains("starting"),
                "{path}: {text}"
            );
        }
        let again = serve(&server.address.to_string()).unwrap_err();
        assert!(matches!(again, MetricsError::Bind { .. }), "{again}");
    }
}
