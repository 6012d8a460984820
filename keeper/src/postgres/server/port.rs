//! Checks that a server's port is free. The server reports a port conflict only in its log, and not at all if another
//! of its addresses is free.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::postgres::data::file_error::FileError;
use crate::postgres::data::lock_files;
use crate::postgres::data::lock_files::SocketLock;
use crate::postgres::data::whole_files;
use crate::postgres::server::process;

/// Why the port is not usable.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another program listens on it.
    #[error(
        "port {port} at {address} is in use by another program: stop that program, or give this keeper another \
         --pg-port"
    )]
    Taken {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// Another server holds the socket: one with the same port at other addresses, or of another user.
    #[error(
        "port {port} is in use: {} belongs to {}; stop that server, or give this keeper another --pg-port",
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
    /// The host has none of the addresses to listen at.
    #[error(
        "cannot listen at {address}: this host does not have the address; give --pg-listen-address one that it has, or * \
         for all"
    )]
    NotLocal {
        /// The first of the addresses.
        address: IpAddr,
    },
    /// It cannot be determined.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Fails if another program uses the addresses or the socket. No own server may be running.
pub fn check(listen_addresses: &str, port: u16, socket_dir: &str) -> Result<(), PortError> {
    let mut missing = Vec::new();
    for address in literal_addresses(listen_addresses) {
        // The standard library sets SO_REUSEADDR, as the server does: only a listener conflicts.
        match TcpListener::bind(SocketAddr::new(address, port)).map_err(|refused| refused.kind()) {
            Err(ErrorKind::AddrInUse) => return Err(PortError::Taken { address, port }),
            Err(ErrorKind::AddrNotAvailable) => missing.push(address),
            Ok(_) | Err(_) => {}
        }
    }
    // The server starts with a warning as long as one of its addresses is there.
    if let [address, ..] = missing[..]
        && missing.len() == listen_addresses.split(',').count()
    {
        return Err(PortError::NotLocal { address });
    }
    check_socket(socket_dir, port)
}

/// Fails if another server's socket for this port is in this directory.
pub fn check_socket(dir: &str, port: u16) -> Result<(), PortError> {
    let lock = Path::new(dir).join(format!(".s.PGSQL.{port}.lock"));
    match lock_files::socket_lock(&lock) {
        Ok(Some(held)) if is_stale(&held, &lock) => Ok(whole_files::remove_if_there(&lock)?),
        Ok(Some(held)) if process::exists(held.pid) => Err(PortError::SocketTaken {
            port,
            pid: Some(held.pid),
            lock,
        }),
        Err(closed) if closed.kind() == ErrorKind::PermissionDenied => {
            Err(PortError::SocketTaken { port, pid: None, lock })
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
    use std::time::Duration;

    use super::*;

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
                refused.starts_with("cannot listen at 192.0.2.1: this host does not have"),
                "{refused}"
            );
        }
        for addresses in ["192.0.2.1,db.example", "192.0.2.1,::"] {
            assert!(!matches!(
                check(addresses, free, socket_dir),
                Err(PortError::NotLocal { .. })
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
                matches!(refused, Err(PortError::Taken { .. })),
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
            Err(PortError::SocketTaken { pid: Some(_), .. })
        ));
        // as after a restart of a container: the id is another process's now
        std::fs::write(&lock, format!("{}\n{}\n", std::process::id(), dir.path().display())).unwrap();
        check("", port, socket_dir).unwrap();
        assert!(!lock.exists(), "of one that does not work in its data directory");
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
