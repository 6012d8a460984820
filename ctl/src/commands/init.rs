//! `init`: writes a new document, in place of an old one if there is any (cli 7).

use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use base::{Clock, RandomBytes};
use daemon::args::Switch;
use model::{
    ClusterData, ClusterSpec, ClusterUid, InitMode, SpecInput, Timestamp, short_uid, spec_text_warnings, to_compact,
};
use store::{Store, Txn, TxnOutcome};

use super::confirm::{Confirmation, ask_to_confirm};
use super::spec_warnings::synchronous_warnings;
use super::{CommandOutcome, input, print, stored_document, stored_keepers};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Cluster spec, as JSON [default: {"initMode":"new"}]
    #[arg(value_name = "SPEC")]
    spec: Vec<String>,
    /// File with the cluster spec; - for standard input
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Skip the confirmation
    #[arg(long, short)]
    yes: Option<Switch>,
}

pub(super) async fn run(
    store: &Store,
    clock: &Clock,
    random: &RandomBytes,
    args: &Args,
) -> anyhow::Result<CommandOutcome> {
    let given = (input::optional_argument(&args.spec)?, input::file_option(&args.file));
    let text = match given {
        (Some(argument), _) => Some(argument.as_bytes().to_vec()), // the file is not opened
        (None, Some(path)) => Some(input::read(path)?),
        (None, None) => None,
    };
    let (spec, mut warnings) = checked_spec(text.as_deref())?;
    if let (Some(_), Some(_)) = given {
        warnings.push("the file is ignored: the cluster spec was given as an argument".to_owned());
    }
    let (before, _) = stored_document::read_unchecked(store).await?;
    if before.is_some() {
        print("WARNING: The current cluster data will be removed")?;
    }
    let known = stored_keepers::read(store).await?;
    // With cluster data in the store, the two lines of Go stolon already warn of this.
    if let Some(warning) = known.discard_warning().filter(|_| before.is_none()) {
        print(&warning)?;
    }
    warnings.extend(synchronous_warnings(None, &spec, known.keeper_count()));
    input::print_warnings(&warnings);
    print("WARNING: The databases managed by the keepers will be overwritten depending on the provided cluster spec.")?;
    if args.yes != Some(Switch(true)) && ask_to_confirm(io::stdin().lock(), io::stdout())? == Confirmation::No {
        return Ok(CommandOutcome::Success);
    }
    // Read again: the operator's answer may have taken long, and another program may have written meanwhile.
    let (now_there, revision) = stored_document::read_unchecked(store).await?;
    if before.is_none() && now_there.is_some() {
        bail!("cluster data has appeared meanwhile: look at it, then repeat the command");
    }
    let uid = ClusterUid::from(short_uid(random.bytes()));
    let data = ClusterData::initial(uid.clone(), Timestamp::from_unix_nanos(clock.wall()), spec);
    let replaced = [&before, &now_there]
        .into_iter()
        .flatten()
        .filter_map(|data| Some(data.cluster.as_ref()?.uid.clone()));
    let created = known.into_creation_record(uid, replaced.collect());
    let key = store.keys().cluster_data();
    // The operator has agreed to lose existing data, which the sentinel may still be rewriting: no condition then. Data
    // that appeared after the question must not be lost.
    let write = match before {
        Some(_) => Txn::new(),
        None => Txn::new().if_unchanged(&key, revision),
    };
    let write = write
        .put(&key, to_compact(&data))
        .put(&store.keys().created(), to_compact(&created));
    commit(store, write).await?;
    Ok(CommandOutcome::Success)
}

async fn commit(store: &Store, write: Txn) -> anyhow::Result<()> {
    match store.commit(write).await.context("cannot update cluster data")? {
        TxnOutcome::Committed(_) => Ok(()),
        TxnOutcome::Conflict => {
            bail!(
                "cannot update cluster data: another program has just written it; look at it, then repeat the command"
            )
        }
    }
}

/// Decodes and validates the spec that is asked for (cli 7.3, 7.4). Also returns warnings about what counts otherwise
/// than given.
fn checked_spec(text: Option<&[u8]>) -> anyhow::Result<(ClusterSpec, Vec<String>)> {
    let mut spec = match text {
        Some(text) => input::decode_spec(text)?,
        None => ClusterSpec {
            init_mode: Some(InitMode::New),
            ..ClusterSpec::default()
        },
    };
    let resolved = spec.resolve().context("invalid cluster spec")?;
    spec.check_limits(None).context("invalid cluster spec")?;
    spec.check_initialisation().context("invalid cluster spec")?;
    stored_document::ensure_supported(&resolved)?;
    let mut warnings = spec_text_warnings(text.unwrap_or_default(), SpecInput::Whole);
    warnings.extend(spec.clean_server_settings(None).context("invalid cluster spec")?);
    warnings.extend(spec.clamped().iter().map(ToString::to_string));
    Ok((spec, warnings))
}

#[cfg(test)]
mod tests {
    use base::Chain;

    use super::*;

    fn refused(text: &str) -> String {
        Chain(checked_spec(Some(text.as_bytes())).unwrap_err().as_ref()).to_string()
    }

    #[test]
    fn without_a_spec_the_init_mode_is_new() {
        let (spec, _) = checked_spec(None).unwrap();
        assert_eq!(spec.init_mode, Some(InitMode::New));
    }

    #[test]
    fn specs_that_cannot_be_carried_out_are_refused() {
        for text in [
            r#"{"initMode":"existing","role":"standby","existingConfig":{"keeperUID":"k1"},"standbyConfig":{}}"#,
            r#"{"initMode":"pitr","role":"standby","pitrConfig":{"dataRestoreCommand":"x"},"standbyConfig":{}}"#,
        ] {
            let why = refused(text);
            assert!(
                why.starts_with("the cluster spec cannot be carried out: role standby "),
                "{why}"
            );
        }
        for text in [
            r#"{"initMode":"new","usePgrewind":true,"synchronousReplication":true}"#,
            r#"{"initMode":"existing","existingConfig":{"keeperUID":"k1"}}"#,
            r#"{"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"}}"#,
        ] {
            assert!(checked_spec(Some(text.as_bytes())).is_ok(), "{text}");
        }
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
        let two = r#"{"recoveryTargetXid":"7","recoveryTargetLsn":"0/1"}"#;
        let two = format!(
            r#"{{"initMode":"pitr","pitrConfig":{{"dataRestoreCommand":"x","recoveryTargetSettings":{two}}}}}"#
        );
        assert!(refused(&two).contains("several targets"), "{}", refused(&two));
    }
}
