//! The spec of a new cluster, from a file. When it is used is left to the loop.

use std::path::Path;

use base::Chain;
use base::user_file::{ReadLimits, read_user_file};
use daemon::args::{ArgsWarning, Faults};
use model::{ClusterSpec, InvalidSpec, NotSupported, SpecInput, from_slice, spec_text_warnings, support};

/// Reads and validates the file; errors go to `faults` (sentinel L-3). Warns of what counts otherwise than given.
pub(crate) fn read(path: &Path, faults: &mut Faults, warnings: &mut Vec<ArgsWarning>) -> Option<ClusterSpec> {
    let mut refuse = |what: &str, why: &(dyn std::error::Error + 'static)| {
        faults.push(format!(
            "cannot create sentinel: {what} {}: {}",
            path.display(),
            Chain(why)
        ));
        None
    };
    let text = match read_user_file(path, ReadLimits::DOCUMENT) {
        Ok((text, _)) => text,
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
            let mut found = spec_text_warnings(&text, SpecInput::Whole);
            found.extend(left_out);
            // A cluster that exists needs its sentinel, whatever its initialisation was asked to be.
            found.extend(spec.check_initialisation().err().map(|why| why.to_string()));
            found.extend(spec.clamped().iter().map(ToString::to_string));
            warnings.extend(found.into_iter().map(|warning| ArgsWarning {
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

/// Why an initial spec is refused.
#[derive(Debug, thiserror::Error)]
enum InvalidInitialSpec {
    /// It breaks a rule.
    #[error("invalid initial cluster")]
    Invalid(#[source] InvalidSpec),
    /// It requests an unsupported feature.
    #[error("invalid initial cluster")]
    NotSupported(#[source] NotSupported),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_otherwise_than_given_is_a_warning_as_in_stolonctl_init() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"initMode":"new","failIntervall":"4s","maxStandbys":1,"maxStandbys":2,"sleepInterval":"0s"}"#;
        std::fs::write(file.path(), text).unwrap();
        let (mut faults, mut warnings) = (Faults::default(), Vec::new());
        assert!(read(file.path(), &mut faults, &mut warnings).is_some(), "{faults}");
        let texts: Vec<String> = warnings.into_iter().map(|warning| warning.text).collect();
        for (text, words) in texts.iter().zip(["\"failIntervall\"", "more than once", "using 100ms"]) {
            assert!(
                text.starts_with("initial cluster config: ") && text.contains(words),
                "{texts:?}"
            );
        }
        assert_eq!(texts.len(), 3, "{texts:?}");
    }
}
