//! What the files of an instance show at once: whether there is a database cluster, and whether its server reports that it
//! accepts connections. What either file means alone is in `cluster_files` and `lock_files`.

use std::path::Path;

use crate::postgres::data::cluster_files;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::lock_files;

/// What the files show of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStatus {
    /// There is a database cluster (keeper 12.2).
    pub is_initialised: bool,
    /// The server's lock file reports that it accepts connections.
    pub reports_ready: bool,
}

impl FileStatus {
    /// Reads the status of the instance in a PGDATA.
    pub fn of(data: &Path) -> Result<Self, FileError> {
        Ok(Self {
            is_initialised: cluster_files::is_initialised(data)?,
            reports_ready: reports_ready(data)?,
        })
    }
}

/// Returns whether the server's lock file reports that it accepts connections.
pub fn reports_ready(data: &Path) -> Result<bool, FileError> {
    let lock = lock_files::pid_file(data)?;
    Ok(lock.and_then(|lock| lock.status).as_deref() == Some("ready"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_server_is_ready_once_its_lock_file_reports_it_even_when_its_data_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let status = || {
            let status = FileStatus::of(dir.path()).unwrap();
            (status.is_initialised, status.reports_ready)
        };
        assert_eq!(status(), (false, false));
        cluster_files::make_data(dir.path(), "");
        assert_eq!(status(), (true, false));
        for (line, is_ready) in [("starting", false), ("ready   ", true), ("stopping", false)] {
            let text = format!("1\n/data\n2\n5432\n/socket\nlocalhost\n3\n{line}\n");
            fs::write(dir.path().join("postmaster.pid"), text).unwrap();
            assert_eq!(status(), (true, is_ready), "{line}");
        }
        fs::remove_dir(dir.path().join("pg_wal")).unwrap();
        fs::write(
            dir.path().join("postmaster.pid"),
            "1\n/data\n2\n5432\n/socket\nlocalhost\n3\nready\n",
        )
        .unwrap();
        assert_eq!(status(), (false, true), "its data are gone");
    }
}
