//! Connections to servers, the own one and others: sessions, SQL queries and replication commands.

pub mod connect;
pub mod refusal;
mod refused_logins;
pub mod replication;
pub mod replication_state;
pub mod roles;
pub mod round_state;
mod rows;
pub mod session_settings;
pub mod sql;
mod sql_connection;
pub mod sql_error;
mod sql_session;
pub mod upstream;
mod wire;
