//! Standard output and standard error that are closed or full.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use crate::harness::{CLUSTER, CtlHarness};

/// Returns the writing end of a stream whose reading end is closed.
fn unread() -> Stdio {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    OwnedFd::from(ours).into()
}

/// Opens a device on which every write fails.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

async fn run(harness: &CtlHarness, args: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stolonctl"));
    command
        .args(args)
        .env_clear()
        .envs([("STOLONCTL_CLUSTER_NAME", "c"), ("STOLONCTL_STORE_BACKEND", "etcdv3")])
        .env("STOLONCTL_STORE_ENDPOINTS", harness.etcd.endpoint())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_closed_standard_output_is_no_error() {
    let harness = CtlHarness::with(CLUSTER).await;
    for args in [
        &["status"][..],
        &["status", "-fjson"],
        &["spec"],
        &["clusterdata", "read"],
        &["version"],
        &["--version"],
        &["--help"],
        &[],
        &["clusterdata"],
        &["init", "-y"],
    ] {
        let output = run(&harness, args, unread(), Stdio::piped()).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[tokio::test]
async fn a_full_standard_output_is_reported() {
    let harness = CtlHarness::with(CLUSTER).await;
    for args in [
        &["status"][..],
        &["spec"],
        &["version"],
        &["--version"],
        &["--help"],
        &[],
    ] {
        let output = run(&harness, args, full(), Stdio::piped()).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr.contains("write to standard output"), "{args:?} {stderr}");
    }
}

#[tokio::test]
async fn an_error_that_cannot_be_printed_is_still_an_error() {
    let harness = CtlHarness::start().await;
    for args in [
        &["status"][..],
        &["status", "--nonsense"],
        &["status", "--cluster-name="],
        &["promote", "extra"],
    ] {
        for stderr in [unread(), full()] {
            let output = run(&harness, args, Stdio::piped(), stderr).await;
            assert_eq!(
                (output.status.code(), output.stdout.as_slice()),
                (Some(1), &b""[..]),
                "{args:?}"
            );
        }
    }
}
