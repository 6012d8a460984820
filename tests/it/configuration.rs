//! Text for the server: what it refuses is reported, and holds back neither the rest nor the next start.

use control::model::Role;
use serde_json::{Value, json};
use stolon_tests::cluster::{Cluster, ClusterBuilder, LONG_TIMEOUT, Profile, SHORT_TIMEOUT, check, error_text};
use stolon_tests::pg_programs;
use stolon_tests::process::Signal;
use stolon_tests::sql::SqlClient;
use stolon_tests::status;
use stolon_tests::wait::eventually;

/// Line 2 is refused by the server, not by stolonctl.
const BAD_LINE: &str = "host all all 10.0.0.300/32 md5";

#[tokio::test]
async fn a_refused_setting_holds_back_no_other_and_no_start_after_a_crash() {
    let mut cluster = patient().proxies(0).start().await;
    let patch = json!({
        "pgHBA": ["host all all 127.0.0.1/32 md5", BAD_LINE, "host all all 10.9.9.9/32 md5"],
        "pgParameters": {
            "wal_keep_segments": "8", "max_connections": "abc", "shared_buffers": "1000TB",
            "shared_preload_libraries": "no_such_library", "work_mem": "5MB",
        },
    });
    update(&cluster, &patch).await;
    for uid in ["keeper0", "keeper1"] {
        shows(&cluster, uid, "work_mem", "5MB").await;
        let rules =
            "select string_agg(address, ',' order by line_number) from pg_hba_file_rules where address like '10.%'";
        answers(&cluster, uid, rules, "10.9.9.9").await;
    }
    for words in ["10.0.0.300", "wal_keep_segments", "\"max_connections\"", "1000TB"] {
        for uid in ["keeper0", "keeper1"] {
            status::wait_shown(&cluster, &[uid], words).await;
        }
    }
    for uid in ["keeper0", "keeper1"] {
        crash(&mut cluster, uid).await;
        status::wait_shown(&cluster, &[uid], "no_such_library").await;
    }
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    for uid in ["keeper0", "keeper1"] {
        shows(&cluster, uid, "work_mem", "5MB").await;
        shows(&cluster, uid, "max_connections", "100").await;
    }

    // A keeper's restart tries all of it again, and goes back again.
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    shows(&cluster, "keeper0", "work_mem", "5MB").await;

    let fixed = json!({
        "pgHBA": null,
        "pgParameters": {
            "wal_keep_segments": null, "max_connections": null, "shared_buffers": null,
            "shared_preload_libraries": null, "work_mem": "6MB",
        },
    });
    update(&cluster, &fixed).await;
    for uid in ["keeper0", "keeper1"] {
        shows(&cluster, uid, "work_mem", "6MB").await;
    }
    eventually("status to report nothing", SHORT_TIMEOUT, async || {
        let (_, status) = cluster.stolonctl(&["status"]).await;
        check(!status.contains("refused") && !status.contains("did not start"), || {
            status
        })
    })
    .await;
}

/// A value that only the start refuses, once after a crash and once on a standby that a restart of its keeper starts.
#[tokio::test]
async fn memory_that_the_host_does_not_have_keeps_no_instance_down() {
    let mut cluster = patient().proxies(0).start().await;
    update(
        &cluster,
        &json!({ "pgParameters": { "shared_buffers": "4TB", "work_mem": "5MB" } }),
    )
    .await;
    for uid in ["keeper0", "keeper1"] {
        shows(&cluster, uid, "work_mem", "5MB").await;
        crash(&mut cluster, uid).await;
        status::wait_shown(&cluster, &[uid], "shared_buffers").await;
        shows(&cluster, uid, "work_mem", "5MB").await;
    }
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// A line that denies is refused: the lines that were in force stay, and do not let in whom it was to keep out.
#[tokio::test]
async fn a_refused_line_that_denies_lets_nobody_in() {
    let cluster = Cluster::builder(Profile::Fast)
        .keepers(1)
        .proxies(0)
        .with("pgHBA", json!(["host all all 127.0.0.1/32 md5"]))
        .start()
        .await;
    let patch = json!({ "pgHBA": ["host all all 10.0.0.300/8 reject", "host all all 0.0.0.0/0 trust"] });
    update(&cluster, &patch).await;
    status::wait_shown(
        &cluster,
        &["keeper0"],
        "the last pgHBA that PostgreSQL accepted is used",
    )
    .await;
    let rules = "select string_agg(address || ' ' || auth_method, ',' order by line_number) from pg_hba_file_rules \
                 where database = '{all}' and user_name = '{all}'";
    answers(&cluster, "keeper0", rules, "127.0.0.1 md5").await;
}

/// What another program stored: a foreign directory, foreign rules, another port, names that break the file.
#[tokio::test]
async fn a_stored_spec_moves_nothing_that_the_keeper_owns() {
    let mut cluster = patient().proxies(0).start().await;
    let (foreign, sql) = (cluster.dir.path().join("foreign"), cluster.connect("keeper0").await);
    sql.run("create table ours (id int)").await.unwrap();
    let parameters = json!({
        "data_directory": foreign, "hba_file": foreign, "ident_file": foreign, "external_pid_file": foreign,
        "config_file": foreign, "include_dir": foreign, "Port": "1", "listen_addresses": "", "bad name": "1", "": "1",
        "promote_trigger_file": "/tmp", "unix_socket_directories": "/nonexistent", "hot_standby": "off",
        "work_mem": "5MB",
    });
    store(&cluster, |spec| {
        spec["pgParameters"] = parameters.clone();
        spec["pgHBA"] = json!(["hosst all all 10.0.0.1/32 md5", "host all all 127.0.0.1/32 md5"]);
    })
    .await;
    for uid in ["keeper0", "keeper1"] {
        shows(&cluster, uid, "work_mem", "5MB").await;
        for words in ["data_directory", "bad name", "hosst"] {
            status::wait_shown(&cluster, &[uid], words).await;
        }
        crash(&mut cluster, uid).await;
        answers(&cluster, uid, "select count(*) from ours", "0").await;
        let pgdata = cluster.pgdata(uid);
        shows(&cluster, uid, "data_directory", pgdata.to_str().unwrap()).await;
        shows(&cluster, uid, "hba_file", pgdata.join("pg_hba.conf").to_str().unwrap()).await;
    }
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// A new cluster with a spec that no server takes as a whole: it is there all the same.
#[tokio::test]
async fn a_new_cluster_comes_up_without_what_the_server_refuses() {
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
        shows(&cluster, uid, "work_mem", "5MB").await;
        status::wait_shown(&cluster, &[uid], "no_such_library").await;
        status::wait_shown(&cluster, &[uid], "no_such_parameter").await;
    }
}

/// A whole postgresql.conf in the first spec.
#[tokio::test]
async fn a_new_cluster_takes_a_stock_postgresql_conf() {
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
        shows(&cluster, uid, "shared_buffers", "16MB").await;
    }
}

/// More additional slots than standbys, and fewer standbys than there are slots.
#[tokio::test]
async fn every_standby_and_every_additional_slot_finds_room() {
    let slots: Vec<String> = (0..4).map(|number| format!("extra{number}")).collect();
    let mut cluster = patient()
        .proxies(0)
        .with("maxStandbys", 2)
        .with("additionalMasterReplicationSlots", slots)
        .start()
        .await;
    answers(&cluster, "keeper0", "select count(*) from pg_replication_slots", "5").await;
    let sql = cluster.connect("keeper0").await;
    sql.run("select pg_create_physical_replication_slot('by_hand')")
        .await
        .unwrap();
    update(
        &cluster,
        &json!({ "maxStandbys": 1, "additionalMasterReplicationSlots": ["extra0"] }),
    )
    .await;
    answers(&cluster, "keeper0", "select count(*) from pg_replication_slots", "3").await;
    sql.run("select pg_create_physical_replication_slot('by_hand' || n) from generate_series(1, 3) n")
        .await
        .unwrap();
    crash(&mut cluster, "keeper0").await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    answers(&cluster, "keeper0", "select count(*) from pg_replication_slots", "6").await;
    shows(&cluster, "keeper0", "max_replication_slots", "6").await;
}

/// A change that needs a restart: the standbys first, one after the other, then the master.
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
        shows(&cluster, uid, "max_connections", "150").await;
        let sql = cluster.connect(uid).await;
        let at = "select extract(epoch from pg_postmaster_start_time())::text";
        started.push(sql.value(at).await.unwrap().parse::<f64>().unwrap());
    }
    assert!(started.is_sorted(), "in this order: {started:?}");
    cluster.wait_healthy("keeper0", &Role::Master).await;
}

/// A library that no host has: the standbys try, go back and report; the master is not touched.
#[tokio::test]
async fn the_master_does_not_restart_for_what_no_standby_starts_with() {
    let cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let (master, standby) = (cluster.postmaster("keeper0"), cluster.postmaster("keeper1"));
    let parameters = json!({ "shared_preload_libraries": "no_such_library", "work_mem": "5MB" });
    update(
        &cluster,
        &json!({ "automaticPgRestart": true, "pgParameters": parameters }),
    )
    .await;
    status::wait_shown(&cluster, &["keeper1"], "no_such_library").await;
    status::wait_shown(&cluster, &["keeper0"], "no standby started with them").await;
    assert_ne!(cluster.postmaster("keeper1"), standby, "the standby has tried");
    for uid in ["keeper0", "keeper1"] {
        shows(&cluster, uid, "work_mem", "5MB").await;
    }
    assert_eq!(cluster.postmaster("keeper0"), master);
    cluster.wait_healthy("keeper1", &Role::Standby).await;

    // Another change that needs a restart is not held back by it, once the first one is taken back.
    let fixed = json!({ "pgParameters": { "shared_preload_libraries": null, "max_connections": "150" } });
    update(&cluster, &fixed).await;
    for uid in ["keeper1", "keeper0"] {
        shows(&cluster, uid, "max_connections", "150").await;
    }
}

/// A library that the standby's host has and the master's has not: the master goes back to what it ran with.
#[tokio::test]
async fn a_master_that_does_not_start_with_a_change_goes_back() {
    let cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let directory = cluster.pgdata("keeper1").join("modules");
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy(
        "/usr/lib/postgresql/15/lib/auto_explain.so",
        directory.join("only_here.so"),
    )
    .expect("PostgreSQL's modules are installed");
    let master = cluster.postmaster("keeper0");
    let parameters = json!({ "shared_preload_libraries": "./modules/only_here.so", "work_mem": "5MB" });
    update(
        &cluster,
        &json!({ "automaticPgRestart": true, "pgParameters": parameters }),
    )
    .await;
    status::wait_shown(&cluster, &["keeper0"], "only_here.so").await;
    shows(
        &cluster,
        "keeper1",
        "shared_preload_libraries",
        "./modules/only_here.so",
    )
    .await;
    shows(&cluster, "keeper0", "shared_preload_libraries", "").await;
    assert_ne!(cluster.postmaster("keeper0"), master, "it has tried");
    for uid in ["keeper0", "keeper1"] {
        shows(&cluster, uid, "work_mem", "5MB").await;
    }
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// A cluster in which nobody is elected while a crashed instance comes back, however busy the machine is.
fn patient() -> ClusterBuilder {
    Cluster::builder(Profile::Fast).with("failInterval", "60s")
}

/// Kills a postmaster and waits until another one serves.
async fn crash(cluster: &mut Cluster, uid: &str) {
    let before = cluster.postmaster(uid);
    cluster.kill_postmaster(uid);
    eventually(format!("{uid} to serve again"), LONG_TIMEOUT, async || {
        check(cluster.postmaster(uid) != before, || "the old one".to_owned())?;
        let sql = SqlClient::connect(&cluster.sql_config(uid)).await.map_err(error_text)?;
        sql.value("select 1").await.map_err(error_text)
    })
    .await;
}

pub(crate) async fn update(cluster: &Cluster, patch: &Value) {
    let (status, output) = cluster.stolonctl(&["update", "--patch", &patch.to_string()]).await;
    assert_eq!((status, output.as_str()), (0, ""), "stolonctl update --patch {patch}");
}

/// Changes the stored spec, as a program without our rules would.
pub(crate) async fn store(cluster: &Cluster, change: impl Fn(&mut Value)) {
    store_data(cluster, |data| change(&mut data["cluster"]["spec"])).await;
}

/// Changes the cluster data, as a program without our rules would.
pub(crate) async fn store_data(cluster: &Cluster, change: impl Fn(&mut Value)) {
    let key = cluster.store.keys().cluster_data();
    eventually("the changed cluster data to be stored", SHORT_TIMEOUT, async || {
        let entry = cluster
            .store
            .get(&key)
            .await
            .map_err(|error| error.to_string())?
            .ok_or("no data")?;
        let mut data: Value = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
        change(&mut data);
        let write = control::store::Txn::new()
            .if_unchanged(&key, entry.mod_revision)
            .put(&key, data.to_string());
        let written = cluster.store.commit(write).await.map_err(|error| error.to_string())?;
        check(written.committed().is_some(), || "somebody else wrote".to_owned())
    })
    .await;
}

pub(crate) async fn shows(cluster: &Cluster, uid: &str, parameter: &str, wanted: &str) {
    answers(cluster, uid, &format!("show {parameter}"), wanted).await;
}

pub(crate) async fn answers(cluster: &Cluster, uid: &str, question: &str, wanted: &str) {
    eventually(
        format!("{question} on {uid} to be {wanted}"),
        LONG_TIMEOUT,
        async || {
            let sql = SqlClient::connect(&cluster.sql_config(uid)).await.map_err(error_text)?;
            let value = sql.value(question).await.map_err(error_text)?;
            check(value == wanted, || value)
        },
    )
    .await;
}

/// A standby whose server hangs at its start holds the master's restart up, which status shows, and no longer than it
/// hangs.
#[tokio::test]
async fn a_restart_that_never_comes_back_is_reported_and_costs_no_master() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let hold = cluster.dir.path().join("hold");
    pg_programs::wrap(&mut cluster, &uid, "held", |program, real| match program {
        "postgres" => pg_programs::blocked_script(&hold, real),
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
    status::wait_shown(&cluster, &["keeper0"], &stuck).await;
    status::wait_shown(&cluster, &[&uid], "PostgreSQL does not accept connections yet").await;
    assert_eq!(cluster.postmaster("keeper0"), master, "the only one that serves");
    cluster.wait_healthy("keeper0", &Role::Master).await;

    std::fs::remove_file(&hold).unwrap();
    for uid in [&*uid, "keeper0"] {
        shows(&cluster, uid, "max_connections", "150").await;
    }
    status::wait_no_problems(&cluster).await;
}
