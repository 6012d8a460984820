//! The walk-through, performed: each step told in a line with the time it took.

use std::time::Duration;

use anyhow::{Context, ensure};
use control::model::Role;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls};

use super::load::{Load, Met};
use super::now;
use super::stage::Stage;
use super::view::{KeeperView, look};

/// Shorter intervals than the defaults, so that nobody waits 20 s for a dead master to be taken for dead; and what a
/// killed server leaves is in its directory, not in /dev/shm, where nobody could tell whose it is.
const SPEC: &str = r#"{
    "initMode": "new", "sleepInterval": "1s", "requestTimeout": "2s", "failInterval": "4s",
    "proxyCheckInterval": "1s", "proxyTimeout": "3s", "pgParameters": {"dynamic_shared_memory_type": "mmap"}
}"#;
/// How long a step of the store, a sentinel or a proxy may take.
const SOON: Duration = Duration::from_secs(30);
/// How long a step may take in which PostgreSQL is initialised, copied, recovered or elected.
const LATER: Duration = Duration::from_secs(120);
/// How long one statement may take.
const STATEMENT: Duration = Duration::from_secs(5);

/// Starts etcd, initialises the cluster, starts two sentinels, a keeper and a proxy: clients are served then.
pub(super) async fn open(stage: &mut Stage) -> anyhow::Result<()> {
    let etcd = format!("etcd on port {}: the store", stage.ports.etcd);
    stage.screen.begin(etcd, now());
    stage.start_etcd()?;
    stage
        .until("etcd", SOON, async |stage| Ok(look(&stage.store).await?))
        .await?;
    stage.screen.done("", now());

    stage.screen.begin(
        "stolonctl init: a new cluster (failInterval 4s here, 20s by default)",
        now(),
    );
    stage.stolonctl(&["init", "--yes", SPEC]).await?;
    stage.screen.done("", now());

    stage
        .screen
        .begin("two sentinels: one leads, the other stands by", now());
    stage.start_sentinel("sentinel0")?;
    stage.start_sentinel("sentinel1")?;
    let leader = stage
        .until("sentinel0", SOON, async |stage| {
            let view = look(&stage.store).await?;
            ensure!(view.candidates == 2, "{} of 2 sentinels have applied", view.candidates);
            view.leader.context("no sentinel leads")
        })
        .await?;
    stage.screen.done(&format!("{leader} leads"), now());

    stage.screen.begin(
        "keeper postgres0: initialises PostgreSQL, becomes the first master",
        now(),
    );
    stage.start_keeper(0)?;
    settled(stage, "postgres0", Role::Master).await?;
    stage.screen.done("", now());

    let proxy = format!(
        "proxy on port {}: clients reach the master through it",
        stage.ports.proxy
    );
    stage.screen.begin(proxy, now());
    stage.start_proxy()?;
    let through = stage.connection(stage.ports.proxy);
    stage
        .until("proxy", SOON, async |_| execute(&through, "select 1").await)
        .await?;
    stage.screen.done("", now());
    Ok(())
}

/// Starts the other two keepers and waits until they follow.
pub(super) async fn add_standbys(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .screen
        .begin("keepers postgres1 and postgres2: copy the master and follow it", now());
    stage.start_keeper(1)?;
    stage.start_keeper(2)?;
    settled(stage, "postgres1", Role::Standby).await?;
    settled(stage, "postgres2", Role::Standby).await?;
    stage.screen.done("", now());
    Ok(())
}

/// A row through the proxy, standbys that have it, the death of the master, and life after it.
pub(super) async fn perform(stage: &mut Stage) -> anyhow::Result<()> {
    let through = stage.connection(stage.ports.proxy);

    stage.screen.begin(
        "through the proxy: create table test, insert into test values (1, 'value1')",
        now(),
    );
    execute(
        &through,
        "create table test (id int primary key not null, value text not null)",
    )
    .await?;
    execute(&through, "insert into test values (1, 'value1')").await?;
    stage.screen.done("", now());

    add_standbys(stage).await?;

    stage.screen.begin("the row on both standbys", now());
    for (index, uid) in ["postgres1", "postgres2"].into_iter().enumerate() {
        let standby = stage.connection(stage.ports.postgres[index + 1]);
        stage.until(uid, SOON, async |_| has_the_row(&standby).await).await?;
    }
    stage.screen.done("", now());

    execute(&through, "create table gap (id bigint primary key)").await?;
    stage
        .screen
        .begin("a client commits row after row through the proxy", now());
    let load = Load::start(through.clone());
    let before = stage
        .until("proxy", SOON, async |_| {
            let met = load.met();
            let rows = count(&met);
            ensure!(rows >= 200, "{rows} rows so far");
            Ok(rows)
        })
        .await?;
    stage.screen.done(&format!("{before} rows"), now());

    stage.screen.begin(
        "SIGKILL: the master's keeper and every process of its PostgreSQL",
        now(),
    );
    stage.kill_keeper("postgres0").await?;
    stage.screen.done("", now());

    stage.screen.begin("the sentinel notices and elects a standby", now());
    let elected = stage
        .until("sentinel0", LATER, async |stage| {
            let master = look(&stage.store).await?.master.context("no master is elected")?;
            ensure!(master != "postgres0", "postgres0 is still the master");
            Ok(master)
        })
        .await?;
    stage.screen.done(&elected, now());

    let text = format!("{elected} is promoted, the proxy sends clients to it");
    stage.screen.begin(text, now());
    let acknowledged = count(&load.met());
    stage
        .until(&elected, LATER, async |_| {
            ensure!(count(&load.met()) > acknowledged + 50, "the client is not served");
            Ok(())
        })
        .await?;
    let met = load.met();
    drop(load);
    let gap = met.longest_gap.as_secs_f64();
    stage.screen.done(&format!("the client's gap was {gap:.1} s"), now());

    stage
        .screen
        .begin("the row is still there, and the client's rows", now());
    stage
        .until("proxy", SOON, async |_| has_the_row(&through).await)
        .await?;
    let lost = lost_rows(&through, &met).await?;
    stage
        .screen
        .done(&format!("{lost} of {} acknowledged ones are lost", count(&met)), now());

    stage
        .screen
        .begin("keeper postgres0 starts again: the old master becomes a standby", now());
    stage.start_keeper(0)?;
    settled(stage, "postgres0", Role::Standby).await?;
    let old_master = stage.connection(stage.ports.postgres[0]);
    stage
        .until("postgres0", SOON, async |_| has_the_row(&old_master).await)
        .await?;
    stage.screen.done("with the row", now());
    Ok(())
}

/// The cluster in a few lines, for somebody who watches.
pub(super) async fn status(stage: &Stage) -> Vec<String> {
    let view = match look(&stage.store).await {
        Ok(view) => view,
        Err(error) => return vec![format!("the store does not answer: {error:#}")],
    };
    let ahead = view
        .keepers
        .iter()
        .filter_map(|keeper| keeper.db.as_ref())
        .map(|db| db.position)
        .max();
    let row = |keeper: &KeeperView| {
        let Some(db) = &keeper.db else {
            return format!("  {:10} no instance", keeper.uid);
        };
        let role = db.role.to_string();
        let health = if keeper.healthy && db.healthy {
            "healthy"
        } else {
            "failed"
        };
        let detail = match &db.follows {
            Some(master) => {
                format!(
                    "follows {master}, {} bytes behind",
                    ahead.map_or(0, |ahead| db.position.behind(ahead)).max(0)
                )
            }
            None => String::new(),
        };
        format!("  {:10} {role:8} {health:8} {:16} {detail}", keeper.uid, db.address)
    };
    let mut lines: Vec<String> = view.keepers.iter().map(row).collect();
    lines.push(match (&view.proxied, &view.leader) {
        (Some(master), Some(leader)) => format!("  proxy → {master}; sentinel {leader} leads"),
        (Some(master), None) => format!("  proxy → {master}; no sentinel leads"),
        (None, _) => "  proxy → nowhere, for the moment".to_owned(),
    });
    lines
}

async fn settled(stage: &mut Stage, uid: &str, role: Role) -> anyhow::Result<()> {
    stage
        .until(uid, LATER, async |stage| {
            let view = look(&stage.store).await?;
            view.settled(uid, &role)
                .with_context(|| format!("{uid} is not a healthy {role}"))?;
            Ok(())
        })
        .await
}

/// One connection, one statement.
async fn execute(config: &Config, sql: &str) -> anyhow::Result<()> {
    let client = connect(config).await?;
    tokio::time::timeout(STATEMENT, client.batch_execute(sql))
        .await
        .context("no answer")?
        .context("execute")
}

async fn has_the_row(config: &Config) -> anyhow::Result<()> {
    let client = connect(config).await?;
    let query = client.query_one("select value from test where id = 1", &[]);
    let row = tokio::time::timeout(STATEMENT, query)
        .await
        .context("no answer")?
        .context("the row is not there")?;
    let value: &str = row.get(0);
    ensure!(value == "value1", "the row has the value {value:?}");
    Ok(())
}

async fn connect(config: &Config) -> anyhow::Result<Client> {
    let connect = config.connect(NoTls);
    let (client, connection) = tokio::time::timeout(STATEMENT, connect).await.context("no answer")??;
    // it ends with the client, and its error is the client's, too
    tokio::spawn(async { drop(connection.await) });
    Ok(client)
}

fn count(met: &Met) -> i64 {
    met.acknowledged.iter().map(|run| run.end() - run.start() + 1).sum()
}

/// How many acknowledged rows are not in the table.
async fn lost_rows(config: &Config, met: &Met) -> anyhow::Result<i64> {
    let client = connect(config).await?;
    let mut lost = 0;
    for run in &met.acknowledged {
        let (first, last) = (*run.start(), *run.end());
        let parameters: [&(dyn ToSql + Sync); 2] = [&first, &last];
        let query = client.query_one("select count(*) from gap where id between $1 and $2", &parameters);
        let row = tokio::time::timeout(STATEMENT, query).await.context("no answer")??;
        lost += run.end() - run.start() + 1 - row.get::<_, i64>(0);
    }
    Ok(lost)
}
