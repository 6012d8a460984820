//! Masters that are advertised by name, and what a resolver may answer about them (proxy P-6). The proxy runs in a mount
//! namespace of its own whose `/etc` is a directory of the test.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use stolon_tests::wait::{eventually, now};
use tempfile::TempDir;

use crate::rig::{CHECK_INTERVAL, Client, Master, PATIENCE, Proxy, Rig, TIMEOUT, block_on};

const NAME: &str = "master.test.invalid";
const GOOD: &str = "stolon_proxy_checkins_total{result=\"good\"}";

/// The `/etc` of a proxy.
struct Names {
    etc: TempDir,
}

impl Names {
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

    /// The name has these addresses from now on.
    fn lead_to(&self, addresses: &[&str]) {
        let next = self.etc.path().join("hosts.next");
        fs::write(&next, lines(addresses)).unwrap();
        fs::rename(next, self.hosts()).unwrap();
    }

    /// Lookups hang from now on, until [`Self::answer`].
    fn hang(&self) {
        // to open a FIFO waits for its other end (fifo(7))
        mknodat(CWD, self.fifo(), FileType::Fifo, Mode::from(0o644), 0).unwrap();
        let next = self.etc.path().join("hosts.next");
        fs::hard_link(self.fifo(), &next).unwrap();
        fs::rename(next, self.hosts()).unwrap();
    }

    /// Lookups are answered from now on, with those that hang.
    fn answer(&self, addresses: &[&str]) {
        self.lead_to(addresses);
        let mut fifo = fs::OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(self.fifo())
            .expect("a lookup hangs");
        // the reader may have enough before it has all
        let _ = fifo.write_all(lines(addresses).as_bytes());
    }

    fn fifo(&self) -> PathBuf {
        self.etc.path().join("fifo")
    }

    async fn proxy(&self, rig: &Rig) -> Proxy {
        Proxy::start_with(rig, &rig.etcd.endpoint(), &[], |command| {
            within(command, self.etc.path())
        })
        .await
    }
}

fn lines(addresses: &[&str]) -> String {
    addresses.iter().map(|address| format!("{address} {NAME}\n")).collect()
}

/// Lets the command run with this directory as `/etc`, under the same process id.
fn within(command: &mut Command, etc: &Path) {
    let mut unshared = Command::new("unshare");
    unshared
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount --bind \"$0\" /etc && exec \"$@\"")
        .arg(etc)
        .arg(command.get_program())
        .args(command.get_args());
    *command = unshared;
}

/// A proxy whose route is open to `A` by its name, and a client of it.
async fn open_by_name(rig: &mut Rig, names: &Names) -> (Master, Proxy, Client) {
    let mut master = Master::start(b'A').await;
    master.host = NAME.to_owned();
    let proxy = names.proxy(rig).await;
    rig.publish(Some(&master), &[&proxy]).await;
    let client = proxy.client_of(b'A').await;
    (master, proxy, client)
}

/// Waits until two more check-ins have succeeded: the second one began after the call.
async fn checked_in(proxy: &Proxy) {
    let before = proxy.metric(GOOD).await.unwrap();
    eventually("two check-ins", PATIENCE, async || {
        let good = proxy.metric(GOOD).await.unwrap();
        if good >= before + 2.0 { Ok(()) } else { Err(good) }
    })
    .await;
}

async fn serves(proxy: &Proxy, client: &mut Client) {
    assert_eq!(client.ask().await.unwrap(), Some(b'A'), "the session goes on");
    let mut another = proxy.connect().await.unwrap();
    assert_eq!(another.ask().await.unwrap(), Some(b'A'), "and new ones are taken");
}

#[test]
fn no_answer_of_the_resolver_drops_a_client_of_an_unchanged_master() {
    block_on(async {
        let (mut rig, names) = (Rig::start().await, Names::new());
        let (_master, proxy, mut client) = open_by_name(&mut rig, &names).await;
        let kept = "cannot resolve the master's address, keeping the last one until its lease ends";
        let elsewhere = "the master's name resolves to other addresses, keeping the last one until its lease ends";
        // none at all, another order, a superset, a part without the one in use
        for (addresses, words) in [
            (&[][..], Some(kept)),
            (&["127.0.0.3", "127.0.0.1"], None),
            (&["127.0.0.4", "::1", "127.0.0.1", "127.0.0.3"], None),
            (&["127.0.0.3", "127.0.0.4"], Some(elsewhere)),
        ] {
            let logged = proxy.process.log().len();
            names.lead_to(addresses);
            if let Some(words) = words {
                proxy.process.wait_for_log_after(logged, words, PATIENCE).await;
            }
            checked_in(&proxy).await;
            serves(&proxy, &mut client).await;
            names.lead_to(&["127.0.0.1"]);
            if words.is_some() {
                let again = "the master's name resolves to its address again";
                proxy.process.wait_for_log_after(logged, again, PATIENCE).await;
            }
            checked_in(&proxy).await;
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
fn a_resolver_that_hangs_delays_no_check_in_and_drops_nobody() {
    block_on(async {
        let (mut rig, names) = (Rig::start().await, Names::new());
        let (master, proxy, mut client) = open_by_name(&mut rig, &names).await;
        names.hang();
        proxy
            .process
            .wait_for_log("the resolver has not answered yet", PATIENCE)
            .await;
        let generation = rig.publish(Some(&master), &[&proxy]).await;
        rig.acknowledged(&proxy, generation).await;
        checked_in(&proxy).await;
        serves(&proxy, &mut client).await;
        names.answer(&["127.0.0.1"]);
        proxy
            .process
            .wait_for_log("the master's name resolves to its address again", PATIENCE)
            .await;
        serves(&proxy, &mut client).await;
    });
}

#[test]
fn a_slow_answer_opens_the_route_as_soon_as_it_is_there() {
    block_on(async {
        let (mut rig, names) = (Rig::with_short_lease().await, Names::new());
        // no check-in is due for a long time, and none waits for longer than a third of this
        rig.timing(PATIENCE * 2, TIMEOUT * 100);
        names.hang();
        let mut master = Master::start(b'A').await;
        master.host = NAME.to_owned();
        let proxy = names.proxy(&rig).await;
        rig.publish(Some(&master), &[&proxy]).await;
        proxy
            .process
            .wait_for_log("cannot resolve the master's address, closing connections", PATIENCE)
            .await;
        names.answer(&["127.0.0.1"]);
        proxy.client_of(b'A').await;
    });
}

#[test]
fn a_name_that_stays_gone_closes_the_route_when_the_lease_ends_and_not_before() {
    block_on(async {
        let (mut rig, names) = (Rig::with_short_lease().await, Names::new());
        rig.timing(CHECK_INTERVAL, TIMEOUT * 3);
        let (_master, proxy, client) = open_by_name(&mut rig, &names).await;
        let start = now();
        let left = proxy.metric("stolon_proxy_lease_left_seconds").await.unwrap();
        names.lead_to(&[]);
        assert_eq!(client.ended().await, b"");
        let lasted = now().since(start).as_secs_f64();
        assert!(lasted >= left, "ended after {lasted} s with {left} s left");
        let closing = "ERROR cannot resolve the master's address, closing connections to master";
        proxy.process.wait_for_log(closing, PATIENCE).await;
        assert_eq!(proxy.connect().await.unwrap().ended().await, b"");
        assert!(
            !proxy.process.log().contains("check timeout timer fired"),
            "the store has answered all the time"
        );
        names.lead_to(&["127.0.0.1"]);
        proxy.client_of(b'A').await;
    });
}

#[test]
fn a_name_that_has_moved_for_good_moves_the_route_when_the_lease_ends() {
    block_on(async {
        let (mut rig, names) = (Rig::with_short_lease().await, Names::new());
        let (master, proxy, client) = open_by_name(&mut rig, &names).await;
        let _b = Master::start_at(b'B', ([127, 0, 0, 2], master.port).into()).await;
        names.lead_to(&["127.0.0.2"]);
        assert_eq!(client.ended().await, b"");
        proxy.client_of(b'B').await;
        master.has_open(0).await;
    });
}

#[test]
fn a_name_that_has_moved_away_from_a_dead_address_moves_the_route_at_once() {
    block_on(async {
        let (mut rig, names) = (Rig::start().await, Names::new());
        rig.timing(CHECK_INTERVAL, Duration::from_secs(3600));
        let (master, proxy, client) = open_by_name(&mut rig, &names).await;
        let port = master.port;
        drop(master);
        assert_eq!(client.ended().await, b"");
        let _b = Master::start_at(b'B', ([127, 0, 0, 2], port).into()).await;
        names.lead_to(&["127.0.0.2"]);
        proxy.client_of(b'B').await;
    });
}
