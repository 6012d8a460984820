//! Options, environment variables, help, and the checks before a command runs (cli 1, 2, 6.1, 18).

use crate::harness::{CLUSTER, CommandOutput, CtlHarness, stolonctl};

async fn run(args: &[&str], variables: &[(&str, &str)]) -> CommandOutput {
    stolonctl(args, variables, b"").await
}

#[tokio::test]
async fn help_and_version_need_no_cluster() {
    // cli 18.6, cli 18.8
    for (args, words) in [
        (&[][..], "Usage: stolonctl"),
        (&["clusterdata"], "Usage: stolonctl clusterdata"),
        (&["init", "--help"], "Usage: stolonctl init"),
        (&["help", "init"], "Usage: stolonctl init"),
        (&["clusterdata", "write", "-h"], "Usage: stolonctl clusterdata write"),
        (&["--version"], "stolonctl version "),
        (&["version", "extra"], "stolonctl version "),
        (&["register", "--version"], "register version "),
    ] {
        let output = run(args, &[]).await;
        assert!(output.stdout.contains(words), "{args:?} {output:?}");
        assert_eq!((output.status, output.stderr.as_str()), (0, ""), "{args:?}");
    }
}

#[tokio::test]
async fn the_help_names_options_without_effect() {
    // cli 2
    let help = run(&["status", "--help"], &[]).await.stdout;
    for option in ["--log-level", "--metrics-listen-address"] {
        let after = help.split(option).nth(1).unwrap_or_default();
        let text = after.split("--").next().unwrap_or_default();
        assert!(
            text.contains("Accepted for compatibility, no effect"),
            "{option}: {help}"
        );
    }
}

#[tokio::test]
async fn the_help_of_the_playground_lists_only_its_own_options() {
    // cli 19
    for args in [["playground", "--help"], ["help", "playground"]] {
        let help = run(&args, &[]).await.stdout;
        assert!(
            help.contains("--tour") && help.contains("--usual-ports") && help.contains("--observe"),
            "{help}"
        );
        assert!(
            !help.contains("--cluster-name") && !help.contains("Common options"),
            "{help}"
        );
    }
    let other = run(&["status", "--help"], &[]).await.stdout;
    assert!(other.contains("--cluster-name"), "{other}");
}

#[tokio::test]
async fn usage_errors_end_with_status_1() {
    // cli O-6, cli O-21, cli 18.4, cli 18.5
    for (args, words, usage) in [
        (&["--nonsense"][..], "--nonsense", "stolonctl [OPTIONS]"),
        (&["nonsense"], "nonsense", "stolonctl [OPTIONS]"),
        (&["statsu"], "status", "stolonctl [OPTIONS]"), // a hint
        (&["clusterdata", "reed"], "read", "stolonctl clusterdata"),
        (&["status", "--cluster-name"], "--cluster-name", "stolonctl status"),
        (&["status", "--store-timeout=5"], "--store-timeout", "stolonctl status"),
        (&["status", "--form", "json"], "--form", "stolonctl status"),
        (&["init", "--yes=maybe"], "maybe", "stolonctl init"),
        (&["init", "--version"], "--version", "stolonctl init"),
        (
            &["register", "--register-backend"],
            "--register-backend",
            "stolonctl register",
        ),
        (
            &["clusterdata", "write", "--file"],
            "--file",
            "stolonctl clusterdata write",
        ),
        (&["switchover", "--timeout", "5x"], "--timeout", "stolonctl switchover"),
    ] {
        let output = run(args, &[]).await;
        assert_eq!((output.status, output.stdout.as_str()), (1, ""), "{args:?} {output:?}");
        assert!(
            output.stderr.starts_with("Error: ") && output.stderr.contains(words),
            "{args:?} {output:?}"
        );
        let usage = format!("\nUsage: {usage} ");
        assert!(output.stderr.contains(&usage), "{output:?}");
        assert!(!output.stderr.contains("FATAL"), "{output:?}"); // the error is shown once
    }
}

#[tokio::test]
async fn common_options_are_validated_before_the_arguments_of_the_command() {
    // cli O-22, cli 18.7
    let output = run(&["init", "{}", "{}"], &[]).await;
    assert_eq!(
        (output.status, output.stderr.as_str()),
        (
            1,
            "cluster name required: set --cluster-name\nstore backend type required: set --store-backend=etcdv3\n"
        )
    );
    run(&["status"], &[("STOLONCTL_STORE_BACKEND", "etcdv3")])
        .await
        .assert_failed_with("cluster name required");
    run(&["status", "--cluster-name=c"], &[])
        .await
        .assert_failed_with("store backend type required");
    run(&["status", "--cluster-name=c", "--store-backend=consul"], &[])
        .await
        .assert_failed_with("etcdv3");
    run(&["status", "--cluster-name=..", "--store-backend=etcdv3"], &[])
        .await
        .assert_failed_with("\"..\"");
    for endpoint in ["http://127.0.0.1:65536", "http://", "localhost:", ",", "http://:2379"] {
        let endpoints = format!("--store-endpoints={endpoint}");
        let args = ["status", "--cluster-name=c", "--store-backend=etcdv3", &endpoints];
        run(&args, &[]).await.assert_failed_with(&format!("{endpoint:?}"));
    }
    let ignored = [
        (
            "--log-level=foo",
            "log level \"foo\" is unknown: use error, warn, info or debug",
        ),
        (
            "--metrics-listen-address=foo",
            "--metrics-listen-address \"foo\" is not valid",
        ),
    ];
    for (option, words) in ignored {
        let args = ["status", "--cluster-name=c", "--store-backend=etcdv3", option];
        run(&args, &[]).await.assert_failed_with(words);
    }
    let zero = [
        "status",
        "--cluster-name=c",
        "--store-backend=etcdv3",
        "--store-timeout=0",
    ];
    run(&zero, &[]).await.assert_failed_with("--store-timeout");
}

#[tokio::test]
async fn a_bad_variable_is_fatal_and_named() {
    // cli O-12, cli 18.1: whichever command is given
    let output = run(&["version"], &[("STOLONCTL_STORE_TIMEOUT", "soon")]).await;
    assert_eq!((output.status, output.stdout.as_str()), (1, ""));
    assert!(
        output.stderr.contains("STOLONCTL_STORE_TIMEOUT") && output.stderr.contains("soon"),
        "{output:?}"
    );
    let output = run(&["version"], &[("STOLONCTL_STORE_TIMEOUT", "")]).await;
    assert_eq!(output.status, 0, "{output:?}");
}

#[tokio::test]
async fn options_of_subcommands_have_no_variables() {
    // cli O-10, cli 18.2
    let harness = CtlHarness::with(CLUSTER).await;
    let endpoint = harness.etcd.endpoint();
    let variables = [
        ("STOLONCTL_YES", "true"),
        ("STOLONCTL_FORMAT", "json"),
        ("STOLONCTL_STORE_ENDPOINTS", &endpoint),
    ];
    let common = ["--cluster-name", "c", "--store-backend", "etcdv3"];
    let output = run(&[&["status"], &common[..]].concat(), &variables).await;
    assert!(output.stdout.starts_with("=== Active sentinels ===\n"), "{output:?}");
    let output = run(&[&["init"], &common[..]].concat(), &variables).await;
    assert_eq!(output.status, 1, "{output:?}"); // it asked
}

#[tokio::test]
async fn options_may_stand_anywhere_and_the_last_one_wins() {
    // cli O-1, O-2, O-5, O-9, cli 18.1, cli 18.5
    let harness = CtlHarness::with(CLUSTER).await;
    let json = harness.run(&["status", "--format", "json"]).await;
    assert!(json.stdout.starts_with("{\n\t\"sentinels\": []"), "{json:?}");
    for args in [
        &["status", "-fjson"][..],
        &["status", "-f=json"],
        &["status", "extra", "-f", "json", "extra"],
        &["status", "--cluster-name", "c", "-fjson", "--store-timeout=5s"],
        &["--cluster-name=other", "status", "-fjson", "--cluster-name=c"],
        &["status", "-ftext", "--format=json"],
    ] {
        assert_eq!(harness.run(args).await, json, "{args:?}");
    }
    harness
        .run(&["status", "--cluster-name=other"])
        .await
        .assert_failed_with("no cluster data");
}
