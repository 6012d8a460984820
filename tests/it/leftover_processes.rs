//! Processes that a killed keeper leaves running, and servers whose executable has another name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use model::Role;
use serde_json::json;
use stolon_tests::cluster::{Cluster, Profile, check};
use stolon_tests::deadlines::{LONG_TIMEOUT, SHORT_TIMEOUT};
use stolon_tests::pg_programs;
use stolon_tests::process::{Signal, is_running};
use stolon_tests::spec::{update, wait_parameter_is};
use stolon_tests::wait::{eventually, throughout};

/// Programs as NixOS installs them: a script runs the executable, which has another name, under the script's name.
fn nixos_wrapper(dir: &Path) -> impl Fn(&str, &Path) -> String {
    let hidden = dir.to_owned();
    move |program, real| {
        let renamed = hidden.join(format!(".{program}-wrapped"));
        if program == "postgres" {
            if !renamed.exists() {
                fs::copy(real, &renamed).unwrap();
            }
            fs::set_permissions(&renamed, fs::Permissions::from_mode(0o755)).unwrap();
            // argv[0] is the real path, beside which the program looks for its files.
            return format!(
                "#!/bin/bash\nexec -a \"{}\" \"{}\" \"$@\"\n",
                real.display(),
                renamed.display()
            );
        }
        pg_programs::passthrough_script(real)
    }
}

/// A server whose executable has another name is reloaded, stopped, promoted and, after its keeper was killed, found
/// again; its lock file is never removed while it runs.
#[tokio::test]
async fn a_server_behind_a_wrapper_script_is_recognised_by_its_directory() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "20s")
        .keepers(0)
        .proxies(0)
        .start()
        .await;
    let hidden = cluster.dir().path().join("hidden");
    fs::create_dir(&hidden).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o755)).unwrap();
    for (role, name) in [(Role::Master, "wrapped0"), (Role::Standby, "wrapped1")] {
        let uid = cluster.prepare_keeper();
        pg_programs::wrap(&mut cluster, &uid, name, nixos_wrapper(&hidden));
        cluster.start(&uid);
        cluster.wait_healthy(&uid, &role).await;
    }
    let executable = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let server = cluster.postmaster("keeper0").unwrap();
    assert!(
        executable(server).ends_with(".postgres-wrapped"),
        "{:?}",
        executable(server)
    );

    let patch = json!({ "pgParameters": { "log_min_duration_statement": "77s" } });
    update(&cluster, &patch).await;
    wait_parameter_is(&cluster, "keeper0", "log_min_duration_statement", "77s").await;

    cluster.process("keeper0").kill();
    assert!(is_running(server), "SIGKILL of the keeper leaves its server");
    cluster.start("keeper0");
    eventually("a new server", LONG_TIMEOUT, async || {
        let now = cluster.postmaster("keeper0").filter(|pid| *pid != server);
        now.ok_or("none")
    })
    .await;
    assert!(!is_running(server), "the old server was stopped");
    assert!(
        !cluster.process("keeper0").log().contains("removing postmaster.pid"),
        "its lock file was kept"
    );
    cluster.wait_healthy("keeper0", &Role::Master).await;

    assert_eq!(cluster.stop("keeper0", Signal::TERM).await, 0);
    assert_eq!(cluster.postmaster("keeper0"), None);
    assert_eq!(
        cluster.wait_other_master_elected("keeper0", LONG_TIMEOUT).await,
        "keeper1"
    );
    cluster.wait_healthy("keeper1", &Role::Master).await;
}

/// The wrapper stays the server's parent.
#[tokio::test]
async fn a_server_whose_wrapper_stays_its_parent_is_signalled_directly() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(0).proxies(0).start().await;
    let uid = cluster.prepare_keeper();
    pg_programs::wrap(&mut cluster, &uid, "parents", |_, real| {
        format!("#!/bin/sh\n\"{}\" \"$@\"\nexit $?\n", real.display())
    });
    cluster.start(&uid);
    cluster.wait_healthy(&uid, &Role::Master).await;
    assert_eq!(cluster.stop(&uid, Signal::INT).await, 0);
    assert_eq!(cluster.postmaster(&uid), None, "the server ended with its keeper");
}

/// A copy ends with its killed keeper; a process that is left anyway is stopped before the next keeper changes data.
#[tokio::test]
async fn a_copy_ends_with_its_keeper_or_is_stopped_before_the_next_one_changes_data() {
    let mut cluster = Cluster::builder(Profile::Fast).keepers(1).start().await;
    // A program that never ends and ignores SIGTERM: only the parent-death signal ends it.
    let uid = cluster.prepare_keeper();
    pg_programs::wrap(&mut cluster, &uid, "slow", |program, real| match program {
        "pg_basebackup" => "#!/bin/sh\ntrap '' TERM PIPE\nwhile :; do sleep 1; done\n".to_owned(),
        _ => pg_programs::passthrough_script(real),
    });
    cluster.start(&uid);
    let pgdata = cluster.pgdata(&uid);
    let copies = || processes_with(&pgdata, "pg_basebackup");
    eventually("a copy under way", LONG_TIMEOUT, async || {
        check(!copies().is_empty(), || "none".to_owned())
    })
    .await;
    let first = copies();
    cluster.process(&uid).kill();
    eventually("the copy to end with its keeper", SHORT_TIMEOUT, async || {
        check(first.iter().all(|pid| !is_running(*pid)), || format!("{first:?}"))
    })
    .await;

    // A process without that signal, such as the child of a child.
    let mut leftover = Command::new("sh");
    leftover
        .args(["-c", "trap '' TERM; read line; true", "pg_basebackup", "-D"])
        .arg(&pgdata);
    let mut leftover = as_postgres(&cluster, leftover);
    pg_programs::use_default(&mut cluster, &uid);
    cluster.start(&uid);
    cluster
        .process(&uid)
        .wait_for_log("stopping a process that uses PGDATA", SHORT_TIMEOUT)
        .await;
    // Not with wait(), which closes its standard input.
    let status = eventually("its end", SHORT_TIMEOUT, async || {
        leftover.try_wait().unwrap().ok_or("it runs")
    })
    .await;
    assert!(!status.success(), "it was killed, since SIGTERM did not end it");
    cluster.wait_healthy(&uid, &Role::Standby).await;
    let log = cluster.process(&uid).log();
    let at = |text: &str| log.rfind(text).unwrap_or_else(|| panic!("{text:?} is not in the log"));
    assert!(at("stopping a process that uses PGDATA") < at("running pg_basebackup"));
}

/// A process in PGDATA whose id is in the lock file is neither killed nor treated as a server.
#[tokio::test]
async fn a_lock_file_that_names_a_process_in_the_data_directory_is_kept() {
    let mut cluster = Cluster::builder(Profile::Fast)
        .with("failInterval", "60s")
        .keepers(1)
        .proxies(0)
        .start()
        .await;
    assert_eq!(cluster.stop("keeper0", Signal::INT).await, 0);
    let pgdata = cluster.pgdata("keeper0");
    let mut shell = Command::new("sh");
    shell.args(["-c", "read line; true"]).current_dir(&pgdata);
    let mut shell = as_postgres(&cluster, shell);
    let lock = pgdata.join("postmaster.pid");
    fs::write(&lock, format!("{}\n{}\n1000000000\n", shell.id(), pgdata.display())).unwrap();
    cluster.dir().give_to_user(&lock).unwrap();
    cluster.start("keeper0");
    let named = format!("postmaster.pid names process {}", shell.id());
    cluster.process("keeper0").wait_for_log(&named, LONG_TIMEOUT).await;
    throughout("the lock file", std::time::Duration::from_secs(2), async || {
        check(lock.exists() && is_running(shell.id()), || "removed".to_owned())
    })
    .await;
    drop(shell.stdin.take());
    shell.wait().unwrap();
    cluster.wait_healthy("keeper0", &Role::Master).await;
}

/// Starts a program as the user of the keepers.
fn as_postgres(cluster: &Cluster, mut command: Command) -> std::process::Child {
    if let Some(user) = cluster.dir().user() {
        command.uid(user.uid).gid(user.gid);
    }
    command.stdin(Stdio::piped()).spawn().unwrap()
}

/// Returns the processes with this word and PGDATA in their arguments.
fn processes_with(pgdata: &Path, word: &str) -> Vec<u32> {
    let mut found = stolon_tests::process::using_directory(pgdata);
    found.retain(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    });
    found
}
