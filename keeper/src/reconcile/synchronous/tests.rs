//! Names and client logins of single dbs; whole rounds are played in `reconcile::tests`.

use model::DbSpec;

use super::*;
use crate::reconcile::{RecordedIdentity, ServerFacts};

fn master(standbys: &[&str], external: &[&str]) -> TargetDb {
    TargetDb {
        db: "a".into(),
        generation: 1,
        spec: DbSpec {
            synchronous_replication: true,
            synchronous_standbys: Some(standbys.iter().map(|uid| DbUid::from(*uid)).collect()),
            external_synchronous_standbys: Some(external.iter().map(|name| (*name).to_owned()).collect()),
            ..DbSpec::default()
        },
        role: TargetRole::Master,
        recorded: RecordedIdentity::default(),
        peer_addresses: Vec::new(),
        other_keepers: Vec::new(),
        access: model::AccessMode::All,
        additional_slots: 0,
        automatic_restart: false,
        ready_timeout: std::time::Duration::ZERO,
        sync_timeout: std::time::Duration::ZERO,
        fail_interval: std::time::Duration::ZERO,
        synchronous_cluster: true,
    }
}

/// Rule: keeper 10.1 and I13.
#[test]
fn all_listed_names_are_waited_for_in_the_form_of_go_stolon() {
    let names = |standbys: &[&str], external: &[&str]| master(standbys, external).standby_names();
    assert_eq!(names(&[], &[]), "");
    assert_eq!(names(&["2a87ea79"], &[]), "stolon_2a87ea79");
    assert_eq!(names(&[], &["stolonfakestandby"]), "stolonfakestandby");
    assert_eq!(names(&["b", "c"], &[]), "2 (stolon_b,stolon_c)");
    assert_eq!(names(&["b"], &["x", "y"]), "3 (stolon_b,x,y)");
}

#[test]
fn an_external_name_is_always_one_name() {
    let names = |external: &str| master(&[], &[external]).standby_names();
    for name in ["standby_1", "\u{e9}", "a$b", "\"a b\"", "\"a\"\"b\"", "*"] {
        assert_eq!(names(name), name);
    }
    assert_eq!(names("a-b"), "\"a-b\"");
    assert_eq!(names("a,b"), "\"a,b\"");
    assert_eq!(names("2 (a,b)"), "\"2 (a,b)\"");
    assert_eq!(names("any"), "\"any\"");
    assert_eq!(names("First"), "\"First\"");
    assert_eq!(names("1st"), "\"1st\"");
    assert_eq!(names("a\"b"), "\"a\"\"b\"");
    assert_eq!(names("\"a\"b\""), "\"\"\"a\"\"b\"\"\"");
    for unusable in ["", "\"\"", "a\\b", "a\nb", "a\0b"] {
        assert_eq!(names(unusable), "stolonfakestandby", "{unusable:?}");
    }
}

/// Rule: synchronous SY-7.
#[test]
fn a_standby_of_a_synchronous_cluster_waits_for_nobody_that_exists() {
    let mut standby = master(&["b"], &[]);
    standby.role = TargetRole::NoUpstream;
    standby.spec.synchronous_replication = false;
    assert_eq!(standby.standby_names(), "stolonfakestandby");
    assert!(standby.is_synchronous() && standby.wanted_standbys().is_empty());
    standby.synchronous_cluster = false;
    assert_eq!(standby.standby_names(), "");
    assert!(!standby.is_synchronous());
    let mut off = master(&["b"], &[]);
    off.spec.synchronous_replication = false;
    assert_eq!(
        off.standby_names(),
        "",
        "commits wait only with synchronousReplication of the db"
    );
}

/// Rule: synchronous SY-11.
#[test]
fn a_closed_gate_opens_when_each_wanted_standby_is_in_sync_or_none_is_wanted() {
    let process = |logins_blocked| ProcessState {
        logins_blocked,
        ..ProcessState::default()
    };
    let answered = |in_sync: &[&str]| {
        ServerState::Up(ServerProbe::Answered(ServerFacts {
            in_sync: in_sync.iter().map(|uid| DbUid::from(*uid)).collect(),
            ..ServerFacts::default()
        }))
    };
    let missing = |standbys: &[&str], server| match client_logins(&master(standbys, &["x"]), &process(true), &server) {
        ClientLogins::Allowed => "open".to_owned(),
        ClientLogins::Blocked { missing } => missing.iter().map(|uid| uid.as_str()).collect::<Vec<_>>().join(","),
    };
    assert_eq!(missing(&["b", "c"], answered(&["b"])), "c");
    assert_eq!(missing(&["b", "c"], answered(&["b", "c"])), "open");
    assert_eq!(
        missing(&["b"], answered(&["b", "z"])),
        "open",
        "one more is no obstacle"
    );
    assert_eq!(missing(&[], answered(&[])), "open");
    for unknown in [
        ServerState::Down,
        ServerState::Up(ServerProbe::NotProbed),
        ServerState::Up(ServerProbe::NoAnswer),
        ServerState::Up(ServerProbe::Refused),
    ] {
        assert_eq!(missing(&["b"], unknown), "b");
    }
    assert_eq!(
        client_logins(&master(&["b"], &[]), &process(false), &answered(&[])),
        ClientLogins::Allowed
    );
    let mut off = master(&["b"], &[]);
    off.spec.synchronous_replication = false;
    assert_eq!(
        client_logins(&off, &process(true), &answered(&[])),
        ClientLogins::Allowed
    );
}
