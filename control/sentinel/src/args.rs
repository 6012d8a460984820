//! The sentinel's options, and the configuration that they result in (cli 4). All errors are reported at once.

use std::path::PathBuf;

use clap::Parser;
use daemon::args::{CheckedArgs, CommonConfig, DaemonArgs, Faults};
use model::ClusterSpec;

use crate::initial_spec;

/// Monitor a cluster, elect its master and publish the desired state to keepers and proxies
#[derive(Debug, Parser)]
pub struct Args {
    #[expect(missing_docs, reason = "clap would take it for help text")]
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// File with a cluster spec (JSON), used only if the store holds no cluster data
    #[arg(long, value_name = "FILE")]
    pub initial_cluster_spec: Option<PathBuf>,
}

/// The checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Options of cluster, store and metrics.
    pub common: CommonConfig,
    /// The spec of a new cluster, used only if there is no cluster data.
    pub initial_spec: Option<ClusterSpec>,
}

impl Args {
    /// Checks all options, and the file that they name, without changing anything.
    pub fn check(&self) -> CheckedArgs<Config> {
        let (mut faults, mut warnings) = (Faults::default(), Vec::new());
        let log = self.daemon.log(&mut faults);
        let common = self.daemon.check(&mut faults);
        let initial_spec = self
            .initial_cluster_spec
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
            .and_then(|path| initial_spec::read(path, &mut faults, &mut warnings));
        let config = match common {
            Some(common) if faults.is_empty() => Ok(Config { common, initial_spec }),
            _ => Err(faults),
        };
        CheckedArgs { log, warnings, config }
    }
}
