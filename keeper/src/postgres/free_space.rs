//! Whether there is room for new data beside the old ones, or in their place, by file system.

use std::path::{Path, PathBuf};

use crate::external_dirs::{ClearRequest, ExternalDirKind};
use crate::postgres::files::FileError;
use crate::postgres::trees;

/// What will be written below a path, or is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SpaceDemand {
    device: u64,
    path: PathBuf,
    needed: u64,
    free: u64,
}

/// A file system that has too little room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceShortage {
    /// The path that would be written.
    pub path: PathBuf,
    /// Bytes that are needed on its file system.
    pub needed: u64,
    /// Bytes that it has.
    pub free: u64,
}

/// How much room there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpaceCheck {
    /// For old and new data.
    ForBoth,
    /// For the new data once the old ones are removed.
    InsteadOfOld(SpaceShortage),
    /// Not even then.
    TooLittle(SpaceShortage),
}

/// The old data: device and size of each of their directories, all of which a removal frees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReclaimableSpace(Vec<(u64, u64)>);

impl ReclaimableSpace {
    /// Counts a directory of the old data; links in it are not followed.
    pub fn add(&mut self, dir: &Path) -> Result<(), FileError> {
        let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        self.0.push((trees::free_space(&real)?.0, trees::size(&real)));
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

/// Measures the room for what is to be made. Of a size that is not known the old data's is taken.
pub fn check_space(data: &Path, clear: &ClearRequest, old: &ReclaimableSpace) -> Result<SpaceCheck, FileError> {
    let mut demands = vec![demand(data, clear.bytes.unwrap_or_else(|| old.total()))?];
    for place in &clear.external_dirs {
        let known_here = match &place.kind {
            ExternalDirKind::Tablespace { directory } => trees::size(&place.path.join(directory)),
            ExternalDirKind::Wal => 0,
        };
        demands.push(demand(&place.path, place.bytes.unwrap_or(known_here))?);
    }
    Ok(decide_space(&demands, old, clear.lacked_room))
}

fn demand(path: &Path, needed: u64) -> Result<SpaceDemand, FileError> {
    let (device, free) = trees::free_space(path)?;
    Ok(SpaceDemand {
        device,
        path: path.to_owned(),
        needed,
        free,
    })
}

/// WAL that is written while a copy is under way, at least.
const RESERVE_BYTES: u64 = 64 << 20;

/// Old data are kept only where a tenth more than the estimate is free; a copy is refused only where the estimate
/// itself has no room. After an attempt that had none whatever the estimate, old data go if they lie wherever the copy
/// writes; otherwise that may not help.
fn decide_space(demands: &[SpaceDemand], old: &ReclaimableSpace, lacked_room: bool) -> SpaceCheck {
    let needed_on = |device: u64| {
        let on_it = demands.iter().filter(|demand| demand.device == device);
        on_it.fold(0_u64, |sum, demand| sum.saturating_add(demand.needed))
    };
    let shortage = |demand: &SpaceDemand, needed, free| SpaceShortage {
        path: demand.path.clone(),
        needed,
        free,
    };
    let mut room = SpaceCheck::ForBoth;
    let helps = demands.iter().all(|demand| old.on(demand.device) > 0);
    for demand in demands {
        let needed = needed_on(demand.device);
        let freed = demand.free.saturating_add(old.on(demand.device));
        if needed > freed {
            return SpaceCheck::TooLittle(shortage(demand, needed, freed));
        }
        let ample = needed.saturating_add(needed / 10).saturating_add(RESERVE_BYTES);
        let is_short = ample > demand.free && freed > demand.free;
        if (is_short || (lacked_room && helps)) && room == SpaceCheck::ForBoth {
            room = SpaceCheck::InsteadOfOld(shortage(demand, ample, demand.free));
        }
    }
    room
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
    fn all_that_goes_to_one_file_system_counts_together() {
        let old = ReclaimableSpace(vec![(1, 10 * GIB)]);
        let apart = [demand(1, "/a", GIB, 2 * GIB), demand(2, "/b", GIB, 2 * GIB)];
        assert_eq!(decide_space(&apart, &old, false), SpaceCheck::ForBoth);
        let together = [demand(1, "/a", GIB, 2 * GIB), demand(1, "/b", GIB, 2 * GIB)];
        assert!(
            matches!(decide_space(&together, &old, false), SpaceCheck::InsteadOfOld(short) if short.path == Path::new("/a"))
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
        // Another file system than that of the old data is short.
        let space = [demand(1, "/a", GIB, 9 * GIB), demand(2, "/ts", 3 * GIB, 2 * GIB)];
        assert!(
            matches!(decide_space(&space, &old, false), SpaceCheck::TooLittle(short) if short.path == Path::new("/ts"))
        );
        // The margin alone is no reason when nothing on that file system is old.
        let tight = [demand(1, "/a", GIB, 9 * GIB), demand(2, "/ts", 2 * GIB, 2 * GIB)];
        assert_eq!(decide_space(&tight, &old, false), SpaceCheck::ForBoth);
        assert!(matches!(
            decide_space(&[demand(1, "/a", u64::MAX, GIB)], &old, false),
            SpaceCheck::TooLittle(_)
        ));
    }

    #[test]
    fn an_attempt_without_room_costs_old_data_only_if_they_lie_wherever_the_copy_writes() {
        let old = ReclaimableSpace(vec![(1, GIB)]);
        let data = demand(1, "/a", GIB, 9 * GIB);
        let space = demand(2, "/ts", GIB, 9 * GIB);
        assert!(matches!(
            decide_space(std::slice::from_ref(&data), &old, true),
            SpaceCheck::InsteadOfOld(_)
        ));
        assert_eq!(decide_space(&[data, space], &old, true), SpaceCheck::ForBoth);
    }
}
