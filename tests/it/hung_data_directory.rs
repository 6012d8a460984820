//! The file system of PGDATA hangs: the keeper's loop goes on, and the keeper reports it.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::Role;
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use stolon_tests::cluster::{Cluster, Profile, check, error_text};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::status;
use stolon_tests::wait::eventually;

/// A file of PGDATA that hangs its readers: a FIFO without a writer.
struct HungFile {
    path: PathBuf,
    /// The same FIFO outside PGDATA.
    outside: PathBuf,
}

impl HungFile {
    fn create(path: &Path, outside: &Path) -> Self {
        mkfifoat(CWD, outside, Mode::from_raw_mode(0o600)).unwrap();
        rustix::fs::chmod(outside, Mode::from_raw_mode(0o666)).unwrap(); // whatever the umask
        fs::hard_link(outside, path).unwrap();
        Self {
            path: path.to_owned(),
            outside: outside.to_owned(),
        }
    }

    /// Removes it, and lets the reader that hangs in open(2) go on.
    fn release(self) {
        fs::remove_file(&self.path).unwrap();
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(&self.outside)
            .expect("the keeper has it open for reading");
    }
}

/// Returns whether the cluster data have the master as healthy.
async fn is_healthy(cluster: &Cluster) -> Result<bool, String> {
    let data = cluster.data().await.map_err(error_text)?;
    Ok(data.dbs().values().any(|db| db.status.healthy))
}

/// Rule: keeper 12.13. The keeper reads the history file of a later timeline in each observation; the server does not
/// read it. There is no standby that could be elected.
#[tokio::test]
async fn a_keeper_whose_pgdata_hangs_keeps_its_liveness_key_and_reports_it() {
    let cluster = Cluster::builder(Profile::Fast).keepers(1).start().await;
    let key = cluster.store.keys().liveness_key("keeper0");
    let liveness = async || cluster.store.get(&key).await.unwrap().map(|entry| entry.mod_revision);
    let taken = liveness().await;
    assert!(taken.is_some());
    let history = cluster.pgdata("keeper0").join("pg_wal/00000002.history");
    let hung = HungFile::create(&history, &cluster.dir().path().join(OsStr::new("fifo")));

    status::wait_status_shows(&cluster, &["keeper0"], "does not answer").await;
    eventually("the master to be reported as not healthy", LONG_TIMEOUT, async || {
        check(!is_healthy(&cluster).await?, || "it is healthy".to_owned())
    })
    .await;
    assert_eq!(liveness().await, taken, "the key never expired");

    hung.release();
    cluster.wait_healthy("keeper0", &Role::Master).await;
    status::wait_status_has_no_problems(&cluster).await;
    assert_eq!(liveness().await, taken, "the key never expired");
}
