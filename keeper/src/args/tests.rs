use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use daemon::args::{KEEPER, try_parse};

use super::*;
use crate::postgres::config::credentials::AuthMethod;

/// Valid options; a case changes what matters to it.
const GOOD: [(&str, &str); 8] = [
    ("cluster-name", "main"),
    ("store-backend", "etcdv3"),
    ("data-dir", "new"),
    ("pg-listen-address", "127.0.0.1"),
    ("pg-repl-username", "repl"),
    ("pg-repl-password", "replpass"),
    ("pg-su-username", "super"),
    ("pg-su-password", "supass"),
];

struct Case {
    options: BTreeMap<String, String>,
    world: HostEnv,
    dir: tempfile::TempDir,
    is_owner: bool,
}

fn case() -> Case {
    let options = GOOD
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let uid = 1 + std::fs::metadata(dir.path()).unwrap().uid();
    let world = HostEnv {
        uid,
        user: Some("osuser".into()),
        directory: dir.path().to_owned(),
    };
    Case {
        options,
        world,
        dir,
        is_owner: false,
    }
}

impl Case {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.options.insert(name.to_owned(), value.to_owned());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.options.remove(name);
        self
    }

    fn file(self, name: &str, content: &str, mode: u32) -> Self {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// The case's files belong to the user who runs the keeper.
    fn owner(mut self) -> Self {
        self.world.uid -= 1;
        self.is_owner = true;
        self
    }

    fn checked(&self) -> CheckedArgs<Config> {
        let typed = self.options.iter().map(|(name, value)| match value.as_str() {
            _ if name.ends_with("passwordfile") => format!("--{name}={}", self.dir.path().join(value).display()),
            value => format!("--{name}={value}"),
        });
        let args: Args = try_parse(KEEPER, typed, |_| None).unwrap().args;
        args.check(&self.world)
    }

    fn faults(&self) -> Vec<String> {
        let checked = self.checked();
        let faults = checked.config.err().unwrap_or_default();
        // Root owns them when the tests run as root.
        let wanted = |fault: &&str| !(self.is_owner && fault.starts_with("cannot run as root"));
        faults.lines().filter(wanted).map(str::to_owned).collect()
    }

    fn config(&self) -> Config {
        self.checked().config.unwrap()
    }
}

#[track_caller]
fn refused(case: Case, words: &[&str]) {
    let faults = case.faults();
    assert_eq!(faults.len(), words.len(), "{faults:#?}");
    for (fault, word) in faults.iter().zip(words) {
        assert!(fault.contains(word), "{fault:?} does not have {word:?}");
    }
}

#[test]
fn valid_options_are_accepted_with_their_defaults() {
    let config = case().without("pg-su-username").config();
    assert_eq!((config.port, config.advertise_port.as_str()), (5432, "5432"));
    assert_eq!(config.advertise_address, "127.0.0.1");
    assert_eq!(config.superuser.user, "osuser");
    assert!(config.can_be_master && config.can_be_synchronous_replica && config.locking);
    assert!(config.data_dir.is_absolute());
    let other = case()
        .with("pg-advertise-address", "6.6.6.6")
        .with("pg-advertise-port", "6666")
        .config();
    assert_eq!(
        (
            other.advertise_address.as_str(),
            other.advertise_port.as_str(),
            other.port
        ),
        ("6.6.6.6", "6666", 5432)
    );
}

#[test]
fn all_errors_are_reported_together_in_the_order_of_the_checks() {
    let mut nothing = case();
    nothing.options.clear();
    nothing.world = HostEnv {
        uid: 0,
        user: None,
        directory: nothing.dir.path().to_owned(),
    };
    refused(
        nothing,
        &[
            "cannot run as root",
            "--pg-su-username",
            "data dir required",
            "cluster name required",
            "store backend type required",
            "--pg-listen-address is required",
            "--pg-repl-username is required",
            "--pg-su-username is required",
            "--pg-repl-passwordfile or --pg-repl-password",
            "--pg-su-passwordfile or --pg-su-password",
        ],
    );
}

#[test]
fn a_check_touches_nothing() {
    let case = case().with("uid", "Not-valid");
    refused(self::case().with("uid", "Not-valid"), &["keeper uid"]);
    let _ = case.checked();
    assert_eq!(std::fs::read_dir(case.dir.path()).unwrap().count(), 0);
}

#[test]
fn credential_rules() {
    // keeper 1.4
    refused(
        case().with("pg-su-auth-method", "password"),
        &["--pg-su-auth-method \"password\""],
    ); // C1
    refused(
        case().with("pg-repl-auth-method", "x"),
        &["--pg-repl-auth-method \"x\""],
    );
    refused(case().with("pg-repl-auth-method", "trust"), &["trust"]); // C3
    refused(
        case().without("pg-su-password"),
        &["--pg-su-passwordfile or --pg-su-password is required"],
    ); // C4
    refused(
        case().with("pg-su-passwordfile", "f").file("f", "x", 0o600),
        &["use only one of"],
    ); // C5
    refused(
        case().without("pg-su-password").with("pg-su-passwordfile", "f"),
        &["cannot be read"],
    ); // C6
    let trust = case().with("pg-repl-auth-method", "trust").without("pg-repl-password");
    assert_eq!(trust.checked().warnings.len(), 1); // keeper C2
    assert_eq!(trust.config().replication.password(), None);
    let scram = case().with("pg-su-auth-method", "scram-sha-256").config(); // the method is accepted and kept
    assert_eq!(scram.superuser.method, AuthMethod::ScramSha256);
}

#[test]
fn both_trust_faults_come_before_missing_secrets() {
    // keeper 1.3 step 13
    let all = case()
        .with("pg-repl-auth-method", "trust")
        .with("pg-su-auth-method", "trust")
        .without("pg-su-password")
        .with("pg-su-passwordfile", "f")
        .file("f", "x", 0o600);
    refused(all, &["--pg-repl-auth-method is trust", "--pg-su-auth-method is trust"]);
}

#[test]
fn trailing_newlines_are_removed_with_the_reference_s_message() {
    // keeper T5 rows 5 to 7
    let both = case().with("pg-su-password", "a\r\n").with("pg-repl-password", "b\n\n");
    let checked = both.checked();
    let warnings: Vec<&str> = checked.warnings.iter().map(|warning| warning.text.as_str()).collect();
    assert_eq!(
        warnings,
        [
            "superuser password contain trailing new line, removing",
            "replication user password contain trailing new line, removing",
        ]
    );
    let config = checked.config.unwrap();
    assert_eq!(
        (
            config.superuser.password().as_deref(),
            config.replication.password().as_deref()
        ),
        (Some("a"), Some("b"))
    );
    refused(
        case().with("pg-repl-password", "\n"),
        &["replication user password is empty after removing trailing new line"],
    );
    refused(
        case().with("pg-su-password", "\n"),
        &["superuser password is empty after removing trailing new line"],
    );
    refused(case().with("pg-su-password", ""), &["superuser password is empty:"]);
    let file = case().without("pg-su-password").with("pg-su-passwordfile", "f");
    refused(file.file("f", "", 0o600), &["superuser password is empty:"]);
}

#[test]
fn a_password_that_no_server_can_take_is_refused() {
    // keeper C13: initdb would take the first line only, and each login would fail
    for text in ["pw\nsecond\n", "a\0b", "\0"] {
        for who in ["su", "repl"] {
            let file = case()
                .without(&format!("pg-{who}-password"))
                .with(&format!("pg-{who}-passwordfile"), "f")
                .file("f", text, 0o600);
            let role = if who == "su" { "superuser" } else { "replication user" };
            refused(file, &[&format!("{role} password contains a newline or a NUL byte")]);
        }
    }
    refused(
        case().with("pg-su-password", "a\nb"),
        &["superuser password contains a newline"],
    );
    let huge = case()
        .without("pg-su-password")
        .with("pg-su-passwordfile", "f")
        .file("f", &"x".repeat(65_537), 0o600);
    refused(huge, &["cannot be read: it is larger than 64 KiB"]);
}

#[test]
fn a_password_file_that_others_can_read_is_a_warning() {
    // keeper C7: any access of group or others to the link's target
    let file = |mode| {
        case()
            .without("pg-su-password")
            .with("pg-su-passwordfile", "f")
            .file("f", "secret\n", mode)
    };
    assert_eq!(file(0o600).checked().warnings.len(), 1, "the newline alone");
    assert_eq!(file(0o644).checked().warnings.len(), 2);
    assert_eq!(file(0o440).checked().warnings.len(), 2);
}

#[test]
fn same_names_need_same_methods_and_passwords() {
    let same = || case().with("pg-repl-username", "super");
    refused(
        same(),
        &["provided superuser name and replication user name are the same but provided passwords are different"],
    );
    refused(
        same().with("pg-repl-auth-method", "trust").without("pg-repl-password"),
        &["their auth methods are different"],
    );
    let equal = same().with("pg-repl-password", "supass\n"); // keeper C8 before C12
    assert!(equal.checked().config.is_ok());
}

#[test]
fn a_data_directory_of_another_owner_is_refused() {
    let at = |case: Case| case.with("data-dir", "d");
    let make = |case: Case, names: &[&str]| {
        std::fs::create_dir(case.dir.path().join("d")).unwrap();
        names
            .iter()
            .for_each(|name| std::fs::write(case.dir.path().join("d").join(name), "").unwrap());
        case
    };
    refused(make(at(case()), &[]), &["belongs to user"]);
    refused(
        make(at(case()).owner(), &["PG_VERSION", "base"]),
        &["is itself a PostgreSQL data directory"],
    );
    refused(
        make(at(case()).owner(), &["letters"]),
        &["not empty and not a keeper's"],
    );
    let nested = |names: &[&str]| {
        let case = make(at(case()).owner(), &[]);
        let postgres = case.dir.path().join("d/postgres");
        std::fs::create_dir(&postgres).unwrap();
        names
            .iter()
            .for_each(|name| std::fs::write(postgres.join(name), "").unwrap());
        case
    };
    refused(nested(&["letters"]), &["neither a keeper's nor PostgreSQL's"]);
    refused(
        nested(&["lost+found", "letters"]),
        &["neither a keeper's nor PostgreSQL's"],
    );
    // the root of a file system may be used for either directory
    for fine in [
        nested(&[]),
        nested(&["PG_VERSION", "base"]),
        nested(&["lost+found"]),
        make(at(case()).owner(), &["lost+found"]),
    ] {
        assert_eq!(fine.faults(), [""; 0]);
    }
    let fine = make(at(case()).owner(), &["lock", "letters"]);
    assert_eq!(fine.faults(), [""; 0]);
    refused(
        case().with("data-dir", "f/d").file("f", "", 0o600),
        &["is not a directory"],
    );
}

#[test]
fn uids_have_a_form() {
    for uid in ["keeper_0", "0", "_"] {
        assert!(case().with("uid", uid).checked().config.is_ok(), "{uid}");
    }
    for uid in ["a-b", "A", "a\n", "$1"] {
        refused(case().with("uid", uid), &["keeper uid"]);
    }
}

#[test]
fn ports_are_numbers() {
    for port in ["0", "65536", "x", "-1"] {
        refused(case().with("pg-port", port), &["--pg-port"]);
    }
}

#[test]
fn address_warnings_name_their_option() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(
        address_warnings("pg-listen-address", "10.0.0.1", Some(&[ip("10.0.0.1")])),
        [""; 0]
    );
    assert_eq!(
        address_warnings("pg-listen-address", "127.0.0.1", Some(&[ip("127.0.0.1")])).len(),
        1
    );
    for everywhere in ["*", "0.0.0.0", "::"] {
        let warnings = address_warnings("pg-listen-address", everywhere, None);
        assert!(
            warnings.len() == 1 && warnings[0].contains("use --pg-advertise-address"),
            "{warnings:?}"
        );
    }
    assert_eq!(address_warnings("pg-advertise-address", "db", None).len(), 2);
    assert!(address_warnings("pg-advertise-address", "db", None)[0].starts_with("--pg-advertise-address"));
}

#[test]
fn the_user_database_names_the_user() {
    let users = "root:x:0:0:root:/root:/bin/sh\npostgres:x:107:114::/var/lib/postgresql:/bin/sh\n";
    assert_eq!(user_name(users, 107).as_deref(), Some("postgres"));
    assert_eq!(user_name(users, 1), None);
}
