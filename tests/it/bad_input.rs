//! Invalid input: an error that names it, exit status 1, and no change to anything.

use std::fs;
use std::process::{Command, Stdio};

use model::Role;
use stolon_tests::cluster::{Cluster, Profile};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{Process, Signal};
use stolon_tests::test_dir::TestDir;

/// The options that a keeper requires, without the data directory.
const KEEPER_OPTIONS: [&str; 7] = [
    "--cluster-name=test",
    "--store-backend=etcdv3",
    "--pg-listen-address=127.0.0.1",
    "--pg-repl-username=repluser",
    "--pg-repl-password=replpassword",
    "--pg-su-username=stolon",
    "--pg-su-password=supassword",
];

/// Each fault of a keeper's command line is reported before anything is created (keeper 1.3 and 1.4, cli 2 and 18.4).
#[tokio::test]
async fn a_keeper_refuses_each_invalid_option_and_creates_nothing() {
    let test_dir = TestDir::create();
    let (empty, newline) = (test_dir.path().join("empty"), test_dir.path().join("newline"));
    fs::write(&empty, "").unwrap();
    fs::write(&newline, "\n").unwrap();
    let file = |path: &std::path::Path| format!("--pg-su-passwordfile={}", path.display());
    let missing = file(&test_dir.path().join("no such file"));
    let (empty, newline) = (file(&empty), file(&newline));
    // Options removed, options added, the error.
    let cases: [(&[&str], &[&str], &str); 18] = [
        (&[], &["--store-endpoints=localhost:"], "localhost:"),
        (&[], &["--no-such-flag"], "no-such-flag"),
        (&["--cluster-name"], &[], "cluster name required"),
        (&["--store-backend"], &[], "store backend type required"),
        (&["--store-backend"], &["--store-backend=consul"], "etcdv3"),
        (&[], &["--cluster-name=.."], ".."),
        (&[], &["--uid=With-Dash"], "With-Dash"),
        (&[], &["--log-level=loud"], "loud"),
        (&[], &["--store-timeout=5"], "store-timeout"),
        (&["--pg-listen-address"], &[], "pg-listen-address"),
        (&["--pg-repl-username"], &[], "pg-repl-username"),
        (&["--pg-su-password"], &[], "pg-su-password"),
        (&[], &[&empty], "pg-su-passwordfile"),
        (&["--pg-su-password"], &[&empty], "empty"),
        (
            &["--pg-su-password"],
            &[&newline],
            "superuser password is empty after removing trailing new line",
        ),
        (&["--pg-su-password"], &[&missing], "no such file"),
        (&[], &["--pg-su-auth-method=trust"], "trust"),
        (
            &["--pg-su-username", "--pg-su-password"],
            &["--pg-su-username=repluser", "--pg-su-password=another"],
            "provided superuser name and replication user name are the same but provided passwords are different",
        ),
    ];
    for (number, (without, with, error)) in cases.into_iter().enumerate() {
        let dir = test_dir.data_dir(&format!("case{number}"));
        let data_dir = format!("--data-dir={}", dir.display());
        let mut options: Vec<&str> = KEEPER_OPTIONS.to_vec();
        options.retain(|option| !without.iter().any(|name| option.split('=').next() == Some(name)));
        options.push(&data_dir);
        options.extend(with);
        assert_refused(&test_dir, "stolon-keeper", &options, error).await;
        assert!(!dir.exists(), "{with:?}: the data directory was made");
    }
}

/// PostgreSQL's programs must exist and have a supported version.
#[tokio::test]
async fn a_keeper_refuses_missing_and_unsupported_postgresql_programs() {
    let test_dir = TestDir::create();
    let old = test_dir.path().join("old");
    fs::create_dir(&old).unwrap();
    for program in ["postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_controldata"] {
        let path = old.join(program);
        fs::write(&path, "#!/bin/sh\necho \"$(basename \"$0\") (PostgreSQL) 9.6.24\"\n").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let old = format!("--pg-bin-path={}", old.display());
    for (bin_path, error) in [("--pg-bin-path=/no/such/dir", "/no/such/dir"), (&old, "9.6")] {
        let dir = test_dir.data_dir("one");
        let data_dir = format!("--data-dir={}", dir.display());
        let options: Vec<&str> = KEEPER_OPTIONS
            .iter()
            .copied()
            .chain([data_dir.as_str(), bin_path])
            .collect();
        assert_refused(&test_dir, "stolon-keeper", &options, error).await;
        assert!(!dir.exists(), "{bin_path}: the data directory was made");
    }
}

/// PostgreSQL refuses root, and so does the keeper at its start (keeper 1.6).
#[tokio::test]
async fn a_keeper_refuses_root() {
    let test_dir = TestDir::create();
    let dir = test_dir.path().join("roots");
    // Every user can be root in a user namespace (user_namespaces(7)).
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user"])
        .arg(test_dir.program("stolon-keeper"));
    command
        .args(KEEPER_OPTIONS)
        .arg(format!("--data-dir={}", dir.display()));
    let mut keeper = Process::start("keeper", command, None, &test_dir.log("keeper"));
    assert_eq!(keeper.exit_status(SHORT_TIMEOUT).await, 1);
    assert!(keeper.log().contains("root"), "{}", keeper.log());
    assert!(!dir.exists());
}

/// A directory with foreign files is not used as a data directory (keeper 1.3).
#[tokio::test]
async fn a_keeper_refuses_a_directory_that_is_not_its_own() {
    let test_dir = TestDir::create();
    for (name, content) in [("database", "PG_VERSION"), ("strangers", "thesis.txt")] {
        let dir = test_dir.data_dir(name);
        fs::create_dir(&dir).unwrap();
        test_dir.give_to_user(&dir).unwrap();
        fs::write(dir.join(content), "15\n").unwrap();
        let data_dir = format!("--data-dir={}", dir.display());
        let options: Vec<&str> = KEEPER_OPTIONS.iter().copied().chain([data_dir.as_str()]).collect();
        assert_refused(&test_dir, "stolon-keeper", &options, &dir.display().to_string()).await;
        let names: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [content], "something was created in {name}");
    }
    // A path where no directory can be created.
    let options: Vec<&str> = KEEPER_OPTIONS
        .iter()
        .copied()
        .chain(["--data-dir=/proc/stolon"])
        .collect();
    assert_refused(&test_dir, "stolon-keeper", &options, "/proc/stolon").await;
}

/// Mounts a file system of a few pages on `$0`, fills it, runs the remaining arguments as an unprivileged user, and
/// prints the exit status and the files. It runs in its own namespaces, where every user may mount.
const ON_A_FULL_DISK: &str = r#"set -e
mount -t tmpfs -o size=64k,mode=700 none "$0"
touch "$0/lock" "$0/pgpass.stolon-tmp-Ab3xY9"
if head -c 1M /dev/zero > "$0/filler"; then echo "the disk is not full"; exit 9; fi
unshare --user --map-user=1000 --map-group=1000 "$@" || echo "ended with $?"
echo "left: $(ls -A "$0" | tr '\n' ' ')"
"#;

/// A full disk is reported with the file; no partial file remains, also none of a keeper that was killed (keeper 2.5).
#[tokio::test]
async fn a_keeper_on_a_full_disk_names_the_file_and_leaves_no_partial_file() {
    let test_dir = TestDir::create();
    let dir = test_dir.path().join("full");
    fs::create_dir(&dir).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", ON_A_FULL_DISK])
        .arg(&dir)
        .arg(test_dir.program("stolon-keeper"))
        .args(KEEPER_OPTIONS)
        .arg(format!("--data-dir={}", dir.display()))
        .current_dir("/");
    let mut shell = Process::start("keeper", command, None, &test_dir.log("keeper"));
    let status = shell.exit_status(SHORT_TIMEOUT).await;
    let log = shell.log();
    assert_eq!(status, 0, "{log}");
    for error in [
        "free space on its file system",
        "ended with 1\n",
        "left: filler lock \n",
    ] {
        assert!(log.contains(error), "no {error:?} in {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

/// Each fault of the other daemons' command lines is an error (cli 4, 5 and 18).
#[tokio::test]
async fn sentinel_and_proxy_refuse_each_invalid_option() {
    let test_dir = TestDir::create();
    let broken = test_dir.path().join("broken.json");
    fs::write(&broken, "{\n  \"initMode\": \"new\",\n  oops\n}").unwrap();
    let invalid = test_dir.path().join("invalid.json");
    fs::write(&invalid, r#"{"initMode":"new","failInterval":"-1s"}"#).unwrap();
    let unsupported = test_dir.path().join("unsupported.json");
    let standby = r#"{"initMode":"pitr","pitrConfig":{"dataRestoreCommand":"x"},"role":"standby","standbyConfig":{}}"#;
    fs::write(&unsupported, standby).unwrap();
    let spec = |path: &std::path::Path| format!("--initial-cluster-spec={}", path.display());
    let (broken, invalid, unsupported) = (spec(&broken), spec(&invalid), spec(&unsupported));
    let common = ["--cluster-name=test", "--store-backend=etcdv3"];
    for program in ["stolon-sentinel", "stolon-proxy"] {
        let endpoint = [&common[..], &["--store-endpoints=http://127.0.0.1:65536"]].concat();
        assert_refused(&test_dir, program, &endpoint, "http://127.0.0.1:65536").await;
    }
    for (program, options, error) in [
        (
            "stolon-sentinel",
            vec!["--store-backend=etcdv3"],
            "cluster name required",
        ),
        (
            "stolon-sentinel",
            [&common[..], &["--initial-cluster-spec=/no/such/file"]].concat(),
            "/no/such/file",
        ),
        ("stolon-sentinel", [&common[..], &[broken.as_str()]].concat(), "line 3"),
        (
            "stolon-sentinel",
            [&common[..], &[invalid.as_str()]].concat(),
            "failInterval",
        ),
        (
            "stolon-sentinel",
            [&common[..], &[unsupported.as_str()]].concat(),
            "role standby needs an upstream",
        ),
        (
            "stolon-sentinel",
            [&common[..], &["--no-such-flag"]].concat(),
            "no-such-flag",
        ),
        (
            "stolon-proxy",
            vec!["--cluster-name=test"],
            "store backend type required",
        ),
        (
            "stolon-proxy",
            [&common[..], &["--tcp-keepalive-idle=-1"]].concat(),
            "keepalive",
        ),
        (
            "stolon-proxy",
            [&common[..], &["--connect-timeout=soon"]].concat(),
            "connect-timeout",
        ),
        (
            "stolon-proxy",
            [&common[..], &["--store-endpoints=http://a:1,https://b:1"]].concat(),
            "scheme",
        ),
    ] {
        assert_refused(&test_dir, program, &options, error).await;
    }
}

/// The metrics address is bound before anything else, and an address in use is an error (cli 17.3).
#[tokio::test]
async fn a_metrics_address_in_use_makes_each_daemon_exit_with_status_1() {
    let test_dir = TestDir::create();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let metrics = format!("--metrics-listen-address={address}");
    let data_dir = format!("--data-dir={}", test_dir.data_dir("one").display());
    let common = ["--cluster-name=test", "--store-backend=etcdv3", metrics.as_str()];
    assert_refused(&test_dir, "stolon-sentinel", &common, &address).await;
    assert_refused(&test_dir, "stolon-proxy", &common, &address).await;
    let keeper: Vec<&str> = KEEPER_OPTIONS
        .iter()
        .copied()
        .chain([metrics.as_str(), data_dir.as_str()])
        .collect();
    assert_refused(&test_dir, "stolon-keeper", &keeper, &address).await;
}

/// Daemons wait for a store that cannot be reached at their start, log that once, and continue when it is there (store
/// 8 and E-11).
#[tokio::test]
async fn daemons_started_before_the_store_wait_for_it_and_log_that_once() {
    let mut cluster = Cluster::builder(Profile::Fast).without_programs().start().await;
    cluster.etcd.stop().await;
    let sentinel = cluster.add_sentinel();
    let keeper = cluster.add_keeper();
    let proxy = cluster.add_proxy();
    let (error, hint) = ("store is unreachable", "see --store-endpoints");
    for name in [&sentinel, &keeper, &proxy] {
        cluster.process(name).wait_for_log(error, LONG_TIMEOUT).await;
        assert!(cluster.process(name).log().contains(hint), "{name}");
    }
    cluster.restart_etcd().await;
    cluster.wait_healthy(&keeper, &Role::Master).await;
    cluster.wait_proxy_serves(&proxy).await;

    // The hint is only logged before the first connection.
    let log_lengths = [&sentinel, &keeper, &proxy].map(|name| (name, cluster.process(name).log().len()));
    cluster.etcd.stop().await;
    for (name, before) in log_lengths {
        cluster
            .process(name)
            .wait_for_log_after(before, error, LONG_TIMEOUT)
            .await;
        let log = cluster.process(name).log();
        assert_eq!(
            (log.matches(error).count(), log.matches(hint).count()),
            (2, 1),
            "{name}"
        );
    }
}

/// Cluster data that cannot be decoded are not overwritten, and end no program (store S-12).
#[tokio::test]
async fn undecodable_cluster_data_stop_no_program_and_are_not_overwritten() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let key = cluster.store.keys().cluster_data();
    let good = cluster.store.get(&key).await.unwrap().unwrap().value;
    for undecodable in ["{ this is not JSON", r#"{"formatVersion":99}"#, "[]"] {
        let readers = ["sentinel0", "keeper0", "keeper1", "proxy0"];
        let before = readers.map(|name| (name, cluster.process(name).log().len()));
        // The sentinel writes only over the revision that it read, so a pending write does not replace this value.
        cluster.store.put(&key, undecodable).await.unwrap();
        for (name, skip) in before {
            cluster
                .process(name)
                .wait_for_log_after(skip, "ERROR", SHORT_TIMEOUT)
                .await;
        }
        let value = cluster.store.get(&key).await.unwrap().unwrap().value;
        assert_eq!(String::from_utf8_lossy(&value), undecodable, "a program overwrote it");
        for name in readers {
            assert_eq!(cluster.process(name).try_wait(), None, "{name} ended at {undecodable}");
        }
        cluster.store.put(&key, good.clone()).await.unwrap();
        cluster.wait_healthy("keeper0", &Role::Master).await;
    }
    cluster.wait_proxy_serves("proxy0").await;
}

/// A keeper info that cannot be decoded is logged and skipped (store S-12).
#[tokio::test]
async fn an_undecodable_keeper_info_is_skipped() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let key = cluster.store.keys().keeper_info("stranger");
    cluster.store.put(&key, "{ no JSON").await.unwrap();
    cluster
        .process("sentinel0")
        .wait_for_log("stranger", SHORT_TIMEOUT)
        .await;
    cluster.wait_healthy("keeper0", &Role::Master).await;
    cluster.wait_healthy("keeper1", &Role::Standby).await;
    cluster.kill_keeper_and_postgres("keeper0");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", SHORT_TIMEOUT).await,
        "keeper1"
    );
}

/// SIGTERM and SIGINT end every daemon with status 0 (cli 1.3).
#[tokio::test]
async fn daemons_exit_with_status_0_at_sigterm_and_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut cluster = Cluster::builder(Profile::Fast).keepers(1).start().await;
        for name in ["proxy0", "sentinel0", "keeper0"] {
            cluster.process(name).signal(signal);
            let status = cluster.process(name).exit_status(SHORT_TIMEOUT).await;
            assert_eq!(status, 0, "{name}");
        }
        assert_eq!(cluster.postmaster("keeper0"), None);
    }
}

/// Runs a program as the user that PostgreSQL runs as, and checks that it exits with status 1 and logs `error`.
async fn assert_refused(test_dir: &TestDir, program: &str, options: &[&str], error: &str) {
    let log = test_dir.log(program);
    // Each case reads its own log only.
    let _ = fs::remove_file(&log);
    let mut command = Command::new(test_dir.program(program));
    command.args(options).current_dir("/").stdin(Stdio::null());
    let mut process = Process::start(program, command, test_dir.user(), &log);
    let status = process.exit_status(SHORT_TIMEOUT).await;
    let text = process.log();
    assert_eq!(status, 1, "{program} {options:?}: {text}");
    assert!(
        text.contains(error),
        "{program} {options:?} does not log {error:?}: {text}"
    );
    assert!(!text.contains("panicked"), "{text}");
}
