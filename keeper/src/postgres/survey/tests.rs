use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::places::{Obstacle, judge};

const DIRECTORY: &str = "PG_15_202209061";

/// A keeper's directory beside the location of a tablespace, with a PGDATA that has it when `linked`.
fn site(linked: bool) -> (TempDir, Owned, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (data, space) = (dir.path().join("keeper/postgres"), dir.path().join("space"));
    fs::create_dir_all(space.join(DIRECTORY)).unwrap();
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
    if linked {
        symlink(&space, data.join("pg_tblspc/16385")).unwrap();
    }
    let owned = Owned::load(&dir.path().join("keeper")).unwrap();
    (dir, owned, data, space)
}

fn looked(data: &Path, owned: &Owned, space: &Path) -> Result<(), Obstacle> {
    judge(&look_at_tablespace(data, owned, space, DIRECTORY).unwrap().0)
}

#[test]
fn a_tablespace_is_ours_by_the_link_of_whole_data_or_by_the_record() {
    let (_dir, owned, data, space) = site(false);
    assert_eq!(looked(&data, &owned, &space), Err(Obstacle::NotOurs));
    let (_dir, owned, data, space) = site(true);
    assert_eq!(looked(&data, &owned, &space), Ok(()));
    assert_eq!(
        take_stock(&data, &owned).unwrap().locations,
        std::slice::from_ref(&space)
    );
    // PGDATA is lost, its tablespace is not.
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(looked(&data, &owned, &space), Ok(()));
    fs::remove_file(space.join(owned.name("owner"))).unwrap();
    assert_eq!(looked(&data, &owned, &space), Ok(()));
    // The links of half-made data prove nothing.
    let (_dir, owned, data, space) = site(true);
    fs::remove_file(data.join("global/pg_control")).unwrap();
    assert_eq!(looked(&data, &owned, &space), Err(Obstacle::NotOurs));
}

#[test]
fn a_location_that_is_a_link_is_the_same_place() {
    let (dir, owned, data, space) = site(true);
    let link = dir.path().join("link");
    symlink(&space, &link).unwrap();
    take_stock(&data, &owned).unwrap();
    assert_eq!(looked(&data, &owned, &link), Ok(()));
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(looked(&data, &owned, &link), Ok(()));
}

#[test]
fn two_keepers_with_one_location_see_each_other_and_neither_empties_it() {
    let (dir, owned, data, space) = site(true);
    assert_eq!(take_stock(&data, &owned).unwrap().shared, []);
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
    let other = Owned::load(&second).unwrap();
    let stock = take_stock(&second.join("postgres"), &other).unwrap();
    let with = format!("the keeper of {}", dir.path().join("keeper").display());
    assert_eq!(
        stock.shared,
        [Shared {
            location: space.clone(),
            with,
        }]
    );
    assert_eq!(
        take_stock(&data, &owned).unwrap().shared.len(),
        1,
        "the first one sees it too"
    );
    assert_eq!(looked(&data, &owned, &space), Err(Obstacle::OtherKeeper(second)));
}

#[test]
fn a_dropped_tablespace_is_forgotten_with_its_marker() {
    let (_dir, owned, data, space) = site(true);
    take_stock(&data, &owned).unwrap();
    assert_eq!(owned.record().tablespaces.len(), 1);
    fs::remove_file(data.join("pg_tblspc/16385")).unwrap();
    fs::remove_dir(space.join(DIRECTORY)).unwrap();
    take_stock(&data, &owned).unwrap();
    assert_eq!(owned.record().tablespaces, []);
    assert!(trees::entries(&space).unwrap().is_empty());
}

#[test]
fn an_empty_or_missing_location_is_free_and_one_that_cannot_be_made_is_named() {
    let (dir, owned, data, _) = site(false);
    let missing = dir.path().join("a/b");
    assert_eq!(looked(&data, &owned, &missing), Ok(()));
    assert!(missing.is_dir());
    let (found, probe) = look_at_tablespace(&data, &owned, &missing, DIRECTORY).unwrap();
    let probe = probe.unwrap();
    assert_eq!(found.unusable, None);
    assert!(Path::new(&probe.asked).exists());
    drop(probe);
    assert!(trees::entries(&missing).unwrap().is_empty(), "the probe is gone");
    fs::write(dir.path().join("file"), "").unwrap();
    let refused = looked(&data, &owned, &dir.path().join("file/ts")).unwrap_err();
    assert!(matches!(refused, Obstacle::Unusable(_)), "{refused}");
}

#[test]
fn only_names_of_wal_are_taken_for_wal() {
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
