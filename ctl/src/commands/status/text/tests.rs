use model::{ClusterData, KeeperInfo, ProxyInfo, SentinelInfo, from_slice};

use super::super::view::{Status, StoredRequest, build, problems, requests};
use super::*;

fn data(text: &str) -> ClusterData {
    let text =
        format!(r#"{{"formatVersion":1,"cluster":{{"spec":{{"initMode":"new"}},"status":{{"master":"d1"}}}},{text}}}"#);
    ClusterData::parse(text.as_bytes()).unwrap().unwrap()
}

fn problems_of(infos: &[KeeperInfo], data: &ClusterData) -> Vec<ProblemRow> {
    let checked = data.clone().check().unwrap();
    problems(infos, Some((&checked.data, &checked.spec)))
}

fn rendered(data: &ClusterData) -> String {
    render(&build(None, Vec::new(), Vec::new(), data))
}

/// Renders the tree alone.
fn tree(dbs: &str) -> String {
    let text = rendered(&data(&format!(r#""dbs":{{{dbs}}}"#)));
    text.split_once("===== Keepers/DB tree =====\n\n").unwrap().1.to_owned()
}

fn db(uid: &str, keeper: &str, followers: &[&str]) -> String {
    format!(r#""{uid}":{{"uid":"{uid}","spec":{{"keeperUID":"{keeper}","followers":{followers:?}}}}}"#)
}

#[test]
fn the_complete_example_has_the_tabs_of_the_reference() {
    // cli 14.3
    let sentinels: Vec<SentinelInfo> = from_slice(br#"[{"UID":"9c8b7a60"},{"UID":"12ab34cd"}]"#).unwrap();
    let proxies: Vec<ProxyInfo> = from_slice(br#"[{"UID":"6d5e4f3a","Generation":2}]"#).unwrap();
    let data = data(
        r#""keepers":{"keeper01":{"status":{"healthy":true}},"keeper02":{"status":{"healthy":true}}},
        "dbs":{
            "d1":{"generation":6,"spec":{"keeperUID":"keeper01","followers":["d2"]},
                "status":{"healthy":true,"currentGeneration":6,"listenAddress":"10.20.0.11","port":"5432"}},
            "d2":{"generation":3,"spec":{"keeperUID":"keeper02"},
                "status":{"healthy":true,"currentGeneration":3,"listenAddress":"10.20.0.12","port":"5432"}}}"#,
    );
    let expected = "=== Active sentinels ===\n\n\
        ID\t\tLEADER\n12ab34cd\ttrue\n9c8b7a60\tfalse\n\n\
        === Active proxies ===\n\nID\n6d5e4f3a\n\n\
        === Keepers ===\n\n\
        UID\t\tHEALTHY\tPG LISTENADDRESS\tPG HEALTHY\tPG WANTEDGENERATION\tPG CURRENTGENERATION\n\
        keeper01\ttrue\t10.20.0.11:5432\t\ttrue\t\t6\t\t\t6\t\n\
        keeper02\ttrue\t10.20.0.12:5432\ttrue\t3\t3\t\n\n\
        === Cluster Info ===\n\nMaster Keeper: keeper01\n\n\
        ===== Keepers/DB tree =====\n\nkeeper01 (master)\n└─keeper02\n\n";
    assert_eq!(render(&build(Some("12ab34cd"), sentinels, proxies, &data)), expected);
}

#[test]
fn requests_of_operators_are_shown_with_the_step_that_a_sentinel_has_published() {
    let data = data(r#""keepers":{},"dbs":{}"#);
    let section = |switchover: Option<(&str, bool)>, failover: Option<&str>, sentinels: &[&str]| {
        let sentinels: Vec<SentinelInfo> = sentinels
            .iter()
            .map(|text| from_slice(text.as_bytes()).unwrap())
            .collect();
        let switchover = switchover.map(|(text, expires)| StoredRequest {
            request: from_slice(text.as_bytes()).unwrap(),
            key: "c/switchover".to_owned(),
            expires,
        });
        let failover = failover.map(|text| StoredRequest {
            request: from_slice(text.as_bytes()).unwrap(),
            key: "c/failover".to_owned(),
            expires: true,
        });
        let mut status = build(None, Vec::new(), Vec::new(), &data);
        status.requests = requests(switchover, failover, &sentinels, Some("s2"));
        let text = render(&status);
        text.split_once("\n=== Requests ===\n\n")
            .map(|(_, section)| section.to_owned())
    };
    let request = r#"{"id":"a1","to":"k2","requestedAt":"2024-05-06T07:05:12Z"}"#;
    let failover = r#"{"id":"b1","to":"k3","master":"d1","acceptDataLoss":true,"requestedAt":"2024-05-06T07:05:13Z"}"#;
    let report = |sentinel: &str, id: &str, state: &str| {
        format!(r#"{{"UID":"{sentinel}","switchover":{{"id":"{id}","state":"{state}","to":"k2","reason":"why"}}}}"#)
    };
    let lines = section(Some((request, true)), None, &[&report("s1", "a1", "checkpoint")]).unwrap();
    assert_eq!(
        lines,
        "switchover to keeper k2, requested at 2024-05-06T07:05:12Z, step checkpoint: why\n\n"
    );
    // the leader's report counts
    let both = [
        &*report("s2", "a1", "stopping"),
        &report("s1", "a1", "checkpoint"),
        &report("s3", "a1", "waiting"),
    ];
    let lines = section(Some((request, true)), None, &both).unwrap();
    assert!(lines.contains(", step stopping: why\n"), "{lines}");
    let lines = section(
        Some((request, true)),
        Some(failover),
        &[&report("s2", "a0", "stopping")],
    )
    .unwrap();
    assert_eq!(
        lines,
        "switchover to keeper k2, requested at 2024-05-06T07:05:12Z\n\
         failover to keeper k3, requested at 2024-05-06T07:05:13Z\n\n"
    );
    let any = r#"{"id":"a1","requestedAt":"2024-05-06T07:05:12Z"}"#;
    let lines = section(Some((any, false)), None, &[]).unwrap();
    assert_eq!(
        lines,
        "switchover, requested at 2024-05-06T07:05:12Z: ignored, since it has no lease: delete it with `etcdctl del \
         c/switchover`\n\n"
    );
    assert_eq!(section(None, None, &[&report("s2", "a1", "stopping")]), None);
}

#[test]
fn an_empty_cluster_is_shown_in_words() {
    // cli 18.19
    let data = ClusterData::parse(br#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"}}}"#)
        .unwrap()
        .unwrap();
    let expected = "=== Active sentinels ===\n\nNo active sentinels\n\n=== Active proxies ===\n\nNo active proxies\n\n\
        === Keepers ===\n\nNo keepers available\n\nNo cluster available\n\n";
    assert_eq!(rendered(&data), expected);
}

#[test]
fn keepers_without_a_master_are_shown() {
    // cli 18.19: a keeper without db, a db without address, no master, an IPv6 address
    let text = r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"}},
        "keepers":{"a":{"status":{"healthy":true}},"b":{},"c":{}},
        "dbs":{"d2":{"generation":1,"spec":{"keeperUID":"b"}},
            "d3":{"generation":1,"spec":{"keeperUID":"c"},"status":{"listenAddress":"fe80::1","port":"5432"}}}}"#;
    let text = rendered(&ClusterData::parse(text.as_bytes()).unwrap().unwrap());
    let (_, keepers) = text.split_once("=== Keepers ===\n\n").unwrap();
    assert_eq!(
        keepers,
        "UID\tHEALTHY\tPG LISTENADDRESS\tPG HEALTHY\tPG WANTEDGENERATION\tPG CURRENTGENERATION\n\
        a\ttrue\t(no db assigned)\tfalse\t\t0\t\t\t0\t\n\
        b\tfalse\t(unknown)\tfalse\t1\t0\t\n\
        c\tfalse\tfe80::1:5432\tfalse\t1\t0\t\n\
        No cluster available\n\n"
    );
}

#[test]
fn long_cells_move_the_columns_of_the_first_two_lines_only() {
    // cli 14.3, cli 18.19
    let mut out = String::new();
    let rows = [["a_very_long_uid", "x"], ["b", "y"], ["another_uid_that_is_long", "z"]];
    let rows = rows
        .iter()
        .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect());
    push_table(&mut out, &["UID", "LAST"], rows, RowEnd::Tab);
    assert_eq!(
        out,
        "UID\t\tLAST\na_very_long_uid\tx\t\nb\ty\t\nanother_uid_that_is_long\tz\t\n"
    );
}

#[test]
fn the_tree_draws_inner_nodes_and_skips_missing_ones() {
    // cli 14.3, cli 18.19
    let dbs = [
        db("d1", "k1", &["d2", "gone", "d3"]),
        db("d2", "k2", &[]),
        db("d3", "k3", &["d4"]),
        db("d4", "k4", &[]),
    ];
    assert_eq!(tree(&dbs.join(",")), "k1 (master)\n├─k2\n└─k3\n  └─k4\n\n");
    let dbs = [
        db("d1", "k1", &["d2", "d3", "gone"]),
        db("d2", "k2", &["d4"]),
        db("d3", "k3", &[]),
        db("d4", "k4", &["d5"]),
        db("d5", "k5", &[]),
    ];
    assert_eq!(tree(&dbs.join(",")), "k1 (master)\n├─k2\n│ └─k4\n│   └─k5\n├─k3\n\n");
}

#[test]
fn a_broken_document_is_shown_as_it_is() {
    // cli 18.22: no master db, no keeper of it, dbs that follow each other
    let missing = data(r#""keepers":{"k1":null},"dbs":{}"#);
    assert!(rendered(&missing).ends_with("\nMaster Keeper: (unknown)\n\n===== Keepers/DB tree =====\n\n\n"));
    let status: Status = build(None, Vec::new(), Vec::new(), &missing);
    assert_eq!(
        (
            status.cluster.master_db_uid.as_str(),
            status.cluster.master_keeper_uid.as_str()
        ),
        ("d1", "")
    );
    assert_eq!(
        tree(
            &[
                db("d1", "k1", &["d2"]),
                db("d2", "k2", &["d1", "d3"]),
                db("d3", "k3", &[])
            ]
            .join(",")
        ),
        "k1 (master)\n└─k2\n  └─k3\n\n"
    );
}

#[test]
fn a_document_with_exponentially_many_paths_is_drawn_quickly() {
    // Each db follows the one before twice: 2^200 paths. And a chain deeper than any stack.
    let twice: Vec<String> = (1..=200)
        .map(|n| db(&format!("d{n}"), "k", &[&format!("d{}", n + 1), &format!("d{}", n + 1)]))
        .collect();
    assert!(tree(&twice.join(",")).lines().count() < 100);
    let chain: Vec<String> = (1..=50_000)
        .map(|n| db(&format!("d{n}"), "k", &[&format!("d{}", n + 1)]))
        .collect();
    assert!(tree(&chain.join(",")).lines().count() < 100);
}

#[test]
fn problems_are_printed_last_and_only_if_there_are_some() {
    let data = data(r#""keepers":{},"dbs":{}"#);
    let infos: Vec<KeeperInfo> = from_slice(
        br#"[{"uid":"b","problems":[{"kind":"login","text":"refused\u001b[2J\nnext","remedy":"set it"},{"kind":"x","text":"y"}]},
            {"uid":"a","problems":null},{"uid":"c","clusterUID":"other","problems":[{"kind":"k","text":"t"}]}]"#,
    )
    .unwrap();
    let mut status = build(None, Vec::new(), Vec::new(), &data);
    let without = render(&status);
    assert!(!without.contains("Problems"));
    status.problems = problems_of(&infos, &data);
    let expected = "\n=== Problems ===\n\nb: login: refused [2J next\n    set it\nb: x: y\n\n";
    assert_eq!(
        render(&status),
        format!("{}{expected}", without.strip_suffix('\n').unwrap())
    );
    let json = model::to_compact(&status);
    assert!(
        json.contains(r#""problems":[{"keeper":"b","kind":"login","text":"refused [2J next","remedy":"set it"}"#),
        "{json}"
    );
}

#[test]
fn what_a_keeper_reported_before_it_was_lost_is_marked() {
    let data = data(r#""keepers":{"b":{"uid":"b","status":{"healthy":false}}},"dbs":{}"#);
    let infos: Vec<KeeperInfo> = from_slice(
        br#"[{"uid":"b","problems":[{"kind":"x","text":"y"}]},{"uid":"a","problems":[{"kind":"x","text":"z"}]}]"#,
    )
    .unwrap();
    let mut status = build(None, Vec::new(), Vec::new(), &data);
    status.problems = problems_of(&infos, &data);
    let text = render(&status);
    assert!(
        text.contains("\na: x: z\nb (last report of an unhealthy keeper): x: y\n"),
        "{text}"
    );
    let json = model::to_compact(&status);
    assert!(json.contains(r#"{"keeper":"b","old":true,"kind":"x""#), "{json}");
}

#[test]
fn parameters_that_wait_for_a_restart_are_a_problem_unless_the_keeper_restarts_by_itself() {
    let shown = |state: &str, automatic: bool| {
        let data = format!(
            r#"{{"formatVersion":1,"cluster":{{"spec":{{"initMode":"new","automaticPgRestart":{automatic}}},"status":{{}}}}}}"#
        );
        let data = ClusterData::parse(data.as_bytes()).unwrap().unwrap();
        let infos = format!(
            r#"[{{"uid":"a","settings":{{"fingerprint":"1","state":"{state}"}},"postgresState":{{"healthy":true}}}},{{"uid":"b"}}]"#
        );
        let mut status = build(None, Vec::new(), Vec::new(), &data);
        status.problems = problems_of(&from_slice::<Vec<KeeperInfo>>(infos.as_bytes()).unwrap(), &data);
        render(&status).contains("\na: configuration: parameters wait for a restart of PostgreSQL")
    };
    assert!(shown("pending", false));
    for (state, automatic) in [
        ("pending", true),
        ("applied", false),
        ("refused", false),
        ("restarting", false),
    ] {
        assert!(!shown(state, automatic), "{state} {automatic}");
    }
}
