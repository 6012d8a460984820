//! Checks that a server's port is free. The server reports a port conflict only in its log, and not at all if another
//! of its addresses is free.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::postgres::data::atomic_files;
use crate::postgres::data::file_error::FileError;
use crate::postgres::data::lock_files;
use crate::postgres::data::lock_files::SocketLock;
use crate::postgres::server::process;

/// Limit of a lookup. The server resolves the names again at its start, without a limit.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// Why a server could not listen on its addresses and port.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program listens on it.
    #[error("port {port} at {address} is in use by another program")]
    Taken {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// Another server holds the socket: one with the same port at other addresses, or of another user.
    #[error(
        "port {port} is in use: {} belongs to {}",
        lock.display(), pid.map_or("another user".to_owned(), |pid| format!("process {pid}"))
    )]
    SocketTaken {
        /// The port.
        port: u16,
        /// Process id of the holder; `None` if its lock file is unreadable.
        pid: Option<i32>,
        /// The socket's lock file.
        lock: PathBuf,
    },
    /// The host has none of the addresses to listen on.
    #[error("cannot listen on {address}: this host does not have the address")]
    NotLocal {
        /// The first of the addresses.
        address: IpAddr,
    },
    /// No name to listen on has an address.
    #[error("cannot listen on {name}: the name does not resolve here")]
    Unresolved {
        /// The first of the names.
        name: String,
    },
    /// It cannot be determined.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ListenError {
    /// Returns what an operator can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "stop that program, or give this keeper another --pg-port",
            Self::SocketTaken { .. } => "stop that server, or give this keeper another --pg-port",
            Self::NotLocal { .. } | Self::Unresolved { .. } => {
                "give --pg-listen-address an address that this host has, or * for all"
            }
            Self::File(_) => "fix the error above; the keeper retries automatically",
        }
    }
}

/// Fails if another program uses the addresses or the socket. No own server may be running.
pub fn check(listen_addresses: &str, port: u16, socket_dir: &str) -> Result<(), ListenError> {
    let mut missing = Vec::new();
    for address in literal_addresses(listen_addresses) {
        // The standard library sets SO_REUSEADDR, as the server does: only a listener conflicts.
        match TcpListener::bind(SocketAddr::new(address, port)).map_err(|refused| refused.kind()) {
            Err(ErrorKind::AddrInUse) => return Err(ListenError::Taken { address, port }),
            Err(ErrorKind::AddrNotAvailable) => missing.push(address),
            Ok(_) | Err(_) => {}
        }
    }
    // The server starts with a warning as long as one of its addresses is there.
    if let [address, ..] = missing[..]
        && missing.len() == listen_addresses.split(',').count()
    {
        return Err(ListenError::NotLocal { address });
    }
    check_socket(socket_dir, port)
}

/// Fails if there are only names to listen on and none of them resolves. `resolve` returns whether a name has an address,
/// `None` without an answer in time; the server then finds out.
pub async fn check_names(
    listen_addresses: &str,
    resolve: impl AsyncFn(&str) -> Option<bool>,
) -> Result<(), ListenError> {
    let items = listen_addresses.split(',').map(|item| item.trim().trim_matches('"'));
    let items: Vec<&str> = items.collect();
    if items
        .iter()
        .any(|item| matches!(*item, "" | "*" | "localhost") || item.parse::<IpAddr>().is_ok())
    {
        return Ok(());
    }
    for name in &items {
        if resolve(name).await != Some(false) {
            return Ok(());
        }
    }
    let name = items.first().copied().unwrap_or_default().to_owned();
    Err(ListenError::Unresolved { name })
}

/// Returns whether the name has an address here; `None` without an answer within the limit.
pub async fn resolves(name: &str) -> Option<bool> {
    let answer = timeout(LOOKUP_LIMIT, lookup_host((name, 0))).await.ok()?;
    Some(answer.is_ok_and(|mut addresses| addresses.next().is_some()))
}

/// Fails if another server's socket for this port is in this directory.
pub fn check_socket(dir: &str, port: u16) -> Result<(), ListenError> {
    let lock = Path::new(dir).join(format!(".s.PGSQL.{port}.lock"));
    match lock_files::socket_lock(&lock) {
        Ok(Some(held)) if is_stale(&held, &lock) => Ok(atomic_files::remove_if_there(&lock)?),
        Ok(Some(held)) if process::exists(held.pid) => Err(ListenError::SocketTaken {
            port,
            pid: Some(held.pid),
            lock,
        }),
        Err(closed) if closed.kind() == ErrorKind::PermissionDenied => {
            Err(ListenError::SocketTaken { port, pid: None, lock })
        }
        Ok(_) => Ok(()),
        Err(failed) => Err(failed.into()),
    }
}

/// Whether our lock file names a process that is not its server: a zombie, or a process with a reused id, for example
/// after a restart of a container. The server would consider both alive.
fn is_stale(held: &SocketLock, lock: &Path) -> bool {
    let is_ours = std::fs::metadata(lock).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
    let is_elsewhere = held
        .data
        .as_ref()
        .is_some_and(|data| !process::works_in(held.pid, data));
    let has_proc = Path::new("/proc/self/exe").exists();
    is_ours && process::exists(held.pid) && (!process::is_alive(held.pid) || (has_proc && is_elsewhere))
}

/// Returns the addresses in `listen_addresses` that can be checked; host names are left to the server.
fn literal_addresses(listen_addresses: &str) -> Vec<IpAddr> {
    let literal = |word: &str| match word.trim().trim_matches('"') {
        "*" => Some(IpAddr::from([0, 0, 0, 0])),
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        word => word.parse().ok(),
    };
    let addresses = listen_addresses.split(',').filter_map(literal);
    // The server's socket for `::` accepts only IPv6; ours would not.
    addresses
        .filter(|address| !(address.is_ipv6() && address.is_unspecified()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_an_error_only_if_none_resolves_and_there_is_no_address() {
        let check = async |addresses: &str| {
            let resolve = async |name: &str| match name {
                "slow" => None,
                name => Some(name == "good"),
            };
            check_names(addresses, resolve).await.is_ok()
        };
        for fine in [
            "good",
            "bad,good",
            "slow",
            "bad, slow",
            "bad,127.0.0.1",
            "bad,localhost",
            "*",
            "::",
            "",
        ] {
            assert!(check(fine).await, "{fine}");
        }
        for refused in ["bad", "bad,worse"] {
            assert!(!check(refused).await, "{refused}");
        }
        assert_eq!(resolves("127.0.0.1").await, Some(true));
    }

    #[test]
    fn listen_addresses_give_what_can_be_tried() {
        let v4 = |a, b, c, d| IpAddr::from([a, b, c, d]);
        assert_eq!(literal_addresses("*"), [v4(0, 0, 0, 0)]);
        assert_eq!(
            literal_addresses("10.0.0.1, localhost,db.example"),
            [v4(10, 0, 0, 1), v4(127, 0, 0, 1)]
        );
        assert_eq!(literal_addresses("::"), [] as [IpAddr; 0]);
        assert_eq!(literal_addresses(""), [] as [IpAddr; 0]);
    }

    #[test]
    fn addresses_that_the_host_does_not_have_are_reported_if_there_is_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let socket_dir = dir.path().to_str().unwrap();
        let free = TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        // Addresses for documentation (RFC 5737, RFC 3849).
        for addresses in ["192.0.2.1", "192.0.2.1,2001:db8::1"] {
            let refused = check(addresses, free, socket_dir).unwrap_err().to_string();
            assert!(
                refused.starts_with("cannot listen on 192.0.2.1: this host does not have"),
                "{refused}"
            );
        }
        for addresses in ["192.0.2.1,db.example", "192.0.2.1,::"] {
            assert!(!matches!(
                check(addresses, free, socket_dir),
                Err(ListenError::NotLocal { .. })
            ));
        }
    }

    #[test]
    fn a_port_conflict_is_reported_and_a_free_port_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket_dir = dir.path().to_str().unwrap();
        let stranger = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = stranger.local_addr().unwrap().port();
        for addresses in ["127.0.0.1", "*", "192.0.2.1, localhost"] {
            let refused = check(addresses, port, socket_dir);
            assert!(
                matches!(refused, Err(ListenError::Taken { .. })),
                "{addresses}: {refused:?}"
            );
        }
        drop(stranger);
        // a child of another test may hold the descriptor until it executes its program
        let is_freed = || check("127.0.0.1", port, socket_dir).is_ok();
        let mut looks = std::iter::repeat_with(is_freed).inspect(|_| std::thread::sleep(Duration::from_millis(5)));
        assert!(looks.by_ref().take(1000).any(|freed| freed));
        let lock = dir.path().join(format!(".s.PGSQL.{port}.lock"));
        std::fs::write(&lock, format!("{}\n", std::process::id())).unwrap();
        assert!(matches!(
            check("", port, socket_dir),
            Err(ListenError::SocketTaken { pid: Some(_), .. })
        ));
        // as after a restart of a container: the id is another process's now
        std::fs::write(&lock, format!("{}\n{}\n", std::process::id(), dir.path().display())).unwrap();
        check("", port, socket_dir).unwrap();
        assert!(!lock.exists(), "of one that does not work in its PGDATA");
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        std::fs::write(&lock, format!("{}\n", dead.id())).unwrap();
        while process::is_alive(dead.id().try_into().unwrap()) {
            std::thread::yield_now();
        }
        check("", port, socket_dir).unwrap();
        assert!(!lock.exists(), "of one that is dead and not reaped");
        dead.wait().unwrap();
        std::fs::write(&lock, "999999999\n").unwrap();
        check("", port, socket_dir).unwrap();
    }
}
