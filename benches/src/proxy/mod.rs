//! stolon-proxy beside its peers: the same PostgreSQL behind all of them, one load after the other, rounds interleaved.

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

/// All that one run of the benchmark gave.
#[derive(Debug, Clone)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// How much.
    pub size: Size,
    /// What was measured, in the order of the loads.
    pub rows: Vec<Row>,
}

/// Tells people how it goes, on standard error. That nobody listens any more ends nothing.
pub fn print_progress(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says what was asked for, on standard output; as [`tell`] otherwise.
pub fn print_result(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Runs one load with all its peers that are `wanted`, as often as `size` says, in turns: the order of the peers is
/// reversed in every other round, so that neither a machine that slows down nor one that warms up favours anybody.
///
/// # Errors
///
/// A client of the load fails, or the congestion control cannot be set.
pub async fn measure(
    load: Load,
    wanted: &[Peer],
    site: &mut Testbed,
    size: &Size,
    congestion: &CongestionControl,
    mut tell: impl FnMut(String),
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
            tell(format!("{}: round {} of {}, {peer}", load.name, round + 1, rounds));
            let sample = load.run(site, peer, size).await;
            row.add(peer, sample.with_context(|| format!("{}, {peer}", load.name))?);
        }
    }
    Ok(row)
}
