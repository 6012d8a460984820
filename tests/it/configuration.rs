//! Parameters and pg_hba.conf: what the server refuses is reported, and blocks neither the rest nor the next start.

use std::path::Path;

use model::Role;
use serde_json::json;
use stolon_tests::cluster::{Cluster, ClusterBuilder, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::pg_programs;
use stolon_tests::process::{Signal, send_signal};
use stolon_tests::spec::{store_spec, update, wait_parameter_is, wait_query_returns};
use stolon_tests::status;
use stolon_tests::wait::eventually;

/// A line that the server refuses and stolonctl does not.
const BAD_LINE: &str = "host all all 10.0.0.300/32 md5";

#[tokio::test]
async fn a_refused_setting_blocks_neither_others_nor_a_start_after_a_crash() {
    let mut cluster = without_failover().proxies(0).start().await;
    let patch = json!({
        "pgHBA": ["host all all 127.0.0.1/32 md5", BAD_LINE, "host all all 10.9.9.9/32 md5"],
        "pgParameters": {
            "wal_keep_segments": "8", "max_connections": "abc", "shared_buffers": "1000TB",
            "shared_preload_libraries": "no_such_library", "work_mem": "5MB",
        },
    });
    update(&cluster, &patch).await;
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "work_mem", "5MB").await;
        let rules =
            "select string_agg(address, ',' order by line_number) from pg_hba_file_rules where address like '10.%'";
        wait_query_returns(&cluster, uid, rules, "10.9.9.9").await;
    }
    for words in ["10.0.0.300", "wal_keep_segments", "\"max_connections\"", "1000TB"] {
        for uid in ["keeper0", "keeper1"] {
            status::wait_status_shows(&cluster, &[uid], words).await;
        }
    }
    for uid in ["keeper0", "keeper1"] {
        crash_server(&mut cluster, uid).await;
        status::wait_status_shows(&cluster, &[uid], "no_such_library").await;
    }
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "work_mem", "5MB").await;
        wait_parameter_is(&cluster, uid, "max_connections", "100").await;
    }

    // After a restart the keeper tries all settings again, and reverts them again.
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    wait_parameter_is(&cluster, "keeper0", "work_mem", "5MB").await;

    let fixed = json!({
        "pgHBA": null,
        "pgParameters": {
            "wal_keep_segments": null, "max_connections": null, "shared_buffers": null,
            "shared_preload_libraries": null, "work_mem": "6MB",
        },
    });
    update(&cluster, &fixed).await;
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "work_mem", "6MB").await;
    }
    eventually("status to report nothing", SHORT_TIMEOUT, async || {
        let (_, status) = cluster.stolonctl(&["status"]).await;
        check(!status.contains("refused") && !status.contains("did not start"), || {
            status
        })
    })
    .await;
}

/// A value that the server refuses only when it starts: master and standby come back from a crash without it.
#[tokio::test]
async fn too_much_shared_memory_does_not_keep_an_instance_down() {
    let mut cluster = without_failover().proxies(0).start().await;
    update(
        &cluster,
        &json!({ "pgParameters": { "shared_buffers": "4TB", "work_mem": "5MB" } }),
    )
    .await;
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "work_mem", "5MB").await;
        crash_server(&mut cluster, uid).await;
        status::wait_status_shows(&cluster, &[uid], "shared_buffers").await;
        wait_parameter_is(&cluster, uid, "work_mem", "5MB").await;
    }
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// A refused `reject` line keeps the last accepted lines in use: the lines below it could allow more access.
#[tokio::test]
async fn a_refused_reject_line_does_not_widen_access() {
    let cluster = Cluster::builder(Profile::Fast)
        .keepers(1)
        .proxies(0)
        .with("pgHBA", json!(["host all all 127.0.0.1/32 md5"]))
        .start()
        .await;
    let patch = json!({ "pgHBA": ["host all all 10.0.0.300/8 reject", "host all all 0.0.0.0/0 trust"] });
    update(&cluster, &patch).await;
    status::wait_status_shows(
        &cluster,
        &["keeper0"],
        "the last pgHBA that PostgreSQL accepted is used",
    )
    .await;
    let rules = "select string_agg(address || ' ' || auth_method, ',' order by line_number) from pg_hba_file_rules \
                 where database = '{all}' and user_name = '{all}'";
    wait_query_returns(&cluster, "keeper0", rules, "127.0.0.1 md5").await;
}

/// A spec that another program stored: another directory, hba file and port, and names that break the file.
#[tokio::test]
async fn a_stored_spec_cannot_move_what_the_keeper_owns() {
    let mut cluster = without_failover().proxies(0).start().await;
    let (foreign, sql) = (cluster.dir().path().join("foreign"), cluster.connect("keeper0").await);
    sql.run("create table ours (id int)").await.unwrap();
    let parameters = json!({
        "data_directory": foreign, "hba_file": foreign, "ident_file": foreign, "external_pid_file": foreign,
        "config_file": foreign, "include_dir": foreign, "Port": "1", "listen_addresses": "", "bad name": "1", "": "1",
        "promote_trigger_file": "/tmp", "unix_socket_directories": "/nonexistent", "hot_standby": "off",
        "work_mem": "5MB",
    });
    store_spec(&cluster, |spec| {
        spec["pgParameters"] = parameters.clone();
        spec["pgHBA"] = json!(["hosst all all 10.0.0.1/32 md5", "host all all 127.0.0.1/32 md5"]);
    })
    .await;
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "work_mem", "5MB").await;
        for words in ["data_directory", "bad name", "hosst"] {
            status::wait_status_shows(&cluster, &[uid], words).await;
        }
        crash_server(&mut cluster, uid).await;
        wait_query_returns(&cluster, uid, "select count(*) from ours", "0").await;
        let pgdata = cluster.pgdata(uid);
        wait_parameter_is(&cluster, uid, "data_directory", pgdata.to_str().unwrap()).await;
        wait_parameter_is(&cluster, uid, "hba_file", pgdata.join("pg_hba.conf").to_str().unwrap()).await;
    }
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// A new cluster whose spec has settings that the server refuses.
#[tokio::test]
async fn a_new_cluster_starts_without_refused_settings() {
    let cluster = Cluster::builder(Profile::Fast)
        .proxies(0)
        .with(
            "pgParameters",
            json!({
                "dynamic_shared_memory_type": "mmap", "shared_preload_libraries": "no_such_library",
                "no_such_parameter": "8", "work_mem": "5MB",
            }),
        )
        .with("pgHBA", json!([BAD_LINE, "host all all 127.0.0.1/32 md5"]))
        .start()
        .await;
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "work_mem", "5MB").await;
        status::wait_status_shows(&cluster, &[uid], "no_such_library").await;
        status::wait_status_shows(&cluster, &[uid], "no_such_parameter").await;
    }
}

/// A whole postgresql.conf in the initial spec.
#[tokio::test]
async fn a_new_cluster_accepts_a_stock_postgresql_conf() {
    let sample = std::fs::read_to_string("/usr/share/postgresql/15/postgresql.conf.sample");
    let mut parameters = stolon_tests::conf::parameters(&sample.expect("PostgreSQL's sample is installed"));
    parameters.insert("dynamic_shared_memory_type".into(), "mmap".into());
    parameters.insert("shared_buffers".into(), "16MB".into());
    let cluster = Cluster::builder(Profile::Fast)
        .proxies(0)
        .with("pgParameters", json!(parameters))
        .start()
        .await;
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "shared_buffers", "16MB").await;
    }
}

/// max_replication_slots covers standbys, additional slots and slots made by hand, also when maxStandbys is reduced.
#[tokio::test]
async fn max_replication_slots_covers_standbys_additional_slots_and_slots_made_by_hand() {
    let slots: Vec<String> = (0..4).map(|number| format!("extra{number}")).collect();
    let mut cluster = without_failover()
        .proxies(0)
        .with("maxStandbys", 2)
        .with("additionalMasterReplicationSlots", slots)
        .start()
        .await;
    wait_query_returns(&cluster, "keeper0", "select count(*) from pg_replication_slots", "5").await;
    let sql = cluster.connect("keeper0").await;
    sql.run("select pg_create_physical_replication_slot('by_hand')")
        .await
        .unwrap();
    update(
        &cluster,
        &json!({ "maxStandbys": 1, "additionalMasterReplicationSlots": ["extra0"] }),
    )
    .await;
    wait_query_returns(&cluster, "keeper0", "select count(*) from pg_replication_slots", "3").await;
    sql.run("select pg_create_physical_replication_slot('by_hand' || n) from generate_series(1, 3) n")
        .await
        .unwrap();
    crash_server(&mut cluster, "keeper0").await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    wait_query_returns(&cluster, "keeper0", "select count(*) from pg_replication_slots", "6").await;
    wait_parameter_is(&cluster, "keeper0", "max_replication_slots", "6").await;
}

/// A change that needs a restart: the standbys restart first, one after the other, then the master.
#[tokio::test]
async fn standbys_restart_one_after_the_other_before_the_master() {
    let cluster = Cluster::builder(Profile::Fast).keepers(3).proxies(0).start().await;
    update(
        &cluster,
        &json!({ "automaticPgRestart": true, "pgParameters": { "max_connections": "150" } }),
    )
    .await;
    let mut started = Vec::new();
    for uid in ["keeper1", "keeper2", "keeper0"] {
        wait_parameter_is(&cluster, uid, "max_connections", "150").await;
        let sql = cluster.connect(uid).await;
        let at = "select extract(epoch from pg_postmaster_start_time())::text";
        started.push(sql.value(at).await.unwrap().parse::<f64>().unwrap());
    }
    assert!(started.is_sorted(), "in this order: {started:?}");
    cluster.wait_healthy("keeper0", &Role::Master).await;
}

/// A library that no host has: the standbys try, revert and report; the master is not restarted.
#[tokio::test]
async fn the_master_does_not_restart_for_parameters_that_no_standby_starts_with() {
    let cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let (master, standby) = (cluster.postmaster("keeper0"), cluster.postmaster("keeper1"));
    let parameters = json!({ "shared_preload_libraries": "no_such_library", "work_mem": "5MB" });
    update(
        &cluster,
        &json!({ "automaticPgRestart": true, "pgParameters": parameters }),
    )
    .await;
    status::wait_status_shows(&cluster, &["keeper1"], "no_such_library").await;
    status::wait_status_shows(&cluster, &["keeper0"], "no standby started with them").await;
    assert_ne!(
        cluster.postmaster("keeper1"),
        standby,
        "the standby has tried to restart"
    );
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "work_mem", "5MB").await;
    }
    assert_eq!(cluster.postmaster("keeper0"), master);
    cluster.wait_healthy("keeper1", &Role::Standby).await;

    // Once the first change is withdrawn, another one that needs a restart is applied.
    let fixed = json!({ "pgParameters": { "shared_preload_libraries": null, "max_connections": "150" } });
    update(&cluster, &fixed).await;
    for uid in ["keeper1", "keeper0"] {
        wait_parameter_is(&cluster, uid, "max_connections", "150").await;
    }
}

/// A library that only the standby's host has: the master reverts to the parameters that it ran with.
#[tokio::test]
async fn a_master_that_does_not_start_with_a_change_reverts_it() {
    let cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let directory = cluster.pgdata("keeper1").join("modules");
    std::fs::create_dir(&directory).unwrap();
    let modules = pg_programs::directory("postgres").unwrap().join("../lib");
    std::fs::copy(modules.join("auto_explain.so"), directory.join("only_here.so"))
        .expect("PostgreSQL's modules are installed");
    let master = cluster.postmaster("keeper0");
    let parameters = json!({ "shared_preload_libraries": "./modules/only_here.so", "work_mem": "5MB" });
    update(
        &cluster,
        &json!({ "automaticPgRestart": true, "pgParameters": parameters }),
    )
    .await;
    status::wait_status_shows(&cluster, &["keeper0"], "only_here.so").await;
    wait_parameter_is(
        &cluster,
        "keeper1",
        "shared_preload_libraries",
        "./modules/only_here.so",
    )
    .await;
    wait_parameter_is(&cluster, "keeper0", "shared_preload_libraries", "").await;
    assert_ne!(cluster.postmaster("keeper0"), master, "it has tried to restart");
    for uid in ["keeper0", "keeper1"] {
        wait_parameter_is(&cluster, uid, "work_mem", "5MB").await;
    }
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// A frozen postmaster takes the signal of a reload without reading its files (keeper R23).
#[tokio::test]
async fn a_reload_that_the_server_does_not_perform_is_reported_and_repeated() {
    let mut cluster = without_failover().keepers(1).proxies(0).start().await;
    wait_parameter_is(&cluster, "keeper0", "work_mem", "4MB").await;
    let postmaster = cluster.postmaster("keeper0").unwrap();
    send_signal(postmaster, Signal::STOP);
    update(&cluster, &json!({"pgParameters": {"work_mem": "5MB"}})).await;
    let unread = "wait until PostgreSQL has read its configuration: not done within";
    cluster.process("keeper0").wait_for_log(unread, LONG_TIMEOUT).await;
    status::wait_status_shows(&cluster, &["keeper0"], unread).await;
    send_signal(postmaster, Signal::CONT);
    wait_parameter_is(&cluster, "keeper0", "work_mem", "5MB").await;
    eventually("status to report nothing", LONG_TIMEOUT, async || {
        let (_, status) = cluster.stolonctl(&["status"]).await;
        check(!status.contains(unread), || status)
    })
    .await;
}

/// A cluster whose failInterval is longer than a crashed instance needs to come back on a busy machine.
fn without_failover() -> ClusterBuilder {
    Cluster::builder(Profile::Fast).with("failInterval", "60s")
}

/// Kills a postmaster and waits until a new one serves.
pub(crate) async fn crash_server(cluster: &mut Cluster, uid: &str) {
    let before = cluster.postmaster(uid);
    cluster.kill_postmaster(uid);
    eventually(format!("{uid} to serve again"), LONG_TIMEOUT, async || {
        check(cluster.postmaster(uid) != before, || "the old one".to_owned())?;
        cluster.query(uid, "select 1").await
    })
    .await;
}

/// A standby whose server hangs at its start delays the master's restart as long as it hangs, and the status shows it.
#[tokio::test]
async fn a_standby_restart_that_hangs_is_reported_and_the_master_is_not_restarted() {
    restart_standby_only(
        pg_programs::blocked_script,
        "PostgreSQL does not accept connections yet",
    )
    .await;
}

/// What kills the standby's server, such as a lack of memory, could kill the master's.
#[tokio::test]
async fn a_failed_standby_restart_is_reported_and_the_master_is_not_restarted() {
    restart_standby_only(pg_programs::killed_script, "failed to start postgres").await;
}

/// Restarts for parameters a standby whose `postgres` is `script`, and checks that `reported` is in its status, that the
/// master is not restarted meanwhile, and that both restart once the script's file is removed.
async fn restart_standby_only(script: fn(&Path, &Path) -> String, reported: &str) {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let hold = cluster.dir().path().join("hold");
    pg_programs::wrap(&mut cluster, &uid, "held", |program, real| match program {
        "postgres" => script(&hold, real),
        _ => pg_programs::passthrough_script(real),
    });
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Standby).await;
    let master = cluster.postmaster("keeper0");
    std::fs::write(&hold, "").unwrap();
    update(
        &cluster,
        &json!({ "automaticPgRestart": true, "pgParameters": { "max_connections": "150" } }),
    )
    .await;
    let stuck = format!("the standby of keeper {uid} has not come back from its own restart");
    status::wait_status_shows(&cluster, &["keeper0"], &stuck).await;
    status::wait_status_shows(&cluster, &[&uid], reported).await;
    assert_eq!(cluster.postmaster("keeper0"), master, "the only instance that serves");
    cluster.wait_healthy("keeper0", &Role::Master).await;

    std::fs::remove_file(&hold).unwrap();
    for uid in [&*uid, "keeper0"] {
        wait_parameter_is(&cluster, uid, "max_connections", "150").await;
    }
    status::wait_status_has_no_problems(&cluster).await;
}
