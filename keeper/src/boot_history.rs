//! Which processes have run on this data directory before: who has its lock may take them for ended. A copy of the
//! directory, or one on another machine, proves nothing.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use control::model::BootUuid;

use crate::postgres::files::{self, FileError};

/// Name of the file in the data directory.
const FILE: &str = "boots";
/// How many processes are remembered: each may have held the liveness key last.
const KEPT: usize = 8;

/// The boot ids of earlier processes on this data directory, in this boot of this machine. Only for whoever holds the
/// lock on the directory, as they did.
pub fn predecessors(dir: &Path) -> Vec<BootUuid> {
    let Ok(place) = place(dir) else { return Vec::new() };
    let lines = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
    let of_here = |line: &str| line.strip_prefix(&place).map(|boot| BootUuid::from(boot.trim()));
    lines.lines().filter_map(of_here).collect()
}

/// Adds this process.
pub fn record(dir: &Path, boot: &BootUuid) -> Result<(), FileError> {
    let path = dir.join(FILE);
    let own = place(dir).map_err(FileError::new("find out where we are for", &path))? + boot.as_str();
    let before = fs::read_to_string(&path).unwrap_or_default(); // a damaged one is replaced
    let lines: Vec<&str> = std::iter::once(own.as_str()).chain(before.lines()).take(KEPT).collect();
    files::write_atomically(&path, (lines.join("\n") + "\n").as_bytes())
}

/// This boot of this machine and this very directory, with a blank at the end.
fn place(dir: &Path) -> io::Result<String> {
    let machine = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let found = fs::metadata(dir)?;
    Ok(format!("{} {} {} ", machine.trim(), found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_before_us_are_known_in_their_own_directory_only() {
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
