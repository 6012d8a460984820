//! The last good configurations, in a file beside the state files: a server that will not have the wanted one starts
//! with them, after a restart of the keeper too.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::postgres::files::{self, FileError};
use crate::settings::Settings;

/// Name of the file in the keeper's data directory. Go stolon does not look at it.
const FILE: &str = "lastgoodconf";

/// What a server of one cluster took.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LastGoodConf {
    /// The cluster: another one's configuration is nothing to go back to.
    #[serde(rename = "ClusterUID")]
    pub cluster: String,
    /// With this a server started.
    pub started: Option<Settings>,
    /// This a server took last, at a start or a reload. What it reads at a start only may not have proven itself yet.
    pub accepted: Option<Settings>,
}

/// [`Kept`], in memory and on disk.
#[derive(Debug)]
pub struct LastGoodConfFile {
    path: PathBuf,
    kept: LastGoodConf,
}

impl LastGoodConfFile {
    /// Reads the file in the keeper's data directory. One that is missing, or cannot be understood, is empty: then there
    /// is nothing to go back to, which keeps nothing from working. The second value says why it was not understood.
    pub fn load(dir: &Path) -> (Self, Option<String>) {
        let path = dir.join(FILE);
        let (kept, complaint) = match std::fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(kept) => (kept, None),
                Err(error) => (LastGoodConf::default(), Some(error.to_string())),
            },
            Err(gone) if gone.kind() == ErrorKind::NotFound => (LastGoodConf::default(), None),
            Err(error) => (LastGoodConf::default(), Some(error.to_string())),
        };
        (Self { path, kept }, complaint)
    }

    /// With what a server of this cluster last started.
    pub fn started(&self, cluster: &str) -> Option<&Settings> {
        self.of(cluster).and_then(|kept| kept.started.as_ref())
    }

    /// What a server of this cluster last took.
    pub fn accepted(&self, cluster: &str) -> Option<&Settings> {
        self.of(cluster).and_then(|kept| kept.accepted.as_ref())
    }

    /// A server has started with these.
    pub fn save_started(&mut self, cluster: &str, settings: &Settings) -> Result<(), FileError> {
        self.save(LastGoodConf {
            cluster: cluster.to_owned(),
            started: Some(settings.clone()),
            accepted: Some(settings.clone()),
        })
    }

    /// A server has taken these by a reload.
    pub fn save_accepted(&mut self, cluster: &str, settings: &Settings) -> Result<(), FileError> {
        self.save(LastGoodConf {
            cluster: cluster.to_owned(),
            started: self.started(cluster).cloned(),
            accepted: Some(settings.clone()),
        })
    }

    fn of(&self, cluster: &str) -> Option<&LastGoodConf> {
        (self.kept.cluster == cluster).then_some(&self.kept)
    }

    fn save(&mut self, kept: LastGoodConf) -> Result<(), FileError> {
        if kept != self.kept {
            let json = serde_json::to_vec(&kept).expect("texts and maps with text keys always have a JSON form");
            files::write_atomically(&self.path, &json)?;
            self.kept = kept;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(work_mem: &str) -> Settings {
        Settings {
            parameters: [("work_mem".to_owned(), work_mem.to_owned())].into(),
            hba: Some(vec!["host all all all md5".into()]),
        }
    }

    #[test]
    fn what_was_kept_is_there_again_for_the_same_cluster_only() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, complaint) = LastGoodConfFile::load(dir.path());
        assert_eq!((file.started("c1"), complaint), (None, None));
        file.save_started("c1", &settings("1MB")).unwrap();
        file.save_accepted("c1", &settings("2MB")).unwrap();
        let (mut file, complaint) = LastGoodConfFile::load(dir.path());
        assert_eq!(complaint, None);
        assert_eq!(file.started("c1"), Some(&settings("1MB")));
        assert_eq!(file.accepted("c1"), Some(&settings("2MB")));
        assert_eq!((file.started("c2"), file.accepted("c2")), (None, None));
        file.save_accepted("c2", &settings("3MB")).unwrap();
        assert_eq!((file.started("c2"), file.started("c1")), (None, None));
    }

    #[test]
    fn a_damaged_file_is_named_and_empty() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{\"Started\":7}", "[1,2"] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let (file, complaint) = LastGoodConfFile::load(dir.path());
            assert!(complaint.is_some() && file.started("").is_none(), "{text}");
        }
    }
}
