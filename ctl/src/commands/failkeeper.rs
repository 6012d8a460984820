//! `failkeeper`: sets the flag by which the leading sentinel treats a keeper as failed in its next round (cli 10).

use anyhow::Context as _;
use base::Clock;
use model::ClusterData;
use store::Store;

use super::stored_document::WriteLimits;
use super::{CommandOutcome, input, stored_document};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Uid of the keeper
    #[arg(value_name = "UID")]
    keeper: Vec<String>,
}

pub(super) async fn run(store: &Store, clock: &Clock, args: &Args) -> anyhow::Result<CommandOutcome> {
    let uid = input::keeper_uid(&args.keeper)?;
    stored_document::change(store, clock, WriteLimits::WholeCommand, |checked| {
        set_force_fail(&mut checked.data, uid)
    })
    .await?;
    Ok(CommandOutcome::Success)
}

fn set_force_fail(data: &mut ClusterData, uid: &str) -> anyhow::Result<()> {
    let keeper = data.keepers.as_mut().and_then(|keepers| keepers.get_mut(uid));
    let keeper = keeper.with_context(|| format!("keeper doesn't exist: {uid}"))?;
    keeper.status.force_fail = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::to_compact;

    use super::*;

    #[test]
    fn only_the_flag_of_that_keeper_changes() {
        // cli 10.3, cli 18.15
        let text = r#"{"formatVersion":1,"keepers":{"k1":{"uid":"k1"},"k2":{"uid":"k2"}}}"#;
        let before = ClusterData::parse(text.as_bytes()).unwrap().unwrap();
        let mut after = before.clone();
        set_force_fail(&mut after, "k2").unwrap();
        assert_eq!(
            to_compact(&after).replace(r#","forceFail":true"#, ""),
            to_compact(&before)
        );
        assert!(after.keepers()["k2"].status.force_fail);
        assert!(
            set_force_fail(&mut after, "nosuch")
                .unwrap_err()
                .to_string()
                .contains("nosuch")
        );
    }
}
