//! Settings of every session of the keeper. They are sent in the startup packet, where they override the configuration
//! files, `ALTER ROLE … SET` and `ALTER DATABASE … SET` (PostgreSQL manual 20.1.4), so that users' settings do not
//! change the keeper's queries. Opening sessions is left to `sql` and `replication`.

use crate::postgres::programs::installation::Programs;

/// The database used for administration.
pub const DATABASE: &str = "postgres";

/// User of a session, which decides what may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionUser {
    /// The superuser may set everything.
    Superuser,
    /// The replication user: a superuser-only setting would make its login fail.
    Replication,
}

/// A setting and its value.
struct SessionSetting {
    name: &'static str,
    value: &'static str,
    /// First major that has it: a server refuses a session with an unknown setting.
    since: u32,
    /// Only a superuser may set it.
    superuser_only: bool,
}

const fn everybody(name: &'static str, value: &'static str) -> SessionSetting {
    SessionSetting {
        name,
        value,
        since: 0,
        superuser_only: false,
    }
}

const fn superuser_only(name: &'static str, value: &'static str) -> SessionSetting {
    SessionSetting {
        superuser_only: true,
        ..everybody(name, value)
    }
}

const fn since(major: u32, setting: SessionSetting) -> SessionSetting {
    SessionSetting {
        since: major,
        ..setting
    }
}

/// All settings. Those without `since` exist in every supported major, from 13 on.
const SETTINGS: &[SessionSetting] = &[
    // The keeper limits its queries itself and cancels them.
    everybody("statement_timeout", "0"),
    everybody("lock_timeout", "0"),
    everybody("idle_in_transaction_session_timeout", "0"),
    since(14, everybody("idle_session_timeout", "0")),
    since(17, everybody("transaction_timeout", "0")),
    // A standby refuses serializable transactions, and a read-only transaction cannot create a role.
    everybody("default_transaction_isolation", "read committed"),
    everybody("default_transaction_read_only", "off"),
    everybody("default_transaction_deferrable", "off"),
    // No query waits for a standby.
    everybody("synchronous_commit", "local"),
    // User and objects of the queries.
    everybody("role", "none"),
    everybody("search_path", "pg_catalog"),
    everybody("row_security", "on"),
    everybody("default_tablespace", ""),
    everybody("temp_tablespaces", ""),
    superuser_only("session_replication_role", "origin"),
    // Login triggers would run before the first query.
    since(17, superuser_only("event_triggers", "off")),
    // Users' libraries would hook into every statement.
    everybody("local_preload_libraries", ""),
    superuser_only("session_preload_libraries", ""),
    // Format of queries and results.
    everybody("client_encoding", "UTF8"),
    everybody("DateStyle", "ISO"),
    everybody("bytea_output", "hex"),
    everybody("standard_conforming_strings", "on"),
    everybody("client_min_messages", "warning"),
    // Periodic queries are not logged.
    superuser_only("log_statement", "none"),
    superuser_only("log_duration", "off"),
    superuser_only("log_min_duration_statement", "-1"),
    superuser_only("log_min_duration_sample", "-1"),
    superuser_only("log_transaction_sample_rate", "0"),
    superuser_only("log_parser_stats", "off"),
    superuser_only("log_planner_stats", "off"),
    superuser_only("log_executor_stats", "off"),
    superuser_only("log_statement_stats", "off"),
];

/// Returns the major of a server of these programs, if known.
pub async fn major(programs: Option<&Programs>) -> Option<u32> {
    Some(programs?.version().await.ok()?.major)
}

/// Returns the value of `options` in the startup packet for a server of this major; `None`: unknown, so only settings
/// of every supported major.
pub fn options(major: Option<u32>, user: SessionUser) -> String {
    let applies = |setting: &&SessionSetting| {
        let is_known = setting.since == 0 || major.is_some_and(|major| setting.since <= major);
        is_known && (user == SessionUser::Superuser || !setting.superuser_only)
    };
    let words: Vec<String> = SETTINGS
        .iter()
        .filter(applies)
        .map(|setting| format!("-c {}={}", setting.name, setting.value.replace(' ', "\\ ")))
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_sent_only_settings_that_it_knows() {
        let names = |major| {
            let options = options(major, SessionUser::Superuser);
            ["idle_session_timeout", "transaction_timeout", "event_triggers"].map(|name| options.contains(name))
        };
        assert_eq!(names(None), [false, false, false]);
        assert_eq!(names(Some(13)), [false, false, false]);
        assert_eq!(names(Some(14)), [true, false, false]);
        assert_eq!(names(Some(16)), [true, false, false]);
        assert_eq!(names(Some(17)), [true, true, true]);
        assert_eq!(names(Some(18)), [true, true, true]);
    }

    #[test]
    fn the_replication_user_sets_nothing_that_only_superusers_may() {
        let options = options(Some(18), SessionUser::Replication);
        assert!(!options.contains("log_"), "{options}");
        assert!(!options.contains("session_replication_role"), "{options}");
        assert!(
            options.contains(r"-c default_transaction_isolation=read\ committed"),
            "{options}"
        );
    }
}
