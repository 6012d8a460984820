//! stolon-proxy beside its peers: the same PostgreSQL behind all of them, one load after the other, in interleaved
//! rounds.

pub mod figures;
pub mod loads;
pub mod machine;
pub mod peers;
pub mod plain_server;
pub mod report;
pub mod size;
pub mod targets;
pub mod testbed;
pub mod usage;

use std::fmt::Display;
use std::io::Write;

use anyhow::Context;

use self::figures::Row;
use self::loads::Load;
use self::machine::{CongestionControl, Machine};
use self::peers::Peer;
use self::size::Size;
use self::testbed::Testbed;

/// The results of one run of the benchmark.
#[derive(Debug, Clone)]
pub struct Results {
    /// The machine.
    pub machine: Machine,
    /// The size of the loads.
    pub size: Size,
    /// The figures, in the order of the loads.
    pub rows: Vec<Row>,
}

/// Prints progress to standard error. A closed standard error is ignored.
pub fn print_progress(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a result to standard output. A closed standard output is ignored.
pub fn print_result(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Runs one load with all its peers that are `wanted`, in as many rounds as `size` has. Every other round has the
/// reverse order of peers, so that a machine that slows down or warms up favours none of them.
///
/// # Errors
///
/// A client of the load fails, or the congestion control cannot be set.
pub async fn measure(
    load: Load,
    wanted: &[Peer],
    testbed: &mut Testbed,
    size: &Size,
    congestion: &CongestionControl,
    mut print_progress: impl FnMut(String),
) -> anyhow::Result<Row> {
    congestion.set(load.congestion())?;
    let mut row = Row::new(load.name, load.title(size));
    let rounds = load.rounds(size);
    for round in 0..rounds {
        let mut peers = load.peers();
        peers.retain(|peer| wanted.contains(peer));
        if round % 2 == 1 {
            peers.reverse();
        }
        for peer in peers {
            print_progress(format!("{}: round {} of {}, {peer}", load.name, round + 1, rounds));
            let sample = load.run(testbed, peer, size).await;
            row.add(peer, sample.with_context(|| format!("{}, {peer}", load.name))?);
        }
    }
    Ok(row)
}
