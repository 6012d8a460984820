//! 20,000 connection attempts at once, from several processes: limits hold, nothing leaks, and existing connections are
//! not affected (proxy P-14).

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::{eventually, now};

use crate::background_clients::BackgroundClients;
use crate::harness::{Master, Proxy, ProxyHarness, run_test_alone, sum};
use crate::load::{LoadOutcome, LoadProcesses};
use crate::log_rate_limit::assert_log_is_rate_limited;

const ATTEMPTS: usize = 20_000;
const PROCESSES: usize = 4;
const MAX_CONNECTIONS: usize = 500;
/// Clients that are connected before the flood.
const BACKGROUND_CLIENTS: u8 = 4;
/// Descriptors beside two per client: pipes of the background clients, both of whose directions may be spliced, and one
/// client that is accepted only to be closed.
const SLACK: usize = 4 * BACKGROUND_CLIENTS as usize + 1;

/// Resource usage of a proxy, from /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ResourceUsage {
    descriptors: usize,
    threads: usize,
    resident_kib: usize,
}

impl ResourceUsage {
    fn read(proxy: &Proxy) -> Self {
        Self {
            descriptors: proxy.descriptors(),
            threads: proxy.threads(),
            resident_kib: proxy.resident_kib(),
        }
    }
}

/// Runs a flood and samples the proxy meanwhile. Returns the outcome and the peak usage.
async fn flood(harness: &ProxyHarness, proxy: &Proxy, attempts: usize) -> (LoadOutcome, ResourceUsage) {
    let mut load = LoadProcesses::start(harness, proxy, PROCESSES, attempts);
    let mut peak = ResourceUsage::read(proxy);
    while !load.has_finished() {
        let current = ResourceUsage::read(proxy);
        peak.descriptors = peak.descriptors.max(current.descriptors);
        peak.threads = peak.threads.max(current.threads);
        peak.resident_kib = peak.resident_kib.max(current.resident_kib);
        tokio::time::sleep(Duration::from_millis(2)).await; // sampling interval
    }
    (load.outcome().await, peak)
}

/// Waits until only the background clients are connected and the usage is back to what it was.
async fn wait_until_idle(proxy: &Proxy, background: &BackgroundClients, before: ResourceUsage) {
    proxy
        .wait_for_metric("stolon_proxy_connections_open", background.count() as f64)
        .await;
    eventually("descriptors and threads to be as before", SHORT_TIMEOUT, async || {
        let after = ResourceUsage::read(proxy);
        if after.descriptors <= before.descriptors + SLACK && after.threads <= before.threads {
            Ok(())
        } else {
            Err(format!("{before:?} before, {after:?} after"))
        }
    })
    .await;
}

/// Waits until this many clients were accepted, and each of them is connected, or was refused or ended for one counted
/// reason. The sums alone do not suffice: they agree as well while clients still wait to be accepted.
async fn wait_until_counted(proxy: &Proxy, clients: usize) {
    eventually("all clients to be accounted for", SHORT_TIMEOUT, async || {
        let [accepted, refused, ended, open] = connection_counts(proxy).await;
        if accepted == clients && accepted == refused + ended + open {
            Ok(())
        } else {
            Err(format!(
                "{accepted} accepted of {clients}, {refused} refused, {ended} ended, {open} open"
            ))
        }
    })
    .await;
}

/// Returns how many clients were accepted, refused, and ended, and how many are connected.
async fn connection_counts(proxy: &Proxy) -> [usize; 4] {
    let scraped = proxy.scrape().await;
    ["accepted_total", "refused_total", "ended_total", "open"]
        .map(|name| sum(&scraped, &format!("stolon_proxy_connections_{name}")) as usize)
}

/// Starts a proxy with these options, and its background clients.
async fn with_background_clients(
    harness: &mut ProxyHarness,
    a: &Master,
    options: &[&str],
    change: impl FnOnce(&mut Command),
) -> (Proxy, BackgroundClients) {
    let proxy = Proxy::start_with(harness, &harness.etcd.endpoint(), options, |command| {
        command.arg("--log-level=info");
        change(command);
    })
    .await;
    harness.publish(Some(a), &[&proxy]).await;
    let mut background = BackgroundClients::start(&proxy, BACKGROUND_CLIENTS).await;
    background.assert_served(1).await;
    (proxy, background)
}

#[test]
fn twenty_thousand_attempts_at_once_hit_the_limit_and_leak_nothing() {
    run_test_alone(async {
        let (mut harness, start) = (ProxyHarness::start().await, now());
        let a = Master::start(b'A').await;
        let limit = format!("--max-connections={MAX_CONNECTIONS}");
        let (proxy, mut background) = with_background_clients(&mut harness, &a, &[&limit], |_| {}).await;
        flood(&harness, &proxy, 2 * MAX_CONNECTIONS).await; // until pools and queues have grown to their full size
        proxy
            .wait_for_metric("stolon_proxy_connections_open", f64::from(BACKGROUND_CLIENTS))
            .await;
        a.wait_for_connections(background.count()).await;
        let (before, [accepted, ..]) = (ResourceUsage::read(&proxy), connection_counts(&proxy).await);

        let (outcome, peak) = flood(&harness, &proxy, ATTEMPTS).await;
        background.assert_served(1).await;
        wait_until_idle(&proxy, &background, before).await;
        a.wait_for_connections(background.count()).await;
        let after = ResourceUsage::read(&proxy);
        println!("{outcome:?}; before {before:?}, most {peak:?}, after {after:?}");

        let free = MAX_CONNECTIONS - background.count();
        assert_eq!(outcome.served + outcome.closed, ATTEMPTS, "{outcome:?}");
        assert!(outcome.served >= free, "the limit was not reached: {outcome:?}");
        wait_until_counted(&proxy, accepted + ATTEMPTS).await;
        let full = before.descriptors + 2 * free;
        assert!(peak.descriptors <= full + SLACK, "{} of {full}", peak.descriptors);
        assert!(
            peak.descriptors > before.descriptors + free,
            "the peak was not sampled: {peak:?}"
        );
        assert_eq!(peak.threads, before.threads);
        let grown = after.resident_kib.saturating_sub(before.resident_kib);
        assert!(grown < 2048, "{grown} KiB more after {ATTEMPTS} attempts");
        assert_log_is_rate_limited(&proxy, start);
        proxy.wait_connected_to(b'A').await;
    });
}

#[test]
fn without_descriptors_new_clients_are_closed_and_old_ones_are_not_affected() {
    run_test_alone(async {
        let (mut harness, start) = (ProxyHarness::start().await, now());
        let a = Master::start(b'A').await;
        let (proxy, mut background) = with_background_clients(&mut harness, &a, &[], |_| {}).await;
        let (before, [accepted, ..]) = (ResourceUsage::read(&proxy), connection_counts(&proxy).await);
        // The new limit is just above the highest open descriptor, so the free numbers below it are used up soon.
        let numbers = std::fs::read_dir(format!("/proc/{}/fd", proxy.process.pid())).unwrap();
        let highest = numbers
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap())
            .max();
        let tight = Rlimit {
            current: highest.map(|highest| highest + 100),
            maximum: rustix::process::getrlimit(Resource::Nofile).maximum, // the proxy has inherited ours
        };
        prlimit(Pid::from_raw(proxy.process.pid() as i32), Resource::Nofile, tight).unwrap();

        let (outcome, peak) = flood(&harness, &proxy, ATTEMPTS).await;
        background.assert_served(1).await;
        wait_until_idle(&proxy, &background, before).await;
        println!("{outcome:?}; before {before:?}, most {peak:?}");

        assert_eq!(outcome.served + outcome.closed, ATTEMPTS, "{outcome:?}");
        wait_until_counted(&proxy, accepted + ATTEMPTS).await;
        let closed = proxy
            .metric("stolon_proxy_connections_refused_total{reason=\"descriptors\"}")
            .await
            .unwrap();
        assert!(closed > ATTEMPTS as f64 / 2.0, "{closed}");
        assert!(proxy.process.log().contains("no descriptor for a client"));
        assert_log_is_rate_limited(&proxy, start);
        proxy.wait_connected_to(b'A').await;
    });
}

// the default of --max-connections
#[test]
fn the_default_client_limit_never_exhausts_the_descriptors() {
    const DESCRIPTORS: usize = 300;
    run_test_alone(async {
        let (mut harness, start) = (ProxyHarness::start().await, now());
        let a = Master::start(b'A').await;
        let (proxy, mut background) = with_background_clients(&mut harness, &a, &["--relay-threads=1"], |command| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"")])
                .arg(command.get_program())
                .args(command.get_args());
            *command = shell;
        })
        .await;
        let (before, [accepted, ..]) = (ResourceUsage::read(&proxy), connection_counts(&proxy).await);
        let (outcome, peak) = flood(&harness, &proxy, 2000).await;
        background.assert_served(1).await;
        wait_until_idle(&proxy, &background, before).await;
        println!("{outcome:?}; before {before:?}, most {peak:?}");
        assert!(outcome.closed > 0 && outcome.failed.is_empty(), "{outcome:?}");
        assert!(peak.descriptors < DESCRIPTORS, "{peak:?}");
        wait_until_counted(&proxy, accepted + 2000).await;
        for (reason, some) in [("max_connections", true), ("descriptors", false), ("master", false)] {
            let refused = proxy
                .metric(&format!(
                    "stolon_proxy_connections_refused_total{{reason=\"{reason}\"}}"
                ))
                .await;
            assert_eq!(refused > Some(0.0), some, "{reason}: {refused:?}");
        }
        assert_log_is_rate_limited(&proxy, start);
    });
}
