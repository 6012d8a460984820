//! Applies patches to a spec: JSON merge patch (RFC 7386) with the directive `$patch` (data-model 6.2).

use crate::spec_names::{SPEC, Schema};
use crate::{ClusterSpec, Json, JsonError};

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not JSON.
    #[error("invalid patch")]
    Syntax(#[source] JsonError),
    /// The patch is JSON, but not an object.
    #[error("invalid patch: {0} where a JSON object is required, such as {{\"failInterval\":\"20s\"}}")]
    NoObject(&'static str),
    /// An unknown directive, or one in a place where it has no meaning.
    #[error("invalid patch: {0}")]
    Directive(String),
    /// The patched spec does not fit its types.
    #[error("invalid patched cluster spec")]
    Result(#[source] JsonError),
}

/// Applies a patch to a stored spec; the result is not validated.
///
/// # Errors
/// The patch is not a JSON object, holds an unknown directive, or its result is not a spec.
pub fn patch_spec(current: &ClusterSpec, patch: &[u8]) -> Result<ClusterSpec, PatchError> {
    let patch = match Json::parse(patch).map_err(PatchError::Syntax)? {
        Json::Object(members) => members,
        other => return Err(PatchError::NoObject(other.type_name())),
    };
    let Json::Object(mut members) = Json::of(current) else {
        unreachable!("a struct is written as an object");
    };
    let patch = with_canonical_names(patch, SPEC);
    merge(&mut members, patch)?;
    Json::Object(members).decode().map_err(PatchError::Result)
}

/// Replaces names in another case by their canonical spelling; of repeated names the last counts.
fn with_canonical_names(members: Vec<(String, Json)>, level: &Schema) -> Vec<(String, Json)> {
    let mut folded: Vec<(String, Json)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        let known = level.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
        let name = known.map_or(name, |(known, _)| (*known).to_owned());
        let value = match (value, known.and_then(|(_, below)| *below)) {
            (Json::Object(members), Some(below)) => Json::Object(with_canonical_names(members, below)),
            (value, _) => value,
        };
        folded.retain(|(seen, _)| *seen != name);
        folded.push((name, value));
    }
    folded
}

/// Merges one level of a patch into the same level of the current document.
fn merge(current: &mut Vec<(String, Json)>, patch: Vec<(String, Json)>) -> Result<(), PatchError> {
    if let Some((_, directive)) = patch.iter().find(|(name, _)| name == "$patch") {
        match directive {
            Json::String(word) if word == "replace" => {
                current.clear();
                let rest = patch.into_iter().filter(|(name, _)| name != "$patch");
                return merge(current, rest.collect());
            }
            Json::String(word) if word == "delete" => {
                current.clear();
                return Ok(());
            }
            _ => {
                return Err(PatchError::Directive(
                    "$patch must be \"replace\" or \"delete\"".to_owned(),
                ));
            }
        }
    }
    for (name, value) in patch {
        if name.starts_with('$') {
            return Err(PatchError::Directive(format!(
                "unknown directive {name:?}, only \"$patch\" is known"
            )));
        }
        let place = current.iter_mut().find(|(known, _)| *known == name);
        match (value, place) {
            (Json::Null, _) => current.retain(|(known, _)| *known != name),
            (Json::Object(patch), Some((_, Json::Object(below)))) => merge(below, patch)?,
            (Json::Object(patch), place) => {
                if patch.iter().any(|(name, _)| name == "$patch") {
                    return Err(PatchError::Directive(format!(
                        "$patch inside {name:?}, which is not set"
                    )));
                }
                let mut below = Vec::new();
                merge(&mut below, patch)?; // its nulls have no effect (RFC 7386)
                set_or_return(place, name, Json::Object(below))
                    .into_iter()
                    .for_each(|member| current.push(member));
            }
            (value, place) => set_or_return(place, name, value)
                .into_iter()
                .for_each(|member| current.push(member)),
        }
    }
    Ok(())
}

/// Stores the value in `place`, or returns the member when there is no place for it.
fn set_or_return(place: Option<&mut (String, Json)>, name: String, value: Json) -> Option<(String, Json)> {
    match place {
        Some((_, old)) => {
            *old = value;
            None
        }
        None => Some((name, value)),
    }
}
