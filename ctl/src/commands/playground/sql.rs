//! The statements of the playground's steps, each on a connection of its own and with a timeout.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls};

use super::load::LoadStats;

/// Timeout of one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a connection and executes one statement.
pub(super) async fn execute(config: &Config, sql: &str) -> anyhow::Result<()> {
    let client = connect(config).await?;
    tokio::time::timeout(STATEMENT_TIMEOUT, client.batch_execute(sql))
        .await
        .context("no response")?
        .context("execute")
}

/// Returns an error unless the tour's row is there.
pub(super) async fn check_row(config: &Config) -> anyhow::Result<()> {
    let client = connect(config).await?;
    let query = client.query_one("select value from test where id = 1", &[]);
    let row = tokio::time::timeout(STATEMENT_TIMEOUT, query)
        .await
        .context("no response")?
        .context("the row is not there")?;
    let value: &str = row.get(0);
    ensure!(value == "value1", "the row has the value {value:?}");
    Ok(())
}

/// Returns the number of acknowledged rows that are not in the table.
pub(super) async fn lost_rows(config: &Config, stats: &LoadStats) -> anyhow::Result<i64> {
    let client = connect(config).await?;
    let mut lost = 0;
    for run in &stats.acknowledged {
        let (first, last) = (*run.start(), *run.end());
        let parameters: [&(dyn ToSql + Sync); 2] = [&first, &last];
        let query = client.query_one("select count(*) from gap where id between $1 and $2", &parameters);
        let row = tokio::time::timeout(STATEMENT_TIMEOUT, query)
            .await
            .context("no response")??;
        lost += run.end() - run.start() + 1 - row.get::<_, i64>(0);
    }
    Ok(lost)
}

async fn connect(config: &Config) -> anyhow::Result<Client> {
    let connect = config.connect(NoTls);
    let (client, connection) = tokio::time::timeout(STATEMENT_TIMEOUT, connect)
        .await
        .context("no response")??;
    // It ends with the client; its errors reach the client as well.
    tokio::spawn(async { drop(connection.await) });
    Ok(client)
}
