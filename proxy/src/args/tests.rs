//! Which values each option accepts, and the errors for others.

use daemon::args::{ArgsError, PROXY, ParsedArgs, command, try_parse};

use super::*;
use crate::relay::PeerTimeout;

const MACHINE: MachineLimits = MachineLimits {
    cpus: 16,
    descriptors: 1320,
};
const NEEDED: [&str; 2] = ["--cluster-name=main", "--store-backend=etcdv3"];

fn check(options: &[&str]) -> Result<Config, Vec<String>> {
    let ParsedArgs { args, .. } =
        try_parse::<Args>(PROXY, NEEDED.iter().chain(options).copied(), |_| None).expect("the options parse");
    args.check(MACHINE)
        .config
        .map_err(|faults| faults.lines().map(str::to_owned).collect())
}

#[test]
fn without_options_the_defaults_hold() {
    // cli 5
    let config = check(&[]).unwrap();
    assert_eq!(
        config.listener,
        listener::Config {
            listen: "127.0.0.1:5432".parse().unwrap(),
            stop_listening: true,
            keepalive: Keepalive::default(),
            connect_timeout: Duration::from_secs(5),
            max_connections: 500,
            relay: RelayConfig::default(),
            hold: Duration::from_secs(10),
            hold_max: 1024,
        }
    );
    assert_eq!((config.relay_threads, config.drain), (4, Duration::ZERO));
}

#[test]
fn the_remedy_fits_the_reason_why_an_address_cannot_be_listened_on() {
    let remedy = |errno: rustix::io::Errno| bind_error_remedy(&errno.into());
    assert!(remedy(rustix::io::Errno::ADDRINUSE).contains("stop what is there"));
    assert!(remedy(rustix::io::Errno::ADDRNOTAVAIL).contains("no such address"));
    assert!(remedy(rustix::io::Errno::ACCESS).contains("below 1024"));
}

#[test]
fn given_values_are_used() {
    let config = check(&[
        "--listen-address=::1",
        "--port=0",
        "--stop-listening=false",
        "--tcp-keepalive-idle=10",
        "--tcp-keepalive-count=3",
        "--tcp-keepalive-interval=5",
        "--connect-timeout=1500ms",
        "--max-connections=7",
        "--relay-threads=2",
        "--batch-streams=false",
        "--hold=3s",
        "--hold-max=9",
        "--drain=1m",
    ])
    .unwrap();
    let expected = listener::Config {
        listen: "[::1]:0".parse().unwrap(),
        stop_listening: false,
        keepalive: Keepalive {
            idle: Some(Duration::from_secs(10)),
            interval: Some(Duration::from_secs(5)),
            count: Some(3),
        },
        connect_timeout: Duration::from_millis(1500),
        max_connections: 7,
        relay: RelayConfig {
            batching: false,
            peer_timeout: PeerTimeout {
                silence_seconds: 25,
                unanswered_probes: 3,
            },
            ..RelayConfig::default()
        },
        hold: Duration::from_secs(3),
        hold_max: 9,
    };
    assert_eq!((config.listener, config.relay_threads), (expected, 2));
    assert_eq!(config.drain, Duration::from_secs(60));
}

#[test]
fn a_word_after_a_switch_is_not_its_value() {
    // cli O-3
    assert!(check(&["--stop-listening", "false"]).unwrap().listener.stop_listening);
}

/// The expected form of a duration, as errors state it.
const DURATION: &str = "use a number with a unit, such as 500ms, 5s or 1m30s";
const UNIT: &str = "add one of ns, us, ms, s, m, h";
const SWITCH: &str = "a switch takes true or false";
const INTEGER: &str = "not a whole number of 64 bits";

/// Invalid values: option, value, and the expected form that the error states.
const BAD: &[(&str, &str, &str)] = &[
    ("listen-address", "db.example", "it takes an IP address"),
    ("listen-address", "", "it takes an IP address"),
    ("listen-address", "127.0.0.1:5432", "it takes an IP address"),
    ("listen-address", "127.1", "it takes an IP address"),
    ("listen-address", "[127.0.0.1", "it takes an IP address"),
    ("listen-address", "*", "it takes an IP address"),
    ("port", "postgres", "it takes a number from 0 to 65535"),
    ("port", "", "it takes a number"),
    ("port", "65536", "it takes a number"),
    ("port", "-1", "it takes a number"),
    ("port", "5432 ", "it takes a number"),
    ("port", "0x1538", "it takes a number"),
    ("stop-listening", "maybe", SWITCH),
    ("stop-listening", "", SWITCH),
    ("tcp-keepalive-idle", "-1", "it takes 0 to 32767"),
    ("tcp-keepalive-idle", "32768", "it takes 0 to 32767"),
    ("tcp-keepalive-idle", "10s", INTEGER),
    ("tcp-keepalive-count", "-1", "it takes 0 to 127"),
    ("tcp-keepalive-count", "128", "it takes 0 to 127"),
    ("tcp-keepalive-count", "many", INTEGER),
    ("tcp-keepalive-interval", "-5", "it takes 0 to 32767"),
    ("tcp-keepalive-interval", "32768", "it takes 0 to 32767"),
    ("tcp-keepalive-interval", "1.5", INTEGER),
    ("connect-timeout", "0s", "must be greater than zero, such as 5s"),
    ("connect-timeout", "-1s", "must be greater than zero"),
    ("connect-timeout", "soon", DURATION),
    ("connect-timeout", "5", UNIT),
    ("connect-timeout", "2562048h", "out of range"),
    ("max-connections", "0", "it takes 1 or more"),
    ("max-connections", "-3", "it takes 1 or more"),
    ("max-connections", "501", "the limit of open files allows 500"),
    (
        "max-connections",
        "9223372036854775807",
        "the limit of open files allows 500",
    ),
    ("max-connections", "9223372036854775808", INTEGER),
    ("relay-threads", "0", "it takes 1 to 256"),
    ("relay-threads", "-1", "it takes 1 to 256"),
    ("relay-threads", "257", "it takes 1 to 256"),
    ("relay-threads", "all", INTEGER),
    ("batch-streams", "yes", SWITCH),
    ("hold", "-1s", "it takes a duration such as 10s, or 0s"),
    ("hold", "ten", DURATION),
    ("hold", "10", UNIT),
    ("hold", "-3", "such as 3s"),
    ("hold-max", "-1", "it takes 0 or more"),
    ("hold-max", "1k", INTEGER),
    ("drain", "-1s", "it takes a duration such as 10s, or 0s"),
    ("drain", "", DURATION),
    ("drain", "60", UNIT),
    ("cluster-name", "", "cluster name required"),
    ("cluster-name", "..", "choose another name"),
    ("store-backend", "", "store backend type required"),
    ("store-backend", "consul", "use --store-backend=etcdv3"),
    ("store-backend", "postgres", "use --store-backend=etcdv3"),
    ("store-endpoints", "ftp://127.0.0.1", "use http or https"),
    (
        "store-endpoints",
        "http://127.0.0.1:1,https://127.0.0.1:1",
        "must have the same scheme",
    ),
    ("store-timeout", "0s", "must be greater than 0"),
    ("store-timeout", "-5s", "must be greater than 0"),
    ("store-timeout", "five", DURATION),
    ("store-timeout", "5", UNIT),
    (
        "store-cert-file",
        "cert.pem",
        "--store-cert-file and --store-key must be given together",
    ),
    (
        "store-key",
        "key.pem",
        "--store-cert-file and --store-key must be given together",
    ),
    ("store-ca-file", "/no/such/file", "read /no/such/file"),
    ("store-skip-tls-verify", "maybe", SWITCH),
    ("metrics-listen-address", "9102", "give host:port or :port"),
    ("metrics-listen-address", ":65536", "give host:port or :port"),
    ("store-endpoints", "127.0.0.1", "takes http://host:port"),
    ("log-level", "loud", "use error, warn, info or debug"),
    ("log-level", "", "use error, warn, info or debug"),
    ("log-format", "xml", "use text, json or tab"),
    ("log-color", "red", SWITCH),
    ("debug", "maybe", SWITCH),
];

/// Options that take any text.
const ANY_TEXT: [&str; 5] = [
    "metrics-cert-file",
    "metrics-key-file",
    "metrics-token-file",
    "store-prefix",
    "kube-resource-kind",
];

/// Returns the error for an option, from the parser or from the validation.
fn errors_for(option: &str, value: &str) -> Vec<String> {
    let tls = "--store-endpoints=https://127.0.0.1:1"; // files are looked at only where they are used
    let bad = format!("--{option}={value}");
    let typed = NEEDED.into_iter().chain([tls, bad.as_str()]);
    match try_parse::<Args>(PROXY, typed, |_| None) {
        Ok(ParsedArgs { args, .. }) => match args.check(MACHINE).config {
            Ok(_) => Vec::new(),
            Err(faults) => faults.lines().map(str::to_owned).collect(),
        },
        Err(ArgsError::Usage { message, .. }) => vec![message],
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_bad_value_of_any_option_names_the_option_and_the_form_expected() {
    for (option, value, form) in BAD {
        let errors = errors_for(option, value);
        // `--log-level` is called "the log level" in errors, and a file is identified by its name
        let mut names = vec![format!("--{option}"), option.replace('-', " ")];
        names.extend(value.starts_with('/').then(|| (*value).to_owned()));
        let remedy = |line: &String| line.contains(form) && names.iter().any(|name| line.contains(name));
        assert!(
            errors.len() == 1 && errors.iter().all(remedy),
            "--{option}={value}: {form:?} is not in {errors:?}"
        );
    }
}

#[test]
fn a_bad_value_from_the_environment_names_the_variable_too() {
    // cli O-12; an invalid value is an error of the option, wherever it came from
    let mut refused = 0;
    for (option, value, form) in BAD {
        let variable = format!("STPROXY_{}", option.to_uppercase().replace('-', "_"));
        let environment = |name: &str| (name == variable).then(|| (*value).into());
        match try_parse::<Args>(PROXY, NEEDED, environment) {
            Err(ArgsError::Environment(errors)) => {
                assert!(errors.contains(&variable) && errors.contains(form), "{errors}");
                refused += 1;
            }
            other => assert!(other.is_ok(), "{other:?}"),
        }
    }
    assert!(refused >= 15, "{refused}");
}

#[test]
fn every_option_has_a_bad_value_or_takes_any_text() {
    let command = command::<Args>(PROXY);
    let options = command.get_arguments().filter(|arg| arg.get_action().takes_values());
    for option in options.filter_map(|arg| arg.get_long()) {
        let bad = BAD.iter().any(|(name, ..)| *name == option);
        assert!(bad != ANY_TEXT.contains(&option), "--{option}");
    }
}

#[test]
fn all_errors_are_reported_in_order() {
    // cli 5: all errors are reported at once
    let none: [&str; 4] = [
        "--log-level=loud",
        "--tcp-keepalive-interval=-1",
        "--tcp-keepalive-idle=-1",
        "--port=x",
    ];
    let ParsedArgs { args, .. } = try_parse::<Args>(PROXY, none, |_| None).unwrap();
    let faults = args.check(MACHINE).config.unwrap_err();
    let starts: Vec<String> = faults
        .lines()
        .map(|line| line.split([' ', ':']).take(3).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        starts,
        [
            "log level \"loud\"",
            "cluster name required",
            "store backend type",
            "--tcp-keepalive-idle is -1",
            "--tcp-keepalive-interval is -1",
            "--port is \"x\""
        ]
    );
}
