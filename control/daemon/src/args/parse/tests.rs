use std::collections::BTreeMap;

use super::super::{DaemonArgs, GoInt, Switch};
use super::*;
use crate::version::VERSION;

#[derive(Debug, clap::Parser)]
struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Name of this keeper
    #[arg(long, alias = "id")]
    uid: Option<String>,
    /// Never elected when false
    #[arg(long)]
    can_be_master: Option<Switch>,
    /// Seconds
    #[arg(long)]
    tcp_keepalive_idle: Option<GoInt>,
}

fn run(typed: &[&str], environment: &[(&str, &str)]) -> Result<ParsedArgs<Args>, ArgsError> {
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    try_parse(KEEPER, typed, |name| environment.get(name).map(OsString::from))
}

fn parsed(typed: &[&str], environment: &[(&str, &str)]) -> Args {
    run(typed, environment).unwrap().args
}

fn usage(typed: &[&str]) -> String {
    match run(typed, &[]).unwrap_err() {
        ArgsError::Usage { text, message } => {
            assert!(text.starts_with(&format!("Error: {message}\n")), "{text}");
            assert!(text.contains("Usage: stolon-keeper"), "{text}");
            message
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_wins_over_the_environment_and_both_over_the_default() {
    // cli O-9, cli 18.1
    let name = |typed: &[&str], environment: &[(&str, &str)]| parsed(typed, environment).daemon.common.cluster_name;
    let environment = [("STKEEPER_CLUSTER_NAME", "fromenv")];
    assert_eq!(name(&[], &[]), None);
    assert_eq!(name(&[], &environment).as_deref(), Some("fromenv"));
    assert_eq!(name(&["--cluster-name=typed"], &environment).as_deref(), Some("typed"));
    assert_eq!(name(&["--cluster-name="], &environment).as_deref(), Some(""));
    assert_eq!(name(&[], &[("STKEEPER_CLUSTER_NAME", "")]), None);
    assert_eq!(name(&[], &[("STSENTINEL_CLUSTER_NAME", "other")]), None);
}

#[test]
fn a_bad_variable_is_named_and_the_alphabetically_last_one_first() {
    // cli O-12, cli 18.1: also when the command line would win, and before help
    let environment = [("STKEEPER_STORE_TIMEOUT", "5 s"), ("STKEEPER_CAN_BE_MASTER", "yes")];
    match run(&["--store-timeout=1s", "--help"], &environment).unwrap_err() {
        ArgsError::Environment(message) => {
            let mut parts = message.split("; ");
            let first = parts.next().unwrap();
            assert!(
                first.contains("\"5 s\"") && first.contains("STKEEPER_STORE_TIMEOUT"),
                "{first}"
            );
            assert!(parts.next().unwrap().contains("STKEEPER_CAN_BE_MASTER"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn control_characters_of_a_wrong_argument_are_not_printed() {
    for typed in [
        "--no-such\u{1b}[31m",
        "--log-color=\u{1b}]0;title\u{7}",
        "--store-timeout=\u{9b}1s",
    ] {
        match try_parse::<Args>(KEEPER, [typed], |_| None).unwrap_err() {
            ArgsError::Usage { text, message } => {
                let is_plain = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n');
                assert!(is_plain(&text) && is_plain(&message), "{typed:?}: {text:?}");
            }
            other => panic!("{typed:?}: {other:?}"),
        }
    }
}

#[test]
fn an_unknown_option_is_not_advised_to_be_passed_as_a_value() {
    for (typed, tip) in [
        ("--foo", None),
        ("-x", None),
        ("--store-timeou", Some("'--store-timeout'")),
    ] {
        match try_parse::<Args>(KEEPER, [typed], |_| None).unwrap_err() {
            ArgsError::Usage { text, .. } => {
                assert!(
                    text.contains(typed) && text.contains("Usage: ") && !text.contains("as a value"),
                    "{text}"
                );
                assert_eq!(text.contains("tip:"), tip.is_some(), "{text}");
                assert!(tip.is_none_or(|tip| text.contains(tip)), "{text}");
            }
            other => panic!("{typed:?}: {other:?}"),
        }
    }
}

#[test]
fn a_variable_that_is_not_utf_8_is_named_without_its_value() {
    // it may be a password
    use std::os::unix::ffi::OsStringExt as _;
    let value = |name: &str| (name == "STKEEPER_UID").then(|| OsString::from_vec(b"\xffsecret".to_vec()));
    match try_parse::<Args>(KEEPER, [""; 0], value).unwrap_err() {
        ArgsError::Environment(message) => {
            assert!(
                message.contains("STKEEPER_UID") && message.contains("UTF-8"),
                "{message}"
            );
            assert!(!message.contains("secret"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn uid_wins_over_id_in_the_environment_and_the_last_one_wins_on_the_command_line() {
    // cli O-13, cli 18.1
    let uid = |typed: &[&str], environment: &[(&str, &str)]| parsed(typed, environment).uid.unwrap();
    let both = [("STKEEPER_ID", "a"), ("STKEEPER_UID", "b")];
    assert_eq!(uid(&[], &both), "b");
    assert_eq!(uid(&[], &both[..1]), "a");
    assert_eq!(uid(&["--id=c"], &both), "c");
    assert_eq!(uid(&["--uid=d", "--id", "e"], &[]), "e");
    assert_eq!(uid(&["--id=d", "--uid=e"], &[]), "e");
}

#[test]
fn deprecated_options_are_noticed_on_the_command_line_only() {
    // cli 3, cli O-11, cli 18.9
    let typed = run(&["--debug", "--id=k1"], &[]).unwrap();
    assert_eq!(typed.args.daemon.debug, Some(Switch(true)));
    assert_eq!(typed.notices.len(), 2);
    assert!(typed.notices[0].starts_with("Flag --debug has been deprecated, "));
    assert!(typed.notices[0].contains("--log-level=debug") && typed.notices[1].contains("--uid"));
    let variables = run(
        &["--uid=k1", "--", "--debug"],
        &[("STKEEPER_DEBUG", "1"), ("STKEEPER_ID", "k1")],
    )
    .unwrap();
    assert_eq!(variables.args.daemon.debug, Some(Switch(true)));
    assert!(!variables.notices.iter().any(|notice| notice.contains("deprecated")));
}

#[test]
fn a_switch_takes_no_separate_value() {
    // cli O-3, cli 18.3
    let switch = |typed: &[&str]| parsed(typed, &[]).can_be_master;
    assert_eq!(switch(&["--can-be-master"]), Some(Switch(true)));
    assert_eq!(switch(&["--can-be-master=false"]), Some(Switch(false)));
    assert_eq!(switch(&["--can-be-master", "false"]), Some(Switch(true)));
    assert_eq!(
        switch(&["--can-be-master=false", "--can-be-master"]),
        Some(Switch(true))
    );
    assert_eq!(
        parsed(&[], &[("STKEEPER_CAN_BE_MASTER", "F")]).can_be_master,
        Some(Switch(false))
    );
}

#[test]
fn ignored_arguments_are_reported() {
    // cli O-3, cli O-7: accepted, but a switch stays on that was meant to be off
    let notices = |typed: &[&str]| run(typed, &[]).unwrap().notices;
    assert_eq!(
        notices(&["--can-be-master", "false", "--uid", "k1"]),
        [
            "WARNING: ignored, since a switch takes no separate value: \"false\" after --can-be-master; write \
             --can-be-master=false"
        ]
    );
    let both = notices(&["--can-be-master", "false", "--log-color", "false"]);
    assert!(both[0].ends_with("--can-be-master=false") && both[1].ends_with("--log-color=false"));
    assert_eq!(
        notices(&["--uid", "extra", "--", "extra", "--debug"]),
        [
            "WARNING: ignored, since it belongs to no option: \"extra\"",
            "WARNING: ignored, since it belongs to no option: \"--debug\""
        ]
    );
    assert_eq!(notices(&["--can-be-master=false", "--uid", "false"]), [""; 0]);
}

#[test]
fn usage_errors_name_the_mistake() {
    // cli O-6, cli 18.4, cli 18.5
    assert!(usage(&["--nonsense"]).contains("--nonsense"));
    assert!(usage(&["--cluster", "x"]).contains("--cluster")); // cli O-1: no abbreviation
    assert!(usage(&["--cluster-name"]).contains("--cluster-name"));
    assert!(usage(&["--tcp-keepalive-idle=1.5"]).contains("1.5"));
    assert!(usage(&["--store-timeout", "5"]).contains("--store-timeout"));
    assert!(usage(&["--can-be-master=yes"]).contains("yes"));
    assert!(usage(&["-cluster-name=x"]).contains("-c"));
}

#[test]
fn repeated_options_and_positional_arguments_are_taken_as_in_go_stolon() {
    // cli O-1, O-5, O-7
    let args = parsed(
        &[
            "one",
            "--cluster-name",
            "a",
            "two",
            "--cluster-name=b",
            "--",
            "--cluster-name=c",
        ],
        &[],
    );
    assert_eq!(args.daemon.common.cluster_name.as_deref(), Some("b"));
    assert_eq!(args.daemon.ignored, ["one", "two", "--cluster-name=c"]);
    assert_eq!(
        parsed(&["--tcp-keepalive-idle", "-0x10"], &[]).tcp_keepalive_idle,
        Some(GoInt(-16))
    );
}

#[test]
fn help_and_version_need_nothing_else() {
    // cli 16, cli 18.8
    for (option, start) in [("--help", ""), ("-h", ""), ("--version", "stolon-keeper version ")] {
        match run(&[option], &[("STKEEPER_HELP", "x"), ("STKEEPER_VERSION", "x")]).unwrap_err() {
            ArgsError::HelpOrVersion(text) => {
                let text = text.to_string();
                assert!(
                    text.starts_with(start) && !text.contains("--debug") && !text.contains("--id"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(usage(&["-V"]).contains("-V"));
}

#[test]
fn every_program_has_its_version_line() {
    // cli 16, cli 18.8
    for program in [KEEPER, SENTINEL, PROXY, CTL] {
        match try_parse::<Args>(program, ["--version"], |_| None).unwrap_err() {
            ArgsError::HelpOrVersion(text) => {
                assert_eq!(text.to_string(), format!("{} version {VERSION}\n", program.name))
            }
            other => panic!("{other:?}"),
        }
    }
}
