//! `stolonctl playground` performs the walk-through and leaves nothing behind, however it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stolon_tests::cluster::check;
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::process::{self, Process, Signal};
use stolon_tests::test_dir::TestDir;
use stolon_tests::wait::eventually;

/// Without a terminal the tour ends by itself, with status 0.
#[tokio::test]
async fn the_tour_shows_a_cluster_that_survives_its_master() {
    let dir = TestDir::create();
    let mut tour = start(&dir, &["--tour"]);
    let home = home(&tour).await;
    assert_eq!(tour.exit_status(LONG_TIMEOUT * 3).await, 0, "{}", tour.log());
    let output = tour.log();
    for step in [
        "stolonctl init",
        "two sentinels",
        "becomes the first master",
        "insert into test",
        "copy the master and follow it",
        "SIGKILL",
        "elects a standby",
        "the client's gap was",
        "the row is still there",
        "the old master becomes a standby",
    ] {
        assert!(output.contains(step), "{step}: {output}");
    }
    assert_nothing_left(&home).await;
}

#[tokio::test]
async fn a_signal_at_any_step_leaves_nothing_behind() {
    let dir = TestDir::create();
    for (step, signal, status) in [
        ("two sentinels", Signal::HUP, 129),
        ("initialises PostgreSQL", Signal::TERM, 143),
        ("copy the master", Signal::INT, 130),
        ("SIGKILL", Signal::TERM, 143),
    ] {
        let mut playground = start(&dir, &["--tour"]);
        let home = home(&playground).await;
        playground.wait_for_log(step, LONG_TIMEOUT * 2).await;
        playground.signal(signal);
        assert_eq!(
            playground.exit_status(SHORT_TIMEOUT).await,
            status,
            "at {step}: {}",
            playground.log()
        );
        assert_nothing_left(&home).await;
        fs::remove_file(log(&dir)).unwrap();
    }
}

/// A step that fails logs why, with the end of the program's log, and the status is 1.
#[tokio::test]
async fn a_failing_step_is_explained() {
    let dir = TestDir::create();
    let mut playground = start(&dir, &["--tour"]);
    let home = home(&playground).await;
    playground.wait_for_log("becomes the first master", LONG_TIMEOUT).await;
    let keeper = eventually("the first keeper", SHORT_TIMEOUT, async || {
        let children = process::children(playground.pid());
        children
            .into_iter()
            .find(|pid| arguments_of(*pid).contains("--uid=postgres0"))
            .ok_or("none")
    })
    .await;
    let log = home.join("log/postgres0.log");
    eventually("the keeper's first log lines", SHORT_TIMEOUT, async || {
        check(
            fs::read_to_string(&log).unwrap_or_default().contains("keeper uid"),
            || "not yet".to_owned(),
        )
    })
    .await;
    process::send_signal(keeper, Signal::KILL);
    assert_eq!(playground.exit_status(SHORT_TIMEOUT).await, 1);
    let output = playground.log();
    assert!(
        output.contains("postgres0 has ended") && output.contains("keeper uid"),
        "{output}"
    );
    assert_nothing_left(&home).await;
}

fn start(dir: &TestDir, options: &[&str]) -> Process {
    // As root the playground changes the user itself; it finds the other programs beside its own.
    let mut command = Command::new(dir.program("stolonctl"));
    command.arg("playground").args(options).current_dir("/");
    Process::start("playground", command, None, &log(dir))
}

fn log(dir: &TestDir) -> PathBuf {
    dir.log("playground")
}

/// Returns the directory of a playground, the working directory of its children.
async fn home(playground: &Process) -> PathBuf {
    eventually("the playground's directory", LONG_TIMEOUT, async || {
        let children = process::children(playground.pid());
        let mut dirs = children
            .iter()
            .filter_map(|pid| fs::read_link(format!("/proc/{pid}/cwd")).ok());
        dirs.find(|dir| dir.to_string_lossy().contains("stolon-playground."))
            .ok_or("none yet")
    })
    .await
}

async fn assert_nothing_left(home: &Path) {
    assert!(!home.exists(), "{} is still there", home.display());
    let left = process::using_directory(home);
    let running: Vec<String> = left.iter().map(|pid| arguments_of(*pid)).collect();
    assert!(running.is_empty(), "still running: {running:?}");
    eventually(
        "no file of PostgreSQL's to be left",
        Duration::from_secs(1),
        async || {
            let sockets = fs::read_dir("/tmp").unwrap().filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_string_lossy().into_owned();
                // The second line of a lock file is its data directory.
                let lock = name.starts_with(".s.PGSQL.") && name.ends_with(".lock");
                let text = lock.then(|| fs::read_to_string(&path).unwrap_or_default())?;
                text.contains(&*home.to_string_lossy()).then_some(path)
            });
            let sockets: Vec<PathBuf> = sockets.collect();
            check(sockets.is_empty(), || format!("{sockets:?}"))
        },
    )
    .await;
}

fn arguments_of(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}
