//! Files on disk: tablespaces that two keepers share, previous data while new data are made, links and mount points.
//! A keeper removes nothing that is not provably its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use model::Role;
use serde_json::{Value, json};
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::pg_programs;
use stolon_tests::process::{Process, Signal};
use stolon_tests::sql::SqlClient;
use stolon_tests::status;
use stolon_tests::wait::{eventually, throughout};

use crate::configuration::store_data;

/// Several rounds of a keeper with [`Profile::Fast`].
const SEVERAL_ROUNDS: std::time::Duration = std::time::Duration::from_secs(5);

/// Makes a directory that belongs to the user that PostgreSQL runs as.
fn make_dir(cluster: &Cluster, name: &str) -> PathBuf {
    let dir = cluster.dir().path().join("data").join(name);
    fs::create_dir_all(&dir).unwrap();
    cluster.dir().give_to_user(&dir).unwrap();
    dir
}

/// Two keepers on one host: the old master's links lead to the tablespace directory of the new master.
#[tokio::test]
async fn a_returning_old_master_does_not_touch_a_shared_tablespace() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let space = make_dir(&cluster, "ts");
    let sql = cluster.connect("keeper0").await;
    sql.run(&format!("create tablespace ts location '{}'", space.display()))
        .await
        .unwrap();
    sql.run("create table t (id int) tablespace ts").await.unwrap();
    sql.run("insert into t select generate_series(1, 1000)").await.unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
    eventually("both keepers' problems in status", SHORT_TIMEOUT, async || {
        let (status, shown) = cluster.stolonctl(&["status"]).await;
        let named = shown.lines().filter(|line| line.contains(&*space.to_string_lossy()));
        check(status == 0 && named.count() >= 2, || shown)
    })
    .await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.kill_keeper_and_postgres("keeper0");
    assert_eq!(cluster.wait_other_master("keeper0", LONG_TIMEOUT).await, "keeper1");
    cluster.wait_healthy("keeper1", &Role::Master).await;

    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    let keeper = cluster.process("keeper0");
    keeper
        .wait_for_log_after(log_length, "no new data are created, because of", SHORT_TIMEOUT)
        .await;
    keeper
        .wait_for_log_after(log_length, "run this keeper on another host", SHORT_TIMEOUT)
        .await;
    let resyncs = || {
        keeper.log()[log_length..]
            .matches("resyncing the database cluster")
            .count()
    };
    let before = resyncs();
    throughout("no repeated log lines", SEVERAL_ROUNDS, async || {
        check(resyncs() == before, || keeper.tail(20))
    })
    .await;
    assert!(!keeper.log()[log_length..].contains("running pg_basebackup"));
    assert!(
        cluster.pgdata("keeper0").join("PG_VERSION").exists(),
        "its data are kept"
    );
    let sql = cluster.connect("keeper1").await;
    assert_eq!(sql.value("select count(*) from t").await.unwrap(), "1000");
    sql.run("insert into t select generate_series(1, 1000)").await.unwrap();
    sql.run("checkpoint").await.unwrap();

    // One of the remedies in the message.
    sql.run("alter table t set tablespace pg_default").await.unwrap();
    sql.run("drop tablespace ts").await.unwrap();
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    cluster.wait_caught_up("keeper0", "keeper1").await;
    let log = cluster.process("keeper0").log();
    let is_found = |line: &&str| line.contains("problem found") && line.contains("no new data are created");
    let count = log[log_length..].lines().filter(is_found).count();
    assert_eq!(count, 1, "logged once");
    assert_eq!(
        cluster
            .connect("keeper0")
            .await
            .value("select count(*) from t")
            .await
            .unwrap(),
        "2000"
    );
}

/// The previous data are kept until the copy is recorded, and a `pg_wal` that is a link stays a link.
#[tokio::test]
async fn a_copy_keeps_the_old_data_until_it_is_complete_and_keeps_a_pg_wal_link() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let wal = make_dir(&cluster, "wal");
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    let pgdata = cluster.pgdata("keeper1");
    for entry in fs::read_dir(pgdata.join("pg_wal")).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), wal.join(entry.file_name())).unwrap();
    }
    fs::remove_dir(pgdata.join("pg_wal")).unwrap();
    symlink(&wal, pgdata.join("pg_wal")).unwrap();
    fs::write(wal.join("notes"), "foreign file").unwrap();
    cluster.start("keeper1");
    cluster.wait_healthy("keeper1", &Role::Standby).await;

    kill_and_copy_again(&mut cluster, "keeper1").await;
    assert_eq!(fs::read_link(pgdata.join("pg_wal")).unwrap(), wal);
    let has_segment = || {
        let names = fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.len() == 24)
    };
    assert!(has_segment());
    assert_eq!(fs::read_to_string(wal.join("notes")).unwrap(), "foreign file");
    wait_old_data_removed(&cluster, "keeper1").await;
}

/// Waits until a keeper has copied its new db beside the old data, and is healthy.
async fn wait_copied(cluster: &mut Cluster, uid: &str, log_length: usize) {
    let keeper = cluster.process(uid);
    keeper
        .wait_for_log_after(
            log_length,
            "keeping the old data until the new data are complete",
            LONG_TIMEOUT,
        )
        .await;
    keeper
        .wait_for_log_after(log_length, "sync succeeded", LONG_TIMEOUT)
        .await;
    cluster.wait_healthy(uid, &Role::Standby).await;
}

/// Kills a standby, has its keeper get a new db, and waits until that has been copied and is healthy.
async fn kill_and_copy_again(cluster: &mut Cluster, uid: &str) {
    cluster.kill_keeper_and_postgres(uid);
    let log_length = restart_with_new_db(cluster, uid).await;
    wait_copied(cluster, uid, log_length).await;
    cluster.wait_caught_up(uid, "keeper0").await;
}

async fn wait_old_data_removed(cluster: &Cluster, uid: &str) {
    eventually("the old data to be removed", SHORT_TIMEOUT, async || {
        old_data_directory(cluster, uid).map_or(Ok(()), |old| Err(format!("{} is there", old.display())))
    })
    .await;
}

/// Returns the directory beside PGDATA that has the previous data.
fn old_data_directory(cluster: &Cluster, uid: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(cluster.dir().data_dir(uid)).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| path.to_string_lossy().contains(".old-"))
}

/// The new server starts and does not answer: the old data are kept as long as that lasts.
#[tokio::test]
async fn the_old_data_are_removed_only_once_the_new_server_has_answered() {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    let hold = cluster.dir().path().join("hold");
    pg_programs::wrap(&mut cluster, "keeper1", "held", |program, real| match program {
        "postgres" => pg_programs::starting_script(&hold, real),
        _ => pg_programs::passthrough_script(real),
    });
    cluster.kill_keeper_and_postgres("keeper1");
    fs::write(&hold, "").unwrap();
    let log_length = restart_with_new_db(&mut cluster, "keeper1").await;
    let keeper = cluster.process("keeper1");
    keeper
        .wait_for_log_after(log_length, "running pg_basebackup", LONG_TIMEOUT)
        .await;
    let pgdata = cluster.pgdata("keeper1");
    eventually("the copy to be complete", LONG_TIMEOUT, async || {
        check(pgdata.join("PG_VERSION").exists(), || "it is not".to_owned())
    })
    .await;
    status::wait_shown(&cluster, &["keeper1"], "PostgreSQL does not accept connections yet").await;
    let old = old_data_directory(&cluster, "keeper1").expect("the old data are kept");
    throughout("the old data", SEVERAL_ROUNDS, async || {
        check(old.join("PG_VERSION").exists(), || "removed".to_owned())
    })
    .await;
    fs::remove_file(&hold).unwrap();
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    wait_old_data_removed(&cluster, "keeper1").await;
    status::wait_no_problems(&cluster).await;
}

/// The instance at the followed db's address is on an older timeline than the recorded one: a copy of it could lack
/// acknowledged transactions.
#[tokio::test]
async fn a_source_behind_the_recorded_timeline_is_not_copied() {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    cluster.process("sentinel0").kill();
    let timeline = |timeline: u64| {
        move |data: &mut Value| {
            let master = data["cluster"]["status"]["master"].as_str().unwrap().to_owned();
            data["dbs"][master]["status"]["timelineID"] = timeline.into();
        }
    };
    store_data(&cluster, timeline(7)).await;
    assign_new_db(&cluster, "keeper1").await;
    let behind = "its timeline is 1, and the cluster data have 7 for the followed db";
    status::wait_shown(&cluster, &["keeper1"], behind).await;
    assert!(cluster.pgdata("keeper1").join("PG_VERSION").exists());
    assert!(old_data_directory(&cluster, "keeper1").is_none(), "nothing is moved");
    let copies = cluster
        .process("keeper1")
        .log()
        .matches("running pg_basebackup")
        .count();
    assert_eq!(copies, 1, "the first copy");

    store_data(&cluster, timeline(1)).await;
    cluster.start("sentinel0");
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    wait_old_data_removed(&cluster, "keeper1").await;
}

/// Replaces the db of a running keeper by a new standby db, while no sentinel runs.
async fn assign_new_db(cluster: &Cluster, uid: &str) {
    store_data(cluster, |data| {
        let dbs = data["dbs"].as_object_mut().unwrap();
        let of_keeper = dbs.iter().find(|(_, db)| db["spec"]["keeperUID"] == uid);
        let before = of_keeper.expect("the keeper has a db").0.clone();
        let mut db = dbs.remove(&before).unwrap();
        db["uid"] = NEW_DB_UID.into();
        db["generation"] = 1.into();
        db["spec"]["initMode"] = "resync".into();
        db["status"] = json!({});
        dbs.insert(NEW_DB_UID.to_owned(), db);
        let text = data.to_string().replace(&before, NEW_DB_UID);
        *data = serde_json::from_str(&text).unwrap();
    })
    .await;
}

/// A uid in the form that sentinels generate.
const NEW_DB_UID: &str = "0a0b0c0d";

/// Two real file systems: one without room for old and new data, and one that is mounted below PGDATA for a while.
#[tokio::test]
async fn old_data_are_removed_first_without_room_and_kept_while_a_file_system_is_mounted() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let (dir, triggers) = (cluster.dir().data_dir(&uid), make_dir(&cluster, "triggers"));
    let mounted = cluster.pgdata(&uid).join("pg_twophase");
    let on_trigger = |name: &str, command: &str| {
        let (begin, end) = (triggers.join(name), triggers.join(format!("{name} done")));
        let wait = format!("while [ ! -e '{}' ]; do sleep 0.1; done", begin.display());
        format!("{wait}; {command} '{}'; touch '{}'", mounted.display(), end.display())
    };
    let script = format!(
        "mkdir -p {0}; mount -t tmpfs -o size=160m none {0}; ({1}; {2}) & true",
        dir.display(),
        on_trigger("mount", "mount -t tmpfs none"),
        on_trigger("umount", "umount"),
    );
    with_mounts(&mut cluster, &uid, &script);
    let trigger = async |name: &str| {
        fs::write(triggers.join(name), "").unwrap();
        eventually(name.to_owned(), SHORT_TIMEOUT, async || {
            check(triggers.join(format!("{name} done")).exists(), || "not done".to_owned())
        })
        .await;
    };
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Standby).await;
    cluster.process("sentinel0").kill();
    trigger("mount").await;
    assign_new_db(&cluster, &uid).await;
    status::wait_shown(
        &cluster,
        &[&uid],
        &format!("{}: a file system is mounted there", mounted.display()),
    )
    .await;
    let keeper = cluster.process(&uid);
    let copies = |keeper: &Process| keeper.log().matches("running pg_basebackup").count();
    assert_eq!(copies(keeper), 1, "the first copy");
    // The file in the keeper's mount namespace (proc_pid_root(5)).
    let keeper_root = PathBuf::from(format!("/proc/{}/root", keeper.pid()));
    let data = keeper_root
        .join(mounted.strip_prefix("/").unwrap())
        .with_file_name("PG_VERSION");
    assert!(data.exists(), "nothing is removed");

    trigger("umount").await;
    cluster.start("sentinel0");
    let keeper = cluster.process(&uid);
    let first = "no space to keep the old data until the new are complete, removing them first";
    keeper.wait_for_log(first, LONG_TIMEOUT).await;
    cluster.wait_healthy(&uid, &Role::Standby).await;
    let log = cluster.process(&uid).log();
    assert_eq!(copies(cluster.process(&uid)), 2);
    assert!(log.find(first) < log.rfind("running pg_basebackup"), "logged before");
    assert!(!log.contains("keeping the old data"));
    status::wait_no_problems(&cluster).await;
}

/// The advertised address leads to an instance of another cluster with the same passwords.
#[tokio::test]
async fn an_instance_of_another_cluster_is_not_copied() {
    let mut other_cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    other_cluster.process("keeper0").kill(); // its server keeps running, and no keeper drops its slots
    cluster
        .process("keeper1")
        .wait_for_log("already standby", SHORT_TIMEOUT)
        .await;
    let port = other_cluster.port("keeper0");
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster
        .program("keeper0")
        .options
        .push(format!("--pg-advertise-port={port}"));
    cluster.start("keeper0");
    cluster.wait_healthy("keeper0", &Role::Master).await;

    cluster.kill_keeper_and_postgres("keeper1");
    let log_length = restart_with_new_db(&mut cluster, "keeper1").await;
    let db = eventually("a new db", LONG_TIMEOUT, async || {
        let data = cluster.data().await.map_err(error_text)?;
        let (uid, _) = stolon_tests::cluster::db_of(&data, "keeper1").map_err(error_text)?;
        Ok::<_, String>(uid.to_string())
    })
    .await;
    let sql = other_cluster.connect("keeper0").await;
    sql.run(&format!("select pg_create_physical_replication_slot('stolon_{db}')"))
        .await
        .unwrap();
    let keeper = cluster.process("keeper1");
    keeper
        .wait_for_log_after(log_length, "another instance answers at", LONG_TIMEOUT)
        .await;
    let ids = [&sql, &cluster.connect("keeper0").await];
    for sql in ids {
        let id = sql
            .value("select system_identifier from pg_control_system()")
            .await
            .unwrap();
        cluster
            .process("keeper1")
            .wait_for_log_after(log_length, &id, SHORT_TIMEOUT)
            .await;
    }
    assert!(!cluster.process("keeper1").log()[log_length..].contains("running pg_basebackup"));
    assert!(cluster.pgdata("keeper1").join("PG_VERSION").exists());

    // With the correct address the copy is made.
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    cluster
        .program("keeper0")
        .options
        .retain(|option| !option.starts_with("--pg-advertise-port"));
    cluster.start("keeper0");
    cluster.wait_healthy("keeper1", &Role::Standby).await;
}

/// Runs a keeper in its own user and mount namespace (unshare(1)), which needs no privileges; `script` mounts file
/// systems there.
fn with_mounts(cluster: &mut Cluster, uid: &str, script: &str) {
    let run = format!("set -e; {script}; exec setpriv --ambient-caps=-all --inh-caps=-all \"$@\"");
    let words = [
        "unshare",
        "--user",
        "--map-current-user",
        "--keep-caps",
        "--mount",
        "sh",
        "-c",
    ];
    let words = words
        .iter()
        .map(|word| (*word).to_owned())
        .chain([run, "sh".to_owned()]);
    cluster.program(uid).wrapper = words.collect();
}

/// Each keeper has its own file system at the tablespace's location, as on two hosts. PGDATA is lost; the tablespace
/// directory remains, and has the keeper's mark.
#[tokio::test]
async fn a_copy_reuses_the_tablespace_directory_of_lost_data() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let (space, below) = (make_dir(&cluster, "ts"), make_dir(&cluster, "ts1"));
    fs::write(below.join("notes"), "foreign file").unwrap();
    let sql = cluster.connect("keeper0").await;
    sql.run(&format!("create tablespace ts location '{}'", space.display()))
        .await
        .unwrap();
    sql.run("create table t (id int) tablespace ts").await.unwrap();
    sql.run("insert into t select generate_series(1, 1000)").await.unwrap();
    let uid = cluster.prepare_keeper();
    let script = format!("mount --bind {} {}", below.display(), space.display());
    with_mounts(&mut cluster, &uid, &script);
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Standby).await;
    let version_directory = || {
        let names = fs::read_dir(&below).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with("PG_"))
    };
    assert!(version_directory(), "its tablespace is on its own file system");

    cluster.kill_keeper_and_postgres(&uid);
    fs::remove_dir_all(cluster.pgdata(&uid)).unwrap();
    restart_with_new_db(&mut cluster, &uid).await;
    cluster.wait_healthy(&uid, &Role::Standby).await;
    cluster.wait_caught_up(&uid, "keeper0").await;
    assert_eq!(
        cluster
            .connect(&uid)
            .await
            .value("select count(*) from t")
            .await
            .unwrap(),
        "1000"
    );
    assert_eq!(fs::read_to_string(below.join("notes")).unwrap(), "foreign file");
    sql.run("checkpoint").await.unwrap();
    assert_eq!(sql.value("select count(*) from t").await.unwrap(), "1000");
}

/// A tablespace directory of unknown origin stops the copy and is not changed.
#[tokio::test]
async fn a_tablespace_directory_of_unknown_origin_stops_the_copy() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let (space, below) = (make_dir(&cluster, "ts"), make_dir(&cluster, "ts1"));
    let sql = cluster.connect("keeper0").await;
    sql.run(&format!("create tablespace ts location '{}'", space.display()))
        .await
        .unwrap();
    let version = sql
        .value("select 'PG_15_' || catalog_version_no from pg_control_system()")
        .await
        .unwrap();
    let foreign = below.join(version);
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("content"), "foreign file").unwrap();
    let uid = cluster.prepare_keeper();
    let script = format!("mount --bind {} {}", below.display(), space.display());
    with_mounts(&mut cluster, &uid, &script);
    cluster.start(&uid);
    let keeper = cluster.process(&uid);
    keeper
        .wait_for_log("its contents are not known to belong to this keeper", LONG_TIMEOUT)
        .await;
    assert!(!keeper.log().contains("running pg_basebackup"));
    assert_eq!(fs::read_to_string(foreign.join("content")).unwrap(), "foreign file");
    fs::rename(&foreign, below.join("moved away")).unwrap();
    cluster.wait_healthy(&uid, &Role::Standby).await;
}

/// The root of a file system, with a `lost+found` that the keeper may not read, as PGDATA and as `--data-dir`.
#[tokio::test]
async fn a_mount_point_with_lost_and_found_works_as_pgdata_and_as_data_dir() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let mount = |dir: &Path| {
        let dir = dir.display();
        format!("mkdir -p {dir}; mount -t tmpfs none {dir}; mkdir -m 000 {dir}/lost+found")
    };
    for (role, below) in [(Role::Master, "postgres"), (Role::Standby, "")] {
        let uid = cluster.prepare_keeper();
        let dir = cluster.dir().data_dir(&uid).join(below);
        with_mounts(&mut cluster, &uid, &mount(&dir));
        cluster.start(&uid);
        cluster.wait_healthy(&uid, &role).await;
    }
    cluster
        .connect("keeper0")
        .await
        .run("create table t (id int)")
        .await
        .unwrap();
    cluster.wait_caught_up("keeper1", "keeper0").await;
}

/// PGDATA is a bind mount, which has the same device as its parent directory.
#[tokio::test]
async fn a_copy_keeps_the_old_data_until_it_is_complete_when_pgdata_is_a_mount_point() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let (real, pgdata) = (make_dir(&cluster, "real"), cluster.pgdata(&uid));
    let script = format!("mkdir -p {0}; mount --bind {1} {0}", pgdata.display(), real.display());
    with_mounts(&mut cluster, &uid, &script);
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Standby).await;
    assert!(real.join("PG_VERSION").exists());
    kill_keeper_and_server_at(&mut cluster, &uid, &real);
    let log_length = restart_with_new_db(&mut cluster, &uid).await;
    wait_copied(&mut cluster, &uid, log_length).await;
    eventually("the old data to be removed", SHORT_TIMEOUT, async || {
        let names = fs::read_dir(&real).map_err(|error| error.to_string())?;
        let mut names = names
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .find(|name| name.starts_with("stolon-") && name.ends_with(".old"))
            .map_or(Ok(()), Err)
    })
    .await;
}

/// Kills a keeper and its server, whose PGDATA is at `real`.
fn kill_keeper_and_server_at(cluster: &mut Cluster, uid: &str, real: &Path) {
    cluster.process(uid).signal(Signal::KILL);
    let postmaster = fs::read_to_string(real.join("postmaster.pid")).unwrap();
    let pid: u32 = postmaster.lines().next().unwrap().parse().unwrap();
    stolon_tests::process::send_signal(pid, Signal::KILL);
    cluster.process(uid).kill();
}

/// Removes a killed keeper from the cluster and starts it again, so that it gets a new db; returns the earlier length
/// of its log.
async fn restart_with_new_db(cluster: &mut Cluster, uid: &str) -> usize {
    let log_length = cluster.process(uid).log().len();
    eventually("the keeper to be removed", LONG_TIMEOUT, async || {
        let (status, output) = cluster.stolonctl(&["removekeeper", uid]).await;
        check(status == 0, || output)
    })
    .await;
    cluster.start(uid);
    log_length
}

/// pg_basebackup fails each time: the pause before the next attempt grows, and the old data are kept.
#[tokio::test]
async fn failing_copies_are_retried_with_backoff_and_lose_no_data() {
    let mut cluster = Cluster::builder(Profile::Fast).proxies(0).start().await;
    pg_programs::wrap(&mut cluster, "keeper1", "programs", |program, real| match program {
        "pg_basebackup" => "#!/bin/sh\necho it fails >&2\nexit 1\n".to_owned(),
        _ => pg_programs::passthrough_script(real),
    });
    cluster.kill_keeper_and_postgres("keeper1");
    let log_length = restart_with_new_db(&mut cluster, "keeper1").await;
    let keeper = cluster.process("keeper1");
    keeper
        .wait_for_log_after(log_length, "attempt 1; pausing 5s before the next one", LONG_TIMEOUT)
        .await;
    keeper
        .wait_for_log_after(log_length, "attempt 2; pausing 10s before the next one", LONG_TIMEOUT)
        .await;
    let attempts = keeper.log()[log_length..].matches("running pg_basebackup").count();
    assert_eq!(attempts, 2);
    let (status, shown) = cluster.stolonctl(&["status"]).await;
    assert!(
        status == 0 && shown.contains("copying the followed db failed"),
        "{shown}"
    );
    let old = old_data_directory(&cluster, "keeper1").expect("the old data are there");
    assert!(old.join("PG_VERSION").exists());

    assert_eq!(cluster.stop("keeper1", Signal::TERM).await, 0);
    pg_programs::use_default(&mut cluster, "keeper1");
    cluster.start("keeper1");
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    wait_old_data_removed(&cluster, "keeper1").await;
}

/// PGDATA is a link: a copy goes to its target.
#[tokio::test]
async fn a_pgdata_that_is_a_link_stays_a_link() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let real = make_dir(&cluster, "real");
    let dir = cluster.dir().data_dir(&uid);
    fs::create_dir(&dir).unwrap();
    cluster.dir().give_to_user(&dir).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&real, dir.join("postgres")).unwrap();
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Standby).await;
    kill_keeper_and_server_at(&mut cluster, &uid, &real);
    let log_length = restart_with_new_db(&mut cluster, &uid).await;
    cluster
        .process(&uid)
        .wait_for_log_after(log_length, "sync succeeded", LONG_TIMEOUT)
        .await;
    cluster.wait_healthy(&uid, &Role::Standby).await;
    assert_eq!(fs::read_link(dir.join("postgres")).unwrap(), real);
    assert!(real.join("PG_VERSION").exists());
    let sql = SqlClient::connect(&cluster.sql_config(&uid)).await.unwrap();
    assert_eq!(sql.value("select pg_is_in_recovery()").await.unwrap(), "t");
}
