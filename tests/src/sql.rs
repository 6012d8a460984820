//! A SQL client: one connection, a timeout for every statement.

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::deadlines::STATEMENT_TIMEOUT;

/// An open connection, which is closed when this is dropped.
#[derive(Debug)]
pub struct SqlClient {
    client: Client,
    connection: JoinHandle<()>,
}

impl SqlClient {
    /// Connects.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, refuses, or does not answer in time.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        let connect = tokio::time::timeout(STATEMENT_TIMEOUT, config.connect(NoTls));
        let (client, connection) = connect.await.context("connect: no response")?.context("connect")?;
        // The client's calls fail with the same error.
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Self { client, connection })
    }

    /// Runs statements and ignores their rows.
    ///
    /// # Errors
    ///
    /// A statement fails, or the server does not answer in time.
    pub async fn run(&self, sql: &str) -> anyhow::Result<()> {
        let run = tokio::time::timeout(STATEMENT_TIMEOUT, self.client.batch_execute(sql));
        run.await
            .with_context(|| format!("{sql}: no response"))?
            .with_context(|| sql.to_owned())
    }

    /// Returns the first column of the first row as text, the empty string for null.
    ///
    /// # Errors
    ///
    /// As [`Self::run`], and when there is no row.
    pub async fn value(&self, sql: &str) -> anyhow::Result<String> {
        let rows = self.column(sql).await?;
        rows.into_iter().next().with_context(|| format!("{sql}: no row"))
    }

    /// Returns the first column of all rows as text, the empty string for null.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub async fn column(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        let query = tokio::time::timeout(STATEMENT_TIMEOUT, self.client.simple_query(sql));
        let answer = query
            .await
            .with_context(|| format!("{sql}: no response"))?
            .with_context(|| sql.to_owned())?;
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Returns whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

impl Drop for SqlClient {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
