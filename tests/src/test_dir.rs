//! Where a cluster of the tests lives: a temporary directory that the user running PostgreSQL can use, with the
//! programs under test in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use tempfile::TempDir;

/// A user that programs can be started as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The id of the primary group.
    pub gid: u32,
}

impl User {
    /// The user that keepers and PostgreSQL run as: `postgres` for root, since neither runs as root; nobody else
    /// (`None`) for everybody else.
    ///
    /// # Panics
    ///
    /// When we are root and there is no user `postgres`.
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
    /// Whom keepers and PostgreSQL run as, when not as ourselves.
    pub user: Option<User>,
}

impl TestDir {
    /// Makes the directory, with `log/`, `etcd/`, and `data/`, which belongs to the user that runs PostgreSQL.
    ///
    /// # Panics
    ///
    /// When it cannot, or the programs have not been built.
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
                // the target directory may be out of that user's reach
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

    /// The directory itself.
    pub fn path(&self) -> &Path {
        self.dir.as_ref().expect("only drop takes the directory").path()
    }

    /// The executable of one of the four programs, where every user can run it.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The data directory of a keeper.
    pub fn data_dir(&self, keeper: &str) -> PathBuf {
        self.path().join("data").join(keeper)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // STOLON_TESTS_KEEP=1 leaves the directories of failed tests for looking at
        if std::thread::panicking() && std::env::var_os("STOLON_TESTS_KEEP").is_some() {
            if let Some(dir) = self.dir.take() {
                eprintln!("kept {}", dir.keep().display());
            }
        }
    }
}

/// The four programs under test.
const PROGRAMS: [&str; 4] = ["stolonctl", "stolon-sentinel", "stolon-keeper", "stolon-proxy"];

/// The directory of cargo's output that the running test or benchmark comes from: the programs are beside it.
fn built_programs() -> PathBuf {
    let me = std::env::current_exe().expect("a process knows its executable");
    let dir = me
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
