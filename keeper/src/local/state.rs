//! The two state files, in memory and on disk: memory holds what was saved.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use model::{ClusterUid, DbUid};

use crate::local::state_files::{self, DbState, KeeperState, StateError};
use crate::postgres::config::conf::Parameters;
use crate::postgres::data::file_error::FileError;
use crate::reconcile::LocalDb;

/// Local state of one keeper, shared by the reconciler and the monitor.
#[derive(Debug)]
pub struct LocalState {
    dir: PathBuf,
    saved: Mutex<(KeeperState, DbState)>,
    /// Held while a file is written. Readers of `saved` do not wait for the disk.
    writing: Mutex<()>,
}

impl LocalState {
    /// Reads both files of a data directory; a missing file is an empty state.
    pub fn load(dir: &Path) -> Result<Self, StateError> {
        let saved = Mutex::new((state_files::load_keeper(dir)?, state_files::load_db(dir)?));
        Ok(Self {
            dir: dir.to_owned(),
            saved,
            writing: Mutex::default(),
        })
    }

    /// Returns the saved keeper uid; empty before the first start.
    pub fn keeper_uid(&self) -> String {
        self.lock().0.uid.clone()
    }

    /// Returns the last known cluster; empty before the first one.
    pub fn cluster(&self) -> ClusterUid {
        self.lock().0.cluster_uid.as_str().into()
    }

    /// Returns the contents of `dbstate`.
    pub fn db(&self) -> LocalDb {
        let db = &self.lock().1;
        LocalDb {
            uid: DbUid::from(db.uid.as_str()),
            generation: db.generation,
            initializing: db.initializing,
        }
    }

    /// Returns the parameters read right after the initialisation.
    pub fn init_parameters(&self) -> Option<Parameters> {
        self.lock().1.init_pg_parameters.clone()
    }

    /// Saves the keeper uid.
    pub fn save_keeper_uid(&self, uid: &str) -> Result<(), FileError> {
        self.change_keeper(|keeper| uid.clone_into(&mut keeper.uid))
    }

    /// Saves the cluster uid.
    pub fn save_cluster(&self, cluster: &ClusterUid) -> Result<(), FileError> {
        self.change_keeper(|keeper| cluster.as_str().clone_into(&mut keeper.cluster_uid))
    }

    /// Saves `dbstate`. The parameters of an initialisation are dropped when the db changes.
    pub fn save_db(&self, db: &LocalDb) -> Result<(), FileError> {
        self.change_db(|saved| {
            if saved.uid != db.uid.as_str() {
                saved.init_pg_parameters = None;
            }
            db.uid.as_str().clone_into(&mut saved.uid);
            (saved.generation, saved.initializing) = (db.generation, db.initializing);
        })
    }

    /// Saves `dbstate` of adopted data, with the parameters of their previous configuration.
    pub fn save_adopted(&self, db: &LocalDb, previous: Option<Parameters>) -> Result<(), FileError> {
        self.change_db(|saved| {
            db.uid.as_str().clone_into(&mut saved.uid);
            (saved.generation, saved.initializing) = (db.generation, db.initializing);
            saved.init_pg_parameters = previous;
        })
    }

    /// Saves the parameters read right after the initialisation.
    pub fn save_init_parameters(&self, parameters: Parameters) -> Result<(), FileError> {
        self.change_db(|saved| saved.init_pg_parameters = Some(parameters))
    }

    fn change_keeper(&self, change: impl FnOnce(&mut KeeperState)) -> Result<(), FileError> {
        let _writing = self.lock_writing();
        let mut next = self.lock().0.clone();
        change(&mut next);
        state_files::save_keeper(&self.dir, &next)?;
        self.lock().0 = next;
        Ok(())
    }

    fn change_db(&self, change: impl FnOnce(&mut DbState)) -> Result<(), FileError> {
        let _writing = self.lock_writing();
        let mut next = self.lock().1.clone();
        change(&mut next);
        state_files::save_db(&self.dir, &next)?;
        self.lock().1 = next;
        Ok(())
    }

    fn lock_writing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.writing.lock().expect("no thread panics while writing the state")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (KeeperState, DbState)> {
        self.saved.lock().expect("no thread panics while holding the state")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_state_is_loaded_and_parameters_stay_with_their_db() {
        let dir = tempfile::tempdir().unwrap();
        let state = LocalState::load(dir.path()).unwrap();
        assert_eq!((state.keeper_uid().as_str(), state.db()), ("", LocalDb::default()));
        state.save_keeper_uid("k1").unwrap();
        state.save_cluster(&"c1".into()).unwrap();
        let db = |uid: &str, generation| LocalDb {
            uid: uid.into(),
            generation,
            initializing: true,
        };
        state.save_db(&db("a", 0)).unwrap();
        state
            .save_init_parameters(Parameters::from([("x".into(), "1".into())]))
            .unwrap();
        state.save_db(&db("a", 1)).unwrap();
        let again = LocalState::load(dir.path()).unwrap();
        assert_eq!(
            (again.keeper_uid().as_str(), again.cluster().as_str(), again.db()),
            ("k1", "c1", db("a", 1))
        );
        assert_eq!(again.init_parameters().map(|parameters| parameters.len()), Some(1));
        again.save_db(&db("b", 0)).unwrap();
        assert_eq!(again.init_parameters(), None);
    }
}
