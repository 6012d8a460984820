//! Applies patches to a spec: JSON merge patch (RFC 7386) with the directive `$patch` (data-model 6.2). Because the
//! names of all spec fields are listed here, it also finds unknown names in a spec.

use std::collections::BTreeSet;

use crate::{ClusterSpec, Json, JsonError};

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not JSON.
    #[error("invalid patch")]
    Syntax(#[source] JsonError),
    /// The patch is JSON, but not an object.
    #[error("invalid patch: a JSON object is required")]
    NoObject,
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
/// The patch is not a JSON object (or `null`, which changes nothing), holds an unknown directive, or its result is not
/// a spec.
pub fn patch_spec(current: &ClusterSpec, patch: &[u8]) -> Result<ClusterSpec, PatchError> {
    let patch = match Json::parse(patch).map_err(PatchError::Syntax)? {
        Json::Null => return Ok(current.clone()),
        Json::Object(members) => members,
        _ => return Err(PatchError::NoObject),
    };
    let Json::Object(mut members) = Json::of(current) else {
        unreachable!("a struct is written as an object");
    };
    let patch = with_canonical_names(patch, SPEC);
    merge(&mut members, patch)?;
    Json::Object(members).decode().map_err(PatchError::Result)
}

/// The field names of one level of the spec, each with the schema below it when it is an object with fixed names.
struct Schema(&'static [(&'static str, Option<&'static Schema>)]);

const SPEC: &Schema = &Schema(&[
    ("sleepInterval", None),
    ("requestTimeout", None),
    ("convergenceTimeout", None),
    ("initTimeout", None),
    ("syncTimeout", None),
    ("dbWaitReadyTimeout", None),
    ("failInterval", None),
    ("deadKeeperRemovalInterval", None),
    ("proxyCheckInterval", None),
    ("proxyTimeout", None),
    ("maxStandbys", None),
    ("maxStandbysPerSender", None),
    ("maxStandbyLag", None),
    ("synchronousReplication", None),
    ("minSynchronousStandbys", None),
    ("maxSynchronousStandbys", None),
    ("additionalWalSenders", None),
    ("additionalMasterReplicationSlots", None),
    ("usePgrewind", None),
    ("initMode", None),
    ("mergePgParameters", None),
    ("role", None),
    (
        "newConfig",
        Some(&Schema(&[
            ("locale", None),
            ("encoding", None),
            ("dataChecksums", None),
        ])),
    ),
    (
        "pitrConfig",
        Some(&Schema(&[
            ("dataRestoreCommand", None),
            ("archiveRecoverySettings", Some(ARCHIVE)),
            (
                "recoveryTargetSettings",
                Some(&Schema(&[
                    ("recoveryTarget", None),
                    ("recoveryTargetLsn", None),
                    ("recoveryTargetName", None),
                    ("recoveryTargetTime", None),
                    ("recoveryTargetXid", None),
                    ("recoveryTargetTimeline", None),
                ])),
            ),
        ])),
    ),
    ("existingConfig", Some(&Schema(&[("keeperUID", None)]))),
    (
        "standbyConfig",
        Some(&Schema(&[
            (
                "standbySettings",
                Some(&Schema(&[
                    ("primaryConninfo", None),
                    ("primarySlotName", None),
                    ("recoveryMinApplyDelay", None),
                ])),
            ),
            ("archiveRecoverySettings", Some(ARCHIVE)),
        ])),
    ),
    ("defaultSUReplAccessMode", None),
    ("pgParameters", None),
    ("pgHBA", None),
    ("automaticPgRestart", None),
]);

/// Returns the names of all fields of a cluster spec, in order (data-model 4.1).
pub(super) fn field_names() -> impl Iterator<Item = &'static str> {
    SPEC.0.iter().map(|(name, _)| *name)
}

const ARCHIVE: &Schema = &Schema(&[("restoreCommand", None)]);

/// Returns the names in the text of a spec that are not fields, each with its path (`newConfig.local`). Reading
/// silently drops them (data-model J-7). Empty when the text is not a JSON object. The directives of a patch are
/// included.
pub fn unknown_names(text: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if let Ok(Json::Object(members)) = Json::parse(text) {
        find_unknown("", &members, SPEC, &mut found);
    }
    found
}

fn find_unknown(path: &str, members: &[(String, Json)], level: &Schema, found: &mut BTreeSet<String>) {
    for (name, value) in members {
        match level.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            None => {
                found.insert(format!("{path}{name}"));
            }
            Some((known, Some(below))) => {
                if let Json::Object(members) = value {
                    find_unknown(&format!("{path}{known}."), members, below, found);
                }
            }
            // a value, or a map with arbitrary names
            Some((_, None)) => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_slice;

    const EVERY_FIELD: &str = r#"{"sleepInterval":"1s","requestTimeout":"1s","convergenceTimeout":"1s","initTimeout":"1s",
        "syncTimeout":"1s","dbWaitReadyTimeout":"1s","failInterval":"1s","deadKeeperRemovalInterval":"1s",
        "proxyCheckInterval":"1s","proxyTimeout":"1s","maxStandbys":1,"maxStandbysPerSender":1,"maxStandbyLag":1,
        "synchronousReplication":true,"minSynchronousStandbys":1,"maxSynchronousStandbys":1,"additionalWalSenders":1,
        "additionalMasterReplicationSlots":["a"],"usePgrewind":true,"initMode":"new","mergePgParameters":true,"role":"master",
        "newConfig":{"locale":"a","encoding":"a","dataChecksums":true},
        "pitrConfig":{"dataRestoreCommand":"a","archiveRecoverySettings":{"restoreCommand":"a"},
            "recoveryTargetSettings":{"recoveryTarget":"a","recoveryTargetLsn":"a","recoveryTargetName":"a",
                "recoveryTargetTime":"a","recoveryTargetXid":"a","recoveryTargetTimeline":"a"}},
        "existingConfig":{"keeperUID":"a"},
        "standbyConfig":{"standbySettings":{"primaryConninfo":"a","primarySlotName":"a","recoveryMinApplyDelay":"a"},
            "archiveRecoverySettings":{"restoreCommand":"a"}},
        "defaultSUReplAccessMode":"all","pgParameters":{"a":"a"},"pgHBA":["a"],"automaticPgRestart":true}"#;

    fn names_match(level: &Schema, value: &Json) {
        let Json::Object(members) = value else {
            panic!("{value:?} is no object");
        };
        let written: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        let known: Vec<&str> = level.0.iter().map(|(name, _)| *name).collect();
        assert_eq!(written, known);
        for ((_, below), (_, value)) in level.0.iter().zip(members) {
            if let Some(below) = below {
                names_match(below, value);
            }
        }
    }

    #[test]
    fn names_that_no_field_has_are_found_at_every_level_and_data_is_left_alone() {
        let unknown = |text: &str| Vec::from_iter(unknown_names(text.as_bytes()));
        assert_eq!(unknown(EVERY_FIELD), [""; 0]);
        assert_eq!(
            unknown(
                r#"{"failIntervall":"1s","INITMODE":"new","$patch":"replace","newConfig":{"local":"C","LOCALE":"C"},
                "standbyConfig":{"standbySettings":{"primaryConnInfo":"x","slot":1},"standbysettings":{"slot":2}},
                "pgParameters":{"whatever":"1"},"failIntervall":null}"#
            ),
            [
                "$patch",
                "failIntervall",
                "newConfig.local",
                "standbyConfig.standbySettings.slot"
            ]
        );
        for text in ["", "null", "[]", "{\"newConfig\":7}"] {
            assert_eq!(unknown(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn the_names_are_those_that_a_spec_is_written_with_in_their_order() {
        let spec: ClusterSpec = from_slice(EVERY_FIELD.as_bytes()).unwrap();
        names_match(SPEC, &Json::of(&spec));
    }
}
