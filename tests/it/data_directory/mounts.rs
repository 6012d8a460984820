//! PGDATA and data directories that are mount points, and file systems without room or with others mounted below.

use std::fs;
use std::path::{Path, PathBuf};

use model::Role;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::pg_programs;
use stolon_tests::process::{Process, Signal};
use stolon_tests::status;
use stolon_tests::wait::eventually;

use super::{
    assign_new_db, kill_keeper_and_server_at, kill_server_at, make_dir, restart_with_new_db, wait_copied, with_mounts,
};

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
    // Data that were shut down in order would be kept (keeper 6.7).
    let pgdata = cluster.pgdata(&uid);
    let real = namespace_path(cluster.process(&uid), &pgdata);
    cluster.process(&uid).freeze(SHORT_TIMEOUT).await;
    kill_server_at(&real);
    assign_new_db(&cluster, &uid).await;
    cluster.process(&uid).signal(Signal::CONT);
    status::wait_status_shows(
        &cluster,
        &[&uid],
        &format!("{}: a file system is mounted there", mounted.display()),
    )
    .await;
    let keeper = cluster.process(&uid);
    let copies = |keeper: &Process| keeper.log().matches("running pg_basebackup").count();
    assert_eq!(copies(keeper), 1, "the first copy");
    assert!(real.join("PG_VERSION").exists(), "nothing is removed");

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
    status::wait_status_has_no_problems(&cluster).await;
}

/// The file system fills up while a copy is made, by something else, and has room again later.
#[tokio::test]
async fn a_copy_on_a_disk_that_fills_up_leaves_nothing_and_is_made_once_there_is_room() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    let (dir, triggers) = (cluster.dir().data_dir(&uid), make_dir(&cluster, "triggers"));
    let (filler, free) = (dir.join("lost+found/filler"), triggers.join("free"));
    let script = format!(
        "mkdir -p {0}; mount -t tmpfs -o size=160m none {0}; mkdir {0}/lost+found; \
         (while [ ! -e '{1}' ]; do sleep 0.1; done; rm '{2}') & true",
        dir.display(),
        free.display(),
        filler.display(),
    );
    with_mounts(&mut cluster, &uid, &script);
    let fill = format!(
        "[ -e '{0}' ] || [ -e '{1}' ] || dd if=/dev/zero of='{0}' bs=1M",
        filler.display(),
        free.display()
    );
    pg_programs::wrap(&mut cluster, &uid, "filling", |program, real| match program {
        "pg_basebackup" => format!(
            "#!/bin/sh\ncase \"$*\" in *--slot*) {fill} ;; esac\nexec \"{}\" \"$@\"\n",
            real.display()
        ),
        _ => pg_programs::passthrough_script(real),
    });
    cluster.start(&uid);
    let keeper = cluster.process(&uid);
    keeper.wait_for_log("No space left on device", LONG_TIMEOUT).await;
    status::wait_status_shows(&cluster, &[&uid], "bytes are missing").await;
    let pgdata = cluster.pgdata(&uid);
    let pgdata = namespace_path(cluster.process(&uid), &pgdata);
    assert!(!pgdata.join("PG_VERSION").exists(), "nothing of the copy is left");
    fs::write(&free, "").unwrap();
    cluster.wait_healthy(&uid, &Role::Standby).await;
    status::wait_status_has_no_problems(&cluster).await;
}

/// Returns a path as a process with a mount namespace of its own sees it (proc_pid_root(5)).
fn namespace_path(process: &Process, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", process.pid())).join(path.strip_prefix("/").unwrap())
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
