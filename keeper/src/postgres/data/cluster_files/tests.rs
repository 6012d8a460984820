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
fn the_auto_conf_is_a_link_to_dev_null() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postgresql.auto.conf");
    fs::write(&path, "port = 1").unwrap();
    for _ in 0..2 {
        link_auto_conf(dir.path()).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/dev/null"));
    }
}
