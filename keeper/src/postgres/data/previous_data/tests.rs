//! Data are set aside, created again and removed, with a crash at every point in between.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use base::RandomBytes;
use tempfile::TempDir;

use super::*;
use crate::external_dirs::{ExternalDir, ExternalDirFacts};
use crate::postgres::data::cluster_files::{self, TABLESPACE_DIRECTORY as DIRECTORY, make_data as make};
use crate::postgres::data::mounts;
use crate::postgres::data::staging::StagedData;
use crate::postgres::data::trees::fail_point;

/// State of PGDATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Directory,
    Link,
}

/// A keeper's data directory with complete data of db `A`, which have a tablespace, and a `pg_wal` that is a link.
struct Site {
    dir: TempDir,
    owned: OwnedDirs,
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
            owned: OwnedDirs::load(&root.join("keeper"), RandomBytes::system()).unwrap(),
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

    fn places(&self) -> Vec<ExternalDir> {
        vec![ExternalDir {
            path: self.space(),
            kind: ExternalDirKind::Tablespace {
                directory: DIRECTORY.into(),
            },
            bytes: Some(0),
            found: ExternalDirFacts::default(),
        }]
    }

    /// Restarts the keeper.
    fn restarted(&mut self) {
        self.owned = OwnedDirs::load(&self.dir.path().join("keeper"), RandomBytes::system()).unwrap();
    }

    fn clear(&self, bytes: u64) -> Result<ClearOutcome, ClearError> {
        self.clear_for("B", bytes)
    }

    fn clear_for(&self, db: &str, bytes: u64) -> Result<ClearOutcome, ClearError> {
        let what = ClearRequest {
            db: db.into(),
            bytes: Some(bytes),
            external_dirs: self.places(),
            ran_out_of_space: false,
        };
        clear(&self.data(), &self.owned, &what)
    }

    /// Bytes for which there is space, but not beside other data.
    fn nearly_all(&self) -> u64 {
        inspect::free_space(&self.data()).unwrap().1 / 20 * 19
    }

    /// A copy like that of pg_basebackup, and the steps that follow it.
    fn copy(&self) -> Result<(), FileError> {
        let staged = StagedData::prepare(&self.data(), &self.owned, &self.places())?;
        let option = |name: &str| {
            let options = staged.options();
            let found = options.iter().find_map(|option| option.strip_prefix(name));
            found.unwrap().to_owned()
        };
        let wal = PathBuf::from(option("--waldir="));
        let mapping = option("--tablespace-mapping=");
        let made_in = PathBuf::from(mapping.split_once('=').unwrap().1);
        assert!(inspect::entries(staged.directory()).unwrap().is_empty() && !wal.exists());
        assert!(inspect::entries(&made_in).unwrap().is_empty());
        make(staged.directory(), "new");
        fs::create_dir_all(&wal).unwrap();
        fs::write(wal.join("000000010000000000000002"), "new").unwrap();
        fs::remove_dir_all(staged.directory().join("pg_wal")).unwrap();
        symlink(&wal, staged.directory().join("pg_wal")).unwrap();
        fs::create_dir(made_in.join(DIRECTORY)).unwrap();
        fs::write(made_in.join(DIRECTORY).join("content"), "new").unwrap();
        symlink(&made_in, staged.directory().join("pg_tblspc/16385")).unwrap();
        staged.finish(&self.owned)
    }

    /// Returns the files below the test's directory with the contents `what`, by path.
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

    /// Checks that foreign files are unchanged.
    fn others_are_untouched(&self) {
        assert_eq!(self.saying("of somebody else"), ["space/notes", "wal/notes"]);
        assert!(self.space().join("PG_15_1/of another cluster").exists());
    }
}

fn gather(dir: &Path, what: &str, found: &mut Vec<PathBuf>) {
    for path in inspect::entries(dir).unwrap() {
        if path.is_dir() && !path.is_symlink() {
            gather(&path, what, found);
        } else if fs::read_to_string(&path).is_ok_and(|text| text == what) {
            found.push(path);
        }
    }
}

/// Files of the copy: one in PGDATA, a segment, one in the tablespace.
const FILES: usize = 3;

#[test]
fn old_data_are_kept_until_the_new_are_complete_whatever_crashes() {
    for shape in [Shape::Directory, Shape::Link] {
        let mut cuts = 0;
        loop {
            let mut site = Site::new(shape);
            fail_point::fail_after(cuts);
            let first = site.clear(0);
            fail_point::disable();
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
            assert!(matches!(old.state, PreviousDataState::Kept(_)), "{shape:?}, cut {cuts}");
            assert_eq!(site.saying("old").len(), FILES);
            assert!(!cluster_files::is_initialised(&site.data()).unwrap());
            assert!(!site.space().join(DIRECTORY).exists());

            site.copy().unwrap();
            assert_eq!(site.saying("new").len(), FILES);
            assert_eq!(site.saying("old").len(), FILES, "not before the new data are recorded");
            remove_old(&site.owned).unwrap();
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
fn an_interrupted_copy_is_repeated_and_the_old_data_stay() {
    for shape in [Shape::Directory, Shape::Link] {
        let mut cuts = 0;
        loop {
            let mut site = Site::new(shape);
            site.clear(0).unwrap();
            fail_point::fail_after(cuts);
            let copied = site.copy();
            let was_cut = fail_point::disable() && copied.is_err();
            site.restarted();
            assert_eq!(
                site.clear(0).unwrap(),
                ClearOutcome::Nothing,
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
fn removing_old_data_continues_after_a_crash_and_touches_nothing_new() {
    let mut cuts = 0;
    loop {
        let mut site = Site::new(Shape::Directory);
        site.clear(0).unwrap();
        site.copy().unwrap();
        fail_point::fail_after(cuts);
        let dropped = remove_old(&site.owned);
        let was_cut = fail_point::disable() && dropped.is_err();
        site.restarted();
        remove_old(&site.owned).unwrap();
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
fn without_space_the_old_data_are_removed_with_their_tablespace_and_wal() {
    let site = Site::new(Shape::Directory);
    assert_eq!(site.clear(site.nearly_all()).unwrap(), ClearOutcome::Removed);
    assert_eq!(site.saying("old"), [""; 0]);
    site.others_are_untouched();
    site.copy().unwrap();
    assert_eq!(fs::read_link(site.data().join("pg_wal")).unwrap(), site.wal());
    assert_eq!(site.saying("new").len(), FILES);
}

#[test]
fn a_repeated_copy_with_less_space_costs_the_old_data() {
    let site = Site::new(Shape::Directory);
    site.clear(0).unwrap();
    assert_eq!(site.clear(0).unwrap(), ClearOutcome::Nothing);
    assert_eq!(site.saying("old").len(), FILES);
    assert_eq!(site.clear(site.nearly_all()).unwrap(), ClearOutcome::Removed);
    assert_eq!(site.saying("old"), [""; 0]);
    site.others_are_untouched();
}

#[test]
fn old_data_stay_if_their_removal_does_not_free_enough_space() {
    let site = Site::new(Shape::Directory);
    let refused = site.clear(u64::MAX / 4).unwrap_err().to_string();
    assert!(refused.contains("even without the old data: "), "{refused}");
    assert_eq!(site.saying("old").len(), FILES);
    site.clear(0).unwrap();
    assert!(site.clear(u64::MAX / 4).is_err());
    assert_eq!(site.saying("old").len(), FILES);
}

#[test]
fn a_copy_that_never_answered_does_not_replace_the_old_data_for_any_next_db() {
    for shape in [Shape::Directory, Shape::Link] {
        let mut site = Site::new(shape);
        site.clear(0).unwrap();
        site.copy().unwrap();
        site.restarted();
        // B was recorded or not, but its server has never answered, and C replaces it.
        assert_eq!(site.clear_for("C", 0).unwrap(), ClearOutcome::Nothing);
        assert_eq!(site.saying("old").len(), FILES, "{shape:?}");
        assert_eq!(site.saying("new"), [""; 0]);
    }
}

/// pg_basebackup has written everything, but has not exited: nothing is synced, and WAL may be missing.
#[test]
fn a_copy_with_all_files_is_unfinished_until_it_is_in_place() {
    let mut site = Site::new(Shape::Directory);
    fs::remove_dir_all(site.data()).unwrap();
    let staged = StagedData::prepare(&site.data(), &site.owned, &site.places()).unwrap();
    make(staged.directory(), "new");
    site.restarted();
    assert!(!cluster_files::is_initialised(&site.data()).unwrap());
    assert_eq!(site.clear_for("C", 0).unwrap(), ClearOutcome::Nothing);
    assert_eq!(site.saying("new"), [""; 0]);
}

#[test]
fn a_complete_copy_is_kept_like_any_data_once_its_server_has_answered() {
    let site = Site::new(Shape::Directory);
    site.clear(0).unwrap();
    site.copy().unwrap();
    remove_old(&site.owned).unwrap();
    let cleared = site.clear_for("C", 0).unwrap();
    assert!(matches!(cleared, ClearOutcome::SetAside(_)), "{cleared:?}");
    assert_eq!(site.saying("new").len(), FILES);
}

#[test]
fn incomplete_data_directories_are_kept_like_complete_ones() {
    let site = Site::new(Shape::Directory);
    fs::remove_dir(site.data().join("pg_notify")).unwrap();
    assert!(matches!(site.clear(0).unwrap(), ClearOutcome::SetAside(_)));
    assert_eq!(site.saying("old").len(), FILES);
}

#[test]
fn old_data_that_were_put_back_by_hand_are_kept_again() {
    let mut site = Site::new(Shape::Directory);
    site.clear(0).unwrap();
    site.copy().unwrap();
    let old = site.owned.record().old.unwrap();
    fs::remove_dir_all(site.data()).unwrap();
    fs::remove_dir_all(site.space().join(DIRECTORY)).unwrap();
    fs::remove_file(site.wal().join("000000010000000000000002")).unwrap();
    fs::rename(&old.directory, site.data()).unwrap();
    site.restarted();
    let cleared = site.clear(0).unwrap();
    assert!(matches!(cleared, ClearOutcome::SetAside(_)), "{cleared:?}");
    assert_eq!(site.saying("old").len(), FILES, "{:?}", site.saying("old"));

    // The same for a PGDATA whose entries were moved.
    let mut site = Site::new(Shape::Link);
    site.clear(0).unwrap();
    let old = site.owned.record().old.unwrap();
    for entry in inspect::entries(&old.directory).unwrap() {
        fs::rename(&entry, site.data().join(entry.file_name().unwrap())).unwrap();
    }
    site.restarted();
    let cleared = site.clear(0).unwrap();
    assert!(matches!(cleared, ClearOutcome::SetAside(_)), "{cleared:?}");
    assert!(site.saying("old").iter().any(|path| path.contains(".old/base")));
}

/// The keeper is interrupted while it moves the data, and its directory is moved to another disk, where inodes differ.
#[test]
fn data_migrated_during_a_move_are_kept() {
    let mut cuts = 0;
    loop {
        let mut site = Site::new(Shape::Directory);
        fail_point::fail_after(cuts);
        let is_uncut = site.clear(0).is_ok();
        fail_point::disable();
        for name in ["keeper", "space"] {
            let (from, to) = (site.dir.path().join(name), site.dir.path().join("migrated"));
            let copied = std::process::Command::new("cp").arg("-a").args([&from, &to]).status();
            assert!(copied.unwrap().success());
            fs::remove_dir_all(&from).unwrap();
            fs::rename(&to, &from).unwrap();
        }
        site.restarted();
        let _ = site.clear(0); // a tablespace that nothing proves to be ours may stop it
        let kept = site.saying("old");
        assert!(
            kept.iter().any(|path| path.ends_with("base/content")),
            "cut {cuts}: {kept:?}"
        );
        if is_uncut {
            break;
        }
        cuts += 1;
    }
}

#[test]
fn a_tablespace_created_by_another_process_meanwhile_is_not_removed() {
    let site = Site::new(Shape::Directory);
    survey::survey_instance(&site.data(), &site.owned);
    // PGDATA is lost, and the directory now belongs to another owner.
    fs::remove_dir_all(site.data()).unwrap();
    fs::rename(site.space().join(DIRECTORY), site.space().join("moved")).unwrap();
    fs::create_dir(site.space().join(DIRECTORY)).unwrap();
    fs::write(site.space().join(DIRECTORY).join("content"), "foreign").unwrap();
    let error = site.clear(0).unwrap_err().to_string();
    assert!(error.contains(DIRECTORY), "{error}");
    assert_eq!(site.saying("foreign").len(), 1);
}

/// Includes bind mounts of the same device, at any depth.
#[test]
fn nothing_is_moved_or_removed_where_a_file_system_is_mounted() {
    let points = |site: &Site| {
        let (space, wal) = (site.space(), site.wal());
        let new = site.owned.name(NEW_KIND);
        [
            site.data().join("base/1/backup"),
            space.join(DIRECTORY),
            space.join(DIRECTORY).join("1/2/3"),
            space.join(&new).join("1"),
            wal.join("archive_status"),
            wal.join("archive_status/deep"),
        ]
    };
    for shape in [Shape::Directory, Shape::Link] {
        for point in 0..points(&Site::new(shape)).len() {
            let site = Site::new(shape);
            let point = &points(&site)[point];
            fs::create_dir_all(point).unwrap();
            fs::write(point.join("file"), "mounted").unwrap();
            let before = site.saying("old");
            mounts::fake::mount(point);
            let refused = site.clear(0).unwrap_err().to_string();
            let (at, obstacle) = mount_obstacle(&site.data(), &site.owned).unwrap().unwrap();
            mounts::fake::unmount();
            assert_eq!(at, point.canonicalize().unwrap());
            assert_eq!(obstacle, Obstacle::Mounted);
            assert!(
                refused.contains(&at.display().to_string()) && refused.contains("unmount it"),
                "{refused}"
            );
            assert_eq!(site.saying("old"), before, "{shape:?}: {}", point.display());
            assert_eq!(site.saying("mounted").len(), 1);
            assert!(matches!(site.clear(0).unwrap(), ClearOutcome::SetAside(_)));
        }
    }
}

#[test]
fn old_data_in_which_a_file_system_is_mounted_stay_as_they_are() {
    for below in ["", "space", "wal"] {
        let mut site = Site::new(Shape::Directory);
        site.clear(0).unwrap();
        site.copy().unwrap();
        let old = site.owned.record().old.unwrap();
        let aside = site.owned.name(OLD_KIND);
        let point = match below {
            "space" => site.space().join(aside).join("1/2"),
            "wal" => site.wal().join(aside).join("archive_status/1"),
            _ => old.directory.join("base/1/backup"),
        };
        fs::create_dir_all(&point).unwrap();
        fs::write(point.join("file"), "mounted").unwrap();
        mounts::fake::mount(&point);
        let refused = remove_old(&site.owned).unwrap_err().to_string();
        site.restarted();
        assert!(site.clear_for("C", 0).is_err(), "the next copy is refused too");
        mounts::fake::unmount();
        assert!(refused.contains(&point.display().to_string()), "{refused}");
        assert_eq!(site.saying("old").len(), FILES);
        assert_eq!(site.saying("new").len(), FILES);
        assert_eq!(site.saying("mounted").len(), 1);
        remove_old(&site.owned).unwrap();
        assert_eq!((site.saying("old").len(), site.saying("mounted").len()), (0, 0));
    }
}

/// `cp -a` of the keeper's data directory: the links and the record of the copy lead to the original's directories.
#[test]
fn a_copied_directory_empties_neither_the_tablespaces_nor_the_wal_of_its_original() {
    for (uid, marked) in [("k1", true), ("k1", false), ("k2", true), ("k2", false)] {
        let site = Site::new(Shape::Directory);
        site.owned.adopt("k1").unwrap();
        survey::survey_instance(&site.data(), &site.owned);
        if !marked {
            site.owned.remove_marker(&site.space()).unwrap();
        }
        let copy = site.dir.path().join("copy");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([&site.dir.path().join("keeper"), &copy])
            .status();
        assert!(copied.unwrap().success());
        let owned = OwnedDirs::load(&copy, RandomBytes::system()).unwrap();
        owned.adopt(uid).unwrap();
        let data = copy.join("postgres");
        let before = site.saying("old");
        let what = |places| ClearRequest {
            db: "B".into(),
            bytes: Some(0),
            external_dirs: places,
            ran_out_of_space: false,
        };
        for _ in 0..2 {
            assert!(clear(&data, &owned, &what(site.places())).is_err());
            assert!(
                clear(&data, &owned, &what(Vec::new())).is_err(),
                "the WAL is not ours either"
            );
            let (found, _) = survey::survey_tablespace(&data, &owned, &site.space(), DIRECTORY).unwrap();
            assert!(check_may_empty(&found).is_err(), "{found:?}");
            let (found, _) = survey::survey_wal(&data, &owned, &site.wal()).unwrap();
            assert_eq!(check_may_empty(&found), Err(Obstacle::NotOurs));
            // Its server runs meanwhile.
            survey::survey_instance(&data, &owned);
        }
        assert_eq!(site.saying("old"), before, "{uid}, {marked}");
        // The original is unaffected.
        assert!(matches!(site.clear(0).unwrap(), ClearOutcome::SetAside(_)));
    }
}

/// WAL was moved to another directory, and another instance now uses the old one.
#[test]
fn wal_in_a_directory_that_is_no_longer_ours_is_not_touched() {
    let mut site = Site::new(Shape::Directory);
    survey::survey_instance(&site.data(), &site.owned);
    fs::rename(site.wal(), site.dir.path().join("moved")).unwrap();
    fs::create_dir(site.wal()).unwrap();
    fs::write(site.wal().join("000000010000000000000001"), "foreign").unwrap();
    fs::remove_dir_all(site.data()).unwrap();
    site.restarted();
    let refused = site.clear(0).unwrap_err().to_string();
    assert!(refused.contains("not known to belong to this keeper"), "{refused}");
    assert_eq!(site.saying("foreign"), ["wal/000000010000000000000001"]);
    fs::remove_file(site.wal().join("000000010000000000000001")).unwrap();
    site.clear(0).unwrap();
}

/// A copy was interrupted late, and another db is to be created: leftovers do not count as required space.
#[test]
fn leftovers_of_an_interrupted_copy_are_removed_before_space_is_checked() {
    let site = Site::new(Shape::Directory);
    site.clear(0).unwrap();
    let staged = StagedData::prepare(&site.data(), &site.owned, &site.places()).unwrap();
    make(staged.directory(), "new");
    let made_in = site.space().join(site.owned.name(NEW_KIND));
    fs::write(made_in.join("content"), "new").unwrap();
    assert!(site.clear_for("C", u64::MAX / 4).is_err(), "there is no room");
    assert_eq!(site.saying("new"), [""; 0]);
    assert_eq!(site.saying("old").len(), FILES);
}

#[test]
fn a_record_without_a_creation_time_proves_nothing() {
    let site = Site::new(Shape::Directory);
    survey::survey_instance(&site.data(), &site.owned);
    let file = site.dir.path().join("keeper/directories");
    let text = fs::read_to_string(&file).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["tablespaces"][0]["mark"]["born"] = 0.into();
    json["walMark"]["born"] = 0.into();
    fs::write(&file, json.to_string()).unwrap();
    let owned = OwnedDirs::load(&site.dir.path().join("keeper"), RandomBytes::system()).unwrap();
    assert!(
        !survey::own_tablespaces(&site.data(), &owned).unwrap().is_empty(),
        "the links of PGDATA prove it"
    );
    fs::remove_dir_all(site.data()).unwrap();
    assert_eq!(survey::own_tablespaces(&site.data(), &owned).unwrap(), []);
    assert_eq!(survey::own_wal(&site.data(), &owned).unwrap(), None);
}

/// The directories were restored from a backup: same paths, other inodes.
#[test]
fn the_links_of_restored_data_count_more_than_stale_records() {
    let mut site = Site::new(Shape::Directory);
    site.owned.adopt("k1").unwrap();
    survey::survey_instance(&site.data(), &site.owned);
    for name in ["keeper", "space", "wal"] {
        let (from, to) = (site.dir.path().join(name), site.dir.path().join("restored"));
        let copied = std::process::Command::new("cp").arg("-a").args([&from, &to]).status();
        assert!(copied.unwrap().success());
        fs::remove_dir_all(&from).unwrap();
        fs::rename(&to, &from).unwrap();
    }
    site.restarted();
    site.owned.adopt("k1").unwrap();
    let (found, _) = survey::survey_tablespace(&site.data(), &site.owned, &site.space(), DIRECTORY).unwrap();
    assert_eq!(check_may_empty(&found), Ok(()));
    assert!(matches!(site.clear(0).unwrap(), ClearOutcome::SetAside(_)));
    assert_eq!(site.saying("old").len(), FILES);
}

/// A restore command does not know of the directory for WAL.
#[test]
fn restored_wal_is_moved_to_where_pg_wal_led() {
    let site = Site::new(Shape::Directory);
    site.clear(0).unwrap();
    let staged = StagedData::prepare(&site.data(), &site.owned, &[]).unwrap();
    make(staged.directory(), "new");
    fs::create_dir_all(staged.directory().join("pg_wal/archive_status")).unwrap();
    fs::write(staged.directory().join("pg_wal/000000010000000000000002"), "new").unwrap();
    staged.place_wal().unwrap();
    staged.finish(&site.owned).unwrap();
    assert_eq!(fs::read_link(site.data().join("pg_wal")).unwrap(), site.wal());
    let read = |name: &str| fs::read_to_string(site.wal().join(name)).unwrap();
    assert_eq!(read("000000010000000000000002"), "new");
    assert!(site.wal().join("archive_status").is_dir());
    assert_eq!(survey::own_wal(&site.data(), &site.owned).unwrap(), Some(site.wal()));
}
