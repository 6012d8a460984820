//! `init`: a fresh document, in the place of the old one if there is any (cli 7).

use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use control::args::Switch;
use control::clock::wall_clock;
use control::model::{ClusterData, ClusterSpec, ClusterUid, InitMode, Timestamp, short_uid, to_compact};
use control::store::{Outcome, Store, Txn};

use super::confirm::{Answer, confirm};
use super::input::Kind;
use super::{Ended, checked, former, input, say};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Cluster spec, as JSON [default: {"initMode":"new"}]
    #[arg(value_name = "SPEC")]
    spec: Vec<String>,
    /// File with the cluster spec; - is standard input
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: Option<Switch>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the new document carries the time of its birth"
)]
pub(super) async fn run(store: &Store, args: &Args) -> anyhow::Result<Ended> {
    let text = match (input::at_most_one(&args.spec)?, input::given(&args.file)) {
        (Some(argument), _) => Some(argument.as_bytes().to_vec()), // the file is not even opened
        (None, Some(path)) => Some(input::open(path)?.read()?),
        (None, None) => None,
    };
    let (before, _) = checked::read_plain(store).await?;
    if before.is_some() {
        say("WARNING: The current cluster data will be removed")?;
    }
    let former = former::read(store).await?;
    // Where there is a document, the two lines that scripts know say as much.
    if let Some(warning) = former.warning().filter(|_| before.is_none()) {
        say(&warning)?;
    }
    say("WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.")?;
    if args.yes != Some(Switch(true)) && confirm(io::stdin().lock(), io::stdout())? == Answer::No {
        return Ok(Ended::Well);
    }
    // read again: the answer may have taken its time
    let (now_there, revision) = checked::read_plain(store).await?;
    if before.is_none() && now_there.is_some() {
        bail!("cluster data has appeared meanwhile: look at it, then repeat the command");
    }
    let mut random = [0; 4];
    getrandom::fill(&mut random).context("get random bytes for the cluster uid")?;
    let (spec, warnings) = accept(text.as_deref())?;
    let uid = ClusterUid::from(short_uid(random));
    let data = ClusterData::initial(uid.clone(), Timestamp::from_unix_nanos(wall_clock()), spec);
    let replaced = [&before, &now_there]
        .into_iter()
        .flatten()
        .filter_map(|data| Some(data.cluster.as_ref()?.uid.clone()));
    let created = former.created(uid, replaced.collect());
    let key = store.keys().cluster_data();
    // The sentinel may write at any time what the operator has agreed to lose; what nobody was asked about stays.
    let write = match before {
        Some(_) => Txn::new(),
        None => Txn::new().if_unchanged(&key, revision),
    };
    match store
        .commit(
            write
                .put(&key, to_compact(&data))
                .put(&store.keys().created(), to_compact(&created)),
        )
        .await
        .context("cannot update cluster data")?
    {
        Outcome::Committed(_) => {
            input::warn_of_unknown_names(text.as_deref().unwrap_or_default(), Kind::Whole);
            input::warn(&warnings);
            Ok(Ended::Well)
        }
        Outcome::Conflict => {
            bail!("cannot update cluster data: somebody else has just written it; look at it, then repeat the command")
        }
    }
}

/// The spec that is asked for, if it may be (cli 7.8, 7.9), and a warning for each parameter that was left out.
fn accept(text: Option<&[u8]>) -> anyhow::Result<(ClusterSpec, Vec<String>)> {
    let mut spec = match text {
        Some(text) => input::decode_spec(text)?,
        None => ClusterSpec {
            init_mode: Some(InitMode::New),
            ..ClusterSpec::default()
        },
    };
    let resolved = spec.resolve().context("invalid cluster spec")?;
    spec.check_limits(None).context("invalid cluster spec")?;
    checked::supported(&resolved)?;
    let warnings = spec.clean_texts(None).context("invalid cluster spec")?;
    Ok((spec, warnings))
}

#[cfg(test)]
mod tests {
    use control::telemetry::Chain;

    use super::*;

    fn refused(text: &str) -> String {
        Chain(accept(Some(text.as_bytes())).unwrap_err().as_ref()).to_string()
    }

    #[test]
    fn without_a_text_the_database_is_a_new_one() {
        let (spec, _) = accept(None).unwrap();
        assert_eq!(spec.init_mode, Some(InitMode::New));
    }

    #[test]
    fn what_is_not_done_yet_is_refused() {
        for text in [
            r#"{"initMode":"new","synchronousReplication":true}"#,
            r#"{"initMode":"existing","existingConfig":{"keeperUID":"k1"}}"#,
            r#"{"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"}}"#,
            r#"{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x"},"standbyConfig":{}}"#,
        ] {
            assert!(refused(text).contains("not supported yet"), "{}", refused(text));
        }
        assert!(accept(Some(br#"{"initMode":"new","usePgrewind":true}"#)).is_ok());
    }

    #[test]
    fn an_invalid_spec_is_refused_with_its_cause() {
        // cli 18.11
        assert!(
            refused("{}").starts_with("invalid cluster spec: initMode undefined"),
            "{}",
            refused("{}")
        );
        assert!(refused(r#"{"initMode":"old"}"#).contains("\"old\""));
    }
}
