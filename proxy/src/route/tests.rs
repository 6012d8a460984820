//! The table of proxy P-3, row by row.

mod garbage;

use super::*;

const MASTER: &str = "10.0.0.1:5432";

/// A document with two dbs and a proxy object that sends the clients of proxy `me` to `db1`.
fn document() -> String {
    r#"{"formatVersion":1,"changeTime":"2026-01-01T00:00:00Z",
        "cluster":{"uid":"c","generation":1,"changeTime":"2026-01-01T00:00:00Z",
            "spec":{"initMode":"new"},"status":{"phase":"normal","master":"db1"}},
        "keepers":{},
        "dbs":{"db1":{"uid":"db1","generation":1,"changeTime":"0001-01-01T00:00:00Z",
                 "spec":{"keeperUID":"k1","requestTimeout":"10s"},
                 "status":{"healthy":true,"listenAddress":"10.0.0.1","port":"5432"}},
               "db2":{"uid":"db2","generation":1,"changeTime":"0001-01-01T00:00:00Z",
                 "spec":{"keeperUID":"k2","requestTimeout":"10s"},"status":{}}},
        "proxy":{"generation":7,"changeTime":"0001-01-01T00:00:00Z",
            "spec":{"masterDbUid":"db1","enabledProxies":["me","other"]},"status":{}}}"#
        .to_owned()
}

fn parse(text: &str) -> StoredClusterData {
    StoredClusterData::parse(Some(text.as_bytes())).unwrap()
}

/// Returns the document with one piece of its text replaced.
fn with(from: &str, to: &str) -> StoredClusterData {
    let text = document();
    assert!(text.contains(from));
    parse(&text.replace(from, to))
}

fn network(master: Option<&str>) -> NetworkFacts {
    NetworkFacts {
        master: master.map(|address| address.parse().unwrap()),
        master_is_local: false,
        listen: "127.0.0.1:5432".parse().unwrap(),
    }
}

fn check(stored: &StoredClusterData, master: Option<&str>, expected: &str) {
    let decision = decide(stored, &network(master), &ProxyUid::from("me"));
    let publish = match decision.publish {
        PublishInfo::No => "nothing".to_owned(),
        PublishInfo::Try(generation) => format!("{generation} if it can"),
        PublishInfo::Must(generation) => format!("{generation}"),
    };
    let renews = if decision.renews_lease {
        "renews"
    } else {
        "does not renew"
    };
    assert_eq!(format!("{}; publishes {publish}; {renews}", decision.route), expected);
}

// proxy P-3, the table from its second row on
#[test]
fn no_cluster_data_closes_and_renews() {
    for nothing in [StoredClusterData::parse(None).unwrap(), parse("null")] {
        check(&nothing, None, "closed: no cluster data; publishes nothing; renews");
    }
}

#[test]
fn another_format_version_closes_and_does_not_renew() {
    check(
        &with(r#""formatVersion":1"#, r#""formatVersion":2"#),
        Some(MASTER),
        "closed: unsupported clusterdata format version 2: this program works with version 1; publishes nothing; \
         does not renew",
    );
}

#[test]
fn an_invalid_spec_closes_and_does_not_renew() {
    check(
        &with(
            r#"{"initMode":"new"}"#,
            r#"{"initMode":"new","proxyTimeout":"1s","proxyCheckInterval":"5s"}"#,
        ),
        Some(MASTER),
        "closed: clusterdata validation failed; publishes nothing; does not renew",
    );
    check(
        &with(r#""spec":{"initMode":"new"},"#, ""),
        Some(MASTER),
        "closed: no cluster spec available; publishes nothing; does not renew",
    );
}

#[test]
fn no_proxy_object_closes_and_is_published_as_generation_0() {
    let text = document();
    let cut = text.find(r#""proxy":"#).unwrap();
    let without = format!("{}\"proxy\":null}}", &text[..cut]);
    check(
        &parse(&without),
        None,
        "closed: no proxy object; publishes 0 if it can; renews",
    );
}

#[test]
fn no_named_db_closes_and_is_published() {
    check(
        &with(r#""masterDbUid":"db1","#, ""),
        None,
        "closed: no master named; publishes 7 if it can; renews",
    );
}

#[test]
fn a_missing_db_closes_and_is_published() {
    check(
        &with(r#""masterDbUid":"db1""#, r#""masterDbUid":"db9""#),
        None,
        "closed: db db9 is not there; publishes 7 if it can; renews",
    );
}

#[test]
fn an_address_that_does_not_resolve_closes_and_publishes_nothing() {
    check(
        &parse(&document()),
        None,
        "closed: db db1 has no usable address; publishes nothing; renews",
    );
}

#[test]
fn an_empty_address_or_port_is_no_address() {
    for (from, to) in [
        (r#""listenAddress":"10.0.0.1","#, ""),
        (r#","port":"5432""#, ""),
        (r#""port":"5432""#, r#""port":"0""#),
        (r#""port":"5432""#, r#""port":"postgres""#),
    ] {
        assert_eq!(with(from, to).master_endpoint(), None, "{to}");
    }
}

#[test]
fn a_proxy_that_is_not_enabled_closes_and_must_publish_it() {
    check(
        &with(r#"["me","other"]"#, r#"["other"]"#),
        Some(MASTER),
        "closed: not enabled; publishes 7; renews",
    );
    check(
        &with(r#","enabledProxies":["me","other"]"#, ""),
        Some(MASTER),
        "closed: not enabled; publishes 7; renews",
    );
}

#[test]
fn an_enabled_proxy_opens_once_it_has_published_it() {
    let stored = parse(&document());
    assert_eq!(
        stored.master_endpoint(),
        Some((
            &DbUid::from("db1"),
            MasterEndpoint {
                host: "10.0.0.1".to_owned(),
                port: 5432
            }
        ))
    );
    check(
        &stored,
        Some(MASTER),
        "open to db db1 at 10.0.0.1:5432; publishes 7; renews",
    );
}

// proxy P-15
#[test]
fn never_routes_to_its_own_socket() {
    let stored = parse(&document());
    let closed = |listen: &str, master: &str, here: bool| {
        let network = NetworkFacts {
            master: Some(master.parse().unwrap()),
            master_is_local: here,
            listen: listen.parse().unwrap(),
        };
        let decision = decide(&stored, &network, &ProxyUid::from("me"));
        matches!(decision.route, Route::Closed(RouteClosedReason::OwnAddress(_)))
    };
    check(
        &stored,
        Some("127.0.0.1:5432"),
        "closed: the master's address 127.0.0.1:5432 is our own; publishes nothing; renews",
    );
    assert!(closed("127.0.0.1:5432", "0.0.0.0:5432", true));
    assert!(closed("127.0.0.1:5432", "[::ffff:127.0.0.1]:5432", true));
    assert!(closed("0.0.0.0:5432", "10.0.0.7:5432", true));
    assert!(closed("[::]:5432", "10.0.0.7:5432", true));
    assert!(!closed("0.0.0.0:5432", "10.0.0.7:5432", false), "another machine's");
    assert!(!closed("127.0.0.1:25432", "127.0.0.1:5432", true), "another port");
    assert!(
        !closed("10.0.0.7:5432", "127.0.0.1:5432", true),
        "another address of this machine"
    );
}

#[test]
fn only_changes_that_a_route_depends_on_make_data_differ() {
    let same = |from: &str, to: &str| parse(&document()).routes_like(&with(from, to));
    for (from, to) in [
        (r#""port":"5432""#, r#""port":"5432","xLogPos":99"#),
        (r#""keepers":{}"#, r#""keepers":{"k1":{"uid":"k1"}}"#),
        ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
        (r#""healthy":true"#, r#""healthy":false"#),
        (r#""status":{}}"#, r#""status":{"listenAddress":"10.0.0.2"}}"#),
    ] {
        assert!(same(from, to), "{to}");
    }
    for (from, to) in [
        (r#""listenAddress":"10.0.0.1""#, r#""listenAddress":"10.0.0.2""#),
        (r#""port":"5432""#, r#""port":"5433""#),
        (r#""port":"5432""#, r#""port":"x""#),
        (r#""masterDbUid":"db1""#, r#""masterDbUid":"db2""#),
        (r#""masterDbUid":"db1""#, r#""masterDbUid":"""#),
        (r#"["me","other"]"#, r#"["other"]"#),
        (r#""generation":7"#, r#""generation":8"#),
        (r#""initMode":"new""#, r#""initMode":"new","proxyTimeout":"20s""#),
        (r#""initMode":"new""#, r#""initMode":"new","proxyCheckInterval":"1s""#),
        (r#""initMode":"new""#, r#""initMode":"never""#),
        (r#""formatVersion":1"#, r#""formatVersion":2"#),
    ] {
        assert!(!same(from, to), "{to}");
    }
    let nothing = parse("null");
    assert!(!nothing.routes_like(&nothing));
}
