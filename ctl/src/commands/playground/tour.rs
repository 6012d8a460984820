//! The steps of the playground and of its walk-through. Each is printed as one line with the time it took.

use std::time::Duration;

use anyhow::{Context, ensure};
use model::Role;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls};

use super::load::{Load, LoadStats};
use super::local_cluster::LocalCluster;
use super::now;
use super::view::{KeeperView, read_view};

/// Intervals shorter than the defaults, so that a dead master is detected in 4 s instead of 20 s. With `mmap` a killed
/// server leaves its shared memory in its own directory and not in /dev/shm, where it could not be attributed.
const SPEC: &str = r#"{
    "initMode": "new", "sleepInterval": "1s", "requestTimeout": "2s", "failInterval": "4s",
    "proxyCheckInterval": "1s", "proxyTimeout": "3s", "pgParameters": {"dynamic_shared_memory_type": "mmap"}
}"#;
/// Timeout of a step of the store, a sentinel or a proxy.
const SHORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a step in which PostgreSQL is initialised, copied or recovered, or a master is elected.
const LONG_TIMEOUT: Duration = Duration::from_secs(120);
/// Timeout of one statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts etcd, initialises the cluster, starts two sentinels, a keeper and a proxy. Clients are served when it
/// returns.
pub(super) async fn start_cluster(cluster: &mut LocalCluster) -> anyhow::Result<()> {
    let etcd = format!("etcd on port {}: the store", cluster.ports.etcd);
    cluster.screen.begin_step(etcd, now());
    cluster.start_etcd()?;
    cluster
        .wait_until("etcd", SHORT_TIMEOUT, async |cluster| read_view(&cluster.store).await)
        .await?;
    cluster.screen.finish_step("", now());

    cluster.screen.begin_step(
        "stolonctl init: a new cluster (failInterval 4s here, 20s by default)",
        now(),
    );
    cluster.stolonctl(&["init", "--yes", SPEC]).await?;
    cluster.screen.finish_step("", now());

    cluster
        .screen
        .begin_step("two sentinels: one leads, the other stands by", now());
    cluster.start_sentinel("sentinel0")?;
    cluster.start_sentinel("sentinel1")?;
    let leader = cluster
        .wait_until("sentinel0", SHORT_TIMEOUT, async |cluster| {
            let view = read_view(&cluster.store).await?;
            ensure!(view.candidates == 2, "{} of 2 sentinels campaign", view.candidates);
            view.leader.context("no sentinel leads")
        })
        .await?;
    cluster.screen.finish_step(&format!("{leader} leads"), now());

    cluster.screen.begin_step(
        "keeper postgres0: initialises PostgreSQL, becomes the first master",
        now(),
    );
    cluster.start_keeper(0)?;
    wait_for_role(cluster, "postgres0", Role::Master).await?;
    cluster.screen.finish_step("", now());

    let proxy = format!(
        "proxy on port {}: clients reach the master through it",
        cluster.ports.proxy
    );
    cluster.screen.begin_step(proxy, now());
    cluster.start_proxy()?;
    let through = cluster.client_config(cluster.ports.proxy);
    cluster
        .wait_until("proxy", SHORT_TIMEOUT, async |_| execute(&through, "select 1").await)
        .await?;
    cluster.screen.finish_step("", now());
    Ok(())
}

/// Starts the other two keepers and waits until they follow the master.
pub(super) async fn add_standbys(cluster: &mut LocalCluster) -> anyhow::Result<()> {
    cluster
        .screen
        .begin_step("keepers postgres1 and postgres2: copy the master and follow it", now());
    cluster.start_keeper(1)?;
    cluster.start_keeper(2)?;
    wait_for_role(cluster, "postgres1", Role::Standby).await?;
    wait_for_role(cluster, "postgres2", Role::Standby).await?;
    cluster.screen.finish_step("", now());
    Ok(())
}

/// The walk-through: inserts a row through the proxy, adds standbys, kills the master, and waits until another one
/// serves the client and the old one has become a standby.
pub(super) async fn run_steps(cluster: &mut LocalCluster) -> anyhow::Result<()> {
    let through = cluster.client_config(cluster.ports.proxy);

    cluster.screen.begin_step(
        "through the proxy: create table test, insert into test values (1, 'value1')",
        now(),
    );
    execute(
        &through,
        "create table test (id int primary key not null, value text not null)",
    )
    .await?;
    execute(&through, "insert into test values (1, 'value1')").await?;
    cluster.screen.finish_step("", now());

    add_standbys(cluster).await?;

    cluster.screen.begin_step("the row on both standbys", now());
    for (index, uid) in ["postgres1", "postgres2"].into_iter().enumerate() {
        let standby = cluster.client_config(cluster.ports.postgres[index + 1]);
        cluster
            .wait_until(uid, SHORT_TIMEOUT, async |_| check_row(&standby).await)
            .await?;
    }
    cluster.screen.finish_step("", now());

    execute(&through, "create table gap (id bigint primary key)").await?;
    cluster
        .screen
        .begin_step("a client commits row after row through the proxy", now());
    let load = Load::start(through.clone());
    let before = cluster
        .wait_until("proxy", SHORT_TIMEOUT, async |_| {
            let stats = load.stats();
            let rows = acknowledged_rows(&stats);
            ensure!(rows >= 200, "{rows} rows so far");
            Ok(rows)
        })
        .await?;
    cluster.screen.finish_step(&format!("{before} rows"), now());

    cluster.screen.begin_step(
        "SIGKILL: the master's keeper and every process of its PostgreSQL",
        now(),
    );
    cluster.kill_keeper("postgres0").await?;
    cluster.screen.finish_step("", now());

    cluster
        .screen
        .begin_step("the sentinel notices and elects a standby", now());
    let elected = cluster
        .wait_until("sentinel0", LONG_TIMEOUT, async |cluster| {
            let master = read_view(&cluster.store)
                .await?
                .master
                .context("no master is elected")?;
            ensure!(master != "postgres0", "postgres0 is still the master");
            Ok(master)
        })
        .await?;
    cluster.screen.finish_step(&elected, now());

    let text = format!("{elected} is promoted, the proxy sends clients to it");
    cluster.screen.begin_step(text, now());
    let acknowledged = acknowledged_rows(&load.stats());
    cluster
        .wait_until(&elected, LONG_TIMEOUT, async |_| {
            ensure!(
                acknowledged_rows(&load.stats()) > acknowledged + 50,
                "the client is not served"
            );
            Ok(())
        })
        .await?;
    let stats = load.stats();
    drop(load);
    let gap = stats.longest_gap.as_secs_f64();
    cluster
        .screen
        .finish_step(&format!("the client's gap was {gap:.1} s"), now());

    cluster
        .screen
        .begin_step("the row is still there, and the client's rows", now());
    cluster
        .wait_until("proxy", SHORT_TIMEOUT, async |_| check_row(&through).await)
        .await?;
    let lost = lost_rows(&through, &stats).await?;
    cluster.screen.finish_step(
        &format!("{lost} of {} acknowledged ones are lost", acknowledged_rows(&stats)),
        now(),
    );

    cluster
        .screen
        .begin_step("keeper postgres0 starts again: the old master becomes a standby", now());
    cluster.start_keeper(0)?;
    wait_for_role(cluster, "postgres0", Role::Standby).await?;
    let old_master = cluster.client_config(cluster.ports.postgres[0]);
    cluster
        .wait_until("postgres0", SHORT_TIMEOUT, async |_| check_row(&old_master).await)
        .await?;
    cluster.screen.finish_step("with the row", now());
    Ok(())
}

/// Returns the live status of the cluster, one line for each keeper and one for the proxy.
pub(super) async fn status_lines(cluster: &LocalCluster) -> Vec<String> {
    let view = match read_view(&cluster.store).await {
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
                    ahead.map_or(0, |ahead| db.position.bytes_behind(ahead)).max(0)
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
        (None, _) => "  proxy → no master".to_owned(),
    });
    lines
}

async fn wait_for_role(cluster: &mut LocalCluster, uid: &str, role: Role) -> anyhow::Result<()> {
    cluster
        .wait_until(uid, LONG_TIMEOUT, async |cluster| {
            let view = read_view(&cluster.store).await?;
            view.converged_db(uid, &role)
                .with_context(|| format!("{uid} is not a healthy {role}"))?;
            Ok(())
        })
        .await
}

/// Opens a connection and executes one statement.
async fn execute(config: &Config, sql: &str) -> anyhow::Result<()> {
    let client = connect(config).await?;
    tokio::time::timeout(STATEMENT_TIMEOUT, client.batch_execute(sql))
        .await
        .context("no answer")?
        .context("execute")
}

async fn check_row(config: &Config) -> anyhow::Result<()> {
    let client = connect(config).await?;
    let query = client.query_one("select value from test where id = 1", &[]);
    let row = tokio::time::timeout(STATEMENT_TIMEOUT, query)
        .await
        .context("no answer")?
        .context("the row is not there")?;
    let value: &str = row.get(0);
    ensure!(value == "value1", "the row has the value {value:?}");
    Ok(())
}

async fn connect(config: &Config) -> anyhow::Result<Client> {
    let connect = config.connect(NoTls);
    let (client, connection) = tokio::time::timeout(STATEMENT_TIMEOUT, connect)
        .await
        .context("no answer")??;
    // It ends with the client; its errors reach the client as well.
    tokio::spawn(async { drop(connection.await) });
    Ok(client)
}

fn acknowledged_rows(stats: &LoadStats) -> i64 {
    stats.acknowledged.iter().map(|run| run.end() - run.start() + 1).sum()
}

/// Returns the number of acknowledged rows that are not in the table.
async fn lost_rows(config: &Config, stats: &LoadStats) -> anyhow::Result<i64> {
    let client = connect(config).await?;
    let mut lost = 0;
    for run in &stats.acknowledged {
        let (first, last) = (*run.start(), *run.end());
        let parameters: [&(dyn ToSql + Sync); 2] = [&first, &last];
        let query = client.query_one("select count(*) from gap where id between $1 and $2", &parameters);
        let row = tokio::time::timeout(STATEMENT_TIMEOUT, query)
            .await
            .context("no answer")??;
        lost += run.end() - run.start() + 1 - row.get::<_, i64>(0);
    }
    Ok(lost)
}
