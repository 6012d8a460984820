use std::os::unix::fs::symlink;

use base::RandomBytes;
use tempfile::TempDir;

use super::*;
use crate::external_dirs::{Obstacle, check_may_empty};
use crate::postgres::data::cluster_files::{self, TABLESPACE_DIRECTORY as DIRECTORY};

/// A keeper's data directory beside a tablespace location, with a PGDATA that links to it when `linked`.
fn site(linked: bool) -> (TempDir, OwnedDirs, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (data, space) = (dir.path().join("keeper/postgres"), dir.path().join("space"));
    fs::create_dir_all(space.join(DIRECTORY)).unwrap();
    cluster_files::make_data(&data, "");
    if linked {
        symlink(&space, data.join("pg_tblspc/16385")).unwrap();
    }
    let owned = OwnedDirs::load(&dir.path().join("keeper"), RandomBytes::system()).unwrap();
    (dir, owned, data, space)
}

fn looked(data: &Path, owned: &OwnedDirs, space: &Path) -> Result<(), Obstacle> {
    check_may_empty(&survey_tablespace(data, owned, space, DIRECTORY).unwrap().0)
}

#[test]
fn a_tablespace_is_ours_by_the_link_of_whole_data_or_by_the_record() {
    let (_dir, owned, data, space) = site(false);
    assert_eq!(looked(&data, &owned, &space), Err(Obstacle::NotOurs));
    let (_dir, owned, data, space) = site(true);
    assert_eq!(looked(&data, &owned, &space), Ok(()));
    assert_eq!(survey_instance(&data, &owned).locations, std::slice::from_ref(&space));
    // PGDATA is lost and its tablespace is not.
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(looked(&data, &owned, &space), Ok(()));
    fs::remove_file(space.join(owned.name("owner"))).unwrap();
    assert_eq!(looked(&data, &owned, &space), Ok(()));
    // The links of incomplete data prove nothing.
    let (_dir, owned, data, space) = site(true);
    fs::remove_file(data.join("global/pg_control")).unwrap();
    assert_eq!(looked(&data, &owned, &space), Err(Obstacle::NotOurs));
}

#[test]
fn a_location_that_is_a_link_is_the_same_directory() {
    let (dir, owned, data, space) = site(true);
    let link = dir.path().join("link");
    symlink(&space, &link).unwrap();
    survey_instance(&data, &owned);
    assert_eq!(looked(&data, &owned, &link), Ok(()));
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(looked(&data, &owned, &link), Ok(()));
}

#[test]
fn two_keepers_with_one_location_detect_each_other_and_neither_empties_it() {
    let (dir, owned, data, space) = site(true);
    assert_eq!(survey_instance(&data, &owned).shared, []);
    let second = dir.path().join("second");
    fs::create_dir(&second).unwrap();
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(&data)
            .arg(second.join("postgres"))
            .status()
            .unwrap()
            .success()
    );
    let other = OwnedDirs::load(&second, RandomBytes::system()).unwrap();
    let stock = survey_instance(&second.join("postgres"), &other);
    let with = format!("the keeper of {}", dir.path().join("keeper").display());
    assert_eq!(
        stock.shared,
        [SharedLocation {
            location: space.clone(),
            with,
        }]
    );
    assert_eq!(
        survey_instance(&data, &owned).shared.len(),
        1,
        "the first one sees it too"
    );
    assert_eq!(looked(&data, &owned, &space), Err(Obstacle::OtherKeeper(second)));
}

#[test]
fn a_dropped_tablespace_is_forgotten_with_its_marker() {
    let (_dir, owned, data, space) = site(true);
    survey_instance(&data, &owned);
    assert_eq!(owned.record().tablespaces.len(), 1);
    fs::remove_file(data.join("pg_tblspc/16385")).unwrap();
    fs::remove_dir(space.join(DIRECTORY)).unwrap();
    survey_instance(&data, &owned);
    assert_eq!(owned.record().tablespaces, []);
    assert!(inspect::entries(&space).unwrap().is_empty());
}

#[test]
fn an_empty_or_missing_location_is_free_and_an_impossible_one_is_reported() {
    let (dir, owned, data, _) = site(false);
    let missing = dir.path().join("a/b");
    assert_eq!(looked(&data, &owned, &missing), Ok(()));
    assert!(missing.is_dir());
    let (found, probe) = survey_tablespace(&data, &owned, &missing, DIRECTORY).unwrap();
    let probe = probe.unwrap();
    assert_eq!(found.unusable, None);
    assert!(Path::new(&probe.path_on_source).exists());
    drop(probe);
    assert!(inspect::entries(&missing).unwrap().is_empty(), "the probe is gone");
    fs::write(dir.path().join("file"), "").unwrap();
    let refused = looked(&data, &owned, &dir.path().join("file/ts")).unwrap_err();
    assert!(matches!(refused, Obstacle::Unusable(_)), "{refused}");
}

#[test]
fn only_names_of_wal_files_count_as_wal() {
    for name in [
        "000000010000000000000001",
        "000000010000000000000001.partial",
        "000000010000000000000001.00000028.backup",
        "00000002.history",
        "archive_status",
        "summaries",
        "xlogtemp.4711",
    ] {
        assert!(is_of_wal(name.as_ref()), "{name}");
    }
    for name in [
        "notes",
        "lost+found",
        "0000000100000000000000",
        "base",
        "00000002.txt",
        "postgres",
    ] {
        assert!(!is_of_wal(name.as_ref()), "{name}");
    }
}

/// One location on a file system that cannot be read must not keep the others from being recorded.
#[test]
fn an_unreadable_location_is_reported_and_the_others_are_recorded() {
    let (dir, owned, data, space) = site(true);
    // A link to itself cannot be resolved, not even by root.
    let broken = dir.path().join("broken");
    symlink(&broken, &broken).unwrap();
    symlink(&broken, data.join("pg_tblspc/16386")).unwrap();
    let stock = survey_instance(&data, &owned);
    assert_eq!(stock.locations, std::slice::from_ref(&space));
    assert_eq!(owned.record().tablespaces.len(), 1);
    assert!(owned.has_marker(&space));
    let failed: Vec<_> = stock.failed.iter().map(|failed| &failed.path).collect();
    assert_eq!(failed, [&broken], "{:?}", stock.failed);
    // Earlier records stay.
    fs::rename(&space, dir.path().join("away")).unwrap();
    symlink(&space, &space).unwrap();
    let stock = survey_instance(&data, &owned);
    assert_eq!(stock.failed.len(), 2, "{:?}", stock.failed);
    assert_eq!(owned.record().tablespaces.len(), 1);
}

/// Two keepers start their first copies at the same time: neither has a tablespace directory yet.
#[test]
fn a_location_in_which_another_keeper_is_copying_is_not_free() {
    use crate::postgres::data::staging::StagedData;
    let (dir, owned, data, space) = site(false);
    fs::remove_dir_all(space.join(DIRECTORY)).unwrap();
    let second = dir.path().join("second/postgres");
    fs::create_dir_all(&second).unwrap();
    let other = OwnedDirs::load(&dir.path().join("second"), RandomBytes::system()).unwrap();
    let place = ExternalDir {
        path: space.clone(),
        kind: ExternalDirKind::Tablespace {
            directory: DIRECTORY.into(),
        },
        bytes: None,
        found: ExternalDirFacts::default(),
    };
    let staged = StagedData::prepare(&second, &other, std::slice::from_ref(&place)).unwrap();
    let keeper = second.parent().unwrap().to_owned();
    assert_eq!(looked(&data, &owned, &space), Err(Obstacle::OtherKeeper(keeper)));
    // Both had checked before either started: the second one to finish takes nothing from the first, not even an empty
    // directory.
    fs::create_dir(space.join(DIRECTORY)).unwrap();
    fs::create_dir_all(space.join(other.name(NEW_KIND)).join(DIRECTORY)).unwrap();
    cluster_files::make_data(staged.directory(), "new");
    let refused = Chain(&staged.finish(&other).unwrap_err()).to_string();
    assert!(refused.contains("File exists"), "{refused}");
    assert!(space.join(DIRECTORY).is_dir());
}

/// Creating the directory on an unmounted disk would put WAL on the wrong disk.
#[test]
fn the_remedy_for_a_missing_wal_directory_names_the_mount_first() {
    let (dir, owned, data, _) = site(false);
    let (found, _) = survey_wal(&data, &owned, &dir.path().join("wal")).unwrap();
    let obstacle = check_may_empty(&found).unwrap_err();
    assert!(
        obstacle.to_string().contains("where pg_wal leads, is not there"),
        "{obstacle}"
    );
    assert!(
        obstacle.remedy().starts_with("mount its file system"),
        "{}",
        obstacle.remedy()
    );
}

#[test]
fn unrecorded_old_data_are_listed_and_kept() {
    let (dir, owned, data, _) = site(false);
    let old = dir.path().join("keeper/postgres.old-0a1b2c3d");
    fs::create_dir(&old).unwrap();
    assert_eq!(survey_instance(&data, &owned).unrecorded, std::slice::from_ref(&old));
    assert!(old.exists());
}
