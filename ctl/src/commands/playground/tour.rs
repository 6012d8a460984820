//! The steps of the playground and of its tour. Each is printed as one line with the time it took.

use std::time::Duration;

use anyhow::{Context, ensure};
use base::Clock;
use model::Role;
use tokio_postgres::Config;

use super::load::{Load, LoadStats};
use super::programs::Playground;
use super::sql::{check_row, execute, lost_rows};
use super::view::read_view;

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

/// Starts etcd, initialises the cluster, starts two sentinels, a keeper and a proxy. Clients are served when it
/// returns.
pub(super) async fn start_cluster(playground: &mut Playground) -> anyhow::Result<()> {
    let etcd = format!("etcd on port {}: the store", playground.ports.etcd);
    playground.screen.begin_step(etcd);
    playground.start_etcd()?;
    playground
        .wait_until("etcd", SHORT_TIMEOUT, async |playground| {
            read_view(&playground.store).await
        })
        .await?;
    playground.screen.finish_step("");

    playground
        .screen
        .begin_step("stolonctl init: a new cluster (failInterval 4s here, 20s by default)");
    playground.stolonctl(&["init", "--yes", SPEC]).await?;
    playground.screen.finish_step("");

    playground
        .screen
        .begin_step("two sentinels: one leads, the other stands by");
    playground.start("sentinel0")?;
    playground.start("sentinel1")?;
    let leader = wait_leader(playground).await?;
    playground.screen.finish_step(&format!("{leader} leads"));

    playground
        .screen
        .begin_step("keeper postgres0: initialises PostgreSQL, becomes the first master");
    playground.start("postgres0")?;
    wait_for_role(playground, "postgres0", Role::Master).await?;
    playground.screen.finish_step("");

    let port = playground.ports.proxy;
    playground
        .screen
        .begin_step(format!("proxy on port {port}: clients reach the master through it"));
    playground.start("proxy")?;
    let through = playground.client_config(port);
    playground
        .wait_until("proxy", SHORT_TIMEOUT, async |_| execute(&through, "select 1").await)
        .await?;
    playground.screen.finish_step("");
    Ok(())
}

/// Starts the other two keepers and waits until they follow the master.
pub(super) async fn add_standbys(playground: &mut Playground) -> anyhow::Result<()> {
    playground
        .screen
        .begin_step("keepers postgres1 and postgres2: copy the master and follow it");
    playground.start("postgres1")?;
    playground.start("postgres2")?;
    wait_for_role(playground, "postgres1", Role::Standby).await?;
    wait_for_role(playground, "postgres2", Role::Standby).await?;
    playground.screen.finish_step("");
    Ok(())
}

/// The tour: inserts a row through the proxy, adds standbys, kills the master, and waits until another one
/// serves the client and the old one has become a standby.
pub(super) async fn run_steps(playground: &mut Playground, clock: &Clock) -> anyhow::Result<()> {
    let through = playground.client_config(playground.ports.proxy);
    insert_row(playground, &through).await?;
    add_standbys(playground).await?;
    check_standbys(playground).await?;
    let load = start_load(playground, &through, clock).await?;
    let elected = kill_master(playground).await?;
    let stats = wait_served(playground, load, &elected).await?;
    check_rows(playground, &through, &stats).await?;
    restart_old_master(playground).await
}

async fn insert_row(playground: &mut Playground, through: &Config) -> anyhow::Result<()> {
    playground
        .screen
        .begin_step("through the proxy: create table test, insert into test values (1, 'value1')");
    let table = "create table test (id int primary key not null, value text not null)";
    execute(through, table).await?;
    execute(through, "insert into test values (1, 'value1')").await?;
    playground.screen.finish_step("");
    Ok(())
}

async fn check_standbys(playground: &mut Playground) -> anyhow::Result<()> {
    playground.screen.begin_step("the row on both standbys");
    for (index, uid) in ["postgres1", "postgres2"].into_iter().enumerate() {
        let standby = playground.client_config(playground.ports.postgres[index + 1]);
        playground
            .wait_until(uid, SHORT_TIMEOUT, async |_| check_row(&standby).await)
            .await?;
    }
    playground.screen.finish_step("");
    Ok(())
}

/// Starts a client, and waits until it has committed some rows.
async fn start_load(playground: &mut Playground, through: &Config, clock: &Clock) -> anyhow::Result<Load> {
    execute(through, "create table gap (id bigint primary key)").await?;
    playground
        .screen
        .begin_step("a client commits row after row through the proxy");
    let load = Load::start(through.clone(), clock.clone());
    let rows = playground
        .wait_until("proxy", SHORT_TIMEOUT, async |_| {
            let rows = load.stats().acknowledged_rows();
            ensure!(rows >= 200, "{rows} rows so far");
            Ok(rows)
        })
        .await?;
    playground.screen.finish_step(&format!("{rows} rows"));
    Ok(load)
}

/// Kills the master, and waits until another one is elected. Returns its keeper.
async fn kill_master(playground: &mut Playground) -> anyhow::Result<String> {
    playground
        .screen
        .begin_step("SIGKILL: the master's keeper and every process of its PostgreSQL");
    playground.kill_keeper("postgres0").await?;
    playground.screen.finish_step("");

    playground
        .screen
        .begin_step("the sentinel notices and elects a standby");
    let elected = playground
        .wait_until("sentinel0", LONG_TIMEOUT, async |playground| {
            let view = read_view(&playground.store).await?;
            let master = view.cluster.master.context("no master is elected")?;
            ensure!(master.as_str() != "postgres0", "postgres0 is still the master");
            Ok(master.to_string())
        })
        .await?;
    playground.screen.finish_step(&elected);
    Ok(elected)
}

/// Waits until the client commits rows again, stops it, and prints how long it was not served.
async fn wait_served(playground: &mut Playground, load: Load, elected: &str) -> anyhow::Result<LoadStats> {
    playground
        .screen
        .begin_step(format!("{elected} is promoted, the proxy sends clients to it"));
    let before = load.stats().acknowledged_rows();
    playground
        .wait_until(elected, LONG_TIMEOUT, async |_| {
            let rows = load.stats().acknowledged_rows();
            ensure!(rows > before + 50, "the client is not served");
            Ok(())
        })
        .await?;
    let stats = load.stats();
    drop(load);
    let gap = stats.longest_gap.as_secs_f64();
    playground
        .screen
        .finish_step(&format!("the client's gap was {gap:.1} s"));
    Ok(stats)
}

async fn check_rows(playground: &mut Playground, through: &Config, stats: &LoadStats) -> anyhow::Result<()> {
    playground
        .screen
        .begin_step("the row is still there, and the client's rows");
    playground
        .wait_until("proxy", SHORT_TIMEOUT, async |_| check_row(through).await)
        .await?;
    let (lost, all) = (lost_rows(through, stats).await?, stats.acknowledged_rows());
    playground
        .screen
        .finish_step(&format!("{lost} of {all} acknowledged ones are lost"));
    Ok(())
}

async fn restart_old_master(playground: &mut Playground) -> anyhow::Result<()> {
    playground
        .screen
        .begin_step("keeper postgres0 starts again: the old master becomes a standby");
    playground.start("postgres0")?;
    wait_for_role(playground, "postgres0", Role::Standby).await?;
    let old_master = playground.client_config(playground.ports.postgres[0]);
    playground
        .wait_until("postgres0", SHORT_TIMEOUT, async |_| check_row(&old_master).await)
        .await?;
    playground.screen.finish_step("with the row");
    Ok(())
}

/// Waits until both sentinels campaign; returns the one that leads.
async fn wait_leader(playground: &mut Playground) -> anyhow::Result<String> {
    playground
        .wait_until("sentinel0", SHORT_TIMEOUT, async |playground| {
            let view = read_view(&playground.store).await?;
            ensure!(view.candidates == 2, "{} of 2 sentinels campaign", view.candidates);
            view.leader.context("no sentinel leads")
        })
        .await
}

async fn wait_for_role(playground: &mut Playground, uid: &str, role: Role) -> anyhow::Result<()> {
    playground
        .wait_until(uid, LONG_TIMEOUT, async |playground| {
            let view = read_view(&playground.store).await?;
            view.converged_db(uid, &role)
                .with_context(|| format!("{uid} is not a healthy {role}"))?;
            Ok(())
        })
        .await
}
