//! Measures how long an old master whose data diverged takes to follow the new one: with pg_rewind, and with a copy.

use std::time::Duration;

use anyhow::{Context, ensure};
use model::Role;
use stolon_tests::cluster::{Cluster, Profile};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Signal;
use stolon_tests::wait::now;

use crate::failover::median;

/// Limit of the return with pg_rewind, from the start of the old master's keeper until it has caught up.
const REWIND_LIMIT: Duration = Duration::from_secs(15);

/// Measures both ways on a database of about this size, and prints the table.
///
/// # Errors
///
/// A run fails, or the return with pg_rewind exceeds its limit.
pub async fn measure(mib: u32, runs: u32) -> anyhow::Result<()> {
    let mut medians = Vec::new();
    println!("| way | database (MiB) | runs | until the old master has caught up (s), median | longest (s) |");
    println!("|---|---|---|---|---|");
    for (way, log) in [("pg_rewind", "running pg_rewind"), ("copy", "running pg_basebackup")] {
        let mut times = Vec::new();
        for number in 1..=runs {
            let time = Box::pin(run(mib, log))
                .await
                .with_context(|| format!("{way}, run {number}"))?;
            eprintln!("{way} {number}/{runs}: {:.2} s", time.as_secs_f64());
            times.push(time);
        }
        times.sort_unstable();
        let (middle, longest) = (median(&times), times.last().copied().unwrap_or_default());
        let (middle_s, longest_s) = (middle.as_secs_f64(), longest.as_secs_f64());
        println!("| {way} | {mib} | {runs} | {middle_s:.2} | {longest_s:.2} |");
        medians.push(middle);
    }
    let rewind = medians.first().copied().unwrap_or_default();
    ensure!(
        rewind < REWIND_LIMIT,
        "pg_rewind takes {rewind:?}, the limit is {REWIND_LIMIT:?}"
    );
    Ok(())
}

/// Returns the time from the start of the old master's keeper until its standby has caught up. `log` is logged on the
/// way that is measured.
async fn run(mib: u32, log: &str) -> anyhow::Result<Duration> {
    let with_rewind = log.contains("rewind");
    let mut cluster = Cluster::builder(Profile::Fast)
        .proxies(0)
        // Loading the database may keep a busy disk from answering for some seconds.
        .with("failInterval", "20s")
        // Vacuum writes WAL after the standby was stopped.
        .with("maxStandbyLag", u32::MAX)
        .with("usePgrewind", with_rewind)
        .start()
        .await;
    let sql = cluster.connect("keeper0").await;
    // A row takes about 1 KiB.
    let rows = u64::from(mib) * 1024;
    sql.run("create table content (id bigint, filler text)").await?;
    for first in (0..rows).step_by(20_000) {
        let last = (first + 20_000).min(rows) - 1;
        sql.run(&format!(
            "insert into content select id, repeat('x', 980) from generate_series({first}, {last}) id"
        ))
        .await?;
    }
    cluster.wait_caught_up("keeper1", "keeper0").await;
    // What follows is short beside the time between two checkpoints, as an outage is.
    sql.run("vacuum content").await?;
    sql.run("checkpoint").await?;
    ensure!(
        cluster.stop("keeper1", Signal::INT).await == 0,
        "keeper1 did not end in order"
    );
    sql.run("update content set filler = 'diverged' where id < 1000")
        .await?;
    cluster.kill_keeper_and_postgres("keeper0");
    cluster.start("keeper1");
    cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await;
    cluster.wait_healthy("keeper1", &Role::Master).await;
    let new = cluster.connect("keeper1").await;
    new.run("update content set filler = 'new' where id between 2000 and 3000")
        .await?;
    let log_length = cluster.process("keeper0").log().len();
    let began = now();
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    cluster.wait_caught_up("keeper0", "keeper1").await;
    let time = now().since(began);
    let logged = cluster.process("keeper0").log()[log_length..].to_owned();
    ensure!(
        logged.contains(log),
        "the old master did not come back this way: {logged}"
    );
    Ok(time)
}
