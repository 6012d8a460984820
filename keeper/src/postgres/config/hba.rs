//! Contents of `pg_hba.conf` (keeper section 9): which users may log in, from where, and how.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::postgres::config::credentials::Login;

/// Name of the generated file in PGDATA.
pub const FILE: &str = "pg_hba.conf";

/// Hosts from which superuser and replication user may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedHosts {
    /// Any host (`defaultSUReplAccessMode` `all`).
    All,
    /// Only these addresses (`strict`): those of the other instances on the cluster's master, none on a standby.
    Only(Vec<String>),
}

/// Other users that may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtherUsers {
    /// None: during initialisations, and while client logins are blocked (keeper 9.5, 10.7).
    Nobody,
    /// Every user with a password.
    Everybody,
    /// As in these lines, verbatim; none if empty.
    Lines(Vec<String>),
}

/// Sources of the lines.
#[derive(Debug, Clone, Copy)]
pub struct HbaAccess<'a> {
    /// The superuser.
    pub superuser: &'a Login,
    /// The replication user.
    pub replication: &'a Login,
    /// Databases that the replication user needs besides replication (keeper section 19, note 8); usually none.
    pub replication_databases: &'a [&'a str],
    /// Hosts from which these two may connect.
    pub remote: &'a AllowedHosts,
    /// Other users that may log in.
    pub users: &'a OtherUsers,
}

/// Builds the lines in their fixed order (keeper H1 to H9).
pub fn lines(access: &HbaAccess<'_>) -> Vec<String> {
    let (su, repl) = (quote_name(&access.superuser.user), quote_name(&access.replication.user));
    let (su_method, repl_method) = (access.superuser.method, access.replication.method);
    let mut lines = vec![
        format!("local postgres {su} {su_method}"),
        format!("local replication {repl} {repl_method}"),
        // Used by the keeper when the database postgres is missing.
        format!("local template1 {su} {su_method}"),
    ];
    let mut allow = |networks: &[String]| {
        lines.extend(
            networks
                .iter()
                .map(|network| format!("host all {su} {network} {su_method}")),
        );
        lines.extend(
            networks
                .iter()
                .map(|network| format!("host replication {repl} {network} {repl_method}")),
        );
        for database in access.replication_databases {
            lines.extend(
                networks
                    .iter()
                    .map(|network| format!("host {database} {repl} {network} {repl_method}")),
            );
        }
    };
    match access.remote {
        AllowedHosts::All => allow(&["0.0.0.0/0".to_owned(), "::0/0".to_owned()]),
        AllowedHosts::Only(addresses) => {
            let addresses: BTreeSet<_> = addresses.iter().filter(|address| !address.is_empty()).collect();
            addresses.into_iter().for_each(|address| allow(&[network_of(address)]));
        }
    }
    match access.users {
        OtherUsers::Nobody => {}
        OtherUsers::Everybody => {
            lines.extend(["host all all 0.0.0.0/0 md5", "host all all ::0/0 md5"].map(str::to_owned))
        }
        OtherUsers::Lines(written) => lines.extend(written.iter().cloned()),
    }
    lines
}

/// Returns the contents of the file.
pub fn render(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// Returns an address as a field of the file: a host name takes no mask; with one the server would ignore the whole
/// file.
fn network_of(address: &str) -> String {
    match address.parse() {
        Ok(IpAddr::V4(_)) => format!("{address}/32"),
        Ok(IpAddr::V6(_)) => format!("{address}/128"),
        Err(_) => address.to_owned(),
    }
}

/// Returns a user name as a field, quoted if it has a special meaning in the file.
fn quote_name(name: &str) -> String {
    const KEYWORDS: [&str; 5] = ["all", "replication", "samegroup", "samerole", "sameuser"];
    let is_plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    if !name.is_empty() && name.chars().all(is_plain) && !KEYWORDS.contains(&name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::config::credentials::{AuthMethod, Secret};

    fn login(user: &str) -> Login {
        Login {
            user: user.into(),
            method: AuthMethod::Md5,
            password: Some(Secret::new("x")),
        }
    }

    fn check(remote: AllowedHosts, users: OtherUsers, wanted: &[&str]) {
        let (superuser, replication) = (login("superuser"), login("repluser"));
        let access = HbaAccess {
            superuser: &superuser,
            replication: &replication,
            replication_databases: &[],
            remote: &remote,
            users: &users,
        };
        let lines = lines(&access);
        assert_eq!(
            lines[..3],
            [
                "local postgres superuser md5",
                "local replication repluser md5",
                "local template1 superuser md5"
            ]
        );
        assert_eq!(lines[3..], *wanted);
    }

    const EVERYBODY: [&str; 2] = ["host all all 0.0.0.0/0 md5", "host all all ::0/0 md5"];
    const FROM_ANYWHERE: [&str; 4] = [
        "host all superuser 0.0.0.0/0 md5",
        "host all superuser ::0/0 md5",
        "host replication repluser 0.0.0.0/0 md5",
        "host replication repluser ::0/0 md5",
    ];

    // Table: keeper T2.

    #[test]
    fn mode_all_lets_the_internal_users_in_from_anywhere() {
        check(
            AllowedHosts::All,
            OtherUsers::Everybody,
            &[FROM_ANYWHERE.as_slice(), &EVERYBODY].concat(),
        );
    }

    #[test]
    fn a_user_s_lines_take_the_place_of_the_default_ones() {
        let own = "host all all 192.168.0.0/24 md5";
        check(
            AllowedHosts::All,
            OtherUsers::Lines(vec![own.into()]),
            &[FROM_ANYWHERE.as_slice(), &[own]].concat(),
        );
    }

    #[test]
    fn mode_strict_lets_the_other_instances_in_on_the_master_only() {
        let others = AllowedHosts::Only(vec!["192.168.0.3".into(), "192.168.0.2".into()]);
        let wanted = [
            "host all superuser 192.168.0.2/32 md5",
            "host replication repluser 192.168.0.2/32 md5",
            "host all superuser 192.168.0.3/32 md5",
            "host replication repluser 192.168.0.3/32 md5",
        ];
        check(others, OtherUsers::Everybody, &[wanted.as_slice(), &EVERYBODY].concat());
        check(AllowedHosts::Only(vec![]), OtherUsers::Everybody, &EVERYBODY);
    }

    #[test]
    fn an_empty_list_and_no_users_admit_no_other_user() {
        check(AllowedHosts::All, OtherUsers::Lines(vec![]), &FROM_ANYWHERE);
        check(AllowedHosts::All, OtherUsers::Nobody, &FROM_ANYWHERE);
        check(AllowedHosts::Only(vec![]), OtherUsers::Nobody, &[]);
    }

    #[test]
    fn unusual_addresses_make_valid_lines() {
        // keeper 9.3
        let others = ["", "fd00::1", "db.example", "fd00::1"].map(str::to_owned);
        let wanted = [
            "host all superuser db.example md5",
            "host replication repluser db.example md5",
            "host all superuser fd00::1/128 md5",
            "host replication repluser fd00::1/128 md5",
        ];
        check(AllowedHosts::Only(others.into()), OtherUsers::Nobody, &wanted);
    }

    #[test]
    fn names_that_the_file_would_misread_are_quoted() {
        assert_eq!(quote_name("repl_user$1"), "repl_user$1");
        for (name, quoted) in [
            ("all", "\"all\""),
            ("+admins", "\"+admins\""),
            ("/^re", "\"/^re\""),
            ("a b", "\"a b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a,b", "\"a,b\""),
            ("#x", "\"#x\""),
        ] {
            assert_eq!(quote_name(name), quoted);
        }
    }
}
