//! `clusterdata read|write`: prints or replaces the whole document, for inspection and for a move to another store (cli
//! 13).

use std::path::PathBuf;

use anyhow::bail;
use base::Chain;
use daemon::args::Switch;
use daemon::telemetry::print_stderr;
use model::{ClusterData, JsonError, Undecidable, repeated_members_warning, to_compact, to_pretty};
use store::{Store, Txn, TxnOutcome};

use super::{CommandOutcome, input, print, stored_document};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<ClusterdataCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum ClusterdataCommand {
    /// Print the cluster data
    Read(ReadArgs),
    /// Write cluster data, for example from a backup
    Write(WriteArgs),
}

#[derive(Debug, clap::Args)]
struct ReadArgs {
    /// Indent the output
    #[arg(long)]
    pretty: Option<Switch>,
    #[command(flatten)]
    ignored: super::IgnoredArguments,
}

#[derive(Debug, clap::Args)]
struct WriteArgs {
    /// File with the cluster data [default: standard input]
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Overwrite existing cluster data
    #[arg(long, short)]
    yes: Option<Switch>,
    /// Write the document even if the programs can do less with it than with the stored one
    #[arg(long)]
    force: Option<Switch>,
    #[command(flatten)]
    ignored: super::IgnoredArguments,
}

impl Args {
    /// Whether a subcommand was given. Without one the help is printed (cli O-20).
    pub(super) fn is_complete(&self) -> bool {
        self.command.is_some()
    }
}

pub(super) async fn run(store: &Store, args: &Args) -> anyhow::Result<CommandOutcome> {
    match &args.command {
        Some(ClusterdataCommand::Read(args)) => read(store, args).await,
        Some(ClusterdataCommand::Write(args)) => write(store, args).await,
        None => Ok(CommandOutcome::Success), // the help has been printed
    }
}

async fn read(store: &Store, args: &ReadArgs) -> anyhow::Result<CommandOutcome> {
    let (checked, _) = stored_document::read(store).await?;
    let pretty = args.pretty == Some(Switch(true));
    print(&if pretty {
        to_pretty(&checked.data)
    } else {
        to_compact(&checked.data)
    })?;
    Ok(CommandOutcome::Success)
}

async fn write(store: &Store, args: &WriteArgs) -> anyhow::Result<CommandOutcome> {
    let text = match input::file_option(&args.file) {
        Some(path) => input::read(path)?,
        None => input::read("-".as_ref())?,
    };
    let data = decode(&text).map_err(|reason| anyhow::anyhow!("invalid cluster data: {reason}"))?;
    let key = store.keys().cluster_data();
    let (before, revision) = stored_document::read_unchecked(store).await?;
    let write = match before {
        Some(_) if args.yes != Some(Switch(true)) => {
            bail!("WARNING: cluster data already available use --yes to override")
        }
        Some(before) => {
            if args.force != Some(Switch(true)) {
                ensure_no_less_usable(&data, &before)?;
            }
            print_unusable(&data);
            print("WARNING: The current cluster data will be removed")?;
            Txn::new()
        }
        None => {
            print_unusable(&data);
            Txn::new().if_unchanged(&key, revision)
        }
    };
    input::print_warnings(&Vec::from_iter(repeated_members_warning(&text)));
    input::print_warnings(&spec_warnings(&data));
    // Scripts match this text of Go stolon, which has no colon before the cause (cli 13.2).
    match store.commit(write.put(&key, to_compact(&data))).await {
        Ok(TxnOutcome::Committed(_)) => {}
        Ok(TxnOutcome::Conflict) => {
            bail!("failed to write cluster data into new store because another program has just written it")
        }
        Err(error) => bail!("failed to write cluster data into new store {}", Chain(&error)),
    }
    print("successfully wrote cluster data into the new store")?;
    Ok(CommandOutcome::Success)
}

/// What this version's programs can do with a document, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Usability {
    /// No program uses it.
    Unusable,
    /// Its status contradicts the rest, so that no sentinel decides from it.
    Contradictory,
    /// Another version may do more with it: it asks for something that is not supported.
    NotSupported,
    /// Everything.
    Usable,
}

/// Returns how far this version's programs can use a document, and why not further.
fn assess(data: &ClusterData) -> (Usability, String) {
    let checked = match data.clone().check() {
        Ok(checked) => checked,
        Err(why) => return (Usability::Unusable, Chain(&why).to_string()),
    };
    match checked.check_decidable() {
        Ok(()) => (Usability::Usable, String::new()),
        Err(why @ Undecidable::NotSupported(_)) => (Usability::NotSupported, why.to_string()),
        Err(why) => (Usability::Contradictory, why.to_string()),
    }
}

/// Refuses a document that would stop a cluster: programs can do less with it than with the one that it replaces.
fn ensure_no_less_usable(data: &ClusterData, before: &ClusterData) -> anyhow::Result<()> {
    let (usability, why) = assess(data);
    if usability < assess(before).0 {
        bail!(
            "invalid cluster data: {why}: the stored cluster data can be used and stay as they are; correct the input, or \
             give --force to write it all the same"
        );
    }
    Ok(())
}

/// Warns of a document that cannot be used. Go stolon stores such data as well, and there may be no other backup.
fn print_unusable(data: &ClusterData) {
    let (usability, why) = assess(data);
    if usability != Usability::Usable {
        print_stderr(format_args!("WARNING: this cluster data cannot be used: {why}"));
    }
}

/// Returns a warning for each part of the spec that keepers will leave out. The data are stored all the same: a backup
/// may be older than today's rules, and there may be no other.
fn spec_warnings(data: &ClusterData) -> Vec<String> {
    let spec = data.cluster.as_ref().and_then(|cluster| cluster.spec.as_ref());
    let Some(spec) = spec else { return Vec::new() };
    let mut warnings = spec.clone().clean_server_settings(Some(spec)).unwrap_or_default();
    warnings.extend(spec.clamped().iter().map(ToString::to_string));
    warnings
}

/// Decodes any JSON object, and `null` as an empty one (cli 13.2). Errors have the texts that scripts match, those of Go
/// stolon.
fn decode(text: &[u8]) -> Result<ClusterData, String> {
    match ClusterData::parse(text) {
        Ok(data) => Ok(data.unwrap_or_default()),
        Err(error) => Err(decode_error(text, &error)),
    }
}

fn decode_error(text: &[u8], error: &JsonError) -> String {
    match error {
        JsonError::Syntax { at_end: true, .. } => "unexpected end of JSON input".to_owned(),
        JsonError::Syntax {
            message, line, column, ..
        } if message.starts_with("key must be a string") => {
            let line = text
                .split(|byte| *byte == b'\n')
                .nth(line.saturating_sub(1))
                .unwrap_or_default();
            let rest = String::from_utf8_lossy(line.get(column.saturating_sub(1)..).unwrap_or_default());
            match rest.chars().next() {
                Some(found) => format!("invalid character {found:?} looking for beginning of object key string"),
                None => message.clone(),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_errors_have_the_texts_of_the_reference() {
        // cli 13.2, cli 18.18
        assert_eq!(decode(b"").unwrap_err(), "unexpected end of JSON input");
        assert_eq!(decode(b"{").unwrap_err(), "unexpected end of JSON input");
        assert_eq!(
            decode(b"{a}").unwrap_err(),
            "invalid character 'a' looking for beginning of object key string"
        );
        assert_eq!(
            decode(b"{\n \"x\":1,\n  b}").unwrap_err(),
            "invalid character 'b' looking for beginning of object key string"
        );
    }

    #[test]
    fn other_errors_have_their_position() {
        assert!(
            decode(b"[]").unwrap_err().contains("an array"),
            "{}",
            decode(b"[]").unwrap_err()
        );
        assert!(
            decode(b"{} x").unwrap_err().contains("line 1 column 4"),
            "{}",
            decode(b"{} x").unwrap_err()
        );
        assert!(
            decode(b"{\"formatVersion\":\"1\"}")
                .unwrap_err()
                .contains("formatVersion")
        );
    }

    #[test]
    fn null_and_the_empty_object_are_empty_documents() {
        // cli 13.2
        let empty = r#"{"formatVersion":0,"changeTime":"0001-01-01T00:00:00Z","cluster":null,"keepers":null,"dbs":null,"proxy":null}"#;
        for text in ["null", "{}", " {\"unknown\": 1} "] {
            assert_eq!(to_compact(&decode(text.as_bytes()).unwrap()), empty);
        }
    }
}
