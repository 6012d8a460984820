//! Options, variables, help and the checks before a command begins (cli 1, 2, 6.1, 18).

use crate::bench::{Bench, CLUSTER, Ran, stolonctl};

async fn run(args: &[&str], variables: &[(&str, &str)]) -> Ran {
    stolonctl(args, variables, b"").await
}

#[tokio::test]
async fn help_and_version_need_no_cluster() {
    // cli 18.6, cli 18.8
    for (args, words) in [
        (&[][..], "Usage: stolonctl"),
        (&["clusterdata"], "Usage: stolonctl clusterdata"),
        (&["clusterdata", "nonsense"], "Usage: stolonctl clusterdata"),
        (&["init", "--help"], "Usage: stolonctl init"),
        (&["help", "init"], "Usage: stolonctl init"),
        (&["clusterdata", "write", "-h"], "Usage: stolonctl clusterdata write"),
        (&["--version"], "stolonctl version "),
        (&["version", "extra"], "stolonctl version "),
        (&["register", "--version"], "register version "),
    ] {
        let ran = run(args, &[]).await;
        assert!(ran.stdout.contains(words), "{args:?} {ran:?}");
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}");
    }
}

#[tokio::test]
async fn usage_errors_end_with_status_1() {
    // cli O-6, cli O-21, cli 18.4, cli 18.5
    for (args, words) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["statsu"], "status"), // a hint
        (&["status", "--cluster-name"], "--cluster-name"),
        (&["status", "--store-timeout=5"], "--store-timeout"),
        (&["status", "--form", "json"], "--form"),
        (&["init", "--yes=maybe"], "maybe"),
        (&["init", "--version"], "--version"),
    ] {
        let ran = run(args, &[]).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (1, ""), "{args:?} {ran:?}");
        assert!(
            ran.stderr.starts_with("Error: ") && ran.stderr.contains(words),
            "{args:?} {ran:?}"
        );
        assert!(
            ran.stderr.contains("\nUsage: ") && ran.stderr.trim_end().lines().last().unwrap().contains(" FATAL "),
            "{ran:?}"
        );
    }
}

#[tokio::test]
async fn the_common_check_comes_before_the_command_looks_at_its_arguments() {
    // cli O-22, cli 18.7
    let ran = run(&["init", "{}", "{}"], &[]).await;
    assert_eq!(
        (ran.status, ran.stderr.as_str()),
        (
            1,
            "cluster name required: set --cluster-name\nstore backend type required: set --store-backend=etcdv3\n"
        )
    );
    run(&["status"], &[("STOLONCTL_STORE_BACKEND", "etcdv3")])
        .await
        .failed_with("cluster name required");
    run(&["status", "--cluster-name=c"], &[])
        .await
        .failed_with("store backend type required");
    run(&["status", "--cluster-name=c", "--store-backend=consul"], &[])
        .await
        .failed_with("etcdv3");
    run(&["status", "--cluster-name=..", "--store-backend=etcdv3"], &[])
        .await
        .failed_with("\"..\"");
    let zero = [
        "status",
        "--cluster-name=c",
        "--store-backend=etcdv3",
        "--store-timeout=0",
    ];
    run(&zero, &[]).await.failed_with("--store-timeout");
}

#[tokio::test]
async fn a_bad_variable_is_fatal_and_named() {
    // cli O-12, cli 18.1: whatever else is typed
    let ran = run(&["version"], &[("STOLONCTL_STORE_TIMEOUT", "soon")]).await;
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert!(
        ran.stderr.contains("STOLONCTL_STORE_TIMEOUT") && ran.stderr.contains("soon"),
        "{ran:?}"
    );
    let ran = run(&["version"], &[("STOLONCTL_STORE_TIMEOUT", "")]).await;
    assert_eq!(ran.status, 0, "{ran:?}");
}

#[tokio::test]
async fn options_of_subcommands_have_no_variables() {
    // cli O-10, cli 18.2
    let bench = Bench::with(CLUSTER).await;
    let endpoint = bench.etcd.endpoint();
    let variables = [
        ("STOLONCTL_YES", "true"),
        ("STOLONCTL_FORMAT", "json"),
        ("STOLONCTL_STORE_ENDPOINTS", &endpoint),
    ];
    let common = ["--cluster-name", "c", "--store-backend", "etcdv3"];
    let ran = run(&[&["status"], &common[..]].concat(), &variables).await;
    assert!(ran.stdout.starts_with("=== Active sentinels ===\n"), "{ran:?}");
    let ran = run(&[&["init"], &common[..]].concat(), &variables).await;
    assert_eq!(ran.status, 1, "{ran:?}"); // it asked
}

#[tokio::test]
async fn options_may_stand_anywhere_and_the_last_one_wins() {
    // cli O-1, O-2, O-5, O-9, cli 18.1, cli 18.5
    let bench = Bench::with(CLUSTER).await;
    let json = bench.run(&["status", "--format", "json"]).await;
    assert!(json.stdout.starts_with("{\n\t\"sentinels\": []"), "{json:?}");
    for args in [
        &["status", "-fjson"][..],
        &["status", "-f=json"],
        &["status", "extra", "-f", "json", "extra"],
        &["status", "--cluster-name", "c", "-fjson", "--store-timeout=5s"],
        &["--cluster-name=other", "status", "-fjson", "--cluster-name=c"],
        &["status", "-ftext", "--format=json"],
    ] {
        assert_eq!(bench.run(args).await, json, "{args:?}");
    }
    bench
        .run(&["status", "--cluster-name=other"])
        .await
        .failed_with("no cluster data");
}

#[tokio::test]
async fn what_comes_later_says_so() {
    for command in ["promote", "register", "switchover"] {
        let args = [command, "--cluster-name=c", "--store-backend=etcdv3"];
        run(&args, &[])
            .await
            .failed_with(&format!("{command} is not supported yet"));
    }
}
