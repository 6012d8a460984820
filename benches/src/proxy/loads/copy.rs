//! COPY of a table through psql: PostgreSQL's own way of sending much.

use std::time::Duration;

use anyhow::Context;

use super::measure_cost;
use crate::proxy::figures::{CPU_PER_GB, GB_PER_SECOND, Sample};
use crate::proxy::peers::Peer;
use crate::proxy::size::Size;
use crate::proxy::testbed::{Testbed, run as run_program};

/// Which way the rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyDirection {
    /// To the client.
    Out,
    /// To the server.
    In,
}

/// How long one COPY may take.
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// A psql that copies the table to nowhere.
pub(super) fn copy_to_null(site: &Testbed, peer: Peer) -> tokio::process::Command {
    let mut psql = site.psql_through(peer);
    psql.arg("-o").arg("/dev/null").arg("-c").arg("copy bulk to stdout");
    psql
}

pub(super) async fn run(site: &Testbed, peer: Peer, way: CopyDirection, size: &Size) -> anyhow::Result<Sample> {
    let psql = match way {
        CopyDirection::Out => copy_to_null(site, peer),
        CopyDirection::In => {
            site.psql("truncate sink").await?;
            let rows = std::fs::File::open(&site.rows).context("open the rows")?;
            let mut psql = site.psql_through(peer);
            psql.arg("-c").arg("copy sink from stdin").stdin(rows);
            psql
        }
    };
    let cost = measure_cost(site.postgres(peer), run_program(psql, COPY_TIMEOUT)).await?;
    let gigabytes = size.copied_rows as f64 * 1000.0 / 1e9;
    let mut sample = vec![(GB_PER_SECOND, gigabytes / cost.took.as_secs_f64())];
    if peer != Peer::Direct {
        sample.push((CPU_PER_GB, cost.cpu.as_secs_f64() * 1000.0 / gigabytes));
    }
    Ok(sample)
}
