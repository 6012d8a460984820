//! The names of all fields of a cluster spec, and those names in a text that are none.

use std::collections::BTreeSet;

use crate::Json;
use crate::hba::shortened;

/// The field names of one level of the spec, each with the schema below it when it is an object with fixed names.
pub(super) struct Schema(pub(super) &'static [(&'static str, Option<&'static Schema>)]);

pub(super) const SPEC: &Schema = &Schema(&[
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

/// How a text changes the cluster spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecInput {
    /// A complete spec that replaces the current one.
    Whole,
    /// A JSON merge patch of the current one.
    Patch,
}

/// Returns the warnings about the text of a spec or a patch: names that are not fields, which reading silently drops
/// (data-model J-7), and members that are given more than once, of which only one counts (J-6, J-12). Names have their
/// paths (`newConfig.local`). Empty if the text is not a JSON object.
pub fn spec_text_warnings(text: &[u8], kind: SpecInput) -> Vec<String> {
    let Ok(Json::Object(members)) = Json::parse(text) else {
        return Vec::new();
    };
    let mut unknown = BTreeSet::new();
    find_unknown("", &members, SPEC, &mut unknown);
    if kind == SpecInput::Patch {
        // `$patch` is the only directive that an accepted patch can contain.
        unknown.retain(|name| name.rsplit('.').next() != Some("$patch"));
    }
    let mut repeated = BTreeSet::new();
    find_repeated("", &members, Some(SPEC), &mut repeated);
    let mut warnings = Vec::new();
    if !unknown.is_empty() {
        let names = listed(&unknown);
        warnings.push(format!(
            "ignored, since no field of the cluster spec has this name: {names}"
        ));
    }
    warnings.extend(repeated_warning(&repeated));
    warnings
}

/// Returns a warning that names the members of any JSON text that are given more than once, if there are any.
pub fn repeated_members_warning(text: &[u8]) -> Option<String> {
    let mut repeated = BTreeSet::new();
    if let Ok(Json::Object(members)) = Json::parse(text) {
        find_repeated("", &members, None, &mut repeated);
    }
    repeated_warning(&repeated)
}

fn repeated_warning(repeated: &BTreeSet<String>) -> Option<String> {
    let names = Some(repeated).filter(|names| !names.is_empty()).map(listed)?;
    Some(format!("given more than once, keep one of each: {names}"))
}

/// Returns the names on one line, shortened, and only the first of many.
fn listed(names: &BTreeSet<String>) -> String {
    const COUNT_MAX: usize = 20;
    let first = names.iter().take(COUNT_MAX);
    let first: Vec<String> = first.map(|name| format!("{:?}", shortened(name))).collect();
    let more = names.len() - first.len();
    let tail = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    format!("{}{tail}", first.join(", "))
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

/// Adds the members that are given more than once. Names of fields match in any case, others exactly.
fn find_repeated(path: &str, members: &[(String, Json)], level: Option<&Schema>, found: &mut BTreeSet<String>) {
    let mut seen = BTreeSet::new();
    for (name, value) in members {
        let fields = level.map(|level| level.0).unwrap_or_default();
        let field = fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (name, below) = field.map_or((name.as_str(), None), |(known, below)| (*known, *below));
        if !seen.insert(name) {
            found.insert(format!("{path}{name}"));
        }
        find_repeated_below(&format!("{path}{name}"), value, below, found);
    }
}

fn find_repeated_below(path: &str, value: &Json, level: Option<&Schema>, found: &mut BTreeSet<String>) {
    match value {
        Json::Object(members) => find_repeated(&format!("{path}."), members, level, found),
        Json::Array(values) => {
            for (at, value) in values.iter().enumerate() {
                find_repeated_below(&format!("{path}[{at}]"), value, None, found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClusterSpec, from_slice};

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
            panic!("{value:?} is not an object");
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

    fn whole(text: &str) -> Vec<String> {
        spec_text_warnings(text.as_bytes(), SpecInput::Whole)
    }

    #[test]
    fn names_that_no_field_has_are_found_at_every_level_and_data_is_left_alone() {
        assert_eq!(whole(EVERY_FIELD), [""; 0]);
        let text = r#"{"failIntervall":"1s","INITMODE":"new","$patch":"replace","newConfig":{"local":"C","LOCALE":"C"},
            "standbyConfig":{"standbySettings":{"primaryConnInfo":"x","slot":1}},"pgParameters":{"whatever":"1"}}"#;
        let unknown = r#""failIntervall", "newConfig.local", "standbyConfig.standbySettings.slot""#;
        let start = "ignored, since no field of the cluster spec has this name: ";
        assert_eq!(whole(text), [format!(r#"{start}"$patch", {unknown}"#)]);
        let patch = spec_text_warnings(text.as_bytes(), SpecInput::Patch);
        assert_eq!(patch, [format!("{start}{unknown}")]);
        for text in ["", "null", "[]", "{\"newConfig\":7}"] {
            assert_eq!(whole(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn members_that_are_given_twice_are_found_at_every_level() {
        let text = r#"{"initMode":"new","InitMode":"pitr","newConfig":{"locale":"C","Locale":"D"},
            "pgParameters":{"a":"1","A":"2","b":"1","b":"1"}}"#;
        assert_eq!(
            whole(text),
            [r#"given more than once, keep one of each: "initMode", "newConfig.locale", "pgParameters.b""#]
        );
        let document = r#"{"keepers":{"k1":{},"k1":{}},"list":[{"x":1,"x":2}],"y":1,"y":2}"#;
        assert_eq!(
            repeated_members_warning(document.as_bytes()).unwrap(),
            r#"given more than once, keep one of each: "keepers.k1", "list[0].x", "y""#
        );
        assert_eq!(repeated_members_warning(EVERY_FIELD.as_bytes()), None);
    }

    #[test]
    fn a_warning_stays_readable_whatever_the_names_are() {
        let members: Vec<String> = (0..1000)
            .map(|n| format!("\"a{n:03}\\n{}\":1", "x".repeat(1000)))
            .collect();
        let warnings = whole(&format!("{{{}}}", members.join(",")));
        assert!(
            warnings[0].ends_with(" and 980 more") && warnings[0].len() < 6000,
            "{warnings:?}"
        );
        assert!(!warnings[0].contains('\n'), "{warnings:?}");
    }

    #[test]
    fn the_names_are_those_that_a_spec_is_written_with_in_their_order() {
        let spec: ClusterSpec = from_slice(EVERY_FIELD.as_bytes()).unwrap();
        names_match(SPEC, &Json::of(&spec));
    }
}
