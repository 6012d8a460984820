//! Superuser and replication role of a new database cluster (keeper 13.2). Passwords are sent as SCRAM verifiers, so
//! that they never appear in plain text in the server's logs or statistics.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use tracing::info;

use crate::postgres::client::sql::SqlClient;
use crate::postgres::client::sql_error::SqlError;
use crate::postgres::config::credentials::{AuthMethod, Login};

/// Sets the superuser's password and creates the replication role.
pub async fn set_up(sql: &SqlClient, superuser: &Login, replication: &Login) -> Result<(), SqlError> {
    info!("setting roles");
    if superuser.user == replication.user {
        let statement = format!(
            "alter role {} with login replication",
            escape_identifier(&superuser.user)
        );
        run(sql, "make the superuser the replication role", statement, superuser).await?;
        info!("replication role added to superuser");
        return Ok(());
    }
    if superuser.method != AuthMethod::Trust {
        info!("setting superuser password");
        let statement = format!("alter role {} with", escape_identifier(&superuser.user));
        run(sql, "set the superuser's password", statement, superuser).await?;
        info!("superuser password set");
    }
    info!("creating replication role");
    let statement = format!(
        "create role {} with login replication",
        escape_identifier(&replication.user)
    );
    run(sql, "create the replication role", statement, replication).await?;
    info!(role = %replication.user, "replication role created");
    Ok(())
}

/// Runs a statement with the login's password appended, without logging it in the server.
async fn run(sql: &SqlClient, action: &'static str, mut statement: String, login: &Login) -> Result<(), SqlError> {
    if let Some(password) = login.password() {
        let verifier = scram_sha_256(password.as_bytes());
        statement.push_str(&format!(" encrypted password {}", escape_literal(&verifier)));
    }
    let quiet = [
        "set local log_statement = 'none'",
        "set local log_min_duration_statement = -1",
        "set local log_min_error_statement = 'panic'",
    ];
    let statements: Vec<_> = quiet.into_iter().map(str::to_owned).chain([statement]).collect();
    sql.transaction(action, &statements).await
}
