//! Error responses of a server that refuses a login or a query. Such a response proves that the server is alive. What
//! follows for its health is left to `observe`.

use std::fmt;

use tokio_postgres::error::DbError;

/// An error response of a server that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRefusal {
    /// Its SQLSTATE (PostgreSQL manual, appendix A).
    pub code: String,
    /// Its message.
    pub message: String,
}

impl fmt::Display for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// The refused role, for the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginRole {
    /// The superuser.
    Superuser,
    /// The replication user.
    Replication,
}

impl LoginRole {
    /// Returns its name for messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superuser => "superuser",
            Self::Replication => "replication user",
        }
    }

    const fn option(self) -> &'static str {
        match self {
            Self::Superuser => "--pg-su-password",
            Self::Replication => "--pg-repl-password",
        }
    }
}

impl ServerRefusal {
    /// Returns the refusal in an error response; `None` for one that reports that the server is starting, stopping,
    /// recovering or damaged.
    pub fn new(code: &str, message: &str) -> Option<Self> {
        // 57P01 to 57P03: it is shutting down, has crashed, or does not accept connections now. 58 and XX: a system
        // error, or damaged data.
        let is_refusal = !["57P01", "57P02", "57P03", "58", "XX"]
            .iter()
            .any(|prefix| code.starts_with(prefix));
        is_refusal.then(|| Self {
            code: code.to_owned(),
            message: message.to_owned(),
        })
    }

    pub(crate) fn of(error: &DbError) -> Option<Self> {
        Self::new(error.code().code(), error.message())
    }

    /// Whether another database may be accessible: this one is missing, accepts no connections, or not ours.
    pub fn is_about_database(&self) -> bool {
        matches!(self.code.as_str(), "3D000" | "55000" | "42501")
    }

    /// Returns the remedy for the refused role.
    pub fn remedy(&self, role: LoginRole, user: &str) -> String {
        let option = role.option();
        match self.code.as_str() {
            "28P01" => format!(
                "give role {user:?} the keeper's password (alter role … password … valid until 'infinity'; create \
                 role … if there is none), or write the role's password into the file of {option}file, which is read \
                 again, or restart the keeper with the right {option}"
            ),
            "28000" => format!("allow role {user:?} to log in (alter role … login), and check pg_hba.conf"),
            "3D000" | "55000" => {
                "create the database postgres (create database postgres), or allow connections to it (alter database \
                 postgres allow_connections true)"
                    .to_owned()
            }
            "42501" => match role {
                LoginRole::Superuser => format!("make role {user:?} a superuser again: alter role … superuser"),
                LoginRole::Replication => format!("let role {user:?} replicate again: alter role … replication"),
            },
            "53300" => format!(
                "raise the limit that is used up: alter role {user:?} connection limit -1, max_connections, or \
                 additionalWalSenders of the cluster spec"
            ),
            "57014" => "find out which session cancels the keeper's queries".to_owned(),
            _ => "look into the server's log".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_proves_life_except_starting_stopping_or_damaged() {
        for code in [
            "28P01", "28000", "3D000", "42501", "53300", "57014", "55000", "42704", "53200", "0A000", "57P04", "57P05",
        ] {
            assert!(ServerRefusal::new(code, "no").is_some(), "{code}");
        }
        for code in ["57P01", "57P02", "57P03", "58030", "58P01", "XX000", "XX001"] {
            assert!(ServerRefusal::new(code, "no").is_none(), "{code}");
        }
    }

    #[test]
    fn a_remedy_names_the_role_and_its_option() {
        let refusal = ServerRefusal::new("28P01", "password authentication failed").unwrap();
        let remedy = refusal.remedy(LoginRole::Replication, "repl");
        assert!(
            remedy.contains(r#"role "repl""#) && remedy.contains("--pg-repl-passwordfile"),
            "{remedy}"
        );
        assert_eq!(refusal.to_string(), "password authentication failed (28P01)");
    }
}
