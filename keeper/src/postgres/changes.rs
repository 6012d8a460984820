//! Changes of PGDATA and of the directories that belong to it: one at a time, on a thread of its own, with a limit on
//! how long each may take from one step to the next (`walk`). What is changed is left to `aside` and `build`.
//!
//! A change that was begun goes on when nobody waits for it any more. So nothing else may be done with the data before
//! it has ended, and a pass asks for that first.

use crate::postgres::walker::{FileSystemHung, Walker};

/// Runs changes of the data, and knows of those that are under way.
#[derive(Debug, Clone, Default)]
pub struct DataChanges {
    walks: Walker,
    removals: Walker,
    changes: Walker,
}

impl DataChanges {
    /// Nothing is under way; `looks` are made by the same walker as those that precede a change.
    pub fn new(walks: Walker) -> Self {
        Self {
            walks,
            ..Self::default()
        }
    }

    /// Runs a change, after the looks, the removals and the changes that are under way.
    ///
    /// # Errors
    ///
    /// It, or what it waits for, does not get on. A change that was begun goes on: see [`Self::ended`].
    pub async fn run<T: Send + 'static>(
        &self,
        change: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileSystemHung> {
        let turns = (self.walks.acquire().await?, self.removals.acquire().await?);
        let change = move || {
            let _turns = turns;
            change()
        };
        self.changes.run(change).await
    }

    /// Waits for the end of the change that is under way.
    ///
    /// # Errors
    ///
    /// It does not get on.
    pub async fn wait_idle(&self) -> Result<(), FileSystemHung> {
        self.changes.acquire().await.map(drop)
    }

    /// Runs a removal of what the running instance does not use: looks and passes go on beside it, changes wait.
    ///
    /// # Errors
    ///
    /// It does not get on.
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
    use crate::postgres::walker;

    fn changes() -> DataChanges {
        let walker = || Walker::new(Duration::from_millis(50));
        DataChanges {
            walks: walker(),
            removals: walker(),
            changes: walker(),
        }
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
    async fn a_change_that_hangs_is_named_and_nothing_else_is_changed_until_it_has_ended() {
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
    async fn a_change_that_was_given_up_is_waited_for() {
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

    #[tokio::test]
    async fn a_removal_that_hangs_holds_up_changes_but_no_pass() {
        let changes = changes();
        let (answer, work) = hung();
        assert_eq!(changes.remove(work).await, Err(dead()));
        assert_eq!(changes.wait_idle().await, Ok(()));
        assert_eq!(changes.run(|| ()).await, Err(dead()));
        drop(answer);
        while changes.run(|| ()).await.is_err() {}
    }

    #[tokio::test]
    async fn a_look_that_hangs_holds_up_changes_and_is_named() {
        let changes = changes();
        let (_answer, work) = hung();
        assert_eq!(changes.walks.run(work).await, Err(dead()));
        assert_eq!(changes.run(|| ()).await, Err(dead()));
    }
}
