//! Identity of files and directories: whether two paths lead to the same one now, and whether a directory is still the
//! one that was recorded. To whom a directory belongs is left to `owned_dirs`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::walker;

/// Identity of a directory or file until the system is restarted; device numbers may change then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Returns the identity of the directory or file at a path; links are followed.
    pub fn of(path: &Path) -> io::Result<Self> {
        walker::progress_at(path);
        let metadata = fs::metadata(path)?;
        Ok(Self::new(metadata.dev(), metadata.ino()))
    }

    /// Returns the identity with these numbers.
    pub fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }
}

/// Identity of a directory for as long as it exists: inode and creation time, because inode numbers are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirIdentity {
    inode: u64,
    /// Nanoseconds since 1970; 0 if the file system does not record it.
    born: u64,
}

impl DirIdentity {
    /// Returns the identity of the directory at a path; `None` when there is none.
    pub fn of(path: &Path) -> Result<Option<Self>, FileError> {
        walker::progress_at(path);
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(gone) if matches!(gone.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(source) => return Err(FileError::new("look at", path)(source)),
        };
        let born = metadata
            .created()
            .ok()
            .and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Ok(Some(Self {
            inode: metadata.ino(),
            born: born.and_then(|born| u64::try_from(born.as_nanos()).ok()).unwrap_or(0),
        }))
    }

    /// Whether an equal identity proves that it is the same directory: without a creation time it may be another one with a
    /// reused inode.
    pub fn proves(self) -> bool {
        self.born != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_without_a_creation_time_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let found = DirIdentity::of(dir.path()).unwrap().unwrap();
        assert!(!DirIdentity { born: 0, ..found }.proves());
        assert_eq!(found.proves(), found.born != 0);
    }
}
