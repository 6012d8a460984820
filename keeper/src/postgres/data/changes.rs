//! Changes of PGDATA and its external directories: one at a time, on a thread of its own, with a time limit on each
//! step (`walker`). The changes are in `previous_data` and `staging`.
//!
//! A started change continues when its caller has given up. Nothing else may be done with the data before it has ended;
//! each round checks that first.

use crate::postgres::data::walker::{FileSystemHung, Walker};

/// Runs changes of the data, and tracks running ones.
#[derive(Debug, Clone, Default)]
pub struct DataChanges {
    walks: Walker,
    removals: Walker,
    changes: Walker,
}

impl DataChanges {
    /// Creates it; `walks` is the walker of the reads that precede a change.
    pub fn new(walks: Walker) -> Self {
        Self {
            walks,
            ..Self::default()
        }
    }

    /// For tests: with this limit instead of the usual one.
    #[cfg(test)]
    pub(crate) fn with_limit(limit: std::time::Duration) -> Self {
        let walker = || Walker::new(limit);
        Self {
            walks: walker(),
            removals: walker(),
            changes: walker(),
        }
    }

    /// Runs a change after the running walks, removals and changes.
    ///
    /// # Errors
    ///
    /// It, or what it waits for, makes no progress. A started change continues: see [`Self::wait_idle`].
    pub async fn run<T: Send + 'static>(
        &self,
        change: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileSystemHung> {
        let permits = (self.walks.acquire().await?, self.removals.acquire().await?);
        let change = move || {
            let _permits = permits;
            change()
        };
        self.changes.run(change).await
    }

    /// Runs a change of single files, which neither a walk nor a removal affects, after the running change.
    ///
    /// # Errors
    ///
    /// It, or what it waits for, makes no progress. A started change continues: see [`Self::wait_idle`].
    pub async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileSystemHung> {
        self.changes.run(write).await
    }

    /// Waits for the end of the running change.
    ///
    /// # Errors
    ///
    /// It makes no progress.
    pub async fn wait_idle(&self) -> Result<(), FileSystemHung> {
        self.changes.acquire().await.map(drop)
    }

    /// Runs a removal of data that the running instance does not use: walks and rounds continue, changes wait.
    ///
    /// # Errors
    ///
    /// It makes no progress.
    pub async fn remove<T: Send + 'static>(
        &self,
        removal: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileSystemHung> {
        self.removals.run(removal).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::{self, Sender};
    use std::time::Duration;

    use super::*;
    use crate::postgres::data::walker;

    fn changes() -> DataChanges {
        DataChanges::with_limit(Duration::from_millis(50))
    }

    /// Work that hangs at `/dead` until something is sent.
    fn hung() -> (Sender<()>, impl FnOnce() + Send + 'static) {
        let (answer, waits) = mpsc::channel::<()>();
        let work = move || {
            walker::progress_at(Path::new("/dead"));
            let _ = waits.recv(); // it hangs until the test ends at the latest
        };
        (answer, work)
    }

    fn dead() -> FileSystemHung {
        FileSystemHung { path: "/dead".into() }
    }

    #[tokio::test]
    async fn a_hanging_change_is_reported_and_nothing_else_is_changed_until_it_has_ended() {
        let changes = changes();
        let (answer, work) = hung();
        assert_eq!(changes.run(work).await, Err(dead()));
        assert_eq!(changes.wait_idle().await, Err(dead()));
        assert!(changes.run(|| panic!("two changes at a time")).await.is_err());
        answer.send(()).unwrap();
        while changes.wait_idle().await.is_err() {}
        assert_eq!(changes.run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn an_abandoned_change_is_waited_for() {
        let changes = changes();
        let (answer, work) = hung();
        tokio::select! {
            biased;
            _ = changes.run(work) => panic!("it hangs"),
            () = tokio::task::yield_now() => {}
        }
        assert!(changes.wait_idle().await.is_err());
        drop(answer);
        while changes.wait_idle().await.is_err() {}
    }

    /// What it waits for may take hours, and the desired state may change meanwhile.
    #[tokio::test]
    async fn a_change_that_is_abandoned_while_waiting_never_starts() {
        let changes = changes();
        let (answer, work) = hung();
        assert_eq!(changes.remove(work).await, Err(dead()));
        tokio::select! {
            biased;
            _ = changes.run(|| panic!("it was abandoned")) => panic!("the removal is running"),
            () = tokio::task::yield_now() => {}
        }
        drop(answer);
        while changes.run(|| ()).await.is_err() {}
    }

    #[tokio::test]
    async fn a_hanging_removal_delays_changes_but_no_round() {
        let changes = changes();
        let (answer, work) = hung();
        assert_eq!(changes.remove(work).await, Err(dead()));
        assert_eq!(changes.wait_idle().await, Ok(()));
        assert_eq!(changes.run(|| ()).await, Err(dead()));
        drop(answer);
        while changes.run(|| ()).await.is_err() {}
    }

    #[tokio::test]
    async fn a_hanging_walk_delays_changes_and_is_reported() {
        let changes = changes();
        let (_answer, work) = hung();
        assert_eq!(changes.walks.run(work).await, Err(dead()));
        assert_eq!(changes.run(|| ()).await, Err(dead()));
    }
}
