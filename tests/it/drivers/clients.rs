//! Client programs of a test cluster: psql, pgbench, and the Python client beside this file.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use stolon_tests::cluster::{Cluster, SUPERUSER, check};
use stolon_tests::deadlines::LONG_TIMEOUT;
use stolon_tests::process::Process;
use stolon_tests::sql::SqlClient;
use stolon_tests::wait::eventually;
use tokio::io::AsyncWriteExt;

/// Returns a command that connects to the first proxy as the superuser; of the tests' environment it has only `PATH`.
fn client(cluster: &Cluster, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs([("LC_ALL", "C.UTF-8"), ("TERM", "dumb"), ("PGHOST", "127.0.0.1")])
        .env("PGPORT", cluster.port("proxy0").to_string())
        .envs([("PGUSER", SUPERUSER.0), ("PGPASSWORD", SUPERUSER.1)])
        .env("PGDATABASE", "postgres")
        // Without psqlrc, passwords and certificates of the user who runs the tests.
        .env("HOME", cluster.dir().path())
        .current_dir("/");
    command
}

/// Returns a psql command with these connection parameters and arguments, which prints bare values.
pub(super) fn psql(cluster: &Cluster, parameters: &str, arguments: &[&str]) -> Command {
    let mut command = client(cluster, "psql");
    command.args(["-X", "-A", "-t", "-d", parameters]).args(arguments);
    command
}

/// Returns an interactive psql; script(1) is its terminal.
pub(super) fn psql_at_a_terminal(cluster: &Cluster) -> Command {
    let mut command = client(cluster, "script");
    command.args(["-qec", "psql -X -A -t -n -P pager=off", "/dev/null"]);
    command
}

/// Returns a pgbench command with these arguments, without vacuum.
pub(super) fn pgbench(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = client(cluster, "pgbench");
    command.arg("-n").args(arguments);
    command
}

/// The exit status and output of a program.
#[derive(Debug)]
pub(super) struct ProgramOutput {
    pub(super) status: i32,
    pub(super) out: String,
    pub(super) err: String,
}

/// Runs a program to its end with this input.
pub(super) async fn run(command: Command, input: &str) -> ProgramOutput {
    let mut command = tokio::process::Command::from(command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().expect("the program is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    // A program that does not read all of its input shows that by its exit status.
    let fed = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    let output = tokio::time::timeout(LONG_TIMEOUT, child.wait_with_output()).await;
    let output = output.expect("it ends in time").expect("its output is readable");
    fed.abort();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    ProgramOutput {
        status: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Starts a program in the background.
pub(super) fn start(cluster: &Cluster, name: &str, command: Command) -> Process {
    let log = cluster.dir().log(name);
    Process::start(name, command, None, &log)
}

/// A program that reads lines from the test.
pub(super) struct InteractiveProgram {
    pub(super) process: Process,
}

impl InteractiveProgram {
    pub(super) fn start(cluster: &Cluster, name: &str, command: Command) -> Self {
        let log = cluster.dir().log(name);
        let process = Process::start_with_input(name, command, None, &log);
        Self { process }
    }

    pub(super) fn types(&mut self, text: &str) {
        // In one piece: the program may end at the first line.
        let lines = format!("{text}\n");
        self.process.input().write_all(lines.as_bytes()).expect("it reads");
    }
}

/// A client in Python (`client.py`).
pub(super) struct Client {
    driver: &'static str,
    pub(super) process: Process,
}

impl Client {
    /// Starts one with this driver; `subcommand` is `write` or `ask`.
    pub(super) fn start(
        cluster: &Cluster,
        driver: &'static str,
        subcommand: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        // Debian's Python has Debian's drivers; another one on the path has not.
        let mut command = client(cluster, "/usr/bin/python3");
        command
            .args([
                concat!(env!("CARGO_MANIFEST_DIR"), "/it/drivers/client.py"),
                driver,
                subcommand,
            ])
            .envs(environment.iter().copied());
        let process = start(cluster, driver, command);
        Self { driver, process }
    }

    /// Waits until its latest connection leads to the server on this port and has committed ten rows.
    pub(super) async fn served_by(&mut self, port: u16) {
        eventually(
            format!("{} to be served by {port}", self.driver),
            LONG_TIMEOUT,
            async || {
                assert_eq!(self.process.try_wait(), None, "{} has ended", self.driver);
                let log = self.process.log();
                let latest = log.rsplit("connected ").next().unwrap_or_default();
                let rows = latest.matches("acknowledged ").count();
                check(latest.starts_with(&format!("{port}\n")) && rows >= 10, || {
                    format!("{rows} rows by {}", latest.lines().next().unwrap_or_default())
                })
            },
        )
        .await;
    }

    /// Stops it and checks that each acknowledged row exists.
    pub(super) async fn nothing_lost(mut self, sql: &SqlClient) {
        self.process.kill();
        let log = self.process.log();
        let acknowledged = log.lines().filter_map(|line| line.strip_prefix("acknowledged "));
        let select = format!("select id from rows where client = '{}'", self.driver);
        let found: BTreeSet<String> = sql
            .column(&select)
            .await
            .expect("the table is there")
            .into_iter()
            .collect();
        let lost: Vec<&str> = acknowledged.filter(|row| !found.contains(*row)).collect();
        assert!(lost.is_empty(), "{}: rows {lost:?} are lost", self.driver);
    }
}
