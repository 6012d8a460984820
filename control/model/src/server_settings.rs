//! Checks what a new spec holds for the PostgreSQL server: parameters, `pg_hba.conf` lines, slot names. A stored spec
//! is not checked against these rules: it may come from Go stolon, which does not have them, and must stay usable.

use std::collections::BTreeSet;

use crate::hba::shortened;
use crate::parameters::{UnusableParameter, check_parameter, repeated_names};
use crate::{ClusterSpec, check_hba_line, hba_excerpt, redacted_hba_reason, stolon_name};
use base::redact::redacted;

/// The longest name of a replication slot (`NAMEDATALEN` less one).
const SLOT_BYTES_MAX: usize = 63;

/// All settings of a spec that cannot be passed to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidServerSettings(Vec<String>);

impl ClusterSpec {
    /// Checks the settings of this spec that `before`, the current spec, does not hold already, and removes parameters
    /// that are managed by the keeper or reserved. Returns a warning for each of them, and for each setting of `before`
    /// that stays in the spec and that keepers leave out.
    ///
    /// # Errors
    /// A setting that the server could not parse, or only reserved parameters. The spec is unchanged then.
    pub fn clean_server_settings(&mut self, before: Option<&Self>) -> Result<Vec<String>, InvalidServerSettings> {
        let mut faults = self.slot_errors(before);
        faults.extend(self.repeated_parameters(before));
        let mut warnings = self.hba_errors(before, &mut faults);
        let known = before.map(|before| &before.pg_parameters);
        let (mut out, mut reserved, mut accepted) = (Vec::new(), Vec::new(), 0);
        for (name, value) in &self.pg_parameters {
            let shown = shown_name(name);
            let is_new = known.is_none_or(|known| known.get(name) != Some(value));
            match check_parameter(name, value) {
                None => accepted += usize::from(is_new),
                Some(why) if !is_new => {
                    warnings.push(format!("keepers leave out the stored parameter {shown:?}: {why}"))
                }
                Some(UnusableParameter::Invalid(why)) => faults.push(format!("invalid parameter {shown:?}: {why}")),
                Some(UnusableParameter::Reserved(why)) => {
                    reserved.push(format!("parameter {name:?} cannot be set: {why}"));
                    out.push((name.clone(), why));
                }
                Some(UnusableParameter::Managed(why)) => out.push((name.clone(), why)),
            }
        }
        // Among others they come from a whole postgresql.conf and can be dropped. Alone they are what the operator
        // wanted to set.
        if accepted == 0 {
            faults.extend(reserved);
        }
        if !faults.is_empty() {
            return Err(InvalidServerSettings(faults));
        }
        for (name, why) in out {
            self.pg_parameters.remove(&name);
            warnings.push(format!("left out parameter {name:?}: {why}"));
        }
        Ok(warnings)
    }

    /// Returns an error for each pair of parameters that differ only in case, which are one parameter to the server.
    fn repeated_parameters(&self, before: Option<&Self>) -> Vec<String> {
        let is_stored =
            |name: &String| before.is_some_and(|before| before.pg_parameters.get(name) == self.pg_parameters.get(name));
        repeated_names(self.pg_parameters.keys())
            .into_iter()
            .filter(|(one, other)| !(is_stored(one) && is_stored(other)))
            .map(|(one, other)| {
                let (one, other) = (shown_name(one), shown_name(other));
                format!("parameters {one:?} and {other:?} are the same to PostgreSQL: keep one of them")
            })
            .collect()
    }

    /// Returns warnings for stored lines; errors in other lines go to `faults`.
    fn hba_errors(&self, before: Option<&Self>, faults: &mut Vec<String>) -> Vec<String> {
        let stored = before.and_then(|before| before.pg_hba.as_deref()).unwrap_or_default();
        let mut warnings = Vec::new();
        for (number, line) in (1..).zip(self.pg_hba.iter().flatten()) {
            let Some(why) = check_hba_line(line) else { continue };
            // Options of the line may hold passwords.
            let (start, why) = (hba_excerpt(line), redacted_hba_reason(&why, line));
            if stored.contains(line) {
                warnings.push(format!(
                    "keepers leave out the stored pgHBA entry {number} ({start:?} …): {why}"
                ));
            } else {
                faults.push(format!("invalid pgHBA entry {number} ({start:?} …): {why}"));
            }
        }
        warnings
    }

    fn slot_errors(&self, before: Option<&Self>) -> Vec<String> {
        let stored = before.and_then(|before| before.additional_master_replication_slots.as_deref());
        let stored = stored.unwrap_or_default();
        let mut seen = BTreeSet::new();
        let mut faults = Vec::new();
        for name in self.additional_master_replication_slots.iter().flatten() {
            let is_repeated = !seen.insert(name);
            if stored.contains(name) {
                continue;
            }
            if is_repeated {
                faults.push(format!("replication slot {name:?} is given twice"));
            }
            if stolon_name(name).len() > SLOT_BYTES_MAX {
                let most = SLOT_BYTES_MAX - stolon_name("").len();
                faults.push(format!("replication slot name {name:?} is longer than {most} bytes"));
            }
        }
        faults
    }
}

/// Returns a name in printable form. In place of a name there may be any text, even a line of a configuration file with
/// a password.
fn shown_name(name: &str) -> String {
    shortened(&redacted(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::from_slice;

    fn spec(text: &str) -> ClusterSpec {
        from_slice(text.as_bytes()).unwrap()
    }

    /// What is left of the parameters and the warnings, or the error.
    fn check(before: Option<&str>, text: &str, wanted: &str) {
        let mut new = spec(text);
        let got = match new.clean_server_settings(before.map(spec).as_ref()) {
            Ok(warnings) => {
                let kept: Vec<_> = new.pg_parameters.keys().cloned().collect();
                format!("{}; {}", kept.join(","), warnings.join("; "))
            }
            Err(error) => {
                assert_eq!(new, spec(text), "a refused spec is as it was");
                format!("refused: {error}")
            }
        };
        let fits = wanted
            .split(" … ")
            .try_fold(got.as_str(), |rest, part| rest.split_once(part).map(|(_, rest)| rest));
        assert!(fits.is_some(), "{text}: {got}");
    }

    #[test]
    fn reserved_parameters_are_refused_alone_and_left_out_among_others() {
        check(
            None,
            r#"{"pgParameters":{"data_directory":"/tmp/x"}}"#,
            "refused: parameter \"data_directory\" cannot be set",
        );
        check(
            Some(r#"{"pgParameters":{"work_mem":"1MB"}}"#),
            r#"{"pgParameters":{"work_mem":"1MB","Data_Directory":"/tmp/x","hba_file":"x"}}"#,
            "refused: … \"Data_Directory\" … --data-dir … \"hba_file\"",
        );
        check(
            None,
            r#"{"pgParameters":{"data_directory":"/x","include_dir":"conf.d","port":"5432","work_mem":"1MB"}}"#,
            "work_mem; left out parameter \"data_directory\" … \"include_dir\" … \"port\" … --pg-port",
        );
        check(
            None,
            r#"{"pgParameters":{"port":"5432"}}"#,
            "; left out parameter \"port\"",
        );
    }

    #[test]
    fn all_invalid_settings_are_reported_at_once() {
        check(
            None,
            r#"{"pgParameters":{"bad name":"1","":"1","work_mem":"1\u0000"},
                "pgHBA":["hosst all all all md5","host all all all md5\nx","include x"],
                "additionalMasterReplicationSlots":["a","a","abcdefghijklmnopqrstuvwxyz_abcdefghijklmnopqrstuvwxyz_xyz"]}"#,
            "refused: … \"a\" is given twice … longer than 56 … entry 1 (\"hosst all all all\" … entry 2 … newline … includes a file … parameter \"\" … \"bad name\" … NUL",
        );
        check(
            None,
            r#"{"pgParameters":{"Work_Mem":"1MB","work_mem":"2MB"}}"#,
            "refused: … are the same to PostgreSQL",
        );
    }

    #[test]
    fn no_password_of_an_entry_is_printed() {
        let lines = [
            r#"hosst all all all ldap ldapserver=x ldapbindpasswd=geheim"#,
            r#"hosst all all all radius radiussecrets="geheim,wort""#,
            r#"host all all all ldap ldapbindpasswd="geheim\u0001wort""#,
            r#"host all all all ldap "ldapbindpasswd=geheim @wort" @x"#,
            r#"ldapbindpasswd=geheim host all all all ldap"#,
            r#"ldapbindpasswd="geheim wort""#,
        ];
        let mut new = ClusterSpec {
            pg_hba: Some(lines.map(|line| line.replace("\\u0001", "\u{1}")).to_vec()),
            ..ClusterSpec::default()
        };
        let refused = new.clean_server_settings(None).unwrap_err().to_string();
        let warned = new.clone().clean_server_settings(Some(&new)).unwrap().join("; ");
        for text in [refused, warned] {
            assert_eq!(text.matches("pgHBA entry").count(), lines.len(), "{text}");
            assert!(!text.contains("geheim") && !text.contains("wort"), "{text}");
        }
    }

    #[test]
    fn no_password_in_the_place_of_a_name_is_printed() {
        let name = "primary_conninfo = 'host=h password=geheim'";
        let text = format!(r#"{{"pgParameters":{{"{name}":"1"}}}}"#);
        let refused = spec(&text).clean_server_settings(None).unwrap_err().to_string();
        assert!(
            refused.contains("primary_conninfo") && !refused.contains("geheim"),
            "{refused}"
        );
    }

    #[test]
    fn stored_invalid_settings_stay_with_a_warning() {
        let stored = r#"{"pgParameters":{"data_directory":"/tmp/x","bad name":"1","A":"1","a":"2"},
            "pgHBA":["hosst x"],"additionalMasterReplicationSlots":["a","a"]}"#;
        check(
            Some(stored),
            stored,
            "A,a,bad name,data_directory; … pgHBA entry 1 (\"hosst x\" … \"bad name\" … \"data_directory\"",
        );
    }
}
