//! The settings that every session of the keeper begins with. They stand in the startup packet, where they win over the
//! configuration files and over `ALTER ROLE … SET` and `ALTER DATABASE … SET` (PostgreSQL manual 20.1.4): whatever users
//! set for themselves, a question of the keeper means what it says. Opening sessions is left to `sql` and `replication`.

use crate::postgres::programs::Programs;

/// Who logs in, which decides what may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionUser {
    /// The superuser, who may set everything.
    Superuser,
    /// The replication user: a superuser's setting in its packet would end the session.
    Replication,
}

/// A setting and its value for our sessions.
struct SessionSetting {
    name: &'static str,
    value: &'static str,
    /// The first major that has it: a server ends a session over a name that it does not know.
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

/// All of them. What has no `since` is there in every supported major, from 13 on.
const SETTINGS: &[SessionSetting] = &[
    // How long a question may take is decided by the keeper, which cancels it.
    everybody("statement_timeout", "0"),
    everybody("lock_timeout", "0"),
    everybody("idle_in_transaction_session_timeout", "0"),
    since(14, everybody("idle_session_timeout", "0")),
    since(17, everybody("transaction_timeout", "0")),
    // A standby refuses serializable transactions, and a read-only one creates no role.
    everybody("default_transaction_isolation", "read committed"),
    everybody("default_transaction_read_only", "off"),
    everybody("default_transaction_deferrable", "off"),
    // No question waits for a standby.
    everybody("synchronous_commit", "local"),
    // As whom, and on whose objects.
    everybody("role", "none"),
    everybody("search_path", "pg_catalog"),
    everybody("row_security", "on"),
    everybody("default_tablespace", ""),
    everybody("temp_tablespaces", ""),
    superuser_only("session_replication_role", "origin"),
    // A login trigger of a database runs before the first question.
    since(17, superuser_only("event_triggers", "off")),
    // Libraries of users hook into every statement.
    everybody("local_preload_libraries", ""),
    superuser_only("session_preload_libraries", ""),
    // The form of questions and answers.
    everybody("client_encoding", "UTF8"),
    everybody("DateStyle", "ISO"),
    everybody("bytea_output", "hex"),
    everybody("standard_conforming_strings", "on"),
    everybody("client_min_messages", "warning"),
    // A look each few seconds is no line in the server's log.
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

/// The major of a server of these programs, when it is known.
pub async fn major(programs: Option<&Programs>) -> Option<u32> {
    Some(programs?.version().await.ok()?.major)
}

/// The value of `options` in the startup packet for a server of this major; `None`: it is not known, so only what every
/// supported major has.
pub fn options(major: Option<u32>, who: SessionUser) -> String {
    let applies = |setting: &&SessionSetting| {
        let is_known = setting.since == 0 || major.is_some_and(|major| setting.since <= major);
        is_known && (who == SessionUser::Superuser || !setting.superuser_only)
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
