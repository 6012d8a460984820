//! The spec of a new cluster, from a file. When it is used is left to the loop.

use std::path::Path;

use base::Chain;
use daemon::args::{ArgsWarning, Faults};
use model::{ClusterSpec, InvalidSpec, NotSupported, from_slice, support};

/// Reads and validates the file; errors go to `faults` (sentinel L-3). Warns of each parameter that is left out.
pub(crate) fn read(path: &Path, faults: &mut Faults, warnings: &mut Vec<ArgsWarning>) -> Option<ClusterSpec> {
    let mut refuse = |what: &str, why: &(dyn std::error::Error + 'static)| {
        faults.push(format!(
            "cannot create sentinel: {what} {}: {}",
            path.display(),
            Chain(why)
        ));
        None
    };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => return refuse("cannot read provided initial cluster config file", &error),
    };
    let mut spec: ClusterSpec = match from_slice(&text) {
        Ok(spec) => spec,
        Err(error) => return refuse("cannot parse provided initial cluster config", &error),
    };
    if let Err(error) = check(&spec) {
        return refuse("cannot use provided initial cluster config", &error);
    }
    match spec.clean_server_settings(None) {
        Ok(left_out) => {
            warnings.extend(left_out.into_iter().map(|warning| ArgsWarning {
                text: format!("initial cluster config: {warning}"),
                file: Some(path.to_owned()),
            }));
            Some(spec)
        }
        Err(error) => refuse("cannot use provided initial cluster config", &error),
    }
}

/// Checks that the spec is valid, and that this version supports all that it requests.
fn check(spec: &ClusterSpec) -> Result<(), InvalidInitialSpec> {
    let effective = spec.resolve().map_err(InvalidInitialSpec::Invalid)?;
    spec.check_limits(None).map_err(InvalidInitialSpec::Invalid)?;
    support::spec(&effective).map_err(InvalidInitialSpec::NotSupported)
}

/// Why an initial spec is rejected.
#[derive(Debug, thiserror::Error)]
enum InvalidInitialSpec {
    /// It breaks a rule.
    #[error("invalid initial cluster")]
    Invalid(#[source] InvalidSpec),
    /// It requests an unsupported feature.
    #[error("invalid initial cluster")]
    NotSupported(#[source] NotSupported),
}
