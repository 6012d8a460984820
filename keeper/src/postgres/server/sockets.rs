//! Directories of the server's unix sockets: a private one, and `/tmp`, where clients look by default. Verifying the
//! server behind a socket is left to `connect`.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use tracing::{info, warn};

use crate::postgres::data::file_error::FileError;

/// Go stolon's only socket directory (keeper 0); psql's default in its packages.
pub const PUBLIC: &str = "/tmp";
/// Maximum length of a socket's path in bytes: `sun_path` without the final zero (unix(7)).
const PATH_BYTES_MAX: usize = 107;
/// Name of the private directory in the keeper's data directory.
const NAME: &str = "socket";

/// The private directory of a keeper's sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateSocketDir {
    path: String,
    /// It is outside the data directory and removed at the end.
    is_elsewhere: bool,
}

impl PrivateSocketDir {
    /// Creates the directory in `data_dir`, mode 0700; if no socket can be created there, a private one in `/tmp`.
    ///
    /// # Errors
    ///
    /// Neither can be created, or the one in `/tmp` belongs to another user.
    pub fn prepare(data_dir: &Path) -> Result<Self, FileError> {
        let below = data_dir.join(NAME);
        let why = match usable(&below) {
            Ok(path) => match make(&below).and_then(|()| takes_sockets(&below)) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        is_elsewhere: false,
                    });
                }
                Err(failed) if matches!(failed.kind(), ErrorKind::PermissionDenied | ErrorKind::StorageFull) => {
                    return Err(FileError::new("make the socket directory", below)(failed));
                }
                Err(failed) => failed.to_string(),
            },
            Err(why) => why.to_owned(),
        };
        let elsewhere = short(data_dir);
        make(&elsewhere).map_err(FileError::new("make the socket directory", &elsewhere))?;
        info!(dir = %elsewhere.display(), %why, "using a socket directory outside the data directory");
        Ok(Self {
            path: elsewhere.display().to_string(),
            is_elsewhere: true,
        })
    }

    /// Returns its path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Removes a directory outside the data directory, if it is empty.
    pub fn remove(&self) {
        if self.is_elsewhere
            && let Err(failed) = fs::remove_dir(&self.path)
            && failed.kind() != ErrorKind::DirectoryNotEmpty
        {
            warn!(dir = self.path, error = %failed, "could not remove the socket directory");
        }
    }
}

/// Returns the path for `unix_socket_directories`, or why it cannot be used: the list is separated by commas, and
/// quotes and backslashes differ between the command line and the file.
fn usable(dir: &Path) -> Result<String, &'static str> {
    let path = dir.to_str().ok_or("the path is not in UTF-8")?;
    if path.contains(|c: char| c.is_control() || matches!(c, ',' | '"' | '\'' | '\\')) || path.ends_with(' ') {
        return Err("the path has a comma, a quote, a backslash or a control character");
    }
    if path.len() + "/.s.PGSQL.65535".len() > PATH_BYTES_MAX {
        return Err("the path is too long for a socket");
    }
    Ok(path.to_owned())
}

/// Returns a short path that is the same at each start (FNV-1a of the data directory's path).
fn short(data_dir: &Path) -> PathBuf {
    let hash = data_dir.as_os_str().as_encoded_bytes().iter();
    let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Path::new(PUBLIC).join(format!("stolon-{}-{hash:016x}", geteuid().as_raw()))
}

/// Creates the directory, or uses an existing one, which must be a directory of this user, and makes it private.
fn make(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return Ok(()),
        Err(exists) if exists.kind() == ErrorKind::AlreadyExists => {}
        Err(failed) => return Err(failed),
    }
    let found = fs::symlink_metadata(dir)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(io::Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "it is not a directory owned by this user (owner: user {}): remove it",
                found.uid()
            ),
        ));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Checks that the file system supports sockets.
fn takes_sockets(dir: &Path) -> io::Result<()> {
    let probe = dir.join(".probe");
    match fs::remove_file(&probe) {
        Err(failed) if failed.kind() != ErrorKind::NotFound => return Err(failed),
        _ => {}
    }
    UnixListener::bind(&probe)?;
    fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(dir: &str) -> u32 {
        fs::metadata(dir).unwrap().mode() & 0o777
    }

    #[test]
    fn the_sockets_are_below_the_data_directory_and_closed_to_others() {
        let data = tempfile::tempdir().unwrap();
        let dir = PrivateSocketDir::prepare(data.path()).unwrap();
        assert_eq!(dir.path(), data.path().join("socket").to_str().unwrap());
        assert_eq!(mode(dir.path()), 0o700);
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(PrivateSocketDir::prepare(data.path()).unwrap(), dir);
        assert_eq!(mode(dir.path()), 0o700, "closed again");
        dir.remove();
        assert!(Path::new(dir.path()).exists());
    }

    #[test]
    fn a_path_that_no_socket_takes_leads_to_a_short_private_directory() {
        let data = tempfile::tempdir().unwrap();
        for name in [
            "x".repeat(100),
            "a,b".to_owned(),
            "it's".to_owned(),
            "back\\slash".to_owned(),
        ] {
            let data_dir = data.path().join(&name);
            fs::create_dir(&data_dir).unwrap();
            let dir = PrivateSocketDir::prepare(&data_dir).unwrap();
            assert!(dir.path().starts_with("/tmp/stolon-"), "{dir:?}");
            assert!(usable(Path::new(dir.path())).is_ok(), "{dir:?}");
            assert_eq!(mode(dir.path()), 0o700);
            assert_eq!(
                PrivateSocketDir::prepare(&data_dir).unwrap(),
                dir,
                "the same at the next start"
            );
            dir.remove();
            assert!(!Path::new(dir.path()).exists());
        }
    }

    #[test]
    fn a_foreign_file_in_place_of_the_directory_is_not_used() {
        let data = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", data.path().join("socket")).unwrap();
        let refused = PrivateSocketDir::prepare(data.path()).unwrap_err();
        let message = base::Chain(&refused).to_string();
        assert!(
            message.contains("socket") && message.contains("not a directory owned by this user"),
            "{message}"
        );
    }
}
