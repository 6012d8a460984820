//! What `postgresql.conf` says: parameters with their precedence, recovery settings, and how both are quoted
//! (keeper sections 7 and 8). Writing the file and telling the server is `instance`'s work.

use std::collections::{BTreeMap, BTreeSet};

use control::model::{ParameterFault, is_never_reported, parameter_fault};

/// Parameters by name.
pub type Parameters = BTreeMap<String, String>;

/// Name of the generated file in the data directory.
pub const FILE: &str = "postgresql.conf";
/// Name of the file for temporary starts, which includes what the data directory came with (keeper 8.5).
pub const TEMPORARY_FILE: &str = "stolon-temp-postgresql.conf";

/// Everything that the parameters of an instance are made of.
#[derive(Debug, Clone, Copy)]
pub struct ParameterSources<'a> {
    /// Those read right after the initialisation, while the spec says that they count.
    pub init: Option<&'a Parameters>,
    /// The user's.
    pub user: &'a Parameters,
    /// `listen_addresses`, verbatim.
    pub listen_addresses: &'a str,
    /// `port`.
    pub port: &'a str,
    /// Directories of the unix sockets, parted by commas.
    pub socket_dir: &'a str,
    /// As many slots, and twice as many WAL senders.
    pub max_standbys: u32,
    /// Slots for others than standbys.
    pub slots: SlotNeeds,
    /// WAL senders for others than standbys.
    pub additional_wal_senders: u32,
    /// Pages are to be logged for a rewind.
    pub use_pg_rewind: bool,
    /// `synchronous_standby_names`, see [`synchronous_standby_names`].
    pub synchronous_standby_names: &'a str,
}

/// What needs replication slots besides the standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotNeeds {
    /// The cluster's additional slots.
    pub additional: u32,
    /// Slots in the data directory that others made: names without our prefix.
    pub foreign: u32,
    /// All slots in the data directory: with fewer the server does not start.
    pub existing: u32,
}

impl SlotNeeds {
    /// `max_replication_slots`, so that neither a standby nor an additional slot lacks room.
    fn sum(self, max_standbys: u32) -> u64 {
        let sum = u64::from(max_standbys) + u64::from(self.additional) + u64::from(self.foreign);
        sum.max(self.existing.into())
    }
}

/// The parameters to write, and what of the user's was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedParameters {
    /// The parameters; names in lower case, which is one to the server.
    pub parameters: Parameters,
    /// The user's parameters that no server may be given, by name, each with the reason. `stolonctl` refuses them; a
    /// spec that another program wrote may hold them.
    pub dropped: BTreeMap<String, String>,
}

/// Makes the parameters, later sources over earlier ones (keeper 8.1 to 8.4). Sizes that a major below 13 would
/// count in segments are not known here (design D-10).
pub fn parameters(sources: &ParameterSources<'_>) -> GeneratedParameters {
    let mut parameters = Parameters::new();
    let mut dropped = BTreeMap::new();
    for (name, value) in sources.init.into_iter().flatten() {
        // What the keeper sets itself was read from its own file.
        if parameter_fault(name, value).is_none() {
            parameters.insert(name.to_ascii_lowercase(), value.clone());
        }
    }
    for (name, value) in sources.user {
        match parameter_fault(name, value) {
            None => {
                parameters.insert(name.to_ascii_lowercase(), value.clone());
            }
            Some(ParameterFault::Unreadable(why)) => {
                dropped.insert(name.clone(), why);
            }
            Some(ParameterFault::Owned(why) | ParameterFault::Set(why)) => {
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

/// The least WAL kept, in MB: 8 segments.
const WAL_KEEP_SIZE: &str = "128";

/// Which timeline a recovery follows, and the default of that from PostgreSQL 12 on.
const TIMELINE: &str = "recovery_target_timeline";
const LATEST: &str = "latest";

/// Recovery settings (keeper 7.1), which an instance's parameters never hold.
const RECOVERY_SETTINGS: [&str; 11] = [
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    TIMELINE,
    "recovery_target_xid",
    "restore_command",
];

/// The configured parameters less the managed ones and the recovery settings: what is published.
pub fn published(configured: &Parameters) -> Parameters {
    let ours = |name: &str| is_never_reported(name) || RECOVERY_SETTINGS.contains(&name);
    configured
        .iter()
        .filter(|(name, _)| !ours(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The value of `synchronous_standby_names` that waits for all of these, in priority mode (keeper section 10).
pub fn synchronous_standby_names<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        many => format!("{} ({})", many.len(), many.join(",")),
    }
}

/// A parameter whose value is not the same in two sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaisedParameter {
    /// Its name.
    pub name: String,
    /// Its old value; `None` when it was not set.
    pub old: Option<String>,
    /// Its new value; `None` when it is not set any more.
    pub new: Option<String>,
}

/// What a standby's control file says that its primary had: a standby that starts with less does not start
/// (keeper 8.7).
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

/// Raises a standby's parameters to what its control file asks for, and tells which were raised: they may come down,
/// by another restart, once the primary's lower value has been replayed (keeper 8.7 (c)).
pub fn raise_to_minimums(parameters: &mut Parameters, minima: &StandbyMinimums) -> Vec<RaisedParameter> {
    // The defaults of all majors 13 to 18; max_wal_senders is always written.
    let rows = [
        ("max_connections", minima.max_connections, 100),
        ("max_worker_processes", minima.max_worker_processes, 8),
        ("max_wal_senders", minima.max_wal_senders, 10),
        ("max_prepared_transactions", minima.max_prepared_transactions, 0),
        ("max_locks_per_transaction", minima.max_locks_per_transaction, 64),
    ];
    let mut raised = Vec::new();
    for (name, minimum, default) in rows {
        let old = parameters.get(name).cloned();
        let wanted = match &old {
            // What is no number is for the server to refuse.
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

/// How an instance comes out of its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecoveryMode {
    /// As what it is; no recovery settings are written.
    #[default]
    None,
    /// As a standby, with `standby.signal`.
    Standby,
    /// After recovering to a target, with `recovery.signal`.
    Recovery,
}

/// The text of a recovery setting, and with it how it is quoted (keeper 8.5, rule 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Made by the keeper: it arrives at the server as it is here.
    Made(String),
    /// Written by a user for the file: what is a valid quoted body already is written raw, as the reference does.
    Written(String),
}

/// Recovery settings: a mode and its parameters. Equal ones need no restart (keeper S4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The mode.
    pub mode: RecoveryMode,
    /// The parameters, written after all others.
    pub settings: BTreeMap<String, Setting>,
}

impl Recovery {
    /// A standby that streams from an instance of the same cluster: `primary_conninfo` (see `conninfo`) and its slot.
    pub fn follow(primary_conninfo: String, slot: &str) -> Self {
        let settings = [
            ("primary_conninfo".to_owned(), Setting::Made(primary_conninfo)),
            ("primary_slot_name".to_owned(), Setting::Made(slot.to_owned())),
            (TIMELINE.to_owned(), Setting::Made(LATEST.to_owned())),
        ];
        Self {
            mode: RecoveryMode::Standby,
            settings: settings.into(),
        }
    }
}

/// What a change of recovery settings asks of a running standby (keeper 8.6, table row "recovery parameters").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    /// Nothing changed.
    Nothing,
    /// All that changed is taken over by a reload.
    Reload,
    /// The server must be restarted.
    Restart,
}

/// Tells whether a standby of `major` takes over the change by a reload: from 13 on a new primary, from 14 on a new
/// `restore_command` too, and always a new delay.
pub fn application(old: &Recovery, new: &Recovery, major: u32) -> Application {
    if old == new {
        return Application::Nothing;
    }
    if old.mode != new.mode {
        return Application::Restart;
    }
    let names: BTreeSet<_> = old.settings.keys().chain(new.settings.keys()).collect();
    let mut changed = names
        .into_iter()
        .filter(|name| old.settings.get(*name) != new.settings.get(*name));
    let by_reload = changed.all(|name| match name.as_str() {
        "recovery_min_apply_delay" => true,
        "primary_conninfo" | "primary_slot_name" => major >= 13,
        "restore_command" => major >= 14,
        _ => false,
    });
    if by_reload {
        Application::Reload
    } else {
        Application::Restart
    }
}

/// The whole content of the generated file: one line a parameter, sorted by name, recovery settings last.
pub fn render(parameters: &Parameters, recovery: &Recovery) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        push_line(&mut text, name, &quote_ordinary(value));
    }
    if recovery.mode != RecoveryMode::None {
        for (name, setting) in &recovery.settings {
            push_line(&mut text, name, &quote_setting(setting));
        }
    } else {
        // Only a start takes it away: a promoted master would report it as pending at each reload, though it is the default.
        push_line(&mut text, TIMELINE, LATEST);
    }
    text
}

/// The file for a temporary start: what the data directory came with, if it has a configuration, overridden.
pub fn render_temporary(has_file: bool, parameters: &Parameters, recovery: &Recovery) -> String {
    let include = if has_file {
        format!("include '{FILE}'\n")
    } else {
        String::new()
    };
    include + &render(parameters, recovery)
}

fn push_line(text: &mut String, name: &str, quoted: &str) {
    text.push_str(name);
    text.push_str(" = '");
    text.push_str(quoted);
    text.push_str("'\n");
}

/// The body of an ordinary value: single quotes doubled, backslashes left for the server to interpret, as the
/// reference does (keeper 8.5, rule 2). What would end the string early or break the line is mended: a quote that
/// has its backslash already, a dangling backslash, a newline.
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

fn quote_setting(setting: &Setting) -> String {
    match setting {
        Setting::Made(value) => value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n"),
        Setting::Written(body) if is_quoted_body(body) => body.clone(),
        Setting::Written(text) => quote_ordinary(text),
    }
}

/// Is this what may stand between two single quotes: every quote in it doubled or after a backslash, no dangling
/// backslash, no newline?
fn is_quoted_body(body: &str) -> bool {
    let mut rest = body.chars();
    while let Some(c) = rest.next() {
        let fine = match c {
            '\n' => false,
            '\\' => rest.next().is_some_and(|escaped| escaped != '\n'),
            '\'' => rest.next() == Some('\''),
            _ => true,
        };
        if !fine {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
