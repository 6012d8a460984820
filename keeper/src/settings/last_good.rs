//! The last good configurations, in a file beside the state files: a server that does not start with the desired one
//! starts with them, also after a restart of the keeper.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::postgres::data::atomic_files;
use crate::postgres::data::file_error::FileError;
use crate::settings::Settings;

/// Name of the file in the keeper's data directory; Go stolon ignores it.
const FILE: &str = "lastgoodconf";

/// Configurations that a server of one cluster accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LastGoodConf {
    /// The cluster; another cluster's configuration is not used.
    #[serde(rename = "ClusterUID")]
    pub cluster: String,
    /// Configuration of the last successful start.
    pub started: Option<Settings>,
    /// Configuration that a server last accepted, at a start or a reload. Parameters that are read only at a start may
    /// be unproven.
    pub accepted: Option<Settings>,
}

/// [`LastGoodConf`], in memory and on disk.
#[derive(Debug, Clone)]
pub struct LastGoodConfFile {
    path: PathBuf,
    conf: LastGoodConf,
}

impl LastGoodConfFile {
    /// Reads the file in the keeper's data directory. A missing or undecodable file is empty: the keeper works without
    /// it. The second value is the error of an undecodable file.
    pub fn load(dir: &Path) -> (Self, Option<String>) {
        let path = dir.join(FILE);
        let (conf, error_text) = match std::fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(conf) => (conf, None),
                Err(error) => (LastGoodConf::default(), Some(error.to_string())),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => (LastGoodConf::default(), None),
            Err(error) => (LastGoodConf::default(), Some(error.to_string())),
        };
        (Self { path, conf }, error_text)
    }

    /// Returns the configuration of the last successful start in this cluster.
    pub fn started(&self, cluster: &str) -> Option<&Settings> {
        self.of(cluster).and_then(|conf| conf.started.as_ref())
    }

    /// Returns the configuration that a server of this cluster last accepted.
    pub fn accepted(&self, cluster: &str) -> Option<&Settings> {
        self.of(cluster).and_then(|conf| conf.accepted.as_ref())
    }

    /// Saves the settings of a successful start.
    pub fn save_started(&mut self, cluster: &str, settings: &Settings) -> Result<(), FileError> {
        self.save(LastGoodConf {
            cluster: cluster.to_owned(),
            started: Some(settings.clone()),
            accepted: Some(settings.clone()),
        })
    }

    /// Saves settings accepted by a reload.
    pub fn save_accepted(&mut self, cluster: &str, settings: &Settings) -> Result<(), FileError> {
        self.save(LastGoodConf {
            cluster: cluster.to_owned(),
            started: self.started(cluster).cloned(),
            accepted: Some(settings.clone()),
        })
    }

    fn of(&self, cluster: &str) -> Option<&LastGoodConf> {
        (self.conf.cluster == cluster).then_some(&self.conf)
    }

    fn save(&mut self, conf: LastGoodConf) -> Result<(), FileError> {
        if conf != self.conf {
            let json = serde_json::to_vec(&conf).expect("texts and maps with text keys always have a JSON form");
            atomic_files::write_atomically(&self.path, &json)?;
            self.conf = conf;
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
    fn saved_settings_are_loaded_for_the_same_cluster_only() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, error_text) = LastGoodConfFile::load(dir.path());
        assert_eq!((file.started("c1"), error_text), (None, None));
        file.save_started("c1", &settings("1MB")).unwrap();
        file.save_accepted("c1", &settings("2MB")).unwrap();
        let (mut file, error_text) = LastGoodConfFile::load(dir.path());
        assert_eq!(error_text, None);
        assert_eq!(file.started("c1"), Some(&settings("1MB")));
        assert_eq!(file.accepted("c1"), Some(&settings("2MB")));
        assert_eq!((file.started("c2"), file.accepted("c2")), (None, None));
        file.save_accepted("c2", &settings("3MB")).unwrap();
        assert_eq!((file.started("c2"), file.started("c1")), (None, None));
    }

    #[test]
    fn a_damaged_file_is_reported_and_empty() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{\"Started\":7}", "[1,2"] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let (file, error_text) = LastGoodConfFile::load(dir.path());
            assert!(error_text.is_some() && file.started("").is_none(), "{text}");
        }
    }
}
