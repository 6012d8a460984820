//! Boot uuids of earlier processes on this data directory. The holder of the directory's lock may assume that they have
//! ended. A copied directory, or one on another machine, proves nothing.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use model::BootUuid;

use crate::postgres::data::atomic_files;
use crate::postgres::data::file_error::FileError;

/// Name of the file in the data directory.
const FILE: &str = "boots";
/// Number of processes that are kept; each may be the last holder of the liveness key.
const KEPT: usize = 8;

/// Returns the boot uuids of earlier processes on this data directory since this machine was booted. Only the holder of
/// the directory's lock may use them.
pub fn predecessors(dir: &Path) -> Vec<BootUuid> {
    let Ok(line_prefix) = line_prefix(dir) else {
        return Vec::new();
    };
    let lines = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
    let boot_of_line = |line: &str| line.strip_prefix(&line_prefix).map(|boot| BootUuid::from(boot.trim()));
    lines.lines().filter_map(boot_of_line).collect()
}

/// Adds this process to the file.
pub fn record(dir: &Path, boot: &BootUuid) -> Result<(), FileError> {
    let path = dir.join(FILE);
    let own = line_prefix(dir).map_err(FileError::new("find out where we are for", &path))? + boot.as_str();
    let before = fs::read_to_string(&path).unwrap_or_default(); // a damaged file is replaced
    let lines: Vec<&str> = std::iter::once(own.as_str()).chain(before.lines()).take(KEPT).collect();
    atomic_files::write_atomically(&path, (lines.join("\n") + "\n").as_bytes())
}

/// Returns what a line begins with: this boot of this machine and this directory, with a trailing space.
fn line_prefix(dir: &Path) -> io::Result<String> {
    let machine = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let found = fs::metadata(dir)?;
    Ok(format!("{} {} {} ", machine.trim(), found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predecessors_are_known_only_in_their_own_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(predecessors(dir.path()), []);
        for n in 0..10 {
            record(dir.path(), &BootUuid::from(format!("boot{n}"))).unwrap();
        }
        let known = predecessors(dir.path());
        assert_eq!((known.len(), known[0].as_str()), (8, "boot9"));

        let copy = tempfile::tempdir().unwrap();
        fs::copy(dir.path().join(FILE), copy.path().join(FILE)).unwrap();
        assert_eq!(predecessors(copy.path()), []);
        fs::write(dir.path().join(FILE), [0xff, 0xfe]).unwrap();
        assert_eq!(predecessors(dir.path()), []);
        record(dir.path(), &"new".into()).unwrap();
        assert_eq!(predecessors(dir.path()), [BootUuid::from("new")]);
    }
}
