//! Standby clusters: a cluster that follows a primary outside of it, fails over, and is promoted (sentinel 7.8, keeper
//! 7.1).

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use model::Role;
use serde_json::{Value, json};
use stolon_tests::cluster::{Cluster, Profile, REPLUSER, check, db_of, error_text};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Signal;
use stolon_tests::standalone::{Standalone, create_dir, write_script};
use stolon_tests::status::{wait_status_has_no_problems, wait_status_shows};
use stolon_tests::wait::eventually;

/// A primary with an archive and 5 rows, and an etcd without cluster data.
async fn primary() -> (Cluster, Standalone, PathBuf) {
    let cluster = Cluster::store_only().await;
    let (origin, archive) = (
        cluster.dir().path().join("origin"),
        cluster.dir().path().join("archive"),
    );
    for dir in [&origin, &archive] {
        create_dir(cluster.dir(), dir);
    }
    let settings = format!(
        "archive_mode = on\narchive_command = 'cp %p {}/%f'\nwal_keep_size = 128",
        archive.display()
    );
    let server = Standalone::create(&cluster, &origin.join("data"), &settings).await;
    let sql = server.connect().await;
    sql.run("create table kept as select generate_series(1, 5)")
        .await
        .unwrap();
    sql.run("select pg_create_physical_replication_slot('outside')")
        .await
        .unwrap();
    (cluster, server, archive)
}

/// Initialises a standby cluster of the primary with a base backup and this standbyConfig, and starts two keepers.
async fn start(cluster: &mut Cluster, server: &Standalone, standby_config: Value) {
    let script = cluster.dir().path().join("restore.sh");
    let bin = stolon_tests::pg_programs::directory("pg_basebackup").unwrap();
    let password = REPLUSER.1.replace('\'', "'\"'\"'");
    let text = format!(
        "#!/bin/sh\nPGPASSWORD='{password}' exec {}/pg_basebackup -D \"$1\" -X fetch -c fast -h 127.0.0.1 -p {} -U {}\n",
        bin.display(),
        server.port(),
        REPLUSER.0
    );
    write_script(cluster.dir(), &script, &text);
    let mut spec = Profile::Fast.spec();
    spec["initMode"] = "pitr".into();
    spec["role"] = "standby".into();
    spec["pitrConfig"] = json!({ "dataRestoreCommand": format!("{} \"%d\"", script.display()) });
    spec["standbyConfig"] = standby_config;
    let (status, text) = cluster.stolonctl(&["init", "--yes", &spec.to_string()]).await;
    assert_eq!(status, 0, "{text}");
    cluster.add_sentinel();
    for number in 0..2 {
        let uid = cluster.add_keeper();
        wait_head(cluster, (number == 0).then_some(uid.as_str())).await;
    }
    let other = other_keeper(cluster).await;
    cluster.wait_healthy(&other, &Role::Standby).await;
    wait_rows(cluster, "5").await;
}

/// Waits until the first db is a healthy standby of the primary, on this keeper if one is given; returns its keeper.
async fn wait_head(cluster: &Cluster, keeper: Option<&str>) -> String {
    eventually("the first db to follow the primary", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let uid = data.master_uid().ok_or("no first db")?;
        let db = &data.dbs()[uid];
        check(db.spec.role == Role::Standby, || {
            format!("its role is {}", db.spec.role)
        })?;
        check(db.status.healthy && db.is_converged(), || {
            "it is not healthy".to_owned()
        })?;
        let found = db.spec.keeper_uid.to_string();
        check(keeper.is_none_or(|keeper| found == keeper), || {
            format!("it is {found}'s")
        })?;
        let recovers = cluster.query(&found, "select pg_is_in_recovery()").await?;
        check(recovers == "t", || "it is not in recovery".to_owned())?;
        Ok::<_, String>(found)
    })
    .await
}

/// Compares the dbs of the first keeper and of the one that follows it, and the status, with what was recorded from Go
/// stolon: `recorded` is the number of the recorded document, before the promotion or after it.
async fn check_shape(cluster: &Cluster, head: &str, other: &str, recorded: usize) {
    let golden = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/golden/standby-cluster.stolonctl.txt"
    ));
    let golden = golden.unwrap();
    let documents = golden.split("$ stolonctl clusterdata read --pretty\n").skip(1);
    let document = documents.map(|text| text.split("\n$ ").next().unwrap()).nth(recorded);
    let golden: Value = serde_json::from_str(document.unwrap()).unwrap();
    // The sentinel records what keepers report once per sleepInterval.
    eventually("documents like Go stolon's", LONG_TIMEOUT, async || {
        let (status, text) = cluster.stolonctl(&["clusterdata", "read"]).await;
        check(status == 0, || text.clone())?;
        let ours: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        for (keeper, golden_keeper) in [(head, "k1"), (other, "k2")] {
            let (ours, golden) = (shape(db_json(&ours, keeper)), shape(db_json(&golden, golden_keeper)));
            check(ours == golden, || format!("{keeper}: {ours:?}, not {golden:?}"))?;
        }
        Ok::<_, String>(())
    })
    .await;
    let (status, text) = cluster.stolonctl(&["status"]).await;
    assert_eq!(status, 0, "{text}");
    let tree = format!("Master Keeper: {head}\n\n===== Keepers/DB tree =====\n\n{head} (master)\n└─{other}\n");
    assert!(text.contains(&tree), "{text}");
}

fn db_json<'a>(data: &'a Value, keeper: &str) -> &'a Value {
    let mut dbs = data["dbs"].as_object().unwrap().values();
    dbs.find(|db| db["spec"]["keeperUID"] == keeper).unwrap()
}

/// Returns the paths of all members. What is a set of parameters, or depends on when the document was read, counts as one.
fn shape(value: &Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut rest = vec![(String::new(), value)];
    while let Some((path, value)) = rest.pop() {
        match value {
            Value::Object(members) if !path.ends_with("pgParameters") => {
                rest.extend(members.iter().map(|(name, value)| (format!("{path}.{name}"), value)));
            }
            // The recorded cluster has no slot.
            _ if path.ends_with("primarySlotName") => {}
            _ => {
                paths.insert(path);
            }
        }
    }
    paths
}

async fn other_keeper(cluster: &Cluster) -> String {
    let head = cluster.master().await.unwrap();
    if head == "keeper0" { "keeper1" } else { "keeper0" }.to_owned()
}

/// Waits until both keepers have this number of rows.
async fn wait_rows(cluster: &Cluster, rows: &str) {
    for keeper in ["keeper0", "keeper1"] {
        eventually(format!("{rows} rows of {keeper}"), LONG_TIMEOUT, async || {
            let found = cluster.query(keeper, "select count(*) from kept").await?;
            check(found == rows, || found.clone())
        })
        .await;
    }
}

/// Promotes the cluster, and waits until clients of a proxy can write.
async fn promote(cluster: &mut Cluster) {
    assert_eq!(cluster.stolonctl(&["promote", "--yes"]).await, (0, String::new()));
    let head = cluster.master().await.unwrap();
    cluster.wait_healthy(&head, &Role::Master).await;
    let proxy = cluster.add_proxy();
    cluster.wait_proxy_serves(&proxy).await;
    let written = cluster.query(&proxy, "insert into kept values (0) returning 1").await;
    assert_eq!(written.unwrap(), "1");

    // Once is enough, and there is no way back.
    let (status, text) = cluster.stolonctl(&["promote", "--yes"]).await;
    assert_eq!((status, text.trim()), (0, "cluster spec role already set to master"));
    let (status, text) = cluster.stolonctl(&["update", "--patch", r#"{"role":"standby"}"#]).await;
    assert!(
        status != 0 && text.contains("cannot change cluster role from master to standby"),
        "{text}"
    );
}

#[tokio::test]
async fn a_standby_cluster_follows_fails_over_and_is_promoted() {
    let (mut cluster, server, _) = primary().await;
    let settings = json!({ "standbySettings": {
        "primaryConninfo": server.replication_conninfo(), "primarySlotName": "outside",
    }});
    start(&mut cluster, &server, settings).await;
    let sql = server.connect().await;
    sql.run("insert into kept select generate_series(6, 10)").await.unwrap();
    wait_rows(&cluster, "10").await;
    let refused = cluster
        .query("keeper0", "insert into kept values (0) returning 1")
        .await;
    assert!(refused.unwrap_err().contains("read-only"));

    let other = other_keeper(&cluster).await;
    check_shape(&cluster, &cluster.master().await.unwrap(), &other, 0).await;

    // A proxy leads to the first db, which clients can read.
    let proxy = cluster.add_proxy();
    eventually("the proxy to lead to the first db", LONG_TIMEOUT, async || {
        let rows = cluster.query(&proxy, "select count(*) from kept").await?;
        check(rows == "10", || rows.clone())
    })
    .await;

    // Its keeper is killed: the other db follows the primary.
    let (head, other) = (cluster.master().await.unwrap(), other_keeper(&cluster).await);
    cluster.kill_keeper_and_postgres(&head);
    assert_eq!(cluster.wait_other_master_elected(&head, LONG_TIMEOUT).await, other);
    wait_head(&cluster, Some(&other)).await;
    sql.run("insert into kept select generate_series(11, 15)")
        .await
        .unwrap();
    cluster.start(&head);
    wait_rows(&cluster, "15").await;
    eventually("the former first db to follow the new one", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let (_, db) = db_of(&data, &head).map_err(error_text)?;
        check(db.is_standby_type() && db.status.healthy, || "it does not".to_owned())
    })
    .await;
    wait_status_has_no_problems(&cluster).await;

    // Its keeper ends in order: the other one takes over at once, and needs no copy afterwards.
    assert_eq!(cluster.stop(&other, Signal::TERM).await, 0);
    wait_head(&cluster, Some(&head)).await;
    sql.run("insert into kept select generate_series(16, 20)")
        .await
        .unwrap();
    let length = cluster.process(&other).log().len();
    cluster.start(&other);
    wait_rows(&cluster, "20").await;
    let log = cluster.process(&other).log();
    assert!(!log[length..].contains("copying the followed db"), "{log}");
    cluster.wait_healthy(&other, &Role::Standby).await;

    promote(&mut cluster).await;
    wait_rows(&cluster, "21").await;
    let recovers = server
        .connect()
        .await
        .value("select pg_is_in_recovery()")
        .await
        .unwrap();
    assert_eq!(recovers, "f", "the primary of the other cluster is not touched");
}

/// Keeper T6.20.
#[tokio::test]
async fn a_standby_cluster_is_fed_by_an_archive_only() {
    let (mut cluster, server, archive) = primary().await;
    let fetch = format!("cp {}/%f %p", archive.display());
    start(
        &mut cluster,
        &server,
        json!({ "archiveRecoverySettings": { "restoreCommand": fetch } }),
    )
    .await;
    let sql = server.connect().await;
    sql.run("insert into kept select generate_series(6, 10)").await.unwrap();
    sql.run("select pg_switch_wal()").await.unwrap();
    wait_rows(&cluster, "10").await;
    promote(&mut cluster).await;
    wait_rows(&cluster, "11").await;
    let (head, other) = (cluster.master().await.unwrap(), other_keeper(&cluster).await);
    check_shape(&cluster, &head, &other, 1).await;
    assert_eq!(cluster.stop(&head, Signal::TERM).await, 0);
}

/// The settings of the upstream change while the cluster runs.
#[tokio::test]
async fn another_upstream_and_an_apply_delay_need_no_restart() {
    let (mut cluster, server, _) = primary().await;
    let conninfo = server.replication_conninfo();
    start(
        &mut cluster,
        &server,
        json!({ "standbySettings": { "primaryConninfo": conninfo } }),
    )
    .await;
    let head = cluster.master().await.unwrap();
    let postmaster = cluster.postmaster(&head);
    let patch = json!({ "standbyConfig": { "standbySettings": {
        "primaryConninfo": format!("{conninfo} application_name=moved"), "recoveryMinApplyDelay": "1ms",
    }}});
    let (status, text) = cluster.stolonctl(&["update", "--patch", &patch.to_string()]).await;
    assert_eq!(status, 0, "{text}");
    let sql = server.connect().await;
    eventually("the changed connection", LONG_TIMEOUT, async || {
        let names = sql
            .column("select application_name from pg_stat_replication")
            .await
            .map_err(error_text)?;
        check(names.contains(&"moved".to_owned()), || format!("{names:?}"))
    })
    .await;
    assert_eq!(
        cluster.query(&head, "show recovery_min_apply_delay").await.unwrap(),
        "1ms"
    );
    assert_eq!(cluster.postmaster(&head), postmaster);

    // An upstream that sends nothing is a problem. Not with a replay delay, so it is removed: a standby may have no WAL
    // receiver while it waits.
    for (slot, is_problem) in [("nosuch", true), ("outside", false)] {
        let patch = json!({
            "dbWaitReadyTimeout": "5s", "standbyConfig": { "standbySettings": {
                "primarySlotName": slot, "recoveryMinApplyDelay": null,
            }},
        });
        let (status, text) = cluster.stolonctl(&["update", "--patch", &patch.to_string()]).await;
        assert_eq!(status, 0, "{text}");
        if is_problem {
            for text in [
                "receives no WAL from the upstream of this standby cluster",
                "\"nosuch\" does not exist",
            ] {
                wait_status_shows(&cluster, &[&head], text).await;
            }
        } else {
            wait_status_has_no_problems(&cluster).await;
        }
    }

    // Without an upstream a standby cluster is refused.
    let patch = r#"{"standbyConfig":{"standbySettings":null}}"#;
    let (status, text) = cluster.stolonctl(&["update", "--patch", patch]).await;
    assert!(status != 0 && text.contains("role standby needs an upstream"), "{text}");
}

/// In a standby cluster nothing waits for standbys. Once it is promoted its commits do, and the standby that they wait for
/// is elected (synchronous SY-8).
#[tokio::test]
async fn a_synchronous_standby_cluster_waits_for_its_standby_once_it_is_promoted() {
    let (mut cluster, server, _) = primary().await;
    let settings = json!({ "standbySettings": { "primaryConninfo": server.replication_conninfo() } });
    start(&mut cluster, &server, settings).await;
    let patch = r#"{"synchronousReplication":true,"minSynchronousStandbys":1,"maxSynchronousStandbys":1}"#;
    let (status, text) = cluster.stolonctl(&["update", "--patch", patch]).await;
    assert_eq!(status, 0, "{text}");
    let (head, other) = (cluster.master().await.unwrap(), other_keeper(&cluster).await);
    server
        .connect()
        .await
        .run("insert into kept select generate_series(6, 10)")
        .await
        .unwrap();
    wait_rows(&cluster, "10").await;
    wait_status_has_no_problems(&cluster).await;

    promote(&mut cluster).await;
    let standby = cluster.db_uid(&other).await;
    eventually("the standby to be in sync for sure", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let (_, db) = db_of(&data, &head).map_err(error_text)?;
        let known = db.status.synchronous_standbys.clone().unwrap_or_default();
        check(known.iter().any(|uid| uid.as_str() == standby), || {
            format!("known: {known:?}")
        })
    })
    .await;
    cluster.kill_keeper_and_postgres(&head);
    assert_eq!(cluster.wait_other_master_elected(&head, LONG_TIMEOUT).await, other);
    cluster.wait_healthy(&other, &Role::Master).await;
    assert_eq!(cluster.query(&other, "select count(*) from kept").await.unwrap(), "11");
}
