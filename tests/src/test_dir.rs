//! The directory of one test cluster: temporary, usable by the user that PostgreSQL runs as, with the programs under
//! test in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use tempfile::TempDir;

/// A Unix user that programs are started as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The numeric user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
}

impl User {
    /// Returns the user that keepers and PostgreSQL run as: `postgres` when the tests run as root, which PostgreSQL
    /// refuses; otherwise `None`, the user of the tests.
    ///
    /// # Panics
    ///
    /// The tests run as root, and there is no user `postgres`.
    pub fn for_postgres() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let user = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| *name == "postgres")?.to_owned();
            let mut ids = fields.skip(1).map_while(|field| field.parse().ok());
            Some(Self {
                name,
                uid: ids.next()?,
                gid: ids.next()?,
            })
        });
        Some(user.expect("PostgreSQL refuses root, so the tests need the user postgres (Debian: postgresql-common)"))
    }
}

/// The directory of one cluster.
#[derive(Debug)]
pub struct TestDir {
    dir: Option<TempDir>,
    programs: PathBuf,
    /// The user of keepers and PostgreSQL, where it is not the user of the tests.
    pub user: Option<User>,
}

impl TestDir {
    /// Creates the directory with `log/`, `etcd/` and `data/`; the last belongs to the user that PostgreSQL runs as.
    ///
    /// # Panics
    ///
    /// It cannot be created, or the programs have not been built.
    pub fn create() -> Self {
        let dir = TempDir::with_prefix("stolon-test.").expect("a temporary directory can be made");
        let user = User::for_postgres();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        for name in ["log", "etcd", "data"] {
            fs::create_dir(dir.path().join(name)).expect("a fresh directory takes a subdirectory");
        }
        let built = built_programs();
        let programs = match &user {
            None => built,
            Some(user) => {
                chown(dir.path().join("data"), Some(user.uid), Some(user.gid)).expect("root gives files away");
                // That user may have no access to the target directory.
                let programs = dir.path().join("bin");
                fs::create_dir(&programs).expect("a fresh directory takes a subdirectory");
                for name in PROGRAMS {
                    let (from, to) = (built.join(name), programs.join(name));
                    fs::hard_link(&from, &to)
                        .or_else(|_| fs::copy(&from, &to).map(|_| ()))
                        .unwrap_or_else(|error| panic!("copy {} to {}: {error}", from.display(), to.display()));
                }
                programs
            }
        };
        Self {
            dir: Some(dir),
            programs,
            user,
        }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("only drop takes the directory").path()
    }

    /// Returns the path of one of the four programs, which every user may execute.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Returns the data directory of a keeper.
    pub fn data_dir(&self, keeper: &str) -> PathBuf {
        self.path().join("data").join(keeper)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // STOLON_TESTS_KEEP=1 keeps the directories of failed tests.
        if std::thread::panicking() && std::env::var_os("STOLON_TESTS_KEEP").is_some() {
            if let Some(dir) = self.dir.take() {
                eprintln!("kept {}", dir.keep().display());
            }
        }
    }
}

/// The four programs under test.
const PROGRAMS: [&str; 4] = ["stolonctl", "stolon-sentinel", "stolon-keeper", "stolon-proxy"];

/// Returns cargo's output directory of the running test or benchmark, which has the programs, too.
fn built_programs() -> PathBuf {
    let executable = std::env::current_exe().expect("/proc is mounted");
    let dir = executable
        .ancestors()
        .skip(1)
        .find(|dir| !dir.ends_with("deps"))
        .expect("an executable is in a directory");
    for name in PROGRAMS {
        assert!(
            dir.join(name).exists(),
            "{} has not been built: run `make test`, or `cargo build --workspace --all-targets` before this",
            dir.join(name).display()
        );
    }
    dir.to_owned()
}
