//! Old masters that come back with data that diverged, in a cluster with `usePgrewind`: pg_rewind brings them back, and
//! whatever keeps it from that ends in a copy. Without `usePgrewind`: `rejoin`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::Role;
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::pg_programs;
use stolon_tests::process::Signal;
use stolon_tests::spec::update;
use stolon_tests::wait::eventually;
use stolon_tests::writers::Writers;

const REWINDING: &str = "running pg_rewind";
const COPYING: &str = "running pg_basebackup";

/// Kills the master `keeper0` under load, with rows that the stopped standby has not received, and waits until the
/// standby is the master and has a row of its own.
async fn killed_and_diverged(cluster: &mut Cluster) {
    let sql = cluster.connect("keeper0").await;
    Writers::create_table(&sql).await.unwrap();
    sql.run("create table test (what text)").await.unwrap();
    let writers = Writers::start(&cluster.sql_config("keeper0"), 2);
    writers.wait_each_client_commits(20).await;
    cluster.wait_caught_up("keeper1", "keeper0").await;
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    sql.run("insert into test values ('diverged')").await.unwrap();
    writers.wait_each_client_commits(20).await;
    cluster.kill_keeper_and_postgres("keeper0");
    drop(writers);
    cluster.start("keeper1");
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_healthy("keeper1", &Role::Master).await;
    let sql = cluster.connect("keeper1").await;
    sql.run("insert into test values ('new')").await.unwrap();
}

/// Waits until the old master follows the new one, and checks that it has the new master's data; returns its log since
/// its start.
async fn assert_follows(cluster: &mut Cluster, log_length: usize) -> String {
    cluster.wait_healthy("keeper0", &Role::Standby).await;
    cluster.wait_caught_up("keeper0", "keeper1").await;
    for rows in [
        "select what from test order by what",
        "select count(*) || ' ' || coalesce(sum(id), 0) from writers",
        "select system_identifier from pg_control_system()",
    ] {
        let expected = cluster.connect("keeper1").await.column(rows).await.unwrap();
        assert_eq!(cluster.connect("keeper0").await.column(rows).await.unwrap(), expected);
    }
    let what = cluster.query("keeper0", "select string_agg(what, ' ') from test").await;
    assert_eq!(what.unwrap(), "new");
    cluster.process("keeper0").log()[log_length..].to_owned()
}

/// The order in which a log has these words, each for the first time.
#[track_caller]
fn assert_in_order(log: &str, words: &[&str]) {
    let mut rest = log;
    for word in words {
        let at = rest
            .find(word)
            .unwrap_or_else(|| panic!("{word:?} is not there in order: {log}"));
        rest = &rest[at + word.len()..];
    }
}

#[tokio::test]
async fn an_old_master_killed_under_load_comes_back_by_pg_rewind_without_a_copy() {
    let mut cluster = Cluster::builder(Profile::Fast).with("usePgrewind", true).start().await;
    killed_and_diverged(&mut cluster).await;
    let directory = fs::metadata(cluster.pgdata("keeper0")).unwrap().ino();
    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    let log = assert_follows(&mut cluster, log_length).await;
    assert_in_order(
        &log,
        &[
            "running their crash recovery",
            REWINDING,
            "rewind succeeded",
            "starting database",
        ],
    );
    assert!(!log.contains(COPYING), "{log}");
    let pgdata = cluster.pgdata("keeper0");
    assert_eq!(
        fs::metadata(&pgdata).unwrap().ino(),
        directory,
        "no copy has replaced it"
    );
    let auto_conf = pgdata.join("postgresql.auto.conf");
    assert_eq!(fs::read_link(auto_conf).unwrap(), Path::new("/dev/null"));
    let conf = fs::read_to_string(pgdata.join("postgresql.conf")).unwrap();
    assert!(
        conf.contains(&format!("port = '{}'", cluster.port("keeper0"))),
        "its own files"
    );
    assert!(
        !fs::read_to_string(cluster.dir().data_dir("keeper0").join("directories"))
            .unwrap()
            .contains("rewinding")
    );
    // It is a full member: it takes over again.
    assert_eq!(cluster.stop("keeper1", Signal::INT).await, 0);
    assert_eq!(
        cluster.wait_other_master_elected("keeper1", LONG_TIMEOUT).await,
        "keeper0"
    );
}

/// Its end is then known: it is past the point where the new master left its timeline.
#[tokio::test]
async fn an_old_master_whose_keeper_is_stopped_before_the_rewind_is_rewound_without_another_recovery() {
    let mut cluster = Cluster::builder(Profile::Fast).with("usePgrewind", true).start().await;
    killed_and_diverged(&mut cluster).await;
    let hold = make_hold(&cluster);
    let waiting = hold.clone();
    pg_programs::wrap(&mut cluster, "keeper0", "held", |program, real| match program {
        "pg_rewind" => rewind_script("--dry-run", &wait_script(&waiting), real),
        _ => pg_programs::passthrough_script(real),
    });
    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    wait_for_file(&hold.with_extension("begun")).await;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    fs::remove_file(&hold).unwrap();
    let restarted = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    let log = assert_follows(&mut cluster, log_length).await;
    assert_eq!(log.matches("running their crash recovery").count(), 1, "{log}");
    let log = cluster.process("keeper0").log()[restarted..].to_owned();
    assert_in_order(&log, &[REWINDING, "rewind succeeded", "starting database"]);
    assert!(!log.contains(COPYING), "{log}");
}

/// pg_rewind is killed after it has removed some files.
#[tokio::test]
async fn half_rewound_data_are_never_started_and_replaced_by_a_copy() {
    let mut cluster = Cluster::builder(Profile::Fast).with("usePgrewind", true).start().await;
    killed_and_diverged(&mut cluster).await;
    pg_programs::wrap(&mut cluster, "keeper0", "broken", |program, real| match program {
        "pg_rewind" => rewind_script("--write-recovery-conf", "rm -r \"$data/base/1\"; kill -KILL $$", real),
        _ => pg_programs::passthrough_script(real),
    });
    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    let log = assert_follows(&mut cluster, log_length).await;
    let failed = "pg_rewind failed, copying the followed db instead";
    assert_in_order(
        &log,
        &[REWINDING, failed, COPYING, "sync succeeded", "starting database"],
    );
    assert_eq!(log.matches("starting database").count(), 1, "{log}");
    assert!(!log.contains("keeping the old data"), "{log}");
}

/// The keeper is killed with SIGKILL while pg_rewind runs.
#[tokio::test]
async fn a_rewind_that_a_killed_keeper_left_is_replaced_by_a_copy() {
    let mut cluster = Cluster::builder(Profile::Fast).with("usePgrewind", true).start().await;
    killed_and_diverged(&mut cluster).await;
    let hold = make_hold(&cluster);
    let waiting = hold.clone();
    pg_programs::wrap(&mut cluster, "keeper0", "held", |program, real| match program {
        "pg_rewind" => rewind_script("--write-recovery-conf", &wait_script(&waiting), real),
        _ => pg_programs::passthrough_script(real),
    });
    cluster.start("keeper0");
    wait_for_file(&hold.with_extension("begun")).await;
    cluster.process("keeper0").kill();
    pg_programs::use_default(&mut cluster, "keeper0");
    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    let log = assert_follows(&mut cluster, log_length).await;
    let incomplete = "an earlier initialisation was not completed, its data are not used";
    assert_in_order(&log, &[incomplete, COPYING, "sync succeeded", "starting database"]);
    assert!(
        !log.contains(REWINDING) && !log.contains("keeping the old data"),
        "{log}"
    );
}

#[tokio::test]
async fn without_the_program_or_when_it_refuses_the_old_data_are_kept_until_a_copy_is_complete() {
    for (name, reason) in [
        (
            "missing",
            "pg_rewind is not installed beside PostgreSQL's other programs",
        ),
        (
            "refusing",
            "the old data cannot be rewound, copying the followed db instead",
        ),
    ] {
        let mut cluster = Cluster::builder(Profile::Fast).with("usePgrewind", true).start().await;
        killed_and_diverged(&mut cluster).await;
        pg_programs::wrap(&mut cluster, "keeper0", name, |program, real| match program {
            "pg_rewind" => "#!/bin/sh\necho 'no, thank you' >&2; exit 1\n".to_owned(),
            _ => pg_programs::passthrough_script(real),
        });
        if name == "missing" {
            fs::remove_file(cluster.dir().path().join(name).join("pg_rewind")).unwrap();
        }
        let log_length = cluster.process("keeper0").log().len();
        cluster.start("keeper0");
        let log = assert_follows(&mut cluster, log_length).await;
        assert_in_order(&log, &[reason, COPYING, "sync succeeded", "starting database"]);
        assert_in_order(&log, &["keeping the old data until the new data are complete", COPYING]);
        assert!(!log.contains(REWINDING), "{log}");
    }
}

/// `usePgrewind` was switched on, and the server has not been restarted with `wal_log_hints` since.
#[tokio::test]
async fn data_written_without_wal_log_hints_are_copied() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    if pg_programs::major() >= 18 {
        pg_programs::wrap(&mut cluster, &uid, "no-checksums", |program, real| match program {
            "initdb" => format!("#!/bin/sh\nexec \"{}\" \"$@\" --no-data-checksums\n", real.display()),
            _ => pg_programs::passthrough_script(real),
        });
    }
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Master).await;
    let standby = cluster.add_keeper();
    cluster.wait_healthy(&standby, &Role::Standby).await;
    update(&cluster, &json!({ "usePgrewind": true })).await;
    killed_and_diverged(&mut cluster).await;
    let log_length = cluster.process("keeper0").log().len();
    cluster.start("keeper0");
    let log = assert_follows(&mut cluster, log_length).await;
    let reason = "wal_log_hints and data checksums were off when the data were written";
    assert_in_order(&log, &[reason, COPYING]);
    assert!(!log.contains(REWINDING), "{log}");
}

/// Returns a script for pg_rewind that runs these commands first when it is called with this option; `$data` is PGDATA.
fn rewind_script(option: &str, commands: &str, real: &Path) -> String {
    let find_data = "for word; do [ \"$before\" = -D ] && data=$word; before=$word; done";
    let run = format!("case \" $* \" in *\" {option} \"*) {find_data}; {commands} ;; esac");
    format!("#!/bin/sh\n{run}\nexec \"{}\" \"$@\"\n", real.display())
}

/// Makes a file that [`wait_script`] waits for, in a directory that the keeper may write into.
fn make_hold(cluster: &Cluster) -> PathBuf {
    let dir = cluster.dir().path().join("data/triggers");
    fs::create_dir_all(&dir).unwrap();
    cluster.dir().give_to_user(&dir).unwrap();
    let hold = dir.join("hold");
    fs::write(&hold, "").unwrap();
    hold
}

/// Returns commands that make the file `….begun` and wait while this one exists.
fn wait_script(file: &Path) -> String {
    let begun = file.with_extension("begun");
    format!(
        "touch '{}'; while [ -e '{}' ]; do sleep 0.1; done",
        begun.display(),
        file.display()
    )
}

async fn wait_for_file(file: &Path) {
    eventually("pg_rewind to begin", LONG_TIMEOUT, async || {
        check(file.exists(), || "it has not".to_owned())
    })
    .await;
}
