//! Temporary files that programs read while they run, such as a password file. They are written and removed on another
//! thread (keeper 12.13.2). What they contain is decided by the callers.

use std::io::Write;
use std::path::{Path, PathBuf};

use base::Chain;
use tokio::runtime::Handle;
use tracing::warn;

use crate::postgres::data::access::DataAccess;
use crate::postgres::data::atomic_files::{self, remove_if_there};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::walker;

/// A file for one run of a program: mode 0600, removed at the latest when dropped. One that cannot be removed is removed
/// by the next start of the keeper (keeper I16).
#[derive(Debug)]
pub struct ScratchFile {
    path: PathBuf,
    access: DataAccess,
    is_removed: bool,
}

impl ScratchFile {
    /// Writes the file into the keeper's directory `dir`; `name` is the first part of its name.
    pub async fn write(
        access: &DataAccess,
        dir: &Path,
        name: &'static str,
        content: impl AsRef<[u8]> + Send + 'static,
    ) -> Result<Self, FileError> {
        let dir = dir.to_owned();
        let write = move |_: &Path| {
            walker::progress_at(&dir);
            let write = || {
                let mut file = atomic_files::temporary(&dir, name.as_ref())?;
                file.write_all(content.as_ref())?;
                Ok(file.into_temp_path())
            };
            write().map_err(FileError::new("write a temporary file in", &dir))
        };
        let path = access.write(write).await?;
        let path = path
            .keep()
            .map_err(|failed| FileError::new("keep", failed.path.to_path_buf())(failed.error))?;
        Ok(Self {
            path,
            access: access.clone(),
            is_removed: false,
        })
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file.
    pub async fn remove(mut self) {
        remove(&self.access, self.path.clone()).await;
        self.is_removed = true;
    }
}

impl Drop for ScratchFile {
    /// Removes the file of a run that was aborted, without waiting for it.
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        let (access, path) = (self.access.clone(), std::mem::take(&mut self.path));
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { remove(&access, path).await })),
            Err(_) => log_failure(remove_if_there(&path)),
        }
    }
}

async fn remove(access: &DataAccess, path: PathBuf) {
    log_failure(access.write(move |_| remove_if_there(&path)).await);
}

fn log_failure(removed: Result<(), FileError>) {
    if let Err(error) = removed {
        warn!(error = %Chain(&error), "could not remove a temporary file");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::postgres::data::changes::DataChanges;

    fn access(dir: &Path) -> DataAccess {
        DataAccess::new(dir, DataChanges::with_limit(Duration::from_millis(50)))
    }

    #[tokio::test]
    async fn the_file_is_private_while_it_is_there() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = ScratchFile::write(&access(dir.path()), dir.path(), "pgpass", "secret")
            .await
            .unwrap();
        let path = file.path().to_owned();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        file.remove().await;
        assert!(!path.exists());
    }

    /// Rule: keeper 12.13.2. It was removed by the dropping thread, which runs the loops.
    #[tokio::test]
    async fn a_file_dropped_while_the_file_system_hangs_blocks_no_loop_and_is_removed_later() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        let file = ScratchFile::write(&access, dir.path(), "pgpass", "secret")
            .await
            .unwrap();
        let path = file.path().to_owned();
        let (answer, waits) = mpsc::channel::<()>();
        let hung = access.write(move |_| {
            let _ = waits.recv(); // it hangs until the test sends
            Ok::<_, FileError>(())
        });
        assert!(hung.await.is_err());
        drop(file);
        assert!(path.exists(), "the thread that drops it removes nothing");
        answer.send(()).unwrap();
        while path.exists() {
            tokio::task::yield_now().await;
        }
    }
}
