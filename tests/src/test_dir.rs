//! The directory of one test cluster, with the programs under test.

use std::ops::Deref;
use std::path::PathBuf;

use local_cluster::{ClusterDir, UnixUser, missing_program};

/// The directory of one cluster. With STOLON_TESTS_KEEP=1 it is kept when the test fails.
#[derive(Debug)]
pub struct TestDir(ClusterDir);

impl TestDir {
    /// Creates the directory with `log/`, `etcd/` and `data/`.
    ///
    /// # Panics
    ///
    /// It cannot be created, or the programs have not been built.
    pub fn create() -> Self {
        Self(create())
    }
}

impl Deref for TestDir {
    type Target = ClusterDir;

    fn deref(&self) -> &ClusterDir {
        &self.0
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        keep_after_failure(&mut self.0);
    }
}

/// Creates the directory of a cluster.
pub(crate) fn create() -> ClusterDir {
    ClusterDir::create("stolon-test.", &built_programs()).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Keeps the directory of a failed test if that is wanted.
pub(crate) fn keep_after_failure(dir: &mut ClusterDir) {
    if std::thread::panicking() && std::env::var_os("STOLON_TESTS_KEEP").is_some() {
        dir.keep();
        eprintln!("kept {}", dir.path().display());
    }
}

/// Returns the user that keepers and PostgreSQL run as, where it is not the user of the tests.
///
/// # Panics
///
/// The tests run as root, and there is no user `postgres`.
pub fn postgres_user() -> Option<UnixUser> {
    UnixUser::for_postgres().unwrap_or_else(|error| panic!("{error:?}"))
}

/// Returns cargo's output directory of the running test or benchmark, which has the programs, too.
fn built_programs() -> PathBuf {
    let executable = std::env::current_exe().expect("/proc is mounted");
    let dir = executable
        .ancestors()
        .skip(1)
        .find(|dir| !dir.ends_with("deps"))
        .expect("an executable is in a directory");
    if let Some(name) = missing_program(dir) {
        panic!(
            "{} has not been built: run `make test`, or `cargo build --workspace --all-targets` before this",
            dir.join(name).display()
        );
    }
    dir.to_owned()
}
