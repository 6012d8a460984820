//! The loads. Each is run once per round with every peer that can carry it, and returns figures.

mod bulk;
mod change;
mod connect;
mod copy;
mod idle;
mod latency;
mod pgbench;
mod stalled;

use std::future::Future;
use std::time::Duration;

use base::clock::Boottime;
use stolon_tests::wait::now;

use self::bulk::Bulk;
use self::copy::CopyDirection;
use self::pgbench::Script;
use super::figures::Sample;
use super::peers::{Instance, Peer};
use super::size::Size;
use super::testbed::Testbed;
use super::usage;

/// A load with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// The name on the command line and in the JSON.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pgbench { script: Script, clients: usize },
    Bulk(Bulk),
    Copy(CopyDirection),
    Idle,
    Stalled,
    Change,
    Connect,
    Latency { beside_copy: bool },
    Scrape,
}

const fn load(name: &'static str, kind: Kind) -> Load {
    Load { name, kind }
}

const fn pgbench(script: Script, clients: usize) -> Kind {
    Kind::Pgbench { script, clients }
}

/// All loads, in the order of the report.
pub const ALL: [Load; 23] = [
    load("select-1", pgbench(Script::Simple, 1)),
    load("select-16", pgbench(Script::Simple, 16)),
    load("select-64", pgbench(Script::Simple, 64)),
    load("prepared-1", pgbench(Script::Prepared, 1)),
    load("prepared-16", pgbench(Script::Prepared, 16)),
    load("prepared-64", pgbench(Script::Prepared, 64)),
    load("tpcb-16", pgbench(Script::TpcB, 16)),
    load("reconnect", pgbench(Script::Reconnect, 4)),
    load("connect", Kind::Connect),
    load("bulk-1", Kind::Bulk(bulk::download(1))),
    load("bulk-4", Kind::Bulk(bulk::download(4))),
    load("bulk-up-1", Kind::Bulk(bulk::upload(1))),
    load("bulk-1-bbr", Kind::Bulk(bulk::bbr(bulk::download(1)))),
    load("bulk-4-bbr", Kind::Bulk(bulk::bbr(bulk::download(4)))),
    load("copy-out", Kind::Copy(CopyDirection::Out)),
    load("copy-in", Kind::Copy(CopyDirection::In)),
    load("latency", Kind::Latency { beside_copy: false }),
    load("latency-beside-copy", Kind::Latency { beside_copy: true }),
    load("idle", Kind::Idle),
    load("stalled-reader", Kind::Stalled),
    load("change", Kind::Change),
    load("scrape", Kind::Scrape),
    load("two-threads", pgbench(Script::Simple, 32)),
];

impl Load {
    /// Returns its description.
    pub fn title(self, size: &Size) -> String {
        let copied = size.copied_rows as f64 / 1e6;
        match self.kind {
            Kind::Pgbench { script, clients } if self.name == "two-threads" => {
                format!("{}, {clients} clients: one relay thread and two", script.title())
            }
            Kind::Pgbench { script, clients: 1 } => format!("{}, 1 client", script.title()),
            Kind::Pgbench { script, clients } => format!("{}, {clients} clients", script.title()),
            Kind::Bulk(bulk) => bulk.title(size),
            Kind::Copy(CopyDirection::Out) => format!("COPY … TO STDOUT of {copied} GB through psql"),
            Kind::Copy(CopyDirection::In) => format!("COPY … FROM STDIN of {copied} GB through psql"),
            Kind::Connect => format!(
                "{} connections to a plain server, {} at a time: one request, one response, closed by the client",
                size.connections,
                connect::CLIENTS
            ),
            Kind::Idle => format!("{} idle connections, and the closing of all of them", size.idle),
            Kind::Stalled => format!(
                "a reader that stalls for {} s during a COPY … TO STDOUT of {copied} GB",
                size.stall.as_secs()
            ),
            Kind::Change => "a new master announced in etcd: commit to first byte through it".to_owned(),
            Kind::Latency { beside_copy: false } => "latency of one client's prepared select".to_owned(),
            Kind::Latency { beside_copy: true } => {
                "latency of one client's prepared select while another client runs COPY … TO STDOUT".to_owned()
            }
            Kind::Scrape => "pgbench -S, 16 clients: metrics scraped 10 times per second, or not".to_owned(),
        }
    }

    /// Returns the number of rounds.
    pub fn rounds(self, size: &Size) -> usize {
        match self.kind {
            Kind::Connect
            | Kind::Bulk(Bulk {
                streams: 1,
                is_upload: false,
                congestion: bulk::DEFAULT_CONGESTION_CONTROL,
            })
            | Kind::Pgbench {
                script: Script::Simple | Script::Prepared,
                clients: 16,
            }
            | Kind::Pgbench {
                script: Script::Reconnect,
                ..
            } => size.close_rounds,
            _ => size.rounds,
        }
    }

    /// Returns the peers that can carry it.
    pub fn peers(self) -> Vec<Peer> {
        let usual_without = |left_out: &[Peer]| {
            Peer::usual()
                .filter(|peer| !left_out.contains(peer))
                .collect::<Vec<_>>()
        };
        match self.kind {
            Kind::Pgbench { .. } if self.name == "two-threads" => vec![Peer::Stolon, Peer::StolonTwoThreads],
            Kind::Pgbench { .. } | Kind::Copy(_) | Kind::Latency { .. } => Peer::usual().collect(),
            // PgBouncer supports only PostgreSQL's protocol.
            Kind::Bulk(bulk) if bulk.streams > 1 => {
                [usual_without(&[Peer::Pgbouncer]), vec![Peer::StolonTwoThreads]].concat()
            }
            Kind::Bulk(_) | Kind::Connect => usual_without(&[Peer::Pgbouncer]),
            Kind::Idle => usual_without(&[Peer::Direct, Peer::Pgbouncer]),
            Kind::Stalled => Peer::usual().collect(),
            // No other proxy is notified of a new master.
            Kind::Change => vec![Peer::Stolon],
            Kind::Scrape => vec![Peer::Stolon, Peer::StolonScraped],
        }
    }

    /// Returns the congestion control of all sockets during this load.
    pub fn congestion(self) -> &'static str {
        match self.kind {
            Kind::Bulk(bulk) => bulk.congestion,
            _ => bulk::DEFAULT_CONGESTION_CONTROL,
        }
    }

    /// Runs it once.
    ///
    /// # Errors
    ///
    /// A client fails or does not end in time.
    pub async fn run(self, testbed: &mut Testbed, peer: Peer, size: &Size) -> anyhow::Result<Sample> {
        match self.kind {
            Kind::Pgbench { script, clients } => pgbench::run(testbed, peer, script, clients, size).await,
            Kind::Bulk(bulk) => bulk.run(testbed, peer, size).await,
            Kind::Connect => connect::run(testbed, peer, size).await,
            Kind::Copy(way) => copy::run(testbed, peer, way, size).await,
            Kind::Idle => idle::run(testbed, peer, size).await,
            Kind::Stalled => stalled::run(testbed, peer, size).await,
            Kind::Change => change::run(testbed, size).await,
            Kind::Latency { beside_copy } => latency::run(testbed, peer, beside_copy, size).await,
            Kind::Scrape => pgbench::run_scraped(testbed, peer, size).await,
        }
    }
}

/// The result of a load, the proxy's CPU time, and the duration.
struct Cost<T> {
    result: T,
    cpu: Duration,
    took: Duration,
}

/// Runs a load and measures the CPU time of the proxy and the duration.
async fn measure_cost<T>(
    instance: &Instance,
    load: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Cost<T>> {
    let before = usage::cpu(&instance.pids)?;
    let start: Boottime = now();
    let result = load.await?;
    let took = now().since(start);
    let cpu = usage::cpu(&instance.pids)?.saturating_sub(before);
    Ok(Cost { result, cpu, took })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_of_every_load_are_known() {
        for load in ALL {
            assert!(
                load.peers().iter().all(|peer| Peer::ALL.contains(peer)),
                "{}",
                load.name
            );
        }
    }

    #[test]
    fn loads_with_close_peers_have_more_rounds() {
        let size = Size::full();
        let close = ALL.iter().filter(|load| load.rounds(&size) == size.close_rounds);
        let close: Vec<&str> = close.map(|load| load.name).collect();
        assert_eq!(close, ["select-16", "prepared-16", "reconnect", "connect", "bulk-1"]);
    }
}
