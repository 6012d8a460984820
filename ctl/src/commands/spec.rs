//! `spec`: the cluster spec, as set or in force (cli 12).

use control::args::Switch;
use control::model::{Shown, to_pretty};
use control::store::Store;

use super::{Ended, checked, say};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show every field, with its default where nothing is set
    #[arg(long)]
    defaults: Option<Switch>,
    #[command(flatten)]
    others: super::Ignored,
}

pub(super) async fn run(store: &Store, args: &Args) -> anyhow::Result<Ended> {
    let (checked, _) = checked::read(store).await?;
    let shown = if args.defaults == Some(Switch(true)) {
        Shown::All
    } else {
        Shown::Set
    };
    let spec = checked
        .cluster()
        .spec
        .as_ref()
        .expect("ClusterData::check refuses data without a spec");
    say(&to_pretty(&spec.shown(shown)))?;
    Ok(Ended::Well)
}
