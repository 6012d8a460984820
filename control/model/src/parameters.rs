//! Checks of PostgreSQL parameters in a cluster spec that need no server. The keeper asks the server whether it accepts
//! a name and a value.

use std::fmt;

/// Longest accepted name; PostgreSQL sets no limit.
const NAME_BYTES_MAX: usize = 255;
/// Longest accepted value. etcd accepts documents of about 1.5 MB.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Why a parameter of the spec is not passed to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnusableParameter {
    /// It would make the configuration file invalid, or add lines to it.
    Invalid(String),
    /// It would change something that only the keeper may set.
    Reserved(&'static str),
    /// The keeper sets it, so the spec's value has no effect.
    Managed(&'static str),
}

impl fmt::Display for UnusableParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::Reserved(why) | Self::Managed(why) => f.write_str(why),
        }
    }
}

/// Returns why this parameter is not passed to the server; none when it is. Names match case-insensitively, as in the
/// server.
pub fn check_parameter(name: &str, value: &str) -> Option<UnusableParameter> {
    invalid(name, value)
        .map(UnusableParameter::Invalid)
        .or_else(|| reserved(name).map(UnusableParameter::Reserved))
        .or_else(|| managed(name, value).map(UnusableParameter::Managed))
}

/// The parameter that may make commits wait for less than what synchronous replication promises.
pub const SYNCHRONOUS_COMMIT: &str = "synchronous_commit";

/// Returns whether commits with this value of `synchronous_commit` wait until the synchronous standbys have flushed them
/// (synchronous SY-19).
pub fn waits_for_flush(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    ["on", "true", "yes", "1", "remote_apply"].contains(&value.as_str())
}

/// Returns whether keepers leave this parameter out of their reports because they may set it (keeper 3.5 step 3).
/// `wal_level` is reported.
pub fn is_never_reported(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "hot_standby",
        "listen_addresses",
        "max_replication_slots",
        "max_wal_senders",
        "port",
        "synchronous_standby_names",
        "unix_socket_directories",
        "wal_keep_segments",
        "wal_keep_size",
        "wal_log_hints",
    ];
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Returns pairs of names that differ only in case: a name and the later one that takes precedence, as in a
/// configuration file.
pub fn repeated_names<'a>(names: impl Iterator<Item = &'a String>) -> Vec<(&'a String, &'a String)> {
    let mut last: std::collections::BTreeMap<String, &String> = std::collections::BTreeMap::new();
    let mut repeated = Vec::new();
    for name in names {
        if let Some(before) = last.insert(name.to_ascii_lowercase(), name) {
            repeated.push((before, name));
        }
    }
    repeated
}

fn invalid(name: &str, value: &str) -> Option<String> {
    if !is_parameter_name(name) {
        return Some(
            "not a parameter name: letters, digits and underscores, and one dot at most between two such parts"
                .to_owned(),
        );
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("the name is longer than {NAME_BYTES_MAX} bytes"));
    }
    if value.contains('\0') {
        return Some("the value contains a NUL character".to_owned());
    }
    if value.len() > VALUE_BYTES_MAX {
        return Some(format!("the value is longer than {VALUE_BYTES_MAX} bytes"));
    }
    None
}

/// Returns whether the server accepts this as a name in a configuration file: an identifier, or two separated by a dot
/// (`ID` and `QUALIFIED_ID` of guc-file.l, without non-ASCII letters).
fn is_parameter_name(name: &str) -> bool {
    let is_identifier = |part: &str| {
        let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        part.bytes().next().is_some_and(is_letter) && part.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
    };
    let mut parts = name.splitn(2, '.');
    parts.all(is_identifier)
}

const DATA: &str = "the keeper sets the data directory from --data-dir";
const FILES: &str = "the keeper writes the configuration files of its instance";
const INCLUDE: &str = "other configuration files are not allowed: put their parameters into pgParameters";
const RECOVERY: &str = "the keeper sets the recovery parameters of its instance";
const PROMOTE: &str = "only the keeper promotes its instance";
const ADDRESS: &str = "the keeper's options --pg-listen-address and --pg-port set it";
const SOCKET: &str = "the keeper sets where the unix socket is";
const FOLLOW: &str = "the keeper sets the upstream of its instance";
const NUMBERS: &str =
    "the keeper derives it from maxStandbys, additionalWalSenders and additionalMasterReplicationSlots";
const SYNCHRONOUS: &str = "the cluster spec's synchronousReplication sets it";
const STANDBY: &str = "the keeper sets it: its instances always serve as standbys";

/// Parameters with which the server would start with other data, other access rules or another role.
fn reserved(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        "data_directory" => DATA,
        "config_file" | "hba_file" | "ident_file" | "external_pid_file" => FILES,
        "include" | "include_dir" | "include_if_exists" => INCLUDE,
        "promote_trigger_file" | "trigger_file" => PROMOTE,
        "standby_mode" => RECOVERY,
        _ => return None,
    })
}

/// Parameters that the keeper sets, so that a value of the spec has no effect.
fn managed(name: &str, value: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        "listen_addresses" | "port" => ADDRESS,
        "unix_socket_directories" | "unix_socket_directory" => SOCKET,
        "primary_conninfo" | "primary_slot_name" => FOLLOW,
        "restore_command" | "recovery_min_apply_delay" => RECOVERY,
        "max_replication_slots" | "max_wal_senders" => NUMBERS,
        "synchronous_standby_names" => SYNCHRONOUS,
        "hot_standby" => STANDBY,
        "wal_level" if !["logical", "replica"].contains(&value) => {
            "only replica and logical are possible: the keeper's standbys need them"
        }
        "unix_socket_permissions" if !allows_owner(value) => {
            "the keeper could not connect to its own instance: the owner needs write permission"
        }
        name if name.starts_with("recovery_target") => RECOVERY,
        _ => return None,
    })
}

/// Returns whether the owner can connect to a socket with this mode, which needs write permission (unix(7)). A value
/// that is not a number is left to the server to refuse.
fn allows_owner(mode: &str) -> bool {
    let mode = mode.trim();
    let number = match mode.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8),
        _ => mode.parse(),
    };
    number.map_or(true, |mode| mode & 0o200 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str, value: &str) -> &'static str {
        match check_parameter(name, value) {
            None => "none",
            Some(UnusableParameter::Invalid(_)) => "invalid",
            Some(UnusableParameter::Reserved(_)) => "reserved",
            Some(UnusableParameter::Managed(_)) => "managed",
        }
    }

    #[test]
    fn parameters_that_break_the_configuration_file_are_invalid() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "",
            " ",
            "bad name",
            "work_mem ",
            "1st",
            "a.",
            ".a",
            "a.b.c",
            "a-b",
            "a=b",
            "a\nb",
            "a\0b",
            "#a",
            "'a'",
            "work_mem = '1MB'\nport",
            "ä",
            "include 'x'",
            "@a",
            long.as_str(),
        ] {
            assert_eq!(fault(name, "1"), "invalid", "{name:?}");
        }
        for name in [
            "work_mem",
            "TimeZone",
            "_x",
            "pg_stat_statements.max",
            "no.such_parameter",
            "a1.b2",
            "wal_keep_segments",
        ] {
            assert_eq!(fault(name, "1"), "none", "{name:?}");
        }
        assert_eq!(fault("work_mem", "1\0"), "invalid");
        assert_eq!(fault("work_mem", &"1".repeat(VALUE_BYTES_MAX + 1)), "invalid");
        assert_eq!(fault("archive_command", "a 'quoted' \\ text\nof two lines\tü"), "none");
    }

    #[test]
    fn reserved_and_managed_parameters_are_refused_in_any_case() {
        for name in [
            "data_directory",
            "config_file",
            "hba_file",
            "ident_file",
            "external_pid_file",
            "include",
            "include_dir",
            "include_if_exists",
            "promote_trigger_file",
            "DATA_DIRECTORY",
            "Hba_File",
        ] {
            assert_eq!(fault(name, "/tmp/x"), "reserved", "{name}");
        }
        for name in [
            "listen_addresses",
            "port",
            "unix_socket_directories",
            "primary_conninfo",
            "primary_slot_name",
            "restore_command",
            "recovery_target",
            "recovery_target_inclusive",
            "recovery_target_action",
            "max_wal_senders",
            "max_replication_slots",
            "synchronous_standby_names",
            "hot_standby",
            "Port",
        ] {
            assert_eq!(fault(name, "1"), "managed", "{name}");
        }
    }

    #[test]
    fn some_parameters_are_managed_only_for_some_values() {
        for (name, value, wanted) in [
            ("wal_level", "logical", "none"),
            ("wal_level", "replica", "none"),
            ("wal_level", "minimal", "managed"),
            ("unix_socket_permissions", "0700", "none"),
            ("unix_socket_permissions", "0777", "none"),
            ("unix_socket_permissions", "0077", "managed"),
            ("unix_socket_permissions", "0", "managed"),
            ("unix_socket_permissions", "x", "none"),
        ] {
            assert_eq!(fault(name, value), wanted, "{name} {value}");
        }
    }

    #[test]
    fn of_names_that_differ_in_case_the_last_counts() {
        let names = ["Work_Mem", "a", "work_mem"].map(str::to_owned);
        assert_eq!(repeated_names(names.iter()), [(&names[0], &names[2])]);
    }
}
