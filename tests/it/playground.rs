//! `stolonctl playground` performs its tour and leaves nothing behind, however it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stolon_tests::cluster::check;
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::grafana;
use stolon_tests::process::{self, Process, Signal};
use stolon_tests::prometheus::Prometheus;
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

/// All programs are scraped with the packaged rules, and all of it ends with the playground. The umask keeps what root
/// creates from other users, as on a hardened host.
#[tokio::test]
async fn an_observed_playground_is_scraped_and_leaves_nothing_behind() {
    let dir = TestDir::create();
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(dir.program("stolonctl"))
        .args(["playground", "--observe"])
        .current_dir("/");
    let mut playground = Process::start("playground", command, None, &log(&dir));
    let home = home(&playground).await;
    playground.wait_for_log("Ctrl-C stops", LONG_TIMEOUT * 2).await;
    let output = playground.log();
    let after = |text: &str| output.split_once(text).map(|(_, rest)| rest).unwrap_or_default();
    let (address, _) = after("Prometheus with our rules: http://").split_once('/').unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{output}");
    let prometheus = Prometheus::at(address);
    eventually("six programs to be scraped", SHORT_TIMEOUT, async || {
        let programs = prometheus.label_values("up == 1", "instance")?;
        check(programs.len() == 6, || format!("{programs:?}"))
    })
    .await;
    eventually("all rules to be evaluated", SHORT_TIMEOUT, async || {
        let failed = prometheus.failed_rules()?;
        check(failed.is_empty(), || failed.join("; "))
    })
    .await;
    for name in ["cluster.json", "proxy.json", "replication.json"] {
        let written = fs::read_to_string(home.join("observe/dashboards").join(name)).unwrap();
        let in_repository = fs::read_to_string(grafana::directory().join(name)).unwrap();
        assert_eq!(written, in_repository, "{name}");
    }
    assert!(
        output.contains("/observe/dashboards") || output.contains("Grafana with the dashboards: http"),
        "{output}"
    );
    playground.signal(Signal::TERM);
    assert_eq!(playground.exit_status(SHORT_TIMEOUT).await, 143);
    assert_nothing_left(&home).await;
}

/// Where grafana-server is installed it is started with the data source and the dashboards, on loopback, and its address
/// is printed. A program in its place checks what it is given.
#[tokio::test]
async fn an_installed_grafana_shows_the_dashboards() {
    let dir = TestDir::create();
    let programs = dir.path().join("fake");
    fs::create_dir(&programs).unwrap();
    fs::set_permissions(&programs, fs::Permissions::from_mode(0o755)).unwrap();
    let grafana = programs.join("grafana-server");
    fs::write(&grafana, FAKE_GRAFANA).unwrap();
    fs::set_permissions(&grafana, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut playground = start_with_path(&dir, &["--observe"], &format!("{}:{path}", programs.display()));
    let home = home(&playground).await;
    playground
        .wait_for_log("Grafana with the dashboards: http://127.0.0.1:", LONG_TIMEOUT * 2)
        .await;
    playground.signal(Signal::TERM);
    assert_eq!(playground.exit_status(SHORT_TIMEOUT).await, 143, "{}", playground.log());
    assert_nothing_left(&home).await;
}

/// Answers as Grafana does when it has started, provided that its configuration names a directory with data source and
/// dashboards that it may read, and one that it may write.
const FAKE_GRAFANA: &str = r#"#!/usr/bin/python3
import configparser, glob, http.server, sys
config = configparser.ConfigParser()
assert config.read(sys.argv[sys.argv.index("--config") + 1]), sys.argv
paths, server = config["paths"], config["server"]
for name in ["data", "logs"]:
    open(paths[name] + "/a_file", "w").close()
provider = open(paths["provisioning"] + "/dashboards/stolon.yml").read()
directory = provider.split("path: '")[1].split("'")[0]
assert len(glob.glob(directory + "/*.json")) == 3, directory
assert "http://127.0.0.1:" in open(paths["provisioning"] + "/datasources/prometheus.yml").read()
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
http.server.HTTPServer((server["http_addr"], int(server["http_port"])), Health).serve_forever()
"#;

/// Nothing is started when what was asked for cannot be had.
#[tokio::test]
async fn observing_without_prometheus_names_the_package() {
    let dir = TestDir::create();
    let mut playground = start_with_path(&dir, &["--observe"], "/nonexistent");
    assert_eq!(playground.exit_status(SHORT_TIMEOUT).await, 1);
    assert_eq!(
        playground.log(),
        "--observe needs Prometheus, which is not installed (Debian: apt-get install prometheus)\n"
    );
}

fn start_with_path(dir: &TestDir, options: &[&str], path: &str) -> Process {
    let mut command = Command::new(dir.program("stolonctl"));
    command
        .arg("playground")
        .args(options)
        .current_dir("/")
        .env("PATH", path);
    Process::start("playground", command, None, &log(dir))
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
