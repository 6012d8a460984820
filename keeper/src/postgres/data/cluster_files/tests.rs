use super::*;

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
fn data_are_complete_with_each_entry_and_the_target_of_each_link() {
    let dir = tempfile::tempdir().unwrap();
    let (data, wal) = (dir.path().join("data"), dir.path().join("wal"));
    assert_eq!(missing_entry(&data).unwrap(), Some(REQUIRED_ENTRIES[0]));
    make_data(&data, "");
    assert_eq!(missing_entry(&data).unwrap(), None);
    for part in REQUIRED_ENTRIES {
        let (path, aside) = (data.join(part), dir.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        assert!(missing_entry(&data).unwrap().is_some(), "{part}");
        fs::rename(&aside, &path).unwrap();
    }
    fs::rename(data.join("pg_wal"), &wal).unwrap();
    symlink(&wal, data.join("pg_wal")).unwrap();
    assert_eq!(missing_entry(&data).unwrap(), None);
    fs::remove_dir(&wal).unwrap();
    assert_eq!(
        missing_entry(&data).unwrap(),
        Some("pg_wal"),
        "its file system is not mounted"
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

#[test]
fn a_restored_backup_has_the_signal_of_its_recovery_and_no_lock_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    for name in ["standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts"] {
        fs::write(data.join(name), "").unwrap();
    }
    for (signal, standby) in [(RecoverySignal::Recovery, false), (RecoverySignal::Standby, true)] {
        prepare_recovery(data, signal).unwrap();
        let found = signals(data).unwrap();
        assert_eq!((found.standby, found.recovery), (standby, !standby));
        assert_eq!(fs::read_dir(data).unwrap().count(), 1);
    }
}

#[test]
fn the_configuration_that_data_came_with_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    fs::write(data.join("postgresql.conf"), "a = 1").unwrap();
    symlink("/dev/null", data.join("postgresql.auto.conf")).unwrap();
    keep_original_files(data).unwrap();
    fs::write(data.join("postgresql.conf"), "a = 2").unwrap();
    keep_original_files(data).unwrap();
    assert_eq!(
        fs::read_to_string(data.join("postgresql.conf.original")).unwrap(),
        "a = 1"
    );
    assert!(!data.join("pg_hba.conf.original").exists());
    assert!(
        !data.join("postgresql.auto.conf.original").exists(),
        "a link has nothing to keep"
    );
}

#[test]
fn a_backup_that_was_not_recovered_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(unfinished_restore(dir.path()).unwrap(), None);
    fs::write(dir.path().join("backup_label"), "").unwrap();
    assert_eq!(unfinished_restore(dir.path()).unwrap(), Some("backup_label"));
}
