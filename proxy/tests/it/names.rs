//! Masters that are advertised by name, and possible answers of the resolver (proxy P-6). The proxy runs in its own
//! mount namespace, in which `/etc` is a directory of the test.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::now;
use tempfile::TempDir;

use crate::harness::{CHECK_INTERVAL, Client, Master, Proxy, ProxyHarness, SHORT_LEASE, run_test};

const NAME: &str = "master.test.invalid";
const GOOD: &str = "stolon_proxy_checkins_total{result=\"good\"}";

/// The `/etc` of a proxy.
struct EtcDirectory {
    etc: TempDir,
}

impl EtcDirectory {
    fn new() -> Self {
        let etc = TempDir::with_prefix("stolon-etc.").unwrap();
        fs::write(etc.path().join("nsswitch.conf"), "hosts: files\n").unwrap();
        fs::write(etc.path().join("host.conf"), "multi on\n").unwrap(); // all addresses of a name
        let names = Self { etc };
        names.lead_to(&["127.0.0.1"]);
        names
    }

    fn hosts(&self) -> PathBuf {
        self.etc.path().join("hosts")
    }

    /// Sets the addresses of the name.
    fn lead_to(&self, addresses: &[&str]) {
        let next = self.etc.path().join("hosts.next");
        fs::write(&next, lines(addresses)).unwrap();
        fs::rename(next, self.hosts()).unwrap();
    }

    /// Makes lookups hang until [`Self::answer`].
    fn hang(&self) {
        // Opening a FIFO blocks until the other end is opened (fifo(7)).
        mknodat(CWD, self.fifo(), FileType::Fifo, Mode::from(0o644), 0).unwrap();
        let next = self.etc.path().join("hosts.next");
        fs::hard_link(self.fifo(), &next).unwrap();
        fs::rename(next, self.hosts()).unwrap();
    }

    /// Answers lookups, including those that hang.
    fn answer(&self, addresses: &[&str]) {
        self.lead_to(addresses);
        let mut fifo = fs::OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(self.fifo())
            .expect("a lookup hangs");
        // The reader may close before it has read everything.
        let _ = fifo.write_all(lines(addresses).as_bytes());
    }

    fn fifo(&self) -> PathBuf {
        self.etc.path().join("fifo")
    }

    async fn proxy(&self, harness: &ProxyHarness) -> Proxy {
        Proxy::start_with(harness, &harness.etcd.endpoint(), &[], |command| {
            mount_etc(command, self.etc.path())
        })
        .await
    }
}

fn lines(addresses: &[&str]) -> String {
    addresses.iter().map(|address| format!("{address} {NAME}\n")).collect()
}

/// Makes the command run with this directory as `/etc`, under the same process id.
fn mount_etc(command: &mut Command, etc: &Path) {
    let mut unshared = Command::new("unshare");
    unshared
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount --bind \"$0\" /etc && exec \"$@\"")
        .arg(etc)
        .arg(command.get_program())
        .args(command.get_args());
    *command = unshared;
}

/// Starts a proxy whose route is open to `A` by its name, and a client of it.
async fn open_by_name(harness: &mut ProxyHarness, names: &EtcDirectory) -> (Master, Proxy, Client) {
    let mut master = Master::start(b'A').await;
    master.host = NAME.to_owned();
    let proxy = names.proxy(harness).await;
    harness.publish(Some(&master), &[&proxy]).await;
    let client = proxy.wait_connected_to(b'A').await;
    (master, proxy, client)
}

/// Waits until two more check-ins have succeeded: the second one started after the call.
async fn wait_for_two_check_ins(proxy: &Proxy) {
    proxy.wait_for_growth(GOOD, 2.0).await;
}

async fn assert_served(proxy: &Proxy, client: &mut Client) {
    assert_eq!(client.ask().await.unwrap(), Some(b'A'), "the session goes on");
    let mut another = proxy.connect().await.unwrap();
    assert_eq!(another.ask().await.unwrap(), Some(b'A'), "and new ones are taken");
}

#[test]
fn no_answer_of_the_resolver_drops_a_client_of_an_unchanged_master() {
    run_test(async {
        let (mut harness, names) = (ProxyHarness::start().await, EtcDirectory::new());
        let (_master, proxy, mut client) = open_by_name(&mut harness, &names).await;
        let kept = "cannot resolve the master's address, keeping the last one until its lease ends";
        let elsewhere = "the master's name resolves to other addresses, keeping the last one until its lease ends";
        // no address, another order, a superset, others without the one in use
        for (addresses, words) in [
            (&[][..], Some(kept)),
            (&["127.0.0.3", "127.0.0.1"], None),
            (&["127.0.0.4", "::1", "127.0.0.1", "127.0.0.3"], None),
            (&["127.0.0.3", "127.0.0.4"], Some(elsewhere)),
        ] {
            let logged = proxy.process.log().len();
            names.lead_to(addresses);
            if let Some(words) = words {
                proxy.process.wait_for_log_after(logged, words, SHORT_TIMEOUT).await;
            }
            wait_for_two_check_ins(&proxy).await;
            assert_served(&proxy, &mut client).await;
            names.lead_to(&["127.0.0.1"]);
            if words.is_some() {
                let again = "the master's name resolves to its address again";
                proxy.process.wait_for_log_after(logged, again, SHORT_TIMEOUT).await;
            }
            wait_for_two_check_ins(&proxy).await;
        }
        assert_eq!(client.ask().await.unwrap(), Some(b'A'));
        let log = proxy.process.log();
        assert_eq!(
            (log.matches(kept).count(), log.matches(elsewhere).count()),
            (1, 1),
            "{log}"
        );
    });
}

#[test]
fn a_resolver_that_hangs_delays_no_check_in_and_drops_no_client() {
    run_test(async {
        let (mut harness, names) = (ProxyHarness::start().await, EtcDirectory::new());
        let (master, proxy, mut client) = open_by_name(&mut harness, &names).await;
        names.hang();
        proxy
            .process
            .wait_for_log("the resolver has not answered yet", SHORT_TIMEOUT)
            .await;
        let generation = harness.publish(Some(&master), &[&proxy]).await;
        harness.acknowledged(&proxy, generation).await;
        wait_for_two_check_ins(&proxy).await;
        assert_served(&proxy, &mut client).await;
        names.answer(&["127.0.0.1"]);
        proxy
            .process
            .wait_for_log("the master's name resolves to its address again", SHORT_TIMEOUT)
            .await;
        assert_served(&proxy, &mut client).await;
    });
}

#[test]
fn a_slow_lookup_opens_the_route_as_soon_as_it_finishes() {
    run_test(async {
        let (mut harness, names) = (ProxyHarness::with_short_lease().await, EtcDirectory::new());
        // No check-in is due for a long time, and none waits longer than a third of this timeout.
        harness.set_timing(SHORT_TIMEOUT * 2, SHORT_LEASE * 100);
        names.hang();
        let mut master = Master::start(b'A').await;
        master.host = NAME.to_owned();
        let proxy = names.proxy(&harness).await;
        harness.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log(
                "cannot resolve the master's address, closing connections",
                SHORT_TIMEOUT,
            )
            .await;
        names.answer(&["127.0.0.1"]);
        proxy.wait_connected_to(b'A').await;
    });
}

#[test]
fn a_name_that_does_not_resolve_closes_the_route_when_the_lease_ends_and_not_before() {
    run_test(async {
        let (mut harness, names) = (ProxyHarness::with_short_lease().await, EtcDirectory::new());
        harness.set_timing(CHECK_INTERVAL, SHORT_LEASE * 3);
        let (_master, proxy, client) = open_by_name(&mut harness, &names).await;
        let start = now();
        let left = proxy.metric("stolon_proxy_lease_left_seconds").await.unwrap();
        names.lead_to(&[]);
        assert_eq!(client.read_to_end().await, b"");
        let lasted = now().since(start).as_secs_f64();
        assert!(lasted >= left, "ended after {lasted} s with {left} s left");
        let closing = "ERROR cannot resolve the master's address, closing connections to master";
        proxy.process.wait_for_log(closing, SHORT_TIMEOUT).await;
        assert_eq!(proxy.connect().await.unwrap().read_to_end().await, b"");
        assert!(
            !proxy.process.log().contains("check timeout timer fired"),
            "the store has answered all the time"
        );
        names.lead_to(&["127.0.0.1"]);
        proxy.wait_connected_to(b'A').await;
    });
}

#[test]
fn a_name_that_has_moved_moves_the_route_when_the_lease_ends() {
    run_test(async {
        let (mut harness, names) = (ProxyHarness::with_short_lease().await, EtcDirectory::new());
        let (master, proxy, client) = open_by_name(&mut harness, &names).await;
        let _b = Master::start_at(b'B', ([127, 0, 0, 2], master.port).into()).await;
        names.lead_to(&["127.0.0.2"]);
        assert_eq!(client.read_to_end().await, b"");
        proxy.wait_connected_to(b'B').await;
        master.wait_for_connections(0).await;
    });
}

#[test]
fn a_name_that_has_moved_away_from_an_unreachable_address_moves_the_route_at_once() {
    run_test(async {
        let (mut harness, names) = (ProxyHarness::start().await, EtcDirectory::new());
        harness.set_timing(CHECK_INTERVAL, Duration::from_secs(3600));
        let (mut master, proxy, client) = open_by_name(&mut harness, &names).await;
        let (port, _reserved) = (master.port, master.reserved.take());
        drop(master);
        assert_eq!(client.read_to_end().await, b"");
        let _b = Master::start_at(b'B', ([127, 0, 0, 2], port).into()).await;
        names.lead_to(&["127.0.0.2"]);
        proxy.wait_connected_to(b'B').await;
    });
}
