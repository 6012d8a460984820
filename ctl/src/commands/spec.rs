//! `spec`: prints the cluster spec, as set or with defaults (cli 12).

use daemon::args::Switch;
use model::{SpecFields, to_pretty};
use store::Store;

use super::{CommandOutcome, print, stored_document};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show every field, with its default where nothing is set
    #[arg(long)]
    defaults: Option<Switch>,
    #[command(flatten)]
    ignored: super::IgnoredArguments,
}

pub(super) async fn run(store: &Store, args: &Args) -> anyhow::Result<CommandOutcome> {
    let (checked, _) = stored_document::read(store).await?;
    let selected = if args.defaults == Some(Switch(true)) {
        SpecFields::All
    } else {
        SpecFields::Set
    };
    print(&to_pretty(&checked.stored_spec().display_json(selected)))?;
    Ok(CommandOutcome::Success)
}
