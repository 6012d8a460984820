//! COPY of a table through psql: PostgreSQL's bulk transfer.

use std::time::Duration;

use anyhow::Context;

use super::measure_cost;
use crate::proxy::figures::{CPU_PER_GB, GB_PER_SECOND, Sample};
use crate::proxy::peers::Peer;
use crate::proxy::size::Size;
use crate::proxy::testbed::{Testbed, run as run_program};

/// The direction of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyDirection {
    /// To the client.
    Out,
    /// To the server.
    In,
}

/// Limit for one COPY.
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// Returns a psql command that copies the table to /dev/null.
pub(super) fn copy_to_null(testbed: &Testbed, peer: Peer) -> tokio::process::Command {
    let mut psql = testbed.psql_through(peer);
    psql.arg("-o").arg("/dev/null").arg("-c").arg("copy bulk to stdout");
    psql
}

pub(super) async fn run(
    testbed: &Testbed,
    peer: Peer,
    direction: CopyDirection,
    size: &Size,
) -> anyhow::Result<Sample> {
    let psql = match direction {
        CopyDirection::Out => copy_to_null(testbed, peer),
        CopyDirection::In => {
            testbed.psql("truncate sink").await?;
            let rows = std::fs::File::open(&testbed.rows).context("open the rows")?;
            let mut psql = testbed.psql_through(peer);
            psql.arg("-c").arg("copy sink from stdin").stdin(rows);
            psql
        }
    };
    let cost = measure_cost(testbed.postgres(peer), run_program(psql, COPY_TIMEOUT)).await?;
    let gigabytes = size.copied_rows as f64 * 1000.0 / 1e9;
    let mut sample = vec![(GB_PER_SECOND, gigabytes / cost.took.as_secs_f64())];
    if peer != Peer::Direct {
        sample.push((CPU_PER_GB, cost.cpu.as_secs_f64() * 1000.0 / gigabytes));
    }
    Ok(sample)
}
