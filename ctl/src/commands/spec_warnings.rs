//! Warnings about a spec that is valid, but may not do what its author expects of synchronous replication (cli 8.9).
//! Pure.

use model::{ClusterSpec, SYNCHRONOUS_COMMIT, waits_for_flush};

/// Returns a warning for each such setting of `next`, which replaces `current` if there is one. `keepers` is how many
/// there are, 0 if that is unknown.
pub(super) fn synchronous_warnings(current: Option<&ClusterSpec>, next: &ClusterSpec, keepers: usize) -> Vec<String> {
    let is_synchronous = |spec: &ClusterSpec| spec.synchronous_replication == Some(true);
    if !is_synchronous(next) {
        let switched_off = current.is_some_and(is_synchronous).then(|| {
            "synchronous replication is switched off: a failover within the next moments may lose commits that were \
             acknowledged before"
                .to_owned()
        });
        return Vec::from_iter(switched_off);
    }
    let counts = standby_count_warning(next, keepers);
    counts.into_iter().chain(commit_warnings(next)).collect()
}

/// One keeper is the master, so there are fewer standbys than keepers.
fn standby_count_warning(spec: &ClusterSpec, keepers: usize) -> Option<String> {
    let standbys = keepers.checked_sub(1)?;
    let (min, max) = (
        spec.min_synchronous_standbys.unwrap_or(1),
        spec.max_synchronous_standbys.unwrap_or(1),
    );
    if usize::from(min) > standbys {
        return Some(format!(
            "minSynchronousStandbys is {min}, but with {keepers} keepers there are at most {standbys} standbys: commits \
             wait until there are {min}; add keepers, or lower minSynchronousStandbys"
        ));
    }
    (usize::from(max) > standbys).then(|| {
        format!(
            "maxSynchronousStandbys is {max}, but with {keepers} keepers there are at most {standbys} standbys: no more \
             will be synchronous until there are more keepers"
        )
    })
}

/// With less than `on` a commit returns before a synchronous standby has flushed it (PostgreSQL, "synchronous_commit").
fn commit_warnings(spec: &ClusterSpec) -> Vec<String> {
    let parameters = spec.pg_parameters.iter();
    parameters
        .filter(|(name, value)| name.eq_ignore_ascii_case(SYNCHRONOUS_COMMIT) && !waits_for_flush(value))
        .map(|(_, value)| {
            format!(
                "synchronous_commit is {value:?} in pgParameters: commits do not wait for synchronous standbys, so a \
                 failover may lose them; remove it, or set it to on or remote_apply"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use model::from_slice;

    use super::*;

    fn warnings(current: Option<&str>, next: &str, keepers: usize) -> String {
        let spec = |text: &str| -> ClusterSpec { from_slice(text.as_bytes()).unwrap() };
        let current = current.map(spec);
        synchronous_warnings(current.as_ref(), &spec(next), keepers).join("\n")
    }

    #[test]
    fn more_synchronous_standbys_than_standbys_are_a_warning_of_what_happens() {
        let with = |min: u16, max: u16| {
            format!(
                r#"{{"synchronousReplication":true,"minSynchronousStandbys":{min},"maxSynchronousStandbys":{max}}}"#
            )
        };
        assert_eq!(
            warnings(None, &with(2, 2), 2),
            "minSynchronousStandbys is 2, but with 2 keepers there are at most 1 standbys: commits wait until there are \
             2; add keepers, or lower minSynchronousStandbys"
        );
        assert!(warnings(None, r#"{"synchronousReplication":true}"#, 1).contains("commits wait until there are 1;"));
        let more = warnings(None, &with(0, 3), 3);
        assert!(
            more.starts_with("maxSynchronousStandbys is 3, but with 3 keepers"),
            "{more}"
        );
        for (min, max, keepers) in [(1, 2, 3), (2, 2, 0), (1, 1, 2)] {
            assert_eq!(warnings(None, &with(min, max), keepers), "", "{min} {max} {keepers}");
        }
        let off = with(9, 9).replace("true", "false");
        assert_eq!(warnings(None, &off, 2), "");
    }

    #[test]
    fn commits_that_do_not_wait_are_a_warning() {
        let with = |on: bool, name: &str, value: &str| {
            let text =
                format!(r#"{{"synchronousReplication":{on},"pgParameters":{{"{name}":"{value}","work_mem":"4MB"}}}}"#);
            warnings(None, &text, 2)
        };
        for value in ["off", "local", "remote_write", "FALSE", "no", "0", "", "nonsense"] {
            let warning = with(true, "Synchronous_Commit", value);
            assert!(
                warning.contains(&format!("synchronous_commit is {value:?}")),
                "{warning}"
            );
            assert_eq!(with(false, "synchronous_commit", value), "");
        }
        for value in ["on", "ON", " on ", "true", "yes", "1", "remote_apply"] {
            assert_eq!(with(true, "synchronous_commit", value), "", "{value}");
        }
    }

    #[test]
    fn switching_synchronous_replication_off_is_a_warning() {
        let on = r#"{"synchronousReplication":true}"#;
        for off in ["{}", r#"{"synchronousReplication":false}"#] {
            assert!(warnings(Some(on), off, 3).starts_with("synchronous replication is switched off: "));
            assert_eq!(warnings(Some(off), off, 3), "");
            assert_eq!(warnings(Some(off), on, 3), "");
        }
        assert_eq!(warnings(Some(on), on, 3), "");
    }
}
