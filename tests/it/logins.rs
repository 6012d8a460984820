//! Changes to the keepers' roles, databases and session settings, which must not cause a failover; and a long recovery.

use std::path::PathBuf;
use std::time::Duration;

use model::{KeeperInfo, Role};
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, REPLUSER, SUPERUSER, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{self, Signal};
use stolon_tests::spec::update;
use stolon_tests::sql::SqlClient;
use stolon_tests::status;
use stolon_tests::wait::{eventually, throughout};
use tokio_postgres::Config;

/// Connects as a role of the test, which the changes to the keepers' roles do not affect.
async fn connect_admin(cluster: &Cluster, uid: &str) -> SqlClient {
    let mut config: Config = cluster.sql_config(uid);
    config.user("admin").password("admin").dbname("template1");
    eventually(format!("{uid} to accept the admin"), LONG_TIMEOUT, async || {
        SqlClient::connect(&config).await.map_err(error_text)
    })
    .await
}

/// Writes the passwords of both roles to files and has a keeper read them there; returns the files.
fn with_password_files(cluster: &mut Cluster, uid: &str) -> [PathBuf; 2] {
    let dir = cluster.dir().path().to_owned();
    [("su", SUPERUSER.1), ("repl", REPLUSER.1)].map(|(role, password)| {
        let file = dir.join(format!("{role}.password"));
        std::fs::write(&file, password).unwrap();
        let program = cluster.program(uid);
        program
            .options
            .retain(|option| !option.starts_with(&format!("--pg-{role}-password")));
        program
            .options
            .push(format!("--pg-{role}-passwordfile={}", file.display()));
        file
    })
}

/// Returns how many lines of the sentinel's log are about an election.
fn election_lines(cluster: &mut Cluster) -> usize {
    let log = cluster.process("sentinel0").log();
    log.matches("electing").count() + log.matches("trying to find a new master").count()
}

/// Returns how many warnings and errors a keeper's log has, its server's included.
fn warning_lines(cluster: &mut Cluster, uid: &str) -> usize {
    let log = cluster.process(uid).log();
    let is_warning = |line: &&str| {
        [" WARN ", " ERROR ", "FATAL:", "DETAIL:"]
            .iter()
            .any(|word| line.contains(word))
    };
    log.lines().filter(is_warning).count()
}

pub(crate) async fn pair_with_password_files() -> (Cluster, [PathBuf; 2]) {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let mut files = None;
    for role in [Role::Master, Role::Standby] {
        let uid = cluster.prepare_keeper();
        files = Some(with_password_files(&mut cluster, &uid));
        cluster.start(&uid);
        cluster.wait_healthy(&uid, &role).await;
    }
    let sql = cluster.connect("keeper0").await;
    sql.run("create role admin superuser login password 'admin'")
        .await
        .unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    (cluster, files.unwrap())
}

/// Checks that both instances are healthy and that the first keeper's is the master.
async fn check_healthy(cluster: &Cluster) -> Result<(), String> {
    let data = cluster.data().await.map_err(error_text)?;
    let master = cluster.master().await.map_err(error_text)?;
    check(master == "keeper0", || format!("the master is {master}"))?;
    for (uid, db) in data.dbs() {
        check(db.status.healthy, || format!("{uid} is not healthy"))?;
    }
    check(data.dbs().len() == 2, || format!("{} dbs", data.dbs().len()))
}

/// Waits until the keeper has published again, and a healthy instance.
async fn wait_healthy_report(cluster: &Cluster, keeper: &str) {
    let read = async || {
        let key = cluster.store.keys().keeper_info(keeper);
        let entry = cluster.store.get(&key).await.map_err(|error| error.to_string())?;
        model::from_slice::<KeeperInfo>(&entry.ok_or("no info")?.value).map_err(|error| error.to_string())
    };
    let before = read().await.unwrap();
    eventually("a new report of a healthy instance", LONG_TIMEOUT, async || {
        let info = read().await?;
        let is_healthy = info.postgres_state.as_ref().is_some_and(|state| state.healthy);
        check(is_healthy && info.info_uid != before.info_uid, || format!("{info:?}"))
    })
    .await;
}

/// Changed passwords used to cause several elections per second and more than 20 log lines per second.
#[tokio::test]
async fn changed_passwords_cause_no_failover_and_are_reported_and_fixed_without_a_restart() {
    let (mut cluster, files) = pair_with_password_files().await;
    let before = election_lines(&mut cluster);
    let admin_sql = connect_admin(&cluster, "keeper0").await;
    let both = ["keeper0", "keeper1"];
    for (user, role) in [(SUPERUSER.0, "superuser"), (REPLUSER.0, "replication user")] {
        admin_sql
            .run(&format!("alter role {user} password 'changed'"))
            .await
            .unwrap();
        status::wait_status_shows(&cluster, &both, &format!("PostgreSQL refuses the login of the {role}")).await;
    }
    // Open sessions of the keepers are ended, too.
    for uid in both {
        let sql = connect_admin(&cluster, uid).await;
        sql.run(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{}'",
            SUPERUSER.0
        ))
        .await
        .unwrap();
    }
    let before_span = both.map(|uid| warning_lines(&mut cluster, uid));
    let span = Profile::Fast.fail_interval() * 3;
    throughout("the cluster", span, async || check_healthy(&cluster).await).await;
    for (uid, before_span) in both.iter().zip(before_span) {
        let now = warning_lines(&mut cluster, uid);
        // Each refusal is two lines of the server, and the WAL receiver connects by itself.
        assert!(
            now - before_span < 40,
            "{uid} has {} warnings in {span:?}",
            now - before_span
        );
    }
    assert_eq!(election_lines(&mut cluster), before, "no election");
    // The master's server is killed: its keeper starts it again and reports it as healthy, within a failInterval that
    // is long enough for a busy machine.
    update(&cluster, &json!({ "failInterval": "120s" })).await;
    cluster.kill_postmaster("keeper0");
    eventually("a new server", LONG_TIMEOUT, async || {
        let sql = connect_admin(&cluster, "keeper0").await;
        sql.value("select 1").await.map(drop).map_err(error_text)
    })
    .await;
    // The first report may have been made before; the sentinel has read it when the next one comes.
    for _ in 0..3 {
        wait_healthy_report(&cluster, "keeper0").await;
    }
    update(&cluster, &json!({ "failInterval": "4s" })).await;
    throughout("the cluster after a restart", span, async || {
        check_healthy(&cluster).await
    })
    .await;

    // The operator writes the new passwords into the files; SIGHUP ends no keeper.
    for file in &files {
        std::fs::write(file, "changed\n").unwrap();
    }
    for uid in both {
        cluster.process(uid).signal(Signal::HUP);
        cluster
            .process(uid)
            .wait_for_log("SIGHUP, reading the password files again", SHORT_TIMEOUT)
            .await;
    }
    status::wait_status_lacks(&cluster, &both, "login").await;
    for uid in both {
        assert_eq!(cluster.process(uid).try_wait(), None, "{uid} runs after SIGHUP");
    }
    let sql = connect_admin(&cluster, "keeper0").await;
    eventually("the standby to stream", LONG_TIMEOUT, async || {
        let streams = sql
            .value("select count(*) from pg_stat_replication where state = 'streaming'")
            .await;
        let streams = streams.map_err(error_text)?;
        check(streams == "1", || streams)
    })
    .await;
    assert_eq!(election_lines(&mut cluster), before, "no election");
    assert!(
        !cluster.process("keeper1").log()[..].contains("could not remove"),
        "no data were removed"
    );
}

#[tokio::test]
async fn a_standby_is_promoted_although_its_keeper_cannot_log_in() {
    let (mut cluster, _) = pair_with_password_files().await;
    let admin_sql = connect_admin(&cluster, "keeper0").await;
    admin_sql
        .run(&format!("alter role {} nologin", SUPERUSER.0))
        .await
        .unwrap();
    drop(admin_sql);
    status::wait_status_shows(&cluster, &["keeper1"], "PostgreSQL refuses the login of the superuser").await;
    let sql = connect_admin(&cluster, "keeper1").await;
    sql.run(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{}'",
        SUPERUSER.0
    ))
    .await
    .unwrap();
    cluster.kill_keeper_and_postgres("keeper0");
    cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await;
    eventually("the new master to accept writes", LONG_TIMEOUT, async || {
        let sql = connect_admin(&cluster, "keeper1").await;
        sql.run("create table if not exists public.w (id int)")
            .await
            .map_err(error_text)
    })
    .await;
}

#[tokio::test]
async fn a_cluster_without_the_database_postgres_keeps_running() {
    let (mut cluster, _) = pair_with_password_files().await;
    let before = election_lines(&mut cluster);
    let sql = connect_admin(&cluster, "keeper0").await;
    sql.run("drop database postgres with (force)").await.unwrap();
    let both = ["keeper0", "keeper1"];
    status::wait_status_shows(&cluster, &both, "the database postgres cannot be used").await;
    throughout("the cluster", Profile::Fast.fail_interval() * 2, async || {
        check_healthy(&cluster).await
    })
    .await;
    sql.run("create database postgres template template0").await.unwrap();
    status::wait_status_lacks(&cluster, &both, "the database postgres cannot be used").await;
    assert_eq!(election_lines(&mut cluster), before, "no election");
}

/// Session settings in the initial spec affect neither the creation of the cluster nor the keepers' queries.
#[tokio::test]
async fn a_cluster_is_created_whatever_session_settings_its_spec_has() {
    let parameters = serde_json::json!({
        "dynamic_shared_memory_type": "mmap",
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        "statement_timeout": "1ms",
        "lock_timeout": "1ms",
        "idle_session_timeout": "1ms",
        "search_path": "nowhere",
        "DateStyle": "German",
    });
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("pgParameters", parameters)
        .keepers(0)
        .proxies(0)
        .start()
        .await;
    for uid in ["keeper0", "keeper1"] {
        cluster.prepare_keeper();
        cluster.start(uid);
        eventually(format!("{uid} to be healthy"), LONG_TIMEOUT, async || {
            let data = cluster.data().await.map_err(error_text)?;
            let (_, db) = stolon_tests::cluster::db_of(&data, uid).map_err(error_text)?;
            let settled = db.status.healthy && db.status.current_generation == db.generation;
            check(settled, || format!("{:?}", db.status))
        })
        .await;
    }
    // A db without a report counts as healthy for a while.
    eventually("both keepers to report", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let reported = data.dbs().values().all(|db| !db.status.system_id.is_empty());
        check(reported, || "one has not".to_owned())?;
        check_healthy(&cluster).await
    })
    .await;
    let log = cluster.process("keeper0").log();
    assert_eq!(
        log.matches("initializing the database cluster").count(),
        1,
        "created once"
    );
    throughout("the cluster", Profile::Fast.fail_interval() * 2, async || {
        check_healthy(&cluster).await
    })
    .await;
}

/// Returns the startup process of a server that is in recovery.
async fn startup_process(cluster: &Cluster, uid: &str) -> u32 {
    eventually("a startup process that recovers", LONG_TIMEOUT, async || {
        let postmaster = cluster.postmaster(uid).ok_or("no server")?;
        let children = process::children(postmaster);
        let startup = children.into_iter().find(|pid| {
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&cmdline).contains("startup")
        });
        startup.ok_or("it is not there")
    })
    .await
}

/// A long crash recovery: it is reported, the server is not stopped, and a keeper that is stopped and started meanwhile
/// exits and starts normally.
#[tokio::test]
async fn a_long_crash_recovery_is_reported_and_waited_for() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("dbWaitReadyTimeout", "1s")
        .keepers(1)
        .proxies(0)
        .start()
        .await;
    let sql = cluster.connect("keeper0").await;
    sql.run("checkpoint; create table t as select g, repeat('x', 200) from generate_series(1, 300000) g")
        .await
        .unwrap();
    drop(sql);
    cluster.kill_postmaster("keeper0");
    let startup = startup_process(&cluster, "keeper0").await;
    process::send_signal(startup, Signal::STOP);
    status::wait_status_shows(&cluster, &["keeper0"], "PostgreSQL does not accept connections yet").await;
    let server = cluster.postmaster("keeper0");
    throughout("the same server", Duration::from_secs(8), async || {
        let now = cluster.postmaster("keeper0");
        check(now == server, || format!("{now:?} instead of {server:?}"))
    })
    .await;
    assert_eq!(cluster.process("keeper0").try_wait(), None, "the keeper runs");
    let log = cluster.process("keeper0").log();
    assert!(
        log.contains("waiting for postgres to accept connections"),
        "it is logged"
    );
    process::send_signal(startup, Signal::CONT);
    cluster.wait_healthy("keeper0", &Role::Master).await;
    status::wait_status_lacks(&cluster, &["keeper0"], "PostgreSQL does not accept connections yet").await;

    // The same with a keeper that is stopped and started meanwhile.
    let sql = cluster.connect("keeper0").await;
    sql.run("update t set repeat = repeat('y', 200)").await.unwrap();
    drop(sql);
    cluster.kill_postmaster("keeper0");
    startup_process(&cluster, "keeper0").await;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;
    let sql = cluster.connect("keeper0").await;
    let rows = sql
        .value("select count(*) from t where repeat like 'y%'")
        .await
        .unwrap();
    assert_eq!(rows, "300000");
}
