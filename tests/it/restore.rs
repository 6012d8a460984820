//! Init mode `pitr`: a cluster that is initialised from a backup and a WAL archive (keeper 5.3).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use model::Role;
use serde_json::{Value, json};
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Signal;
use stolon_tests::sql::SqlClient;
use stolon_tests::standalone::{Standalone, create_dir, write_script};
use stolon_tests::status::{wait_status_has_no_problems, wait_status_shows};
use stolon_tests::wait::eventually;

/// Of the server that is backed up: a target time without a zone counts in it, and would be hours off in another.
const TIME_ZONE: &str = "Asia/Kolkata";

/// A cluster without keepers, and the backup and the WAL archive of a server that has ended: 5 rows in the backup, 10 rows
/// before the restore point `here`, 10 after it.
struct Backup {
    cluster: Cluster,
    base: PathBuf,
    archive: PathBuf,
    system_id: String,
    targets: Targets,
}

/// Recovery targets between the backup and the restore point `here`: each is reached with another number of rows.
struct Targets {
    /// The transaction with the 7th row.
    xid: String,
    /// After the commit of the 8th row.
    lsn: String,
    /// After the commit of the 9th row, in UTC and in the server's zone.
    time: String,
    time_without_zone: String,
}

impl Targets {
    /// Adds the rows 6 to 10.
    async fn between_new_rows(sql: &SqlClient) -> Self {
        let insert = "insert into kept select generate_series(6, 7) returning txid_current()";
        let xid = sql.value(insert).await.unwrap();
        sql.run("insert into kept values (8)").await.unwrap();
        let lsn = sql.value("select pg_current_wal_lsn()").await.unwrap();
        sql.run("insert into kept values (9)").await.unwrap();
        // Both forms of one time; it lies before the next commit by at least the way to the server and back.
        let format = "YYYY-MM-DD HH24:MI:SS.US";
        let times = format!(
            "select to_char(at at time zone 'UTC', '{format}') || '+00,' || to_char(at at time zone '{TIME_ZONE}', \
             '{format}') from (select clock_timestamp() as at offset 0) as now"
        );
        let times = sql.value(&times).await.unwrap();
        let (time, time_without_zone) = times.split_once(',').unwrap();
        sql.run("insert into kept values (10)").await.unwrap();
        Self {
            xid,
            lsn,
            time: time.to_owned(),
            time_without_zone: time_without_zone.to_owned(),
        }
    }
}

impl Backup {
    async fn make() -> Self {
        let mut cluster = Cluster::store_only().await;
        let path = |name: &str| cluster.dir().path().join(name);
        let (origin, base, archive) = (path("origin"), path("base"), path("archive"));
        for dir in [&origin, &archive] {
            create_dir(cluster.dir(), dir);
        }
        let settings = format!(
            "archive_mode = on\narchive_command = 'cp %p {archive}/%f'\nmax_prepared_transactions = 7\n\
             timezone = '{TIME_ZONE}'\nrestore_command = 'false'\nrecovery_target_name = 'nowhere'",
            archive = archive.display()
        );
        let server = Standalone::create(&cluster, &origin.join("data"), &settings).await;
        let sql = server.connect().await;
        sql.run("create table kept as select generate_series(1, 5)")
            .await
            .unwrap();
        create_dir(cluster.dir(), &base);
        server.base_backup(&base);
        let targets = Targets::between_new_rows(&sql).await;
        sql.run("select pg_create_restore_point('here')").await.unwrap();
        sql.run("insert into kept select generate_series(11, 20)")
            .await
            .unwrap();
        let query = "select system_identifier from pg_control_system()";
        let system_id = sql.value(query).await.unwrap();
        // A stop archives the last segment.
        server.stop();
        // What the server that was backed up left in its directory.
        fs::write(base.join("postmaster.pid"), "1\n/elsewhere\n1\n1\n/tmp\n\n\nready\n").unwrap();
        cluster.dir().give_to_user(&base.join("postmaster.pid")).unwrap();
        include_recovery_settings(&base);
        cluster.dir().give_to_user(&base.join("site.conf")).unwrap();
        cluster.prepare_keeper();
        Self {
            cluster,
            base,
            archive,
            system_id,
            targets,
        }
    }

    fn restore(&self) -> String {
        format!("cp -a {}/. \"%d\"", self.base.display())
    }

    fn fetch(&self) -> String {
        format!("cp {}/%f %p", self.archive.display())
    }

    /// Initialises the cluster with this restore command, archive command and target.
    async fn init(&self, restore: &str, fetch: &str, target: Value) {
        let mut spec = Profile::Fast.spec();
        spec["initMode"] = "pitr".into();
        spec["pitrConfig"] = json!({
            "dataRestoreCommand": restore,
            "archiveRecoverySettings": { "restoreCommand": fetch },
        });
        if target != Value::Null {
            spec["pitrConfig"]["recoveryTargetSettings"] = target;
        }
        self.init_with(&spec).await;
    }

    async fn init_with(&self, spec: &Value) {
        let (status, text) = self.cluster.stolonctl(&["init", "--yes", &spec.to_string()]).await;
        assert_eq!(status, 0, "{text}");
    }

    /// Waits until keeper0 is the master of the restored data with this number of rows, on a new timeline.
    async fn wait_restored(&self, rows: &str) {
        let cluster = &self.cluster;
        cluster.wait_healthy("keeper0", &Role::Master).await;
        assert_eq!(
            cluster.query("keeper0", "select count(*) from kept").await.unwrap(),
            rows
        );
        let query = "select system_identifier from pg_control_system()";
        assert_eq!(cluster.query("keeper0", query).await.unwrap(), self.system_id);
        let timeline = "select timeline_id from pg_control_checkpoint()";
        eventually("the new timeline", LONG_TIMEOUT, async || {
            let found = cluster.query("keeper0", timeline).await?;
            // Later than 2 if an earlier restore has archived its history.
            check(found != "1", || found.clone())
        })
        .await;
        let leftover = cluster.pgdata("keeper0").join("recovery.signal");
        assert!(!leftover.exists());
    }
}

/// Lets a backup's configuration include settings with which its recovery would end elsewhere, or be refused.
fn include_recovery_settings(base: &Path) {
    let settings = "recovery_target_xid = '3'\nrecovery_target_inclusive = off\nrecovery_target_timeline = 'current'\n\
                    recovery_min_apply_delay = '1h'\nrecovery_end_command = 'false'\nprimary_slot_name = 'elsewhere'\n";
    fs::write(base.join("site.conf"), settings).unwrap();
    let conf = base.join("postgresql.conf");
    let mut text = fs::read_to_string(&conf).unwrap();
    text.push_str("include 'site.conf'\n");
    fs::write(&conf, text).unwrap();
}

#[tokio::test]
async fn a_backup_is_restored_up_to_the_end_of_its_archive() {
    let mut backup = Backup::make().await;
    backup.init(&backup.restore(), &backup.fetch(), Value::Null).await;
    backup.cluster.add_sentinel();
    backup.cluster.start("keeper0");
    backup.wait_restored("20").await;
    let prepared = backup.cluster.query("keeper0", "show max_prepared_transactions").await;
    assert_eq!(prepared.unwrap(), "7", "the configuration of the backup is merged");
    let standby = backup.cluster.add_keeper();
    backup.cluster.wait_healthy(&standby, &Role::Standby).await;
    backup
        .cluster
        .query("keeper0", "insert into kept values (21) returning 1")
        .await
        .unwrap();
    backup.cluster.wait_caught_up(&standby, "keeper0").await;
    wait_status_has_no_problems(&backup.cluster).await;
}

/// Each attempt that fails starts nothing, is reported and made again; the data that it is to replace stay.
#[tokio::test]
async fn restores_that_fail_are_reported_and_made_again_until_one_succeeds() {
    let mut backup = Backup::make().await;
    let script = backup.cluster.dir().path().join("restore.sh");
    let count = backup.cluster.dir().path().join("archive/attempts");
    let write = |text: &str| {
        let text = format!("#!/bin/sh\necho x >> {}\n{text}\n", count.display());
        let new = script.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &script).unwrap();
    };
    let steps = [
        ("echo the tape is not readable; exit 3", "the tape is not readable"),
        ("true", "has restored no database cluster"),
        (
            "head -c 100000 /dev/urandom > $1/base.tar",
            "has restored no database cluster",
        ),
    ];
    write(steps[0].0);
    backup
        .init(
            &format!("{} \"%d\"", script.display()),
            &backup.fetch(),
            json!({ "recoveryTargetName": "here" }),
        )
        .await;
    backup.cluster.add_sentinel();
    backup.cluster.start("keeper0");
    for (command, words) in steps {
        write(command);
        wait_status_shows(&backup.cluster, &["keeper0"], words).await;
    }
    // A database cluster whose control file is damaged.
    write(&format!(
        "cp -a {}/. \"$1\"; head -c 8192 /dev/zero > \"$1\"/global/pg_control",
        backup.base.display()
    ));
    wait_status_shows(&backup.cluster, &["keeper0"], "the restored data are damaged").await;
    assert!(!backup.cluster.process("keeper0").log().contains("starting database"));
    assert!(
        !backup.cluster.pgdata("keeper0").join("base").exists(),
        "nothing is left of them"
    );
    write(&format!("cp -a {}/. \"$1\"", backup.base.display()));
    backup.wait_restored("10").await;
    wait_status_has_no_problems(&backup.cluster).await;
    let attempts = fs::read_to_string(&count).unwrap().lines().count();
    assert!(attempts < 20, "{attempts} attempts: each failure delays the next one");
}

/// The server ends when the archive does not reach the target. Recovery goes on once it does.
#[tokio::test]
async fn a_target_beyond_the_end_of_the_archive_is_waited_for() {
    let mut backup = Backup::make().await;
    // The last segments are not in the archive yet.
    let hidden = backup.cluster.dir().path().join("hidden");
    create_dir(backup.cluster.dir(), &hidden);
    let mut segments: Vec<_> = fs::read_dir(&backup.archive)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    segments.retain(|path| path.file_name().unwrap().len() == 24);
    segments.sort();
    let last = segments.pop().unwrap();
    let moved = hidden.join(last.file_name().unwrap());
    fs::rename(&last, &moved).unwrap();
    let log = backup.cluster.dir().path().join("archive/restores");
    let restore = format!("echo x >> {} && {}", log.display(), backup.restore());
    backup
        .init(&restore, &backup.fetch(), json!({ "recoveryTargetName": "here" }))
        .await;
    backup.cluster.add_sentinel();
    backup.cluster.start("keeper0");
    let words = "recovery ended before configured recovery target was reached";
    wait_status_shows(&backup.cluster, &["keeper0"], words).await;
    assert!(backup.cluster.data().await.unwrap().cluster.unwrap().status.phase == model::Phase::Initializing);
    fs::rename(&moved, &last).unwrap();
    backup.wait_restored("10").await;
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 1, "restored once");
    wait_status_has_no_problems(&backup.cluster).await;
}

/// A restore command that never ends is stopped by syncTimeout, by another db, and by the keeper's end.
#[tokio::test]
async fn a_restore_command_that_never_ends_can_be_limited_and_given_up() {
    let mut backup = Backup::make().await;
    let mut spec = Profile::Fast.spec();
    spec["initMode"] = "pitr".into();
    spec["syncTimeout"] = "5s".into();
    spec["pitrConfig"] = json!({ "dataRestoreCommand": "echo running >> /dev/stderr; sleep 100000 # %d" });
    backup.init_with(&spec).await;
    backup.cluster.add_sentinel();
    backup.cluster.start("keeper0");
    wait_status_shows(
        &backup.cluster,
        &["keeper0"],
        "run the restore command: not done within 5s",
    )
    .await;

    // Another initialisation ends the one under way.
    spec["syncTimeout"] = "1h".into();
    backup.init_with(&spec).await;
    let process = backup.cluster.process("keeper0");
    let length = process.log().len();
    process
        .wait_for_log_after(length, "running the restore command", LONG_TIMEOUT)
        .await;
    backup
        .init(
            &backup.restore(),
            &backup.fetch(),
            json!({ "recoveryTargetName": "here" }),
        )
        .await;
    backup.wait_restored("10").await;

    // So does the end of the keeper.
    let length = backup.cluster.process("keeper0").log().len();
    backup.init_with(&spec).await;
    let process = backup.cluster.process("keeper0");
    process
        .wait_for_log_after(length, "running the restore command", LONG_TIMEOUT)
        .await;
    assert_eq!(backup.cluster.stop("keeper0", Signal::TERM).await, 0);

    // The data of the cluster that was given up are kept until others are complete.
    let data_dir = backup.cluster.dir().data_dir("keeper0");
    let kept = fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        kept.into_iter()
            .any(|name| name.to_string_lossy().starts_with("postgres.old-"))
    );
}

/// A restore command has started a program in a session of its own, which writes from time to time; the keeper is killed,
/// and the next one restores into a directory of the same name.
#[tokio::test]
async fn what_a_killed_keepers_restore_command_left_does_not_write_into_the_next_restore() {
    let mut backup = Backup::make().await;
    let directory = backup.cluster.dir().path().to_owned();
    let (script, first) = (directory.join("restore.sh"), directory.join("first"));
    create_dir(backup.cluster.dir(), &first);
    let text = format!(
        "#!/bin/sh\nif mkdir {first}/begun; then\n\
         setsid sh -c 'while sleep 0.05; do echo > \"$0\"; done' \"$1/stray\" < /dev/null > /dev/null 2>&1 &\n\
         exec sleep 100000\nfi\nexec cp -a {base}/. \"$1\"\n",
        first = first.display(),
        base = backup.base.display(),
    );
    write_script(backup.cluster.dir(), &script, &text);
    backup
        .init(&format!("{} \"%d\"", script.display()), &backup.fetch(), Value::Null)
        .await;
    backup.cluster.add_sentinel();
    backup.cluster.start("keeper0");
    let pgdata = backup.cluster.pgdata("keeper0");
    eventually("the first command to write", LONG_TIMEOUT, async || {
        let entries = fs::read_dir(&pgdata).map_err(|error| error.to_string())?;
        let written = entries.flatten().any(|entry| entry.path().join("stray").exists());
        check(written, || "nothing yet".to_owned())
    })
    .await;
    assert_eq!(backup.cluster.stop("keeper0", Signal::KILL).await, 137);

    backup.cluster.start("keeper0");
    backup.wait_restored("20").await;
    assert!(!pgdata.join("stray").exists());
    let log = backup.cluster.process("keeper0").log();
    assert!(log.contains("STOLON_RESTORE_DIRECTORY names PGDATA"), "{log}");
}

#[tokio::test]
async fn recovery_ends_at_a_time_at_a_position_at_a_transaction_or_at_once() {
    let mut backup = Backup::make().await;
    backup.cluster.add_sentinel();
    backup
        .init(
            &backup.restore(),
            &backup.fetch(),
            json!({ "recoveryTarget": "immediate" }),
        )
        .await;
    backup.cluster.start("keeper0");
    backup.wait_restored("5").await;
    // An operator's mistake is reported with PostgreSQL's reason.
    let target = json!({ "recoveryTargetTime": "2026-99-99" });
    backup.init(&backup.restore(), &backup.fetch(), target).await;
    wait_status_shows(&backup.cluster, &["keeper0"], "recovery_target_time").await;
    backup
        .init(
            &backup.restore(),
            &backup.fetch(),
            json!({ "recoveryTargetTime": "2001-01-01 00:00:00+00" }),
        )
        .await;
    wait_status_shows(&backup.cluster, &["keeper0"], "is before the restored backup").await;
    // A recovery target that has been reached is the last one that counts.
    backup
        .init(
            &backup.restore(),
            &backup.fetch(),
            json!({ "recoveryTargetLsn": "FF/0" }),
        )
        .await;
    wait_status_shows(
        &backup.cluster,
        &["keeper0"],
        "before configured recovery target was reached",
    )
    .await;
    backup
        .init(
            &backup.restore(),
            &backup.fetch(),
            json!({ "recoveryTargetTime": "2999-01-01 00:00:00+00" }),
        )
        .await;
    wait_status_shows(
        &backup.cluster,
        &["keeper0"],
        "before configured recovery target was reached",
    )
    .await;
    backup
        .init(
            &backup.restore(),
            &backup.fetch(),
            json!({ "recoveryTargetTimeline": "1" }),
        )
        .await;
    backup.wait_restored("20").await;
}

/// Each restore begins another timeline, which the archive then has, too; so each names the first one.
#[tokio::test]
async fn recovery_ends_with_the_rows_before_the_time_the_transaction_or_the_position_that_is_given() {
    let mut backup = Backup::make().await;
    backup.cluster.add_sentinel();
    backup.cluster.start("keeper0");
    let Targets {
        xid,
        lsn,
        time,
        time_without_zone,
    } = &backup.targets;
    // recovery_target_inclusive of the backup's own configuration has no effect: the transaction is included.
    for (setting, value, rows) in [
        ("recoveryTargetXid", xid, "7"),
        ("recoveryTargetLsn", lsn, "8"),
        ("recoveryTargetTime", time, "9"),
        ("recoveryTargetTime", time_without_zone, "9"),
    ] {
        println!("{setting} {value}");
        let target = json!({ setting: value, "recoveryTargetTimeline": "1" });
        backup.init(&backup.restore(), &backup.fetch(), target).await;
        backup.wait_restored(rows).await;
    }
    wait_status_has_no_problems(&backup.cluster).await;
}
