//! Files on disk: tablespaces that two keepers share, previous data while new data are made, links and mount points.
//! A keeper removes nothing that is not provably its own.

mod copies;
mod mounts;
mod tablespaces;

use std::fs;
use std::path::{Path, PathBuf};

use model::Role;
use serde_json::json;
use stolon_tests::cluster::{Cluster, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::Signal;
use stolon_tests::spec::store_data;
use stolon_tests::wait::eventually;

/// Several rounds of a keeper with [`Profile::Fast`].
const SEVERAL_ROUNDS: std::time::Duration = std::time::Duration::from_secs(5);

/// Makes a directory that belongs to the user that PostgreSQL runs as.
fn make_dir(cluster: &Cluster, name: &str) -> PathBuf {
    let dir = cluster.dir().path().join("data").join(name);
    fs::create_dir_all(&dir).unwrap();
    cluster.dir().give_to_user(&dir).unwrap();
    dir
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

/// Kills a keeper and its server, whose PGDATA is at `real`.
fn kill_keeper_and_server_at(cluster: &mut Cluster, uid: &str, real: &Path) {
    cluster.process(uid).signal(Signal::KILL);
    kill_server_at(real);
    cluster.process(uid).kill();
}

/// Kills the server whose PGDATA is at `real`.
fn kill_server_at(real: &Path) {
    let postmaster = fs::read_to_string(real.join("postmaster.pid")).unwrap();
    let pid: u32 = postmaster.lines().next().unwrap().parse().unwrap();
    stolon_tests::process::send_signal(pid, Signal::KILL);
}
