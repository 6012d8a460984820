//! The steps of a daemon's start that are the same in every program: arguments checked, log started, metrics served.
//! Their order, and what a program runs, are left to its `main`.

use tracing::field::display;
use tracing::warn;

use crate::args::{CheckedArgs, CommonConfig, Faults};
use crate::telemetry::{self, Component, MetricsError, MetricsServer};

/// Starts the log and writes the warnings about the arguments to it. Returns the configuration.
///
/// # Errors
/// All errors in the arguments. They are not logged yet: `main` does that, and exits.
pub fn start_logging<C>(checked: CheckedArgs<C>) -> Result<C, Faults> {
    telemetry::init(&checked.log);
    for warning in &checked.warnings {
        let file = warning.file.as_ref().map(|path| display(path.display()));
        warn!(file, "{}", warning.text);
    }
    checked.config
}

/// Serves the metrics from now on if an address is configured. Call it before metric handles are created: earlier
/// handles record nothing.
///
/// # Errors
/// The address is not available, or the server cannot start.
pub fn serve_metrics(common: &CommonConfig, component: Component) -> Result<Option<MetricsServer>, MetricsError> {
    let serve = |address: &String| telemetry::serve_metrics(address, component, &common.cluster_name);
    common.metrics_listen_address.as_ref().map(serve).transpose()
}
