//! The exclusive lock on a keeper's data directory. What is in the directory is `state`'s and `files`' to know.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

/// Why the lock was not taken. The first words are those that are waited for (keeper 15.1).
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "cannot take exclusive lock on data dir {}: another keeper runs on it; stop that one, or give this one a \
         --data-dir of its own", dir.display()
    )]
    Taken {
        /// The data directory.
        dir: PathBuf,
    },
    /// The lock file cannot be opened or locked.
    #[error("cannot take exclusive lock on data dir {}", dir.display())]
    Failed {
        /// The data directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The lock, held until the process ends or this is dropped.
///
/// It is a POSIX record lock over the whole file `lock` (keeper 2.4), the kind that the reference takes, so that both
/// exclude each other; children do not inherit it. It is lost as soon as the process closes *any* descriptor of
/// that file: nothing else here may open it.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes the lock without waiting; makes the file, mode 0644, when there is none.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Failed {
            dir: dir.to_path_buf(),
            source,
        };
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path);
        let file = file.map_err(failed)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            // fcntl(2): either, at the system's choice.
            Err(Errno::AGAIN | Errno::ACCESS) => Err(LockError::Taken { dir: dir.to_path_buf() }),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Locks as the reference does, from another process: record locks never conflict within one.
    fn locked_by_another(dir: &Path) -> bool {
        let script = "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB)";
        !Command::new("python3")
            .arg("-c")
            .arg(script)
            .arg(dir.join("lock"))
            .output()
            .unwrap()
            .status
            .success()
    }

    #[test]
    fn another_process_is_kept_out_while_the_lock_is_held() {
        if Command::new("python3").arg("-V").output().is_err() {
            return; // no other language at hand that takes record locks
        }
        let dir = tempfile::tempdir().unwrap();
        let lock = DataDirLock::take(dir.path()).unwrap();
        assert!(locked_by_another(dir.path()));
        drop(lock);
        assert!(!locked_by_another(dir.path()));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let refused = DataDirLock::take(Path::new("/nonexistent/data")).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("cannot take exclusive lock on data dir")
        );
    }
}
