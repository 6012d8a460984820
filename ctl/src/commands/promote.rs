//! `promote`: turns a standby cluster into a master cluster (cli 9). How its first instance is promoted is left to
//! sentinel and keeper.

use std::io;

use anyhow::{Context as _, ensure};
use base::Clock;
use daemon::args::Switch;
use daemon::telemetry::print_stderr;
use model::{ClusterSpec, Role, replace_spec};
use store::Store;

use super::confirm::{Confirmation, ask_to_confirm};
use super::stored_document::WriteLimits;
use super::{CommandOutcome, stored_document};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Skip the confirmation
    #[arg(long, short)]
    yes: Option<Switch>,
    /// None is accepted; they are parsed so that the error names them.
    #[arg(hide = true)]
    arguments: Vec<String>,
}

/// The cluster is a master cluster already: nothing is written, and the exit status is 0 as in Go stolon (cli 9.4).
#[derive(Debug, thiserror::Error)]
#[error("cluster spec role already set to master")]
struct AlreadyMaster;

pub(super) async fn run(store: &Store, clock: &Clock, args: &Args) -> anyhow::Result<CommandOutcome> {
    ensure!(args.arguments.is_empty(), "too many arguments: promote takes none");
    if args.yes != Some(Switch(true)) && ask_to_confirm(io::stdin().lock(), io::stdout())? == Confirmation::No {
        return Ok(CommandOutcome::Success);
    }
    let changed = stored_document::change(store, clock, WriteLimits::EachRequest, |checked| {
        let spec = checked.stored_spec_mut();
        *spec = promoted_spec(spec)?;
        Ok(())
    });
    match changed.await {
        Err(error) if error.is::<AlreadyMaster>() => print_stderr(AlreadyMaster),
        other => other?,
    }
    Ok(CommandOutcome::Success)
}

/// Returns the spec with the role `master`, all else unchanged: `standbyConfig` stays, without effect.
///
/// What this version does not support is not refused: the new spec asks for less than the old one.
fn promoted_spec(current: &ClusterSpec) -> anyhow::Result<ClusterSpec> {
    if matches!(current.role, None | Some(Role::Master)) {
        return Err(AlreadyMaster.into());
    }
    let promoted = ClusterSpec {
        role: Some(Role::Master),
        ..current.clone()
    };
    replace_spec(current, &promoted).context("cannot update cluster spec")?;
    Ok(promoted)
}

#[cfg(test)]
mod tests {
    use model::{SpecFields, from_slice, to_compact};

    use super::*;

    fn promoted(spec: &str) -> Result<String, anyhow::Error> {
        let spec: ClusterSpec = from_slice(spec.as_bytes()).unwrap();
        promoted_spec(&spec).map(|spec| to_compact(&spec.display_json(SpecFields::Set)))
    }

    #[test]
    fn only_the_role_of_a_standby_cluster_changes() {
        let standby = r#"{"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"},"role":"standby","standbyConfig":{"standbySettings":{"primaryConninfo":"host=a"}}}"#;
        let master = promoted(standby).unwrap();
        let field = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let mut expected = field(standby);
        expected["role"] = "master".into();
        assert_eq!(field(&master), expected);
    }

    #[test]
    fn a_master_cluster_is_left_as_it_is() {
        // cli 18.14
        for spec in [r#"{"initMode":"new"}"#, r#"{"initMode":"new","role":"master"}"#] {
            let error = promoted(spec).unwrap_err();
            assert!(error.is::<AlreadyMaster>(), "{error}");
        }
    }
}
