use super::*;

fn checked(args: &CommonArgs) -> (Option<CommonConfig>, Vec<String>) {
    let mut faults = Faults::default();
    let common = args.check(&mut faults);
    (common, faults.0)
}

fn args(cluster_name: &str, backend: &str) -> CommonArgs {
    CommonArgs {
        cluster_name: Some(cluster_name.to_owned()),
        store_backend: Some(backend.to_owned()),
        ..CommonArgs::default()
    }
}

#[test]
fn common_errors_are_reported_together_in_the_order_of_the_checks() {
    // cli 2, cli 18.7
    assert_eq!(
        checked(&CommonArgs::default()).1,
        [
            "cluster name required: set --cluster-name",
            "store backend type required: set --store-backend=etcdv3"
        ]
    );
    assert_eq!(
        checked(&args("", "etcdv3")).1,
        ["cluster name required: set --cluster-name"]
    );
    assert_eq!(
        checked(&args("main", "")).1,
        ["store backend type required: set --store-backend=etcdv3"]
    );
    assert_eq!(checked(&args("main", "etcdv3")).1, [""; 0]);
}

#[test]
fn unsupported_backends_are_refused_with_the_supported_one() {
    // only etcd v3 is supported
    for name in ["etcdv2", "etcd", "consul", "kubernetes"] {
        let faults = checked(&args("main", name)).1.join("\n");
        assert!(
            faults.contains(&format!("{name:?} is not supported")) && faults.contains("etcdv3"),
            "{faults}"
        );
    }
    let faults = checked(&args("main", "zookeeper")).1.join("\n");
    assert!(faults.contains("unknown store backend \"zookeeper\""), "{faults}");
}

#[test]
fn names_that_leave_the_prefix_are_refused() {
    // store S-3
    for name in [".", "..", "../x", "a/../..", "a/..", "/", "a\nb", "\u{7f}"] {
        assert_eq!(checked(&args(name, "etcdv3")).1.len(), 1, "{name:?}");
    }
    for name in ["main", "a/b", "a/../b", "/a", "...", "käse"] {
        assert_eq!(checked(&args(name, "etcdv3")).1.len(), 0, "{name:?}");
    }
}

#[test]
fn a_store_timeout_of_zero_is_refused() {
    // store S-19, store 10.18
    for text in ["0", "-5s", "0s"] {
        let mut given = args("main", "etcdv3");
        given.store_timeout = Some(text.parse().unwrap());
        assert_eq!(checked(&given).1, ["--store-timeout must be greater than 0"], "{text}");
    }
    assert_eq!(
        checked(&args("main", "etcdv3")).0.unwrap().store.timeout(),
        DEFAULT_TIMEOUT
    );
}

#[test]
fn a_metrics_address_that_can_never_be_one_is_refused() {
    // cli 17.3
    for text in ["", ":9102", "127.0.0.1:0", "localhost:9102", "[::1]:9102", "::1:9102"] {
        let mut given = args("main", "etcdv3");
        given.metrics_listen_address = Some(text.to_owned());
        assert_eq!(checked(&given).1, [""; 0], "{text}");
    }
    for text in ["foo", "foo:", "127.0.0.1:65536", "300.1.1.1:1", "a b:1", "[]:1", "a:+1"] {
        let mut given = args("main", "etcdv3");
        given.metrics_listen_address = Some(text.to_owned());
        let faults = checked(&given).1;
        let start = format!("--metrics-listen-address {text:?} is not valid: ");
        assert!(faults.len() == 1 && faults[0].starts_with(&start), "{faults:?}");
    }
}

#[test]
fn log_options_are_exact_and_debug_overrides() {
    // cli 17.2
    let log = |level: Option<&str>, format: Option<&str>, debug| {
        let mut faults = Faults::default();
        let mut daemon = DaemonArgs {
            log_format: format.map(str::to_owned),
            debug,
            ..DaemonArgs::default()
        };
        daemon.common.log_level = level.map(str::to_owned);
        (daemon.log(&mut faults), faults.0)
    };
    assert_eq!(log(None, None, None).0, LogConfig::default());
    assert_eq!(
        log(Some("warn"), None, Some(Switch(true))).0.level,
        tracing::Level::DEBUG
    );
    assert_eq!(
        log(Some("warn"), Some("tab"), Some(Switch(false))).0.level,
        tracing::Level::WARN
    );
    for level in ["INFO", "trace", "", "warning"] {
        assert_eq!(log(Some(level), None, None).1.len(), 1, "{level}");
    }
    assert_eq!(log(Some("x"), Some("xml"), None).1.len(), 2);
}
