//! What of the options is taken, and what a bad one gets.

use control::args::{PROXY, Parsed, try_parse};

use super::*;

const MACHINE: Machine = Machine {
    cpus: 16,
    descriptors: 1320,
};
const NEEDED: [&str; 2] = ["--cluster-name=main", "--store-backend=etcdv3"];

fn checked(options: &[&str]) -> Result<Config, Vec<String>> {
    let Parsed { args, .. } =
        try_parse::<Args>(PROXY, NEEDED.iter().chain(options).copied(), |_| None).expect("the options parse");
    args.check(MACHINE)
        .config
        .map_err(|faults| faults.lines().map(str::to_owned).collect())
}

fn refuse(options: &[&str], named: &str) {
    let faults = checked(options).expect_err("a fault");
    assert!(
        faults.iter().any(|fault| fault.contains(named)),
        "{named} is not in {faults:?}"
    );
}

#[test]
fn without_options_the_defaults_hold() {
    // cli 5
    let config = checked(&[]).unwrap();
    assert_eq!(
        config.listener,
        listener::Config {
            listen: "127.0.0.1:5432".parse().unwrap(),
            stop_listening: true,
            keepalive: Keepalive::default(),
            connect_timeout: Duration::from_secs(5),
            max_connections: 500,
            manner: Manner::default(),
            hold: Duration::from_secs(10),
            hold_max: 1024,
        }
    );
    assert_eq!((config.relay_threads, config.drain), (4, Duration::ZERO));
}

#[test]
fn what_is_given_is_taken() {
    let config = checked(&[
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
        manner: Manner {
            batching: false,
            ..Manner::default()
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
    assert!(checked(&["--stop-listening", "false"]).unwrap().listener.stop_listening);
}

#[test]
fn bad_values_name_the_option_and_the_form_expected() {
    refuse(
        &["--listen-address=db.example"],
        "--listen-address is \"db.example\": it takes an IP address",
    );
    refuse(&["--listen-address="], "--listen-address is \"\"");
    refuse(&["--port=postgres"], "--port is \"postgres\": it takes a number");
    refuse(&["--port=65536"], "--port is \"65536\"");
    refuse(&["--tcp-keepalive-idle=-1"], "--tcp-keepalive-idle is -1");
    refuse(&["--tcp-keepalive-count=128"], "--tcp-keepalive-count is 128");
    refuse(&["--tcp-keepalive-interval=-5"], "--tcp-keepalive-interval is -5");
    refuse(&["--connect-timeout=0s"], "--connect-timeout must be greater than zero");
    refuse(&["--max-connections=0"], "--max-connections is 0: it takes 1 or more");
    refuse(&["--max-connections=501"], "the limit of open files allows 500");
    refuse(&["--relay-threads=0"], "--relay-threads is 0: it takes 1 to 256");
    refuse(&["--hold=-1s"], "--hold is negative: it takes a duration such as 10s");
    refuse(&["--hold-max=-1"], "--hold-max is -1: it takes 0 or more");
    refuse(&["--drain=-1s"], "--drain is negative");
}

#[test]
fn all_faults_are_told_in_the_order_of_the_checks() {
    // cli 5, design D-8
    let none: [&str; 4] = [
        "--log-level=loud",
        "--tcp-keepalive-interval=-1",
        "--tcp-keepalive-idle=-1",
        "--port=x",
    ];
    let Parsed { args, .. } = try_parse::<Args>(PROXY, none, |_| None).unwrap();
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
