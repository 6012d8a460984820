//! The oldest segment file in `pg_wal`, which is published. Names are in `wal_segment`, positions in `wal_layout`.

use std::fs;
use std::path::Path;

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::inspect;
use crate::wal_segment::{SEGMENT_BYTES, is_segment_name};

/// Oldest WAL segment in `pg_wal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldestWal {
    /// Its name.
    File(String),
    /// There are no segments.
    NoneThere,
    /// Segments are not 16 MiB, as sentinels assume, so nothing is published (keeper W27).
    OtherSize {
        /// Segment size in bytes.
        bytes: u64,
    },
}

/// Returns the names of the files in `pg_wal`.
pub fn wal_files(data: &Path) -> Result<Vec<String>, FileError> {
    inspect::file_names(&data.join("pg_wal"))
}

/// Returns the oldest segment in `pg_wal`: the first name in text order (keeper 3.5 step 8).
pub fn oldest_wal(data: &Path) -> Result<OldestWal, FileError> {
    oldest_among(data, &wal_files(data)?)
}

/// Returns the oldest segment as [`oldest_wal`] does; `names` are those of [`wal_files`].
pub fn oldest_among(data: &Path, names: &[String]) -> Result<OldestWal, FileError> {
    let Some(oldest) = names.iter().filter(|name| is_segment_name(name)).min() else {
        return Ok(OldestWal::NoneThere);
    };
    let path = data.join("pg_wal").join(oldest);
    let bytes = fs::metadata(&path).map_err(FileError::new("look at", path))?.len();
    Ok(if bytes == SEGMENT_BYTES {
        OldestWal::File(oldest.clone())
    } else {
        OldestWal::OtherSize { bytes }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_oldest_segment_is_the_first_by_name_of_16_mib() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("pg_wal");
        fs::create_dir(&wal).unwrap();
        let oldest = || oldest_wal(dir.path()).unwrap();
        assert_eq!(oldest(), OldestWal::NoneThere);
        for (name, bytes) in [
            ("000000020000000000000004", SEGMENT_BYTES),
            ("000000010000000000000003", SEGMENT_BYTES),
            ("00000002.history", 41),
        ] {
            File::create(wal.join(name)).unwrap().set_len(bytes).unwrap();
        }
        assert_eq!(oldest(), OldestWal::File("000000010000000000000003".into()));
        File::create(wal.join("000000010000000000000002"))
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        assert_eq!(oldest(), OldestWal::OtherSize { bytes: 64 << 20 });
    }
}
