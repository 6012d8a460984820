//! State files of a keeper: `keeperstate` and `dbstate`, in Go stolon's format, so that either keeper can replace
//! the other (keeper 2.2, 2.3). Which state they hold is left to `state`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::postgres::data::atomic_files;
use crate::postgres::data::file_error::FileError;

const KEEPER_FILE: &str = "keeperstate";
const DB_FILE: &str = "dbstate";

/// Why a state file could not be read. The keeper does not start then: an invalid file never counts as an empty one
/// (keeper 2.3, L3).
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not JSON.
    #[error("{} is not valid JSON: put back a copy of it, or move the whole data directory away", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A member has the wrong type.
    #[error("{}: {key} must be {wanted}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The member.
        key: &'static str,
        /// The expected type.
        wanted: &'static str,
    },
}

/// Identity of the keeper: `keeperstate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeeperState {
    /// Uid of the keeper; empty before the first start.
    #[serde(rename = "UID")]
    pub uid: String,
    /// Uid of the last known cluster; empty before the first one.
    #[serde(rename = "ClusterUID")]
    pub cluster_uid: String,
}

/// State of the local data: `dbstate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DbState {
    /// Uid of the db that the data belong to; empty for none.
    #[serde(rename = "UID")]
    pub uid: String,
    /// Last generation of its spec that was applied completely; 0 for none.
    pub generation: i64,
    /// An initialisation or resync was started and its round has not completed.
    pub initializing: bool,
    /// Parameters read from the instance after its initialisation.
    #[serde(rename = "InitPGParameters")]
    pub init_pg_parameters: Option<BTreeMap<String, String>>,
}

/// Reads `keeperstate` in the keeper's data directory; empty if it does not exist.
pub fn load_keeper(dir: &Path) -> Result<KeeperState, StateError> {
    let members = StateMembers::load(dir.join(KEEPER_FILE))?;
    Ok(KeeperState {
        uid: members.text("UID")?,
        cluster_uid: members.text("ClusterUID")?,
    })
}

/// Writes `keeperstate`.
pub fn save_keeper(dir: &Path, state: &KeeperState) -> Result<(), FileError> {
    save(&dir.join(KEEPER_FILE), state)
}

/// Reads `dbstate` in the keeper's data directory; empty if it does not exist.
pub fn load_db(dir: &Path) -> Result<DbState, StateError> {
    let members = StateMembers::load(dir.join(DB_FILE))?;
    Ok(DbState {
        uid: members.text("UID")?,
        generation: members.number("Generation")?,
        initializing: members.boolean("Initializing")?,
        init_pg_parameters: members.texts("InitPGParameters")?,
    })
}

/// Writes `dbstate`. The copy in memory changes only after this has succeeded (keeper 2.5).
pub fn save_db(dir: &Path, state: &DbState) -> Result<(), FileError> {
    save(&dir.join(DB_FILE), state)
}

fn save(path: &Path, state: &impl Serialize) -> Result<(), FileError> {
    let json = serde_json::to_vec(state).expect("text, numbers and maps with text keys always have a JSON form");
    atomic_files::write_atomically(path, &json)
}

/// Members of a state file: unknown ones are ignored, keys are case-insensitive, a missing or null one is the zero
/// value.
struct StateMembers {
    path: PathBuf,
    members: Map<String, Value>,
}

impl StateMembers {
    fn load(path: PathBuf) -> Result<Self, StateError> {
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self {
                    path,
                    members: Map::new(),
                });
            }
            Err(source) => return Err(StateError::Read { path, source }),
        };
        match serde_json::from_slice(&text) {
            Ok(members) => Ok(Self { path, members }),
            Err(source) => Err(StateError::Json { path, source }),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let exact = self.members.get(key);
        exact.or_else(|| {
            self.members
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(key))
                .map(|(_, value)| value)
        })
    }

    fn wrong_type(&self, key: &'static str, wanted: &'static str) -> StateError {
        StateError::WrongType {
            path: self.path.clone(),
            key,
            wanted,
        }
    }

    fn text(&self, key: &'static str) -> Result<String, StateError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(self.wrong_type(key, "text")),
        }
    }

    fn number(&self, key: &'static str) -> Result<i64, StateError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| self.wrong_type(key, "a whole number")),
        }
    }

    fn boolean(&self, key: &'static str) -> Result<bool, StateError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong_type(key, "true or false")),
        }
    }

    fn texts(&self, key: &'static str) -> Result<Option<BTreeMap<String, String>>, StateError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(members)) => members
                .iter()
                .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect::<Option<_>>()
                .map(Some)
                .ok_or_else(|| self.wrong_type(key, "an object of texts")),
            Some(_) => Err(self.wrong_type(key, "an object of texts")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_state_is_read_back_and_has_the_reference_s_format() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = KeeperState {
            uid: "keeper0".into(),
            cluster_uid: "6f1d2c3b".into(),
        };
        save_keeper(dir.path(), &keeper).unwrap();
        let text = fs::read_to_string(dir.path().join("keeperstate")).unwrap();
        assert_eq!(text, r#"{"UID":"keeper0","ClusterUID":"6f1d2c3b"}"#);
        assert_eq!(load_keeper(dir.path()).unwrap(), keeper);

        let db = DbState {
            uid: "2a87ea79".into(),
            generation: 3,
            initializing: false,
            init_pg_parameters: Some([("max_connections".to_owned(), "100".to_owned())].into()),
        };
        save_db(dir.path(), &db).unwrap();
        let text = fs::read_to_string(dir.path().join("dbstate")).unwrap();
        let wanted =
            r#"{"UID":"2a87ea79","Generation":3,"Initializing":false,"InitPGParameters":{"max_connections":"100"}}"#;
        assert_eq!(text, wanted);
        assert_eq!(load_db(dir.path()).unwrap(), db);
    }

    #[test]
    fn reading_is_tolerant_of_key_case_unknown_keys_and_missing_ones() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("dbstate"),
            r#"{"uid":"a","GENERATION":2,"new":[1],"InitPGParameters":null}"#,
        )
        .unwrap();
        let state = load_db(dir.path()).unwrap();
        assert_eq!(
            state,
            DbState {
                uid: "a".into(),
                generation: 2,
                ..DbState::default()
            }
        );
        assert_eq!(
            load_keeper(dir.path()).unwrap(),
            KeeperState::default(),
            "no file is an empty state"
        );
    }

    #[test]
    fn a_damaged_file_never_counts_as_an_empty_one() {
        // Case: keeper L3.
        let dir = tempfile::tempdir().unwrap();
        for (text, message) in [
            ("", "not valid JSON"),
            ("{\"UID\":", "not valid JSON"),
            ("[]", "not valid JSON"),
        ] {
            fs::write(dir.path().join("dbstate"), text).unwrap();
            let refused = load_db(dir.path()).unwrap_err();
            assert!(refused.to_string().contains(message), "{text}: {refused}");
        }
        fs::write(dir.path().join("dbstate"), r#"{"Generation":"3"}"#).unwrap();
        assert!(
            load_db(dir.path())
                .unwrap_err()
                .to_string()
                .ends_with("Generation must be a whole number")
        );
    }
}
