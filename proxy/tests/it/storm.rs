//! Twenty thousand connection attempts at once, from several processes: limits hold, nothing leaks, and those who are
//! connected do not notice (proxy P-14).

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use stolon_tests::wait::{eventually, now};

use crate::complaints::told_seldom;
use crate::crowd::{Crowd, Outcome};
use crate::regulars::Regulars;
use crate::rig::{Master, PATIENCE, Proxy, Rig, block_on_alone, sum};

const ATTEMPTS: usize = 20_000;
const PROCESSES: usize = 4;
const MAX: usize = 500;
/// Clients that are there before.
const REGULARS: u8 = 4;
/// Descriptors beside two a client: the pipes of the old ones, whose two directions may be spliced, and a client that is
/// accepted only to be closed.
const SLACK: usize = 4 * REGULARS as usize + 1;

/// What a proxy uses, as the system tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    descriptors: usize,
    threads: usize,
    resident_kib: usize,
}

impl Use {
    fn of(proxy: &Proxy) -> Self {
        Self {
            descriptors: proxy.descriptors(),
            threads: proxy.threads(),
            resident_kib: proxy.resident_kib(),
        }
    }
}

/// Sends a crowd, looks at the proxy as long as it is there, and gives what became of it with the most that was used.
async fn storm(rig: &Rig, proxy: &Proxy, attempts: usize) -> (Outcome, Use) {
    let mut crowd = Crowd::send(rig, proxy, PROCESSES, attempts);
    let mut most = Use::of(proxy);
    while !crowd.is_gone() {
        let seen = Use::of(proxy);
        most.descriptors = most.descriptors.max(seen.descriptors);
        most.threads = most.threads.max(seen.threads);
        most.resident_kib = most.resident_kib.max(seen.resident_kib);
        tokio::time::sleep(Duration::from_millis(2)).await; // the pace of looking
    }
    (crowd.outcome().await, most)
}

/// Waits until only `regulars` are connected and as much is in use as before.
async fn calm(proxy: &Proxy, regulars: &Regulars, before: Use) {
    proxy
        .metric_is("stolon_proxy_connections_open", regulars.count() as f64)
        .await;
    eventually("descriptors and threads to be as before", PATIENCE, async || {
        let after = Use::of(proxy);
        if after.descriptors <= before.descriptors + SLACK && after.threads <= before.threads {
            Ok(())
        } else {
            Err(format!("{before:?} before, {after:?} after"))
        }
    })
    .await;
}

/// Waits until every client that was ever accepted is connected, or has been refused or ended for one counted reason.
/// Gives how many were accepted.
async fn all_accounted_for(proxy: &Proxy) -> usize {
    eventually("all clients to be accounted for", PATIENCE, async || {
        let scraped = proxy.scrape().await;
        let [accepted, refused, ended, open] = ["accepted_total", "refused_total", "ended_total", "open"]
            .map(|name| sum(&scraped, &format!("stolon_proxy_connections_{name}")) as usize);
        if accepted == refused + ended + open {
            Ok(accepted)
        } else {
            Err(format!(
                "{accepted} accepted, {refused} refused, {ended} ended, {open} open"
            ))
        }
    })
    .await
}

/// A proxy with these options with its regular clients.
async fn with_regulars(
    rig: &mut Rig,
    a: &Master,
    options: &[&str],
    change: impl FnOnce(&mut Command),
) -> (Proxy, Regulars) {
    let proxy = Proxy::start_with(rig, &rig.etcd.endpoint(), options, |command| {
        command.arg("--log-level=info");
        change(command);
    })
    .await;
    rig.publish(Some(a), &[&proxy]).await;
    let mut regulars = Regulars::of(&proxy, REGULARS).await;
    regulars.go_on(1).await;
    (proxy, regulars)
}

#[test]
fn twenty_thousand_attempts_at_once_find_the_limit_and_leave_nothing_behind() {
    block_on_alone(async {
        let (mut rig, start) = (Rig::start().await, now());
        let a = Master::start(b'A').await;
        let limit = format!("--max-connections={MAX}");
        let (proxy, mut regulars) = with_regulars(&mut rig, &a, &[&limit], |_| {}).await;
        storm(&rig, &proxy, 2 * MAX).await; // until pools and queues are as large as they get
        proxy
            .metric_is("stolon_proxy_connections_open", f64::from(REGULARS))
            .await;
        a.has_open(regulars.count()).await;
        let (before, accepted) = (Use::of(&proxy), all_accounted_for(&proxy).await);

        let (outcome, most) = storm(&rig, &proxy, ATTEMPTS).await;
        regulars.go_on(1).await;
        calm(&proxy, &regulars, before).await;
        a.has_open(regulars.count()).await;
        let after = Use::of(&proxy);
        println!("{outcome:?}; before {before:?}, most {most:?}, after {after:?}");

        let free = MAX - regulars.count();
        assert_eq!(outcome.served + outcome.closed, ATTEMPTS, "{outcome:?}");
        assert!(outcome.served >= free, "the limit was not reached: {outcome:?}");
        assert_eq!(all_accounted_for(&proxy).await, accepted + ATTEMPTS);
        let full = before.descriptors + 2 * free;
        assert!(most.descriptors <= full + SLACK, "{} of {full}", most.descriptors);
        assert!(most.descriptors > before.descriptors + free, "nobody looked: {most:?}");
        assert_eq!(most.threads, before.threads);
        let grown = after.resident_kib.saturating_sub(before.resident_kib);
        assert!(grown < 2048, "{grown} KiB more after {ATTEMPTS} attempts");
        told_seldom(&proxy, start);
        proxy.client_of(b'A').await;
    });
}

#[test]
fn without_descriptors_new_clients_are_closed_and_old_ones_do_not_notice() {
    block_on_alone(async {
        let (mut rig, start) = (Rig::start().await, now());
        let a = Master::start(b'A').await;
        let (proxy, mut regulars) = with_regulars(&mut rig, &a, &[], |_| {}).await;
        let (before, accepted) = (Use::of(&proxy), all_accounted_for(&proxy).await);
        // no number far above those that are open now; what is free below them is used up, too
        let numbers = std::fs::read_dir(format!("/proc/{}/fd", proxy.process.pid())).unwrap();
        let highest = numbers
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap())
            .max();
        let tight = Rlimit {
            current: highest.map(|highest| highest + 100),
            maximum: rustix::process::getrlimit(Resource::Nofile).maximum, // the proxy's is ours
        };
        prlimit(Pid::from_raw(proxy.process.pid() as i32), Resource::Nofile, tight).unwrap();

        let (outcome, most) = storm(&rig, &proxy, ATTEMPTS).await;
        regulars.go_on(1).await;
        calm(&proxy, &regulars, before).await;
        println!("{outcome:?}; before {before:?}, most {most:?}");

        assert_eq!(outcome.served + outcome.closed, ATTEMPTS, "{outcome:?}");
        assert_eq!(all_accounted_for(&proxy).await, accepted + ATTEMPTS);
        let closed = proxy
            .metric("stolon_proxy_connections_refused_total{reason=\"descriptors\"}")
            .await
            .unwrap();
        assert!(closed > ATTEMPTS as f64 / 2.0, "{closed}");
        assert!(proxy.process.log().contains("no descriptor for a client"));
        told_seldom(&proxy, start);
        proxy.client_of(b'A').await;
    });
}

// the default of --max-connections
#[test]
fn as_many_clients_as_the_descriptor_limit_allows_never_use_it_up() {
    const DESCRIPTORS: usize = 300;
    block_on_alone(async {
        let (mut rig, start) = (Rig::start().await, now());
        let a = Master::start(b'A').await;
        let (proxy, mut regulars) = with_regulars(&mut rig, &a, &["--relay-threads=1"], |command| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"")])
                .arg(command.get_program())
                .args(command.get_args());
            *command = shell;
        })
        .await;
        let before = Use::of(&proxy);
        let (outcome, most) = storm(&rig, &proxy, 2000).await;
        regulars.go_on(1).await;
        calm(&proxy, &regulars, before).await;
        println!("{outcome:?}; before {before:?}, most {most:?}");
        assert!(outcome.closed > 0 && outcome.failed.is_empty(), "{outcome:?}");
        assert!(most.descriptors < DESCRIPTORS, "{most:?}");
        all_accounted_for(&proxy).await;
        for (reason, some) in [("max_connections", true), ("descriptors", false), ("master", false)] {
            let refused = proxy
                .metric(&format!(
                    "stolon_proxy_connections_refused_total{{reason=\"{reason}\"}}"
                ))
                .await;
            assert_eq!(refused > Some(0.0), some, "{reason}: {refused:?}");
        }
        told_seldom(&proxy, start);
    });
}
