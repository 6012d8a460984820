//! Checks of the addresses at which PostgreSQL listens and is reached (keeper 1.3). Whether this host has them is left to
//! `postgres::server`.

use base::host::{check_host, parse_port};
use daemon::args::Faults;

/// Checks `listen_addresses`: a list of addresses and names, or `*`, as PostgreSQL reads it.
pub(super) fn check_listen(addresses: &str, faults: &mut Faults) {
    if addresses.is_empty() {
        return faults.push("--pg-listen-address is required");
    }
    for address in addresses.split(',').map(|item| item.trim().trim_matches('"')) {
        if let Err(why) = check_host(address)
            && address != "*"
        {
            return faults.push(format!(
                "--pg-listen-address {addresses:?} is not valid: {why}; use an address of this host, or * for all"
            ));
        }
    }
}

/// Checks what others use to reach the instance; empty where an option is not given. `*` is only a warning, as for the
/// listening address, from which it may come.
pub(super) fn check_advertised(address: &str, port: &str, faults: &mut Faults) {
    if let Err(why) = check_host(address)
        && !matches!(address, "" | "*")
    {
        faults.push(format!(
            "--pg-advertise-address {address:?} is not valid: {why}; use an address or a name that other hosts reach"
        ));
    }
    let is_port = parse_port(port).is_some_and(|port| port != 0);
    if !port.is_empty() && !is_port {
        faults.push(format!(
            "--pg-advertise-port {port:?} is not a valid port: use a number from 1 to 65535"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(check: impl Fn(&mut Faults)) -> String {
        let mut faults = Faults::default();
        check(&mut faults);
        faults.to_string()
    }

    #[test]
    fn addresses_that_can_never_be_one_are_refused() {
        for good in [
            "*",
            "127.0.0.1",
            "::1",
            "localhost,10.0.0.1",
            "db.example",
            "0.0.0.0, \"::\"",
        ] {
            assert_eq!(faults(|faults| check_listen(good, faults)), "", "{good}");
        }
        for bad in [
            "300.1.1.1",
            "127.0.0.1,",
            ",",
            "a b",
            "127.0.0.1:5432",
            "http://a",
            "[::1]",
        ] {
            let refused = faults(|faults| check_listen(bad, faults));
            assert!(
                refused.starts_with(&format!("--pg-listen-address {bad:?} is not valid: ")),
                "{refused}"
            );
        }
        assert_eq!(
            faults(|faults| check_listen("", faults)),
            "--pg-listen-address is required"
        );
        for (address, port) in [("", ""), ("*", "1"), ("db.example", "65535"), ("10.0.0.1", "05432")] {
            assert_eq!(
                faults(|faults| check_advertised(address, port, faults)),
                "",
                "{address} {port}"
            );
        }
        for bad in ["300.1.1.1", "10.0.0.1:5432", "a,b"] {
            let refused = faults(|faults| check_advertised(bad, "", faults));
            assert!(refused.starts_with("--pg-advertise-address"), "{refused}");
        }
        for bad in ["0", "65536", "postgres", "-1", "+1"] {
            let refused = faults(|faults| check_advertised("", bad, faults));
            assert!(refused.starts_with("--pg-advertise-port"), "{refused}");
        }
    }
}
