//! What bad input gets: an error that names the thing, exit status 1, and nothing touched.

use std::fs;
use std::process::{Command, Stdio};

use control::model::Role;
use stolon_tests::cluster::{Cluster, LONG_TIMEOUT, Profile, SHORT_TIMEOUT};
use stolon_tests::process::{Process, Signal};
use stolon_tests::test_dir::TestDir;

/// The options that a keeper needs, but for its data directory.
const KEEPER: [&str; 7] = [
    "--cluster-name=test",
    "--store-backend=etcdv3",
    "--pg-listen-address=127.0.0.1",
    "--pg-repl-username=repluser",
    "--pg-repl-password=replpassword",
    "--pg-su-username=stolon",
    "--pg-su-password=supassword",
];

/// keeper 1.3 and 1.4, cli 2 and 18.4: each fault of a keeper's command line, told before anything is touched.
#[tokio::test]
async fn a_keeper_refuses_each_fault_of_its_command_line_and_touches_nothing() {
    let place = TestDir::create();
    let (empty, newline) = (place.path().join("empty"), place.path().join("newline"));
    fs::write(&empty, "").unwrap();
    fs::write(&newline, "\n").unwrap();
    let file = |path: &std::path::Path| format!("--pg-su-passwordfile={}", path.display());
    let missing = file(&place.path().join("no such file"));
    let (empty, newline) = (file(&empty), file(&newline));
    // without, with, what is said
    let cases: [(&[&str], &[&str], &str); 17] = [
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
    for (number, (without, with, said)) in cases.into_iter().enumerate() {
        let dir = place.data_dir(&format!("case{number}"));
        let data_dir = format!("--data-dir={}", dir.display());
        let mut options: Vec<&str> = KEEPER.to_vec();
        options.retain(|option| !without.iter().any(|name| option.split('=').next() == Some(name)));
        options.push(&data_dir);
        options.extend(with);
        refused(&place, "stolon-keeper", &options, said).await;
        assert!(!dir.exists(), "{with:?}: the data directory was made");
    }
}

/// design D-10: PostgreSQL's programs must be there, and of a version that this keeper knows.
#[tokio::test]
async fn a_keeper_refuses_missing_and_unsupported_programs_of_postgresql() {
    let place = TestDir::create();
    let old = place.path().join("old");
    fs::create_dir(&old).unwrap();
    for program in ["postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_controldata"] {
        let path = old.join(program);
        fs::write(&path, "#!/bin/sh\necho \"$(basename \"$0\") (PostgreSQL) 9.6.24\"\n").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let old = format!("--pg-bin-path={}", old.display());
    for (bin_path, said) in [("--pg-bin-path=/no/such/dir", "/no/such/dir"), (&old, "9.6")] {
        let dir = place.data_dir("one");
        let data_dir = format!("--data-dir={}", dir.display());
        let options: Vec<&str> = KEEPER.iter().copied().chain([data_dir.as_str(), bin_path]).collect();
        refused(&place, "stolon-keeper", &options, said).await;
        assert!(!dir.exists(), "{bin_path}: the data directory was made");
    }
}

/// keeper 1.6: PostgreSQL refuses root, so the keeper does at once.
#[tokio::test]
async fn a_keeper_refuses_root() {
    let place = TestDir::create();
    let dir = place.path().join("roots");
    // everybody is root in a user namespace (user_namespaces(7))
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user"])
        .arg(place.program("stolon-keeper"));
    command.args(KEEPER).arg(format!("--data-dir={}", dir.display()));
    let mut keeper = Process::start("keeper", command, None, &place.path().join("log/keeper.log"));
    assert_eq!(keeper.exit_status(SHORT_TIMEOUT).await, 1);
    assert!(keeper.log().contains("root"), "{}", keeper.log());
    assert!(!dir.exists());
}

/// keeper 1.3: a directory with something of somebody else's in it is not ours.
#[tokio::test]
async fn a_keeper_refuses_a_directory_that_is_not_its_own() {
    let place = TestDir::create();
    let user = place.user.clone();
    let own = |path: &std::path::Path| {
        if let Some(user) = &user {
            std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).unwrap();
        }
    };
    for (name, content) in [("database", "PG_VERSION"), ("strangers", "thesis.txt")] {
        let dir = place.data_dir(name);
        fs::create_dir(&dir).unwrap();
        own(&dir);
        fs::write(dir.join(content), "15\n").unwrap();
        let data_dir = format!("--data-dir={}", dir.display());
        let options: Vec<&str> = KEEPER.iter().copied().chain([data_dir.as_str()]).collect();
        refused(&place, "stolon-keeper", &options, &dir.display().to_string()).await;
        let names: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [content], "something was made in {name}");
    }
    // a place where nothing can be made
    let options: Vec<&str> = KEEPER.iter().copied().chain(["--data-dir=/proc/stolon"]).collect();
    refused(&place, "stolon-keeper", &options, "/proc/stolon").await;
}

/// Mounts a file system of a few pages on `$0`, fills it, runs the rest of its arguments as nobody in particular, and
/// prints how that ended and which files are there: in namespaces of its own, where anybody may mount.
const ON_A_FULL_DISK: &str = r#"set -e
mount -t tmpfs -o size=64k,mode=700 none "$0"
touch "$0/lock" "$0/pgpass.stolon-tmp-Ab3xY9"
if head -c 1M /dev/zero > "$0/filler"; then echo "the disk is not full"; exit 9; fi
unshare --user --map-user=1000 --map-group=1000 "$@" || echo "ended with $?"
echo "left: $(ls -A "$0" | tr '\n' ' ')"
"#;

/// keeper 2.5 and I16: a full disk is told with its file, no half-written file stays, nor what a killed keeper left.
#[tokio::test]
async fn a_keeper_on_a_full_disk_says_so_and_leaves_no_half_written_file() {
    let place = TestDir::create();
    let dir = place.path().join("full");
    fs::create_dir(&dir).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", ON_A_FULL_DISK])
        .arg(&dir)
        .arg(place.program("stolon-keeper"))
        .args(KEEPER)
        .arg(format!("--data-dir={}", dir.display()))
        .current_dir("/");
    let mut shell = Process::start("keeper", command, None, &place.path().join("log/keeper.log"));
    let status = shell.exit_status(SHORT_TIMEOUT).await;
    let log = shell.log();
    assert_eq!(status, 0, "{log}");
    for said in [
        "free space on its file system",
        "ended with 1\n",
        "left: filler lock \n",
    ] {
        assert!(log.contains(said), "no {said:?} in {log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

/// cli 4, 5 and 18: the other daemons.
#[tokio::test]
async fn sentinel_and_proxy_refuse_each_fault_of_their_command_line() {
    let place = TestDir::create();
    let broken = place.path().join("broken.json");
    fs::write(&broken, "{\n  \"initMode\": \"new\",\n  oops\n}").unwrap();
    let invalid = place.path().join("invalid.json");
    fs::write(&invalid, r#"{"initMode":"new","failInterval":"-1s"}"#).unwrap();
    let unsupported = place.path().join("unsupported.json");
    fs::write(&unsupported, r#"{"initMode":"new","synchronousReplication":true}"#).unwrap();
    let spec = |path: &std::path::Path| format!("--initial-cluster-spec={}", path.display());
    let (broken, invalid, unsupported) = (spec(&broken), spec(&invalid), spec(&unsupported));
    let common = ["--cluster-name=test", "--store-backend=etcdv3"];
    for (program, options, said) in [
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
            "not supported yet",
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
        refused(&place, program, &options, said).await;
    }
}

/// cli 17.3: the metrics address is bound before anything else; somebody there is an error.
#[tokio::test]
async fn a_metrics_address_in_use_ends_each_daemon_with_status_1() {
    let place = TestDir::create();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let metrics = format!("--metrics-listen-address={address}");
    let data_dir = format!("--data-dir={}", place.data_dir("one").display());
    let common = ["--cluster-name=test", "--store-backend=etcdv3", metrics.as_str()];
    refused(&place, "stolon-sentinel", &common, &address).await;
    refused(&place, "stolon-proxy", &common, &address).await;
    let keeper: Vec<&str> = KEEPER
        .iter()
        .copied()
        .chain([metrics.as_str(), data_dir.as_str()])
        .collect();
    refused(&place, "stolon-keeper", &keeper, &address).await;
}

/// store 8, E-11: a store that is not there at start is waited for, is said once, and is used once it is there.
#[tokio::test]
async fn daemons_started_before_the_store_wait_for_it_and_say_so_once() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .sentinels(0)
        .keepers(0)
        .proxies(0)
        .start()
        .await;
    cluster.etcd.stop().await;
    let sentinel = cluster.add_sentinel();
    let keeper = cluster.add_keeper();
    let proxy = cluster.add_proxy();
    let (missed, hint) = ("store is unreachable", "see --store-endpoints");
    for name in [&sentinel, &keeper, &proxy] {
        cluster.process(name).wait_for_log(missed, LONG_TIMEOUT).await;
        assert!(cluster.process(name).log().contains(hint), "{name}");
    }
    cluster.restart_etcd().await;
    cluster.wait_healthy(&keeper, &Role::Master).await;
    cluster.wait_serving(&proxy).await;

    // who has found the store before is not told how to
    let said = [&sentinel, &keeper, &proxy].map(|name| (name, cluster.process(name).log().len()));
    cluster.etcd.stop().await;
    for (name, before) in said {
        cluster
            .process(name)
            .wait_for_log_after(before, missed, LONG_TIMEOUT)
            .await;
        let log = cluster.process(name).log();
        assert_eq!(
            (log.matches(missed).count(), log.matches(hint).count()),
            (2, 1),
            "{name}"
        );
    }
}

/// data-model, store S-12: garbage in `clusterdata` is written over by nobody, and ends nobody.
#[tokio::test]
async fn garbage_in_clusterdata_stops_nobody_and_is_not_written_over() {
    let mut cluster = Cluster::builder(Profile::Fast).start().await;
    let key = cluster.store.keys().cluster_data();
    let good = cluster.store.get(&key).await.unwrap().unwrap().value;
    for garbage in ["{ this is no JSON", r#"{"formatVersion":99}"#, "[]"] {
        let readers = ["sentinel0", "keeper0", "keeper1", "proxy0"];
        let before = readers.map(|name| (name, cluster.process(name).log().len()));
        // The sentinel writes only over the revision that it read, so a write under way does not replace this one.
        cluster.store.put(&key, garbage).await.unwrap();
        for (name, skip) in before {
            cluster
                .process(name)
                .wait_for_log_after(skip, "ERROR", SHORT_TIMEOUT)
                .await;
        }
        let value = cluster.store.get(&key).await.unwrap().unwrap().value;
        assert_eq!(String::from_utf8_lossy(&value), garbage, "somebody wrote over it");
        for name in readers {
            assert_eq!(cluster.process(name).try_wait(), None, "{name} ended at {garbage}");
        }
        cluster.store.put(&key, good.clone()).await.unwrap();
        cluster.wait_healthy("keeper0", &Role::Master).await;
    }
    cluster.wait_serving("proxy0").await;
}

/// store S-12: garbage in an info key is named and skipped.
#[tokio::test]
async fn garbage_in_an_info_key_stops_nobody() {
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
    assert_eq!(cluster.wait_other_master("keeper0", SHORT_TIMEOUT).await, "keeper1");
}

/// cli 1.3: SIGTERM and SIGINT end every daemon in order; the proxy and the sentinel within a second or so.
#[tokio::test]
async fn daemons_end_in_order_at_sigterm_and_sigint() {
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

/// Runs a program as the user that PostgreSQL runs as: it is to end with status 1 and to say this.
async fn refused(place: &TestDir, program: &str, options: &[&str], said: &str) {
    let log = place.path().join("log").join(format!("{program}.log"));
    // each case reads its own words only
    let _ = fs::remove_file(&log);
    let mut command = Command::new(place.program(program));
    command.args(options).current_dir("/").stdin(Stdio::null());
    let mut process = Process::start(program, command, place.user.as_ref(), &log);
    let status = process.exit_status(SHORT_TIMEOUT).await;
    let text = process.log();
    assert_eq!(status, 1, "{program} {options:?}: {text}");
    assert!(
        text.contains(said),
        "{program} {options:?} does not say {said:?}: {text}"
    );
    assert!(!text.contains("panicked"), "{text}");
}
