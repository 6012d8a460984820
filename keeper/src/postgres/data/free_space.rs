//! Whether each file system has space for the new data beside the old ones, or in their place. Removing old data is
//! left to `previous_data`.

use std::path::{Path, PathBuf};

use crate::external_dirs::{ClearRequest, ExternalDirKind};
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::inspect;

/// Space that will be written below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SpaceDemand {
    device: u64,
    path: PathBuf,
    needed: u64,
    free: u64,
}

/// A file system with too little space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceShortage {
    /// The path to write.
    pub path: PathBuf,
    /// Bytes required on its file system.
    pub needed: u64,
    /// Bytes available.
    pub free: u64,
}

/// Result of comparing required and available space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpaceCheck {
    /// Enough for old and new data.
    EnoughForBoth,
    /// Enough for the new data once the old ones are removed.
    EnoughWithoutOld(SpaceShortage),
    /// Not enough even then.
    TooLittle(SpaceShortage),
}

/// Device and size of each directory of the old data, all of which a removal frees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReclaimableSpace(Vec<(u64, u64)>);

impl ReclaimableSpace {
    /// Adds a directory of the old data; links in it are not followed.
    pub fn add(&mut self, dir: &Path) -> Result<(), FileError> {
        let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        self.0.push((inspect::free_space(&real)?.0, inspect::size(&real)));
        Ok(())
    }

    fn on(&self, device: u64) -> u64 {
        let on_it = self.0.iter().filter(|(other, _)| *other == device);
        on_it.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

/// Compares the space for the new data. An unknown size is assumed to be that of the old data.
pub fn check_space(data: &Path, clear: &ClearRequest, old: &ReclaimableSpace) -> Result<SpaceCheck, FileError> {
    let mut demands = vec![demand(data, clear.bytes.unwrap_or_else(|| old.total()))?];
    for external_dir in &clear.external_dirs {
        let local_size = match &external_dir.kind {
            ExternalDirKind::Tablespace { directory } => inspect::size(&external_dir.path.join(directory)),
            ExternalDirKind::Wal => 0,
        };
        demands.push(demand(&external_dir.path, external_dir.bytes.unwrap_or(local_size))?);
    }
    Ok(decide_space(&demands, old, clear.ran_out_of_space))
}

fn demand(path: &Path, needed: u64) -> Result<SpaceDemand, FileError> {
    let (device, free) = inspect::free_space(path)?;
    Ok(SpaceDemand {
        device,
        path: path.to_owned(),
        needed,
        free,
    })
}

/// Minimum reserve for WAL that is written during a copy.
const RESERVE_BYTES: u64 = 64 << 20;

/// Decides whether there is space for old and new data. Old data are kept only if 10 % more than the estimate is free;
/// a copy is refused only if there is no space for the estimate itself. If the last attempt ran out of space despite
/// the estimate, old data are removed if they occupy every file system that the copy writes to; otherwise that may not
/// help.
fn decide_space(demands: &[SpaceDemand], old: &ReclaimableSpace, ran_out_of_space: bool) -> SpaceCheck {
    let needed_on = |device: u64| {
        let on_it = demands.iter().filter(|demand| demand.device == device);
        on_it.fold(0_u64, |sum, demand| sum.saturating_add(demand.needed))
    };
    let shortage = |demand: &SpaceDemand, needed, free| SpaceShortage {
        path: demand.path.clone(),
        needed,
        free,
    };
    let mut result = SpaceCheck::EnoughForBoth;
    let old_is_everywhere = demands.iter().all(|demand| old.on(demand.device) > 0);
    for demand in demands {
        let needed = needed_on(demand.device);
        let freed = demand.free.saturating_add(old.on(demand.device));
        if needed > freed {
            return SpaceCheck::TooLittle(shortage(demand, needed, freed));
        }
        let ample = needed.saturating_add(needed / 10).saturating_add(RESERVE_BYTES);
        let is_short = ample > demand.free && freed > demand.free;
        if (is_short || (ran_out_of_space && old_is_everywhere)) && result == SpaceCheck::EnoughForBoth {
            result = SpaceCheck::EnoughWithoutOld(shortage(demand, ample, demand.free));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn demand(device: u64, path: &str, needed: u64, free: u64) -> SpaceDemand {
        SpaceDemand {
            device,
            path: path.into(),
            needed,
            free,
        }
    }

    #[test]
    fn all_data_on_one_file_system_are_added_up() {
        let old = ReclaimableSpace(vec![(1, 10 * GIB)]);
        let apart = [demand(1, "/a", GIB, 2 * GIB), demand(2, "/b", GIB, 2 * GIB)];
        assert_eq!(decide_space(&apart, &old, false), SpaceCheck::EnoughForBoth);
        let together = [demand(1, "/a", GIB, 2 * GIB), demand(1, "/b", GIB, 2 * GIB)];
        assert!(
            matches!(decide_space(&together, &old, false), SpaceCheck::EnoughWithoutOld(short) if short.path == Path::new("/a"))
        );
    }

    #[test]
    fn old_data_are_never_removed_where_that_does_not_help() {
        let grown = [demand(1, "/a", 9 * GIB, GIB)];
        let old = ReclaimableSpace(vec![(1, 5 * GIB)]);
        let SpaceCheck::TooLittle(short) = decide_space(&grown, &old, true) else {
            panic!("{:?}", decide_space(&grown, &old, true))
        };
        assert_eq!((short.needed, short.free), (9 * GIB, 6 * GIB));
        // Another file system than that of the old data is too small.
        let space = [demand(1, "/a", GIB, 9 * GIB), demand(2, "/ts", 3 * GIB, 2 * GIB)];
        assert!(
            matches!(decide_space(&space, &old, false), SpaceCheck::TooLittle(short) if short.path == Path::new("/ts"))
        );
        // The reserve alone is no reason if that file system holds no old data.
        let tight = [demand(1, "/a", GIB, 9 * GIB), demand(2, "/ts", 2 * GIB, 2 * GIB)];
        assert_eq!(decide_space(&tight, &old, false), SpaceCheck::EnoughForBoth);
        assert!(matches!(
            decide_space(&[demand(1, "/a", u64::MAX, GIB)], &old, false),
            SpaceCheck::TooLittle(_)
        ));
    }

    #[test]
    fn an_attempt_without_space_costs_old_data_only_if_they_are_on_every_file_system_of_the_copy() {
        let old = ReclaimableSpace(vec![(1, GIB)]);
        let data = demand(1, "/a", GIB, 9 * GIB);
        let space = demand(2, "/ts", GIB, 9 * GIB);
        assert!(matches!(
            decide_space(std::slice::from_ref(&data), &old, true),
            SpaceCheck::EnoughWithoutOld(_)
        ));
        assert_eq!(decide_space(&[data, space], &old, true), SpaceCheck::EnoughForBoth);
    }
}
