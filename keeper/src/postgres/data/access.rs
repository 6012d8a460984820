//! Access to PGDATA and the keeper's own directory from the keeper's loops, all of which run on one thread: on other
//! threads and with a time limit, because their file system may hang, and the loops must go on (keeper 12.13). Larger
//! changes are in `changes`.

use std::path::Path;
use std::sync::Arc;

use crate::postgres::data::changes::DataChanges;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::walker::{self, Walker};

/// Reads and writes files of one PGDATA.
#[derive(Debug, Clone)]
pub struct DataAccess {
    /// PGDATA.
    data: Arc<Path>,
    reads: Walker,
    changes: DataChanges,
}

impl DataAccess {
    /// Creates the access to this PGDATA, which is not accessed yet.
    pub fn new(data: &Path, changes: DataChanges) -> Self {
        Self {
            data: data.into(),
            reads: Walker::default(),
            changes,
        }
    }

    /// For tests: reads have this limit.
    #[cfg(test)]
    pub(crate) fn with_limit(data: &Path, changes: DataChanges, limit: std::time::Duration) -> Self {
        Self {
            reads: Walker::new(limit),
            ..Self::new(data, changes)
        }
    }

    /// Returns the path of PGDATA.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Passes PGDATA to `read`, after the running read.
    ///
    /// # Errors
    ///
    /// Its own; or it makes no progress. Then no other read begins before it has ended.
    pub async fn read<T, E>(&self, read: impl FnOnce(&Path) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<FileError> + Send + 'static,
    {
        let data = Arc::clone(&self.data);
        let read = move || {
            walker::progress_at(&data);
            read(&data)
        };
        self.reads.run(read).await.map_err(FileError::from)?
    }

    /// Passes PGDATA to `write`, which writes or removes single files, after the running change of the data.
    ///
    /// # Errors
    ///
    /// Its own; or it makes no progress. Then it goes on, and no other change begins before it has ended.
    pub async fn write<T, E>(&self, write: impl FnOnce(&Path) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<FileError> + Send + 'static,
    {
        let data = Arc::clone(&self.data);
        let write = move || {
            walker::progress_at(&data);
            write(&data)
        };
        self.changes.write(write).await.map_err(FileError::from)?
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::sync::mpsc;
    use std::time::Duration;

    use base::Chain;

    use super::*;

    fn access(data: &Path) -> DataAccess {
        let limit = Duration::from_millis(50);
        DataAccess::with_limit(data, DataChanges::with_limit(limit), limit)
    }

    #[tokio::test]
    async fn a_hanging_read_is_an_error_with_a_remedy_and_blocks_no_loop() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        let (answer, waits) = mpsc::channel::<()>();
        let hung = access.read(move |_| {
            let _ = waits.recv(); // it hangs until the test sends
            Ok::<_, FileError>(())
        });
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        let mut count = 0_u32;
        let failed = tokio::select! {
            biased;
            failed = hung => failed.unwrap_err(),
            () = async { loop { ticks.tick().await; count += 1 } } => unreachable!("it has no end"),
        };
        assert!(count > 1, "another task of the same thread went on");
        assert_eq!(failed.kind(), ErrorKind::TimedOut);
        let text = Chain(&failed).to_string();
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        assert!(text.contains("fix its file system"), "{text}");
        let second = access.read(|_| Ok::<_, FileError>(())).await;
        assert!(second.is_err(), "no other read begins");
        answer.send(()).unwrap();
        while access.read(|_| Ok::<_, FileError>(())).await.is_err() {}
    }

    #[tokio::test]
    async fn nothing_is_changed_while_a_write_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        let (answer, waits) = mpsc::channel::<()>();
        let late = access.write(move |data| {
            let _ = waits.recv(); // it hangs until the test sends
            fs::write(data.join("file"), "old").map_err(FileError::new("write", data))
        });
        assert!(late.await.is_err());
        let next = |data: &Path| fs::write(data.join("file"), "new").map_err(FileError::new("write", data));
        assert!(access.write(next).await.is_err(), "the first one may still write");
        assert!(access.changes.wait_idle().await.is_err(), "a round does nothing else");
        assert!(access.changes.run(|| ()).await.is_err());
        answer.send(()).unwrap();
        while access.write(next).await.is_err() {}
        assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "new");
    }
}
