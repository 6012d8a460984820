//! The names of all fields of a cluster spec, and those names in a text that are none.

use std::collections::BTreeSet;

use crate::Json;

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
