//! Data are moved aside, made again and dropped, with a crash at every point in between.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::places::{Found, Place};
use crate::postgres::build::Build;
use crate::postgres::trees::cut;

const DIRECTORY: &str = "PG_15_202209061";

/// What PGDATA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Directory,
    Link,
}

/// A keeper's directory with whole data of db `A`, which have a tablespace, and a `pg_wal` that is a link.
struct Site {
    dir: TempDir,
    owned: Owned,
}

impl Site {
    fn new(shape: Shape) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["keeper", "space", "wal", "real"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        if shape == Shape::Link {
            symlink(root.join("real"), root.join("keeper/postgres")).unwrap();
        }
        let site = Self {
            owned: Owned::load(&root.join("keeper")).unwrap(),
            dir,
        };
        fs::write(site.space().join("notes"), "of somebody else").unwrap();
        fs::create_dir_all(site.space().join("PG_15_1/of another cluster")).unwrap();
        make(&site.data(), "old");
        fs::create_dir(site.space().join(DIRECTORY)).unwrap();
        fs::write(site.space().join(DIRECTORY).join("content"), "old").unwrap();
        symlink(site.space(), site.data().join("pg_tblspc/16385")).unwrap();
        fs::remove_dir_all(site.data().join("pg_wal")).unwrap();
        symlink(site.wal(), site.data().join("pg_wal")).unwrap();
        fs::write(site.wal().join("000000010000000000000001"), "old").unwrap();
        fs::write(site.wal().join("notes"), "of somebody else").unwrap();
        site
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("keeper/postgres")
    }

    fn space(&self) -> PathBuf {
        self.dir.path().join("space")
    }

    fn wal(&self) -> PathBuf {
        self.dir.path().join("wal")
    }

    fn places(&self) -> Vec<Place> {
        vec![Place {
            path: self.space(),
            kind: PlaceKind::Tablespace {
                directory: DIRECTORY.into(),
            },
            bytes: 0,
            found: Found::default(),
        }]
    }

    /// The keeper starts again.
    fn restarted(&mut self) {
        self.owned = Owned::load(&self.dir.path().join("keeper")).unwrap();
    }

    fn clear(&self, bytes: u64) -> Result<Cleared, FileError> {
        let what = Clear {
            db: "B".into(),
            bytes: Some(bytes),
            places: self.places(),
        };
        clear(&self.data(), &self.owned, &what)
    }

    /// A copy as pg_basebackup makes it, and what follows it.
    fn copy(&self) -> Result<(), FileError> {
        let build = Build::prepare(&self.data(), &self.owned, &self.places())?;
        let option = |name: &str| {
            let options = build.options();
            let found = options.iter().find_map(|option| option.strip_prefix(name));
            found.unwrap().to_owned()
        };
        let wal = PathBuf::from(option("--waldir="));
        let mapping = option("--tablespace-mapping=");
        let made_in = PathBuf::from(mapping.split_once('=').unwrap().1);
        assert!(trees::entries(build.directory()).unwrap().is_empty() && !wal.exists());
        assert!(trees::entries(&made_in).unwrap().is_empty());
        make(build.directory(), "new");
        fs::create_dir_all(&wal).unwrap();
        fs::write(wal.join("000000010000000000000002"), "new").unwrap();
        fs::remove_dir_all(build.directory().join("pg_wal")).unwrap();
        symlink(&wal, build.directory().join("pg_wal")).unwrap();
        fs::create_dir(made_in.join(DIRECTORY)).unwrap();
        fs::write(made_in.join(DIRECTORY).join("content"), "new").unwrap();
        symlink(&made_in, build.directory().join("pg_tblspc/16385")).unwrap();
        build.finish(&self.owned)
    }

    /// What lies in the tree of the test and says `what`, by path.
    fn saying(&self, what: &str) -> Vec<String> {
        let mut found = Vec::new();
        gather(self.dir.path(), what, &mut found);
        let mut found: Vec<String> = found
            .iter()
            .map(|path| path.strip_prefix(self.dir.path()).unwrap().display().to_string())
            .collect();
        found.sort();
        found
    }

    /// Everything of other people is as it was.
    fn others_are_untouched(&self) {
        assert_eq!(self.saying("of somebody else"), ["space/notes", "wal/notes"]);
        assert!(self.space().join("PG_15_1/of another cluster").exists());
    }
}

fn gather(dir: &Path, what: &str, found: &mut Vec<PathBuf>) {
    for path in trees::entries(dir).unwrap() {
        if path.is_dir() && !path.is_symlink() {
            gather(&path, what, found);
        } else if fs::read_to_string(&path).is_ok_and(|text| text == what) {
            found.push(path);
        }
    }
}

/// A whole PGDATA whose content says `what`.
fn make(data: &Path, what: &str) {
    for part in files::PARTS
        .iter()
        .filter(|part| !part.contains('/') && **part != "PG_VERSION")
    {
        fs::create_dir_all(data.join(part)).unwrap();
    }
    fs::write(data.join("PG_VERSION"), "15\n").unwrap();
    let mut control = vec![0; 12];
    control.extend(202_209_061_u32.to_le_bytes());
    fs::write(data.join("global/pg_control"), control).unwrap();
    fs::write(data.join("base/content"), what).unwrap();
}

/// What the copy has: a file in PGDATA, a segment, a file in the tablespace.
const FILES: usize = 3;

#[test]
fn old_data_are_kept_until_the_new_are_complete_whatever_crashes() {
    for shape in [Shape::Directory, Shape::Link] {
        let mut cuts = 0;
        loop {
            let mut site = Site::new(shape);
            cut::after(cuts);
            let first = site.clear(0);
            cut::never();
            let is_uncut = first.is_ok();
            assert_eq!(
                site.saying("old").len(),
                3,
                "{shape:?}, cut {cuts}: {:?}",
                site.saying("old")
            );
            site.others_are_untouched();
            site.restarted();
            if !is_uncut {
                site.clear(0).unwrap();
            }
            let old = site.owned.record().old.unwrap();
            assert!(old.is_complete, "{shape:?}, cut {cuts}");
            assert_eq!(site.saying("old").len(), FILES);
            assert!(!files::is_initialised(&site.data()).unwrap());
            assert!(!site.space().join(DIRECTORY).exists());

            site.copy().unwrap();
            assert_eq!(site.saying("new").len(), FILES);
            assert_eq!(site.saying("old").len(), FILES, "not before the new data are recorded");
            drop_old(&site.owned).unwrap();
            assert_eq!(site.saying("old"), [""; 0]);
            assert_eq!(site.saying("new").len(), FILES);
            assert_eq!(site.owned.record().old, None);
            assert_eq!(fs::read_link(site.data().join("pg_wal")).unwrap(), site.wal());
            assert_eq!(
                fs::read_link(site.data().join("pg_tblspc/16385")).unwrap(),
                site.space()
            );
            assert_eq!(site.data().is_symlink(), shape == Shape::Link);
            site.others_are_untouched();
            if is_uncut {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 4, "the sequence was cut at {cuts} places");
    }
}

#[test]
fn a_copy_that_breaks_off_anywhere_is_made_again_and_the_old_data_stay() {
    for shape in [Shape::Directory, Shape::Link] {
        let mut cuts = 0;
        loop {
            let mut site = Site::new(shape);
            site.clear(0).unwrap();
            cut::after(cuts);
            let copied = site.copy();
            let was_cut = cut::never() && copied.is_err();
            site.restarted();
            assert_eq!(
                site.clear(0).unwrap(),
                Cleared::NothingWhole,
                "the copy was not recorded"
            );
            assert_eq!(site.saying("new"), [""; 0], "{shape:?}, cut {cuts}");
            assert_eq!(site.saying("old").len(), FILES);
            site.copy().unwrap();
            assert_eq!(site.saying("new").len(), FILES);
            site.others_are_untouched();
            if !was_cut {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 4, "the sequence was cut at {cuts} places");
    }
}

#[test]
fn dropping_old_data_goes_on_after_a_crash_and_touches_nothing_new() {
    let mut cuts = 0;
    loop {
        let mut site = Site::new(Shape::Directory);
        site.clear(0).unwrap();
        site.copy().unwrap();
        cut::after(cuts);
        let dropped = drop_old(&site.owned);
        let was_cut = cut::never() && dropped.is_err();
        site.restarted();
        drop_old(&site.owned).unwrap();
        assert_eq!(site.saying("old"), [""; 0], "cut {cuts}");
        assert_eq!(site.saying("new").len(), FILES);
        site.others_are_untouched();
        if !was_cut {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 2);
}

#[test]
fn without_room_the_old_data_are_removed_with_their_tablespace_and_wal() {
    let site = Site::new(Shape::Directory);
    assert_eq!(site.clear(u64::MAX / 4).unwrap(), Cleared::Removed);
    assert_eq!(site.saying("old"), [""; 0]);
    site.others_are_untouched();
    site.copy().unwrap();
    assert_eq!(fs::read_link(site.data().join("pg_wal")).unwrap(), site.wal());
    assert_eq!(site.saying("new").len(), FILES);
}

#[test]
fn a_copy_that_is_made_again_with_less_room_costs_the_old_data() {
    let site = Site::new(Shape::Directory);
    site.clear(0).unwrap();
    assert_eq!(site.clear(0).unwrap(), Cleared::NothingWhole);
    assert_eq!(site.saying("old").len(), FILES);
    assert_eq!(site.clear(u64::MAX / 4).unwrap(), Cleared::Removed);
    assert_eq!(site.saying("old"), [""; 0]);
    site.others_are_untouched();
}

#[test]
fn data_that_come_after_those_set_aside_take_their_place() {
    let site = Site::new(Shape::Directory);
    site.clear(0).unwrap();
    site.copy().unwrap();
    // The pass that would have recorded B was never complete, and B is replaced by C.
    let what = Clear {
        db: "C".into(),
        bytes: Some(0),
        places: site.places(),
    };
    let cleared = clear(&site.data(), &site.owned, &what).unwrap();
    assert!(matches!(cleared, Cleared::SetAside(_)), "{cleared:?}");
    assert_eq!(site.saying("old"), [""; 0], "at most one set of old data");
    assert_eq!(site.saying("new").len(), FILES);
}

#[test]
fn a_tablespace_that_another_one_put_there_meanwhile_is_not_removed() {
    let site = Site::new(Shape::Directory);
    survey::take_stock(&site.data(), &site.owned).unwrap();
    // PGDATA is lost, and the directory belongs to somebody else now.
    fs::remove_dir_all(site.data()).unwrap();
    fs::rename(site.space().join(DIRECTORY), site.space().join("moved")).unwrap();
    fs::create_dir(site.space().join(DIRECTORY)).unwrap();
    fs::write(site.space().join(DIRECTORY).join("content"), "foreign").unwrap();
    let error = site.clear(0).unwrap_err().to_string();
    assert!(error.contains(DIRECTORY), "{error}");
    assert_eq!(site.saying("foreign").len(), 1);
}

#[test]
fn what_is_missing_room_on_one_file_system_counts_all_that_goes_there() {
    let gib = 1 << 30;
    let demand = |device, path: &str, bytes, free| (device, PathBuf::from(path), bytes, free);
    assert_eq!(
        first_shortage(&[demand(1, "/a", gib, 2 * gib), demand(2, "/b", gib, 2 * gib)]),
        None
    );
    let both = [demand(1, "/a", gib, 2 * gib), demand(1, "/b", gib, 2 * gib)];
    assert_eq!(first_shortage(&both).unwrap().path, Path::new("/a"));
    assert!(first_shortage(&[demand(1, "/a", u64::MAX, gib)]).is_some());
}

#[test]
fn a_file_system_mounted_inside_is_named() {
    assert_eq!(
        trees::mounted_below(Path::new("/")).unwrap().is_some(),
        Path::new("/proc/self").exists()
    );
}
