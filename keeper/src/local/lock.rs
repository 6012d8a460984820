//! The exclusive lock on a keeper's data directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

/// Why the lock was not taken. The first words are those of Go stolon (keeper 15.1).
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
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
/// A POSIX record lock over the whole file `lock` (keeper 2.4), as in Go stolon, so that both exclude each other;
/// children do not inherit it. It is lost as soon as the process closes *any* descriptor of that file: nothing else may
/// open it.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes the lock without waiting; creates the file, mode 0644, if it does not exist.
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

    /// Holds the lock until the process has ended with its last thread. A thread that changes data on a file system that
    /// hangs may outlive the others.
    pub fn hold_forever(self) {
        std::mem::forget(self);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use super::*;

    /// The directory that another process of this test program has to lock.
    const DIR: &str = "STOLON_TESTS_LOCK_DIR";

    /// Whether another process is refused the lock: record locks never conflict within one process.
    fn locked_by_another(dir: &Path) -> bool {
        let tried = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "local::lock::tests::takes_the_lock_for_another_test"])
            .args(["--ignored", "--nocapture"])
            .env(DIR, dir)
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&tried.stdout).into_owned();
        match (printed.contains("lock: taken"), printed.contains("lock: free")) {
            (true, false) => true,
            (false, true) => false,
            _ => panic!("the other process did not try: {tried:?}"),
        }
    }

    #[test]
    #[ignore = "the other process of another test"]
    fn takes_the_lock_for_another_test() {
        let Some(dir) = std::env::var_os(DIR) else { return }; // that it printed something is what the other test asserts
        match DataDirLock::take(Path::new(&dir)) {
            Ok(_) => println!("\nlock: free"),
            Err(LockError::Taken { .. }) => println!("\nlock: taken"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn another_process_is_kept_out_while_the_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DataDirLock::take(dir.path()).unwrap();
        assert!(locked_by_another(dir.path()));
        drop(lock);
        assert!(!locked_by_another(dir.path()));
    }

    #[test]
    fn a_lock_that_is_held_forever_outlives_its_value() {
        let dir = tempfile::tempdir().unwrap();
        DataDirLock::take(dir.path()).unwrap().hold_forever();
        assert!(locked_by_another(dir.path()));
    }

    #[test]
    fn the_lock_is_the_reference_s_kind_over_the_whole_file() {
        // proc_locks(5): "1: POSIX ADVISORY WRITE pid major:minor:inode 0 EOF"
        let dir = tempfile::tempdir().unwrap();
        let _lock = DataDirLock::take(dir.path()).unwrap();
        let inode = std::fs::metadata(dir.path().join("lock")).unwrap().ino().to_string();
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let own = locks
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|fields| {
                fields.get(4) == Some(&std::process::id().to_string().as_str())
                    && fields
                        .get(5)
                        .is_some_and(|file| file.rsplit(':').next() == Some(&inode))
            });
        let own = own.unwrap_or_else(|| panic!("no lock of ours on inode {inode}:\n{locks}"));
        assert_eq!(
            (&own[1..4], &own[6..]),
            (&["POSIX", "ADVISORY", "WRITE"][..], &["0", "EOF"][..])
        );
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
