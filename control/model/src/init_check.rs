//! Checks what a spec asks of the initialisation, before it is stored. A stored spec is not checked against these rules: its
//! cluster was initialised, perhaps by Go stolon, which does not have them.

use crate::{ClusterSpec, InitMode, InvalidSpec, KeeperUid, RecoveryTargetSettings};

/// The longest name of a restore point (`MAXFNAMELEN` less one).
const RESTORE_POINT_BYTES_MAX: usize = 63;

impl ClusterSpec {
    /// Refuses settings with which the initialisation would fail after the backup was restored, or never begin.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn check_initialisation(&self) -> Result<(), InvalidSpec> {
        let existing = self.existing_config.as_ref();
        if let Some(existing) = existing.filter(|_| self.init_mode == Some(InitMode::Existing)) {
            let uid = existing.keeper_uid.as_str();
            let bytes_max = KeeperUid::BYTES_MAX;
            if uid.len() > bytes_max || !KeeperUid::has_valid_characters(uid) {
                return invalid(format!(
                    "existingConfig.keeperUID {uid:?}: no keeper can have this uid: use 1 to {bytes_max} lower-case letters, \
                     digits and underscores"
                ));
            }
        }
        let target = self
            .pitr_config
            .as_ref()
            .filter(|_| self.init_mode == Some(InitMode::Pitr))
            .and_then(|pitr| pitr.recovery_target_settings.as_ref());
        target.map_or(Ok(()), check_target)
    }
}

/// Checks a recovery target by what PostgreSQL 13 to 18 can use (manual 19.5.6). Times are parsed by the server.
fn check_target(target: &RecoveryTargetSettings) -> Result<(), InvalidSpec> {
    // The server parses times; only words such as `now`, which it refuses, have no digit.
    let has_digit = target.recovery_target_time.contains(|c: char| c.is_ascii_digit());
    let targets = [
        (
            "recoveryTarget",
            &target.recovery_target,
            target.recovery_target == "immediate",
            "immediate is the only value",
        ),
        (
            "recoveryTargetLsn",
            &target.recovery_target_lsn,
            is_lsn(&target.recovery_target_lsn),
            "an LSN has the form 16/B374D848",
        ),
        (
            "recoveryTargetName",
            &target.recovery_target_name,
            target.recovery_target_name.len() <= RESTORE_POINT_BYTES_MAX,
            "a restore point has at most 63 bytes",
        ),
        (
            "recoveryTargetTime",
            &target.recovery_target_time,
            has_digit,
            "a time has the form 2026-01-31 12:00:00+00",
        ),
        (
            "recoveryTargetXid",
            &target.recovery_target_xid,
            is_number(&target.recovery_target_xid, 0, u64::MAX),
            "a transaction id is a number",
        ),
    ];
    let given: Vec<_> = targets.iter().filter(|(_, value, ..)| !value.is_empty()).collect();
    if given.len() > 1 {
        let names: Vec<&str> = given.iter().map(|(name, ..)| *name).collect();
        return invalid(format!(
            "recoveryTargetSettings has several targets ({}): PostgreSQL takes one, leave out the others",
            names.join(", ")
        ));
    }
    for (name, value, good, form) in given {
        if !good {
            return invalid(format!("{name} {value:?} is no target: {form}"));
        }
    }
    let timeline = &target.recovery_target_timeline;
    if !timeline.is_empty()
        && !matches!(timeline.as_str(), "current" | "latest")
        && !is_number(timeline, 1, u32::MAX.into())
    {
        return invalid(format!(
            "recoveryTargetTimeline {timeline:?} is no timeline: use latest, current or a number"
        ));
    }
    Ok(())
}

fn is_lsn(text: &str) -> bool {
    let is_part = |part: &str| (1..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_hexdigit());
    text.split_once('/')
        .is_some_and(|(high, low)| is_part(high) && is_part(low))
}

/// Whether the text is a number from `min` to `max`, decimal or hexadecimal. Some versions of PostgreSQL read `abc` as 0.
fn is_number(text: &str, min: u64, max: u64) -> bool {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    digits.starts_with(|c: char| c.is_digit(radix))
        && u64::from_str_radix(digits, radix).is_ok_and(|number| (min..=max).contains(&number))
}

fn invalid(text: String) -> Result<(), InvalidSpec> {
    Err(InvalidSpec::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_slice;

    fn spec(fields: &str) -> ClusterSpec {
        from_slice(format!("{{{fields}}}").as_bytes()).unwrap()
    }

    fn target(fields: &str) -> Result<(), String> {
        let config = format!(
            r#""initMode":"pitr","pitrConfig":{{"dataRestoreCommand":"x","recoveryTargetSettings":{{{fields}}}}}"#
        );
        spec(&config).check_initialisation().map_err(|error| error.to_string())
    }

    #[test]
    fn targets_that_postgresql_takes_are_accepted() {
        for fields in [
            "",
            r#""recoveryTarget":"immediate""#,
            r#""recoveryTargetLsn":"16/B374D848""#,
            r#""recoveryTargetLsn":"0/0","recoveryTargetXid":"""#,
            r#""recoveryTargetName":"before the change, ÄÖÜ""#,
            r#""recoveryTargetTime":"2026-11-30 12:00:00.5 Europe/Berlin""#,
            r#""recoveryTargetTime":"20261130T120000""#,
            r#""recoveryTargetXid":"744","recoveryTargetTimeline":"3""#,
            r#""recoveryTargetXid":"0x2e8","recoveryTargetTimeline":"0x10""#,
            r#""recoveryTargetTimeline":"latest""#,
            r#""recoveryTargetTimeline":"current""#,
        ] {
            assert_eq!(target(fields), Ok(()), "{fields}");
        }
    }

    #[test]
    fn targets_that_never_work_are_refused_with_their_form() {
        for (fields, words) in [
            (
                r#""recoveryTargetName":"rp2","recoveryTargetXid":"744""#,
                "recoveryTargetName, recoveryTargetXid",
            ),
            (
                r#""recoveryTarget":"immediate","recoveryTargetTime":"2026-11-30""#,
                "several targets",
            ),
            (r#""recoveryTarget":"now""#, "immediate"),
            (r#""recoveryTargetLsn":"zz""#, "16/B374D848"),
            (r#""recoveryTargetLsn":"16""#, "16/B374D848"),
            (r#""recoveryTargetLsn":"+16/+1""#, "16/B374D848"),
            (r#""recoveryTargetLsn":"000000016/1""#, "16/B374D848"),
            (r#""recoveryTargetTimeline":"0""#, "latest, current or a number"),
            (r#""recoveryTargetTimeline":"0x+5""#, "latest, current or a number"),
            (r#""recoveryTargetXid":"abc""#, "number"),
            (r#""recoveryTargetXid":"-1""#, "number"),
            (r#""recoveryTargetXid":"99999999999999999999""#, "number"),
            (r#""recoveryTargetTime":"now""#, "2026-01-31"),
            (r#""recoveryTargetTime":"tomorrow at noonish""#, "2026-01-31"),
            (r#""recoveryTargetTimeline":"xx""#, "latest, current or a number"),
            (
                r#""recoveryTargetTimeline":"4294967296""#,
                "latest, current or a number",
            ),
        ] {
            let refused = target(fields).unwrap_err();
            assert!(refused.contains(words), "{fields}: {refused}");
        }
        let long = target(&format!(r#""recoveryTargetName":"{}""#, "x".repeat(64))).unwrap_err();
        assert!(long.contains("63"), "{long}");
    }

    #[test]
    fn a_keeper_that_cannot_exist_is_refused() {
        for (uid, good) in [
            ("keeper_0", true),
            ("K 1!", false),
            ("k-1", false),
            (&"k".repeat(256), false),
        ] {
            let spec = spec(&format!(
                r#""initMode":"existing","existingConfig":{{"keeperUID":"{uid}"}}"#
            ));
            assert_eq!(spec.check_initialisation().is_ok(), good, "{uid}");
        }
    }
}
