//! Contents of `postgresql.conf`: parameters with their precedence, recovery settings, and quoting (keeper sections 7
//! and 8). Writing the file is left to `files`, reloading the server to `instance`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use model::{
    ArchiveRecoverySettings, PitrConfig, StandbySettings, UnusableParameter, check_parameter, is_never_reported,
};

/// Parameters by name.
pub type Parameters = BTreeMap<String, String>;

/// Name of the generated file in PGDATA.
pub const FILE: &str = "postgresql.conf";
/// Name of the file for temporary starts, which includes the one that PGDATA came with (keeper 8.5).
pub const TEMPORARY_FILE: &str = "stolon-temp-postgresql.conf";

/// Configuration that a server is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// The generated one only.
    Normal,
    /// During an initialisation: the one that PGDATA came with, overridden by the generated one (keeper
    /// 8.5, rule 7).
    Temporary,
}

/// Sources of an instance's parameters.
#[derive(Debug, Clone, Copy)]
pub struct ParameterSources<'a> {
    /// Parameters read after the initialisation, if the spec includes them.
    pub init: Option<&'a Parameters>,
    /// Parameters of the user.
    pub user: &'a Parameters,
    /// `listen_addresses`, verbatim.
    pub listen_addresses: &'a str,
    /// `port`.
    pub port: &'a str,
    /// Directories of the unix sockets, separated by commas.
    pub socket_dir: &'a str,
    /// Maximum number of standbys: one slot and two WAL senders each.
    pub max_standbys: u32,
    /// Further slots.
    pub slots: SlotNeeds,
    /// Further WAL senders.
    pub additional_wal_senders: u32,
    /// Sets `wal_log_hints`, which pg_rewind requires.
    pub use_pg_rewind: bool,
    pub synchronous_standby_names: &'a str,
}

/// Replication slots needed besides those of standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotNeeds {
    /// The cluster's additional slots.
    pub additional: u32,
    /// Foreign slots in PGDATA: names without the keepers' prefix.
    pub foreign: u32,
    /// All slots in PGDATA: a server does not start with a lower maximum.
    pub existing: u32,
}

impl SlotNeeds {
    /// Returns `max_replication_slots` for all standbys and additional slots.
    fn sum(self, max_standbys: u32) -> u64 {
        let sum = u64::from(max_standbys) + u64::from(self.additional) + u64::from(self.foreign);
        sum.max(self.existing.into())
    }
}

/// The parameters to write, and the omitted ones of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedParameters {
    /// The parameters, with names in lower case (the server ignores case).
    pub parameters: Parameters,
    /// Omitted parameters of the user, with reasons. `stolonctl` refuses them; a spec written by another program may
    /// contain them.
    pub dropped: BTreeMap<String, String>,
}

/// Builds the parameters, later sources over earlier ones (keeper 8.1 to 8.4).
pub fn parameters(sources: &ParameterSources<'_>) -> GeneratedParameters {
    let mut parameters = Parameters::new();
    let mut dropped = BTreeMap::new();
    for (name, value) in sources.init.into_iter().flatten() {
        // The keeper's own parameters were read back from its file.
        if check_parameter(name, value).is_none() {
            parameters.insert(name.to_ascii_lowercase(), value.clone());
        }
    }
    for (name, value) in sources.user {
        match check_parameter(name, value) {
            None => {
                parameters.insert(name.to_ascii_lowercase(), value.clone());
            }
            Some(UnusableParameter::Invalid(why)) => {
                dropped.insert(name.clone(), why);
            }
            Some(UnusableParameter::Reserved(why) | UnusableParameter::Managed(why)) => {
                dropped.insert(name.clone(), why.to_owned());
            }
        }
    }
    let wal_level = if parameters.get("wal_level").is_some_and(|level| level == "logical") {
        "logical"
    } else {
        "replica"
    };
    parameters
        .entry("wal_keep_size".into())
        .or_insert_with(|| WAL_KEEP_SIZE.into());
    let senders = 2 * u64::from(sources.max_standbys) + 2 + u64::from(sources.additional_wal_senders);
    let mut set = |name: &str, value: &str| parameters.insert(name.to_owned(), value.to_owned());
    set("unix_socket_directories", sources.socket_dir);
    set("hot_standby", "on");
    set("wal_level", wal_level);
    set("listen_addresses", sources.listen_addresses);
    set("port", sources.port);
    set(
        "max_replication_slots",
        &sources.slots.sum(sources.max_standbys).to_string(),
    );
    set("max_wal_senders", &senders.to_string());
    set("synchronous_standby_names", sources.synchronous_standby_names);
    if sources.use_pg_rewind {
        set("wal_log_hints", "on");
    }
    GeneratedParameters { parameters, dropped }
}

/// Default of `wal_keep_size` in MB: 8 segments.
const WAL_KEEP_SIZE: &str = "128";

/// The timeline that a recovery follows, and its default from PostgreSQL 12 on.
const TIMELINE: &str = "recovery_target_timeline";
const LATEST: &str = "latest";

/// Recovery settings (keeper 7.1), which are never among an instance's parameters.
const RECOVERY_SETTINGS: [&str; 12] = [
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    TIMELINE,
    "recovery_target_xid",
    "restore_command",
];

/// What a recovery sets where the keeper sets nothing else: PostgreSQL's defaults. The configuration of a backup may set
/// them, also in files that it includes; its commands may remove WAL from the archive that this recovery, or that of an older
/// backup, needs.
const RECOVERY_DEFAULTS: [(&str, &str); 12] = [
    ("archive_cleanup_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("recovery_end_command", ""),
    ("recovery_min_apply_delay", "0"),
    ("recovery_target", ""),
    ("recovery_target_inclusive", "on"),
    ("recovery_target_lsn", ""),
    ("recovery_target_name", ""),
    ("recovery_target_time", ""),
    ("recovery_target_xid", ""),
    ("restore_command", ""),
];

/// Returns the configured parameters to publish: without managed ones and recovery settings.
pub fn published(configured: &Parameters) -> Parameters {
    let ours = |name: &str| is_never_reported(name) || RECOVERY_SETTINGS.contains(&name);
    configured
        .iter()
        .filter(|(name, _)| !ours(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A raised parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaisedParameter {
    pub name: String,
    /// Old value; `None` when it was not set.
    pub old: Option<String>,
    /// New value.
    pub new: Option<String>,
}

/// Parameters of the primary according to a standby's control file: a standby does not start with lower ones (keeper
/// 8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StandbyMinimums {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`; `max_prepared_xacts` in the control file.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`; `max_locks_per_xact` in the control file.
    pub max_locks_per_transaction: u32,
}

/// Parameters that a standby may not have lower than its primary, with the defaults of all majors 13 to 18;
/// `max_wal_senders` is always written.
const AT_LEAST_AS_ON_PRIMARY: [(&str, u32); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

/// Returns whether the minimums of a standby matter to a change from `current` to `wanted`: a parameter that it may not
/// have lower than its primary differs.
pub fn changes_minimum_parameters(current: &Parameters, wanted: &Parameters) -> bool {
    let mut names = AT_LEAST_AS_ON_PRIMARY.iter().map(|(name, _)| name);
    names.any(|name| current.get(*name) != wanted.get(*name))
}

/// Raises a standby's parameters to the minimums in its control file, and returns the raised ones. They are lowered by
/// another restart once the primary's lower values are replayed (keeper 8.7 (c)).
pub fn raise_to_minimums(parameters: &mut Parameters, minimums: &StandbyMinimums) -> Vec<RaisedParameter> {
    let minimums = [
        minimums.max_connections,
        minimums.max_worker_processes,
        minimums.max_wal_senders,
        minimums.max_prepared_transactions,
        minimums.max_locks_per_transaction,
    ];
    let mut raised = Vec::new();
    for ((name, default), minimum) in AT_LEAST_AS_ON_PRIMARY.into_iter().zip(minimums) {
        let old = parameters.get(name).cloned();
        let wanted = match &old {
            // The server refuses a value that is not a number.
            Some(text) => match text.trim().parse() {
                Ok(number) => number,
                Err(_) => continue,
            },
            None => default,
        };
        if wanted < minimum {
            let new = Some(minimum.to_string());
            parameters.insert(name.to_owned(), minimum.to_string());
            raised.push(RaisedParameter {
                name: name.to_owned(),
                old,
                new,
            });
        }
    }
    raised
}

/// Recovery mode of an instance's next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecoveryMode {
    /// Unchanged; no recovery settings are written.
    #[default]
    None,
    /// Standby, with `standby.signal`.
    Standby,
    /// Recovery of a backup; its signal file was written when it was restored, and the server removes it.
    Backup,
}

/// Recovery mode and settings. Equal ones need no restart (keeper S4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The mode.
    pub mode: RecoveryMode,
    /// The settings, written after all parameters.
    pub settings: BTreeMap<String, String>,
}

impl Recovery {
    /// Returns the settings of a standby that streams from an instance of the same cluster: `primary_conninfo` (see
    /// `conninfo`) and its slot.
    pub fn follow(primary_conninfo: String, slot: &str) -> Self {
        let settings = [
            ("primary_conninfo".to_owned(), primary_conninfo),
            ("primary_slot_name".to_owned(), slot.to_owned()),
            (TIMELINE.to_owned(), LATEST.to_owned()),
        ];
        Self {
            mode: RecoveryMode::Standby,
            settings: settings.into(),
        }
    }

    /// Returns the settings of a standby that follows a primary outside of this cluster, or only its WAL archive.
    pub fn external(standby: &StandbySettings, archive: Option<&ArchiveRecoverySettings>) -> Self {
        let restore_command = archive.map(|archive| archive.restore_command.clone());
        let values = [
            ("primary_conninfo", standby.primary_conninfo.clone()),
            ("primary_slot_name", standby.primary_slot_name.clone()),
            ("recovery_min_apply_delay", standby.recovery_min_apply_delay.clone()),
            ("restore_command", restore_command.unwrap_or_default()),
            (TIMELINE, LATEST.to_owned()),
        ];
        let given = values.into_iter().filter(|(_, value)| !value.is_empty());
        Self {
            mode: RecoveryMode::Standby,
            settings: given.map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }

    /// Returns the settings for recovering a restored backup, which ends with a promotion (keeper 7.1).
    pub fn of_backup(pitr: &PitrConfig) -> Self {
        let archive = pitr.archive_recovery_settings.as_ref();
        let command = archive
            .map(|archive| archive.restore_command.as_str())
            .filter(|command| !command.is_empty());
        // PostgreSQL insists on a command. Without one only the WAL in the backup is replayed.
        let mut settings = BTreeMap::from([
            ("restore_command".to_owned(), command.unwrap_or(NO_ARCHIVE).to_owned()),
            (TIMELINE.to_owned(), LATEST.to_owned()),
        ]);
        if let Some(target) = &pitr.recovery_target_settings {
            let values = [
                ("recovery_target", &target.recovery_target),
                ("recovery_target_lsn", &target.recovery_target_lsn),
                ("recovery_target_name", &target.recovery_target_name),
                ("recovery_target_time", &target.recovery_target_time),
                ("recovery_target_xid", &target.recovery_target_xid),
                (TIMELINE, &target.recovery_target_timeline),
            ];
            let given = values.into_iter().filter(|(_, value)| !value.is_empty());
            settings.extend(given.map(|(name, value)| (name.to_owned(), value.clone())));
            settings.insert("recovery_target_action".to_owned(), "promote".to_owned());
        }
        Self {
            mode: RecoveryMode::Backup,
            settings,
        }
    }
}

/// A `restore_command` that finds nothing.
const NO_ARCHIVE: &str = "false";

/// Returns the content of a backup's `postgresql.conf` with its recovery settings commented out: a recovery target of an
/// earlier recovery, or the upstream of a former standby.
pub fn without_recovery_settings(content: &[u8]) -> Vec<u8> {
    let is_recovery = |line: &[u8]| {
        let name = line.trim_ascii_start();
        let end = name
            .iter()
            .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
        let name = name[..end.unwrap_or(name.len())].to_ascii_lowercase();
        let reset = RECOVERY_DEFAULTS.iter().map(|(setting, _)| setting);
        let mut settings = RECOVERY_SETTINGS.iter().chain(reset);
        settings.any(|setting| setting.as_bytes() == name)
    };
    let lines = content
        .split(|byte| *byte == b'\n')
        .map(|line| match is_recovery(line) {
            true => [b"#", line].concat(),
            false => line.to_vec(),
        });
    lines.collect::<Vec<_>>().join(&b'\n')
}

/// Returns the contents of the generated file: one line per parameter, sorted by name, recovery settings last.
pub fn render(parameters: &Parameters, recovery: &Recovery) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        push_line(&mut text, name, &quote_ordinary(value));
    }
    if recovery.mode != RecoveryMode::None {
        for (name, value) in &recovery.settings {
            push_line(&mut text, name, &quote_exact(value));
        }
    } else {
        // Written with its default, because removing it takes effect only at a start: a promoted master would report it
        // as pending restart after each reload.
        push_line(&mut text, TIMELINE, LATEST);
    }
    text
}

/// Returns the file for a temporary start: the configuration that PGDATA came with, if any, overridden.
pub fn render_temporary(has_file: bool, parameters: &Parameters, recovery: &Recovery) -> String {
    let mut text = String::new();
    if has_file {
        let _ = writeln!(text, "include '{FILE}'");
        if recovery.mode != RecoveryMode::None {
            // Before the recovery settings: an empty target after the one that is meant would be a second target, which
            // the server refuses.
            let unset = RECOVERY_DEFAULTS
                .iter()
                .filter(|(name, _)| !recovery.settings.contains_key(*name));
            for (name, value) in unset {
                push_line(&mut text, name, value);
            }
        }
    }
    text + &render(parameters, recovery)
}

fn push_line(text: &mut String, name: &str, quoted: &str) {
    text.push_str(name);
    text.push_str(" = '");
    text.push_str(quoted);
    text.push_str("'\n");
}

/// Quotes an ordinary value: single quotes are doubled, backslashes are left for the server to interpret, as in Go
/// stolon (keeper 8.5, rule 2). What would end the string early or break the line is fixed: an escaped quote, a
/// trailing backslash, a newline.
fn quote_ordinary(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => quoted.push_str("''"),
            '\n' => quoted.push_str("\\n"),
            '\\' => {
                quoted.push('\\');
                match rest.next() {
                    None => quoted.push('\\'),
                    Some('\n') => quoted.push('n'),
                    Some(escaped) => quoted.push(escaped),
                }
            }
            _ => quoted.push(c),
        }
    }
    quoted
}

/// Quotes a value of the keeper's own so that the server reads it unchanged.
fn quote_exact(value: &str) -> String {
    // No setting can hold NUL.
    let value = value.replace('\0', "");
    value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
