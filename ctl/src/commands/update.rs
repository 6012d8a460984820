//! `update`: replaces or patches the cluster spec (cli 8).

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use base::{Chain, Clock};
use daemon::args::Switch;
use model::{ClusterSpec, SpecInput, patch_spec, replace_spec, spec_text_warnings};
use store::Store;

use super::spec_warnings::synchronous_warnings;
use super::stored_document::WriteLimits;
use super::{CommandOutcome, input, stored_document};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Cluster spec or patch, as JSON
    #[arg(value_name = "SPEC")]
    spec: Vec<String>,
    /// File with the cluster spec or patch; - for standard input
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Apply the text as a JSON merge patch: fields that it does not name keep their values
    #[arg(long, short)]
    patch: Option<Switch>,
}

pub(super) async fn run(store: &Store, clock: &Clock, args: &Args) -> anyhow::Result<CommandOutcome> {
    let text = match (input::optional_argument(&args.spec)?, input::file_option(&args.file)) {
        (None, None) => bail!("no cluster spec given: give it as an argument or with --file"),
        (Some(_), Some(_)) => bail!("only one of the cluster spec argument and --file may be given"),
        (Some(argument), None) => argument.as_bytes().to_vec(),
        (None, Some(path)) => input::read(path)?,
    };
    let kind = if args.patch == Some(Switch(true)) {
        SpecInput::Patch
    } else {
        SpecInput::Whole
    };
    let warnings = RefCell::new(Vec::new());
    stored_document::change(store, clock, WriteLimits::EachRequest, |checked| {
        let keepers = checked.data.keepers().len();
        let spec = checked.stored_spec_mut();
        let (next, mut left_out) = updated_spec(spec, &text, kind)?;
        left_out.extend(synchronous_warnings(Some(spec), &next, keepers));
        *spec = next;
        warnings.replace(left_out);
        Ok(())
    })
    .await?;
    input::print_warnings(&spec_text_warnings(&text, kind));
    input::print_warnings(&warnings.into_inner());
    Ok(CommandOutcome::Success)
}

/// A whole spec names initMode, so a text without it was most likely meant as a patch.
const PATCH_HINT: &str = " (without --patch the text replaces the whole spec; to change only the fields that it names, \
                          give --patch)";

/// Returns the new spec if it is valid (data-model 6), and a warning for each parameter that has no effect.
fn updated_spec(current: &ClusterSpec, text: &[u8], kind: SpecInput) -> anyhow::Result<(ClusterSpec, Vec<String>)> {
    let mut spec = match kind {
        SpecInput::Whole => input::decode_spec(text)?,
        SpecInput::Patch => patch_spec(current, text).context("failed to patch cluster spec")?,
    };
    let replaced = replace_spec(current, &spec).context("cannot update cluster spec");
    if kind == SpecInput::Whole && spec.init_mode.is_none() {
        replaced.map_err(|why| anyhow!("{}{PATCH_HINT}", Chain(why.as_ref())))?;
    } else {
        replaced?;
    }
    let resolved = spec.resolve().context("cannot update cluster spec")?;
    stored_document::ensure_supported(&resolved)?;
    let mut warnings = spec
        .clean_server_settings(Some(current))
        .context("cannot update cluster spec")?;
    warnings.extend(spec.clamped().iter().map(ToString::to_string));
    Ok((spec, warnings))
}

#[cfg(test)]
mod tests {
    use model::{from_slice, to_compact};

    use super::*;

    fn updated(current: &str, text: &str, kind: SpecInput) -> Result<String, String> {
        let current: ClusterSpec = from_slice(current.as_bytes()).unwrap();
        match updated_spec(&current, text.as_bytes(), kind) {
            Ok((spec, _)) => Ok(to_compact(&spec.display_json(model::SpecFields::Set))),
            Err(error) => Err(Chain(error.as_ref()).to_string()),
        }
    }

    const NEW: &str = r#"{"initMode":"new","sleepInterval":"1s"}"#;

    #[test]
    fn a_whole_spec_replaces_all_and_a_patch_what_it_names() {
        let text = r#"{"initMode":"new","failInterval":"4s"}"#;
        assert_eq!(
            updated(NEW, text, SpecInput::Whole).unwrap(),
            r#"{"failInterval":"4s","initMode":"new"}"#
        );
        assert_eq!(
            updated(NEW, r#"{"failInterval":"4s"}"#, SpecInput::Patch).unwrap(),
            r#"{"sleepInterval":"1s","failInterval":"4s","initMode":"new"}"#
        );
    }

    #[test]
    fn an_invalid_text_is_refused_with_a_reason() {
        // cli 18.13
        let refused = |text, kind| updated(NEW, text, kind).unwrap_err();
        assert!(
            refused("{}", SpecInput::Whole)
                .starts_with("cannot update cluster spec: invalid cluster spec: initMode undefined")
        );
        for partial in ["{}", r#"{"maxStandbys":3}"#, r#"{"maxStandbys":0}"#] {
            assert!(
                refused(partial, SpecInput::Whole).ends_with("give --patch)"),
                "{partial}"
            );
        }
        let whole = refused(r#"{"initMode":"new","maxStandbys":0}"#, SpecInput::Whole);
        assert!(!whole.contains("--patch"), "{whole}");
        assert!(refused("null", SpecInput::Whole).contains("null"));
        assert!(refused(r#"{"initMode":"#, SpecInput::Whole).starts_with("failed to unmarshal cluster spec: "));
        for (text, found) in [
            ("null", "null"),
            ("[]", "an array"),
            ("\"x\"", "a string"),
            ("7", "an integer"),
        ] {
            let why = refused(text, SpecInput::Patch);
            let start = format!("failed to patch cluster spec: invalid patch: {found} where a JSON object is required");
            assert!(why.starts_with(&start), "{why}");
        }
        assert!(refused("", SpecInput::Patch).starts_with("failed to patch cluster spec: "));
        assert!(refused(r#"{"maxStandbys":"7"}"#, SpecInput::Patch).contains("maxStandbys"));
        assert!(refused(r#"{"initMode":null}"#, SpecInput::Patch).contains("initMode undefined"));
    }
}
