//! COPY of a table through psql: PostgreSQL's own way of sending much.

use std::time::Duration;

use anyhow::Context;

use super::costing;
use crate::proxy::figures::{CPU_PER_GB, GB_PER_SECOND, Sample};
use crate::proxy::peers::Peer;
use crate::proxy::site::{Site, run as run_program};
use crate::proxy::size::Size;

/// Which way the rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the client.
    Out,
    /// To the server.
    In,
}

/// How long one COPY may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A psql that copies the table to nowhere.
pub(super) fn out(site: &Site, peer: Peer) -> tokio::process::Command {
    let mut psql = site.psql_through(peer);
    psql.arg("-o").arg("/dev/null").arg("-c").arg("copy bulk to stdout");
    psql
}

pub(super) async fn run(site: &Site, peer: Peer, way: Way, size: &Size) -> anyhow::Result<Sample> {
    let psql = match way {
        Way::Out => out(site, peer),
        Way::In => {
            site.psql("truncate sink").await?;
            let rows = std::fs::File::open(&site.rows).context("open the rows")?;
            let mut psql = site.psql_through(peer);
            psql.arg("-c").arg("copy sink from stdin").stdin(rows);
            psql
        }
    };
    let cost = costing(site.postgres(peer), run_program(psql, PATIENCE)).await?;
    let gigabytes = size.copied_rows as f64 * 1000.0 / 1e9;
    let mut sample = vec![(GB_PER_SECOND, gigabytes / cost.took.as_secs_f64())];
    if peer != Peer::Direct {
        sample.push((CPU_PER_GB, cost.cpu.as_secs_f64() * 1000.0 / gigabytes));
    }
    Ok(sample)
}
