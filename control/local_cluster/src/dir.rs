//! The directory of a cluster: temporary, usable by the user that PostgreSQL runs as, with the programs in it where that
//! user may not reach them otherwise.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Attempt, Error};
use crate::unix_user::UnixUser;

/// The names of the four programs.
pub const PROGRAMS: [&str; 4] = ["stolonctl", "stolon-sentinel", "stolon-keeper", "stolon-proxy"];

/// Returns the first of the programs that is not in a directory.
pub fn missing_program(dir: &Path) -> Option<&'static str> {
    PROGRAMS.into_iter().find(|name| !dir.join(name).exists())
}

/// The directory of one cluster, which is removed when this is dropped.
#[derive(Debug)]
pub struct ClusterDir {
    dir: TempDir,
    programs: PathBuf,
    user: Option<UnixUser>,
}

impl ClusterDir {
    /// Creates the directory with `log/`, `etcd/` and `data/`; the last two belong to the user that PostgreSQL runs as.
    /// `programs` is the directory of the four programs.
    ///
    /// # Errors
    ///
    /// It cannot be created, or we are root and there is no user for PostgreSQL.
    pub fn create(prefix: &str, programs: &Path) -> Result<Self, Error> {
        let user = UnixUser::for_postgres()?;
        // The other user may have no access to root's own TMPDIR.
        let parent = if user.is_some() {
            PathBuf::from("/tmp")
        } else {
            std::env::temp_dir()
        };
        let dir = TempDir::with_prefix_in(prefix, parent).attempt(|| "make a temporary directory".to_owned())?;
        for name in ["log", "etcd", "data"] {
            fs::create_dir(dir.path().join(name)).attempt(|| format!("make {name}/"))?;
        }
        let programs = match &user {
            None => programs.to_owned(),
            Some(user) => {
                fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))
                    .attempt(|| "open the directory".to_owned())?;
                for name in ["etcd", "data"] {
                    user.own(&dir.path().join(name))?;
                }
                copy_programs(programs, &dir.path().join("bin"))?
            }
        };
        Ok(Self { dir, programs, user })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the user of keepers and PostgreSQL, where it is not our own.
    pub fn user(&self) -> Option<&UnixUser> {
        self.user.as_ref()
    }

    /// Returns the path of one of the four programs, which that user may execute.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Returns the data directory of a keeper.
    pub fn data_dir(&self, keeper: &str) -> PathBuf {
        self.path().join("data").join(keeper)
    }

    /// Returns the log file of a program.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path().join("log").join(format!("{name}.log"))
    }

    /// Writes a file that only the user of keepers and PostgreSQL may read; returns its path.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write_secret(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path().join(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .attempt(|| format!("write {name}"))?;
        self.give_to_user(&path)?;
        Ok(path)
    }

    /// Makes the user of keepers and PostgreSQL the owner of a file or directory, where it is not our own.
    ///
    /// # Errors
    ///
    /// There is no such file.
    pub fn give_to_user(&self, path: &Path) -> Result<(), Error> {
        self.user.as_ref().map_or(Ok(()), |user| user.own(path))
    }

    /// Keeps the directory when this is dropped.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    /// Removes the directory.
    ///
    /// # Errors
    ///
    /// A file in it cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        let path = self.path().to_owned();
        self.dir.close().attempt(|| format!("remove {}", path.display()))
    }
}

/// Makes the directory `to` with the programs: the other user may have no access to the directory `from`.
fn copy_programs(from: &Path, to: &Path) -> Result<PathBuf, Error> {
    // whatever our umask is
    fs::create_dir(to)
        .and_then(|()| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
        .attempt(|| "make bin/".to_owned())?;
    for name in PROGRAMS {
        fs::hard_link(from.join(name), to.join(name))
            // another file system
            .or_else(|_| fs::copy(from.join(name), to.join(name)).map(drop))
            .attempt(|| format!("copy {name}"))?;
    }
    Ok(to.to_owned())
}
