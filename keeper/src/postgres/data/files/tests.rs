use super::*;

#[test]
fn a_rewritten_file_is_private_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dbstate");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    write_atomically(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn leftovers_of_a_killed_keeper_are_removed_and_an_operator_s_copies_stay() {
    let dir = tempfile::tempdir().unwrap();
    let leftover = temporary(dir.path(), "pgpass".as_ref())
        .unwrap()
        .into_temp_path()
        .keep()
        .unwrap();
    let kept = [
        "dbstate.backup",
        "pgpass.txt",
        "dbstate",
        "initdb.123456",
        "directories.bak",
    ];
    for name in kept {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    fs::create_dir(dir.path().join("dbstate.stolon-tmp-abcdef")).unwrap();
    remove_leftovers(dir.path()).unwrap();
    assert!(!leftover.exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), kept.len() + 1);
}

#[test]
fn a_full_disk_is_named_with_its_remedy() {
    // Writing to /dev/full fails like writing to a full disk.
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .write_all(b"x")
        .unwrap_err();
    let message = FileError::new("write", "/data/dbstate")(full).to_string();
    assert_eq!(message, "write /data/dbstate (free space on its file system)");
}

#[test]
fn a_failed_write_keeps_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taken");
    fs::create_dir(&path).unwrap();
    assert!(write_atomically(&path, b"new").is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn segment_names_are_recognised() {
    // keeper T4
    assert!(is_segment_name("ABCDEF0123456789ABCDEF00"));
    for other in [
        "",
        "ABCDEF0123456789ABCDEF0",
        "$123",
        "00000002.history",
        "abcdef0123456789abcdef00",
    ] {
        assert!(!is_segment_name(other), "{other}");
    }
}

#[test]
fn the_oldest_segment_is_the_first_by_name_of_16_mib() {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("pg_wal");
    fs::create_dir(&wal).unwrap();
    assert_eq!(oldest_wal(dir.path()).unwrap(), OldestWal::NoneThere);
    for (name, bytes) in [
        ("000000020000000000000004", SEGMENT_BYTES),
        ("000000010000000000000003", SEGMENT_BYTES),
        ("00000002.history", 41),
    ] {
        File::create(wal.join(name)).unwrap().set_len(bytes).unwrap();
    }
    assert_eq!(
        oldest_wal(dir.path()).unwrap(),
        OldestWal::File("000000010000000000000003".into())
    );
    File::create(wal.join("000000010000000000000002"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    assert_eq!(
        oldest_wal(dir.path()).unwrap(),
        OldestWal::OtherSize { bytes: 64 << 20 }
    );
}

#[test]
fn signal_files_change_only_as_is_safe() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    let obsolete = || fs::write(data.join("recovery.signal"), "").unwrap();
    obsolete();
    signal_standby(data).unwrap();
    assert_eq!(
        signals(data).unwrap(),
        SignalFiles {
            standby: true,
            recovery: false
        }
    );
    obsolete();
    remove_recovery_signal(data).unwrap();
    assert_eq!(
        signals(data).unwrap(),
        SignalFiles {
            standby: true,
            recovery: false
        },
        "keeper I2"
    );
}

#[test]
fn the_lock_file_contains_pid_and_state() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(dir.path().join("postmaster.pid"), text).unwrap();
    assert_eq!(pid_file(dir.path()).unwrap(), None);
    write("");
    assert_eq!(pid_file(dir.path()).unwrap(), None);
    write("4711\n/data\n1700000000\n5432\n/tmp\n");
    assert_eq!(
        pid_file(dir.path()).unwrap(),
        Some(PidFile {
            pid: 4711,
            started: Some(1_700_000_000),
            status: None
        })
    );
    write("4711\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n  123   456\nready   \n");
    assert_eq!(
        pid_file(dir.path()).unwrap(),
        Some(PidFile {
            pid: 4711,
            started: Some(1_700_000_000),
            status: Some("ready".into())
        })
    );
}

#[test]
fn the_auto_conf_is_a_link_to_dev_null() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postgresql.auto.conf");
    fs::write(&path, "port = 1").unwrap();
    for _ in 0..2 {
        link_auto_conf(dir.path()).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/dev/null"));
    }
}
