//! Lowering parameters that a standby may not have lower than its primary (keeper 8.7): a standby keeps the master's old
//! value until the master runs with the new one, and follows by itself.

use model::Role;
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Signal;
use stolon_tests::spec::{update, wait_parameter_is};
use stolon_tests::status;

use crate::configuration::crash_server;

/// The first one has the master.
const KEEPERS: [&str; 3] = ["keeper0", "keeper1", "keeper2"];
/// What the status shows of parameters that are not in force yet.
const WAITS: &str = "parameters wait for a restart of PostgreSQL";

#[tokio::test]
async fn lowered_parameters_reach_the_master_and_then_the_standbys() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(3).proxies(0).start().await;
    let dbs = dbs(&cluster).await;
    update(
        &cluster,
        &json!({ "automaticPgRestart": true, "pgParameters": { "max_connections": "150" } }),
    )
    .await;
    wait_all_have(&cluster, "max_connections", "150").await;

    update(&cluster, &json!({ "pgParameters": { "max_connections": "120" } })).await;
    wait_parameter_is(&cluster, "keeper0", "max_connections", "120").await;
    wait_all_have(&cluster, "max_connections", "120").await;

    // One parameter is raised, standbys first; the other one is lowered, the master first.
    let mixed = json!({ "pgParameters": { "max_connections": "110", "max_worker_processes": "12" } });
    update(&cluster, &mixed).await;
    wait_parameter_is(&cluster, "keeper0", "max_connections", "110").await;
    wait_all_have(&cluster, "max_worker_processes", "12").await;
    wait_all_have(&cluster, "max_connections", "110").await;

    // The standbys replay the raised value while the lowered one is on its way.
    update(&cluster, &json!({ "pgParameters": { "max_connections": "160" } })).await;
    wait_parameter_is(&cluster, "keeper0", "max_connections", "160").await;
    update(&cluster, &json!({ "pgParameters": { "max_connections": "130" } })).await;
    wait_all_have(&cluster, "max_connections", "130").await;

    status::wait_status_has_no_problems(&cluster).await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    assert_eq!(self::dbs(&cluster).await, dbs, "nobody is elected or copied");
    let timeline = "select timeline_id from pg_control_checkpoint()";
    assert_eq!(cluster.query("keeper0", timeline).await.unwrap(), "1");
    assert_nothing_reverted(&mut cluster, &KEEPERS);
}

/// Without automaticPgRestart: a standby that is restarted before the master starts, and waits for a restart once the
/// master runs with the lowered value.
#[tokio::test]
async fn a_standby_restarted_before_its_master_keeps_the_old_value_and_then_waits_for_a_restart() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .proxies(0)
        .with("failInterval", "60s")
        .with(
            "pgParameters",
            json!({ "dynamic_shared_memory_type": "mmap", "max_connections": "150" }),
        )
        .start()
        .await;
    update(&cluster, &json!({ "pgParameters": { "max_connections": "120" } })).await;
    status::wait_status_shows(&cluster, &["keeper0"], WAITS).await;
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    cluster.start("keeper1");
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    wait_parameter_is(&cluster, "keeper1", "max_connections", "150").await;
    status::wait_status_shows(&cluster, &["keeper0"], WAITS).await;

    crash_server(&mut cluster, "keeper0").await;
    wait_parameter_is(&cluster, "keeper0", "max_connections", "120").await;
    status::wait_status_shows(&cluster, &["keeper1"], WAITS).await;
    status::wait_status_lacks(&cluster, &["keeper0"], WAITS).await;
    wait_parameter_is(&cluster, "keeper1", "max_connections", "150").await;

    crash_server(&mut cluster, "keeper1").await;
    wait_parameter_is(&cluster, "keeper1", "max_connections", "120").await;
    status::wait_status_has_no_problems(&cluster).await;
    assert_nothing_reverted(&mut cluster, &KEEPERS[..2]);
}

/// After a crash a standby replays the raised value once more, ends because it has the lowered one, and starts with the raised
/// one: nothing is reverted, and the lowered value waits for a restart again.
#[tokio::test]
async fn a_standby_that_replays_an_old_higher_value_after_a_crash_reverts_nothing() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .proxies(0)
        .with("failInterval", "60s")
        .start()
        .await;
    for value in ["150", "120"] {
        update(&cluster, &json!({ "pgParameters": { "max_connections": value } })).await;
        status::wait_status_shows(&cluster, &["keeper0"], WAITS).await;
        crash_server(&mut cluster, "keeper0").await;
        wait_parameter_is(&cluster, "keeper0", "max_connections", value).await;
        // Its replay is paused until it is restarted with the raised value, too.
        wait_parameter_is(&cluster, "keeper1", "max_connections", "150").await;
    }
    status::wait_status_shows(&cluster, &["keeper1"], WAITS).await;

    cluster.kill_postmaster("keeper1");
    let keeper = cluster.process("keeper1");
    keeper
        .wait_for_log("max_connections = 120 is a lower setting", LONG_TIMEOUT)
        .await;
    status::wait_status_shows(&cluster, &["keeper1"], WAITS).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    cluster.start("keeper1");
    wait_parameter_is(&cluster, "keeper1", "max_connections", "120").await;
    status::wait_status_has_no_problems(&cluster).await;
    assert_nothing_reverted(&mut cluster, &KEEPERS[..2]);
}

/// Returns the dbs of all keepers.
async fn dbs(cluster: &Cluster) -> Vec<String> {
    let mut dbs = Vec::new();
    for uid in KEEPERS {
        dbs.push(cluster.db_uid(uid).await);
    }
    dbs
}

async fn wait_all_have(cluster: &Cluster, parameter: &str, value: &str) {
    for uid in KEEPERS {
        wait_parameter_is(cluster, uid, parameter, value).await;
    }
}

fn assert_nothing_reverted(cluster: &mut Cluster, uids: &[&str]) {
    for uid in uids {
        let log = cluster.process(uid).log();
        assert!(
            !log.contains("trying it with less of the configuration"),
            "{uid}:\n{log}"
        );
    }
}
