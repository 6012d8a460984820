//! The page: the machine, the picture, the standards, and a table a load.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::table;
use crate::proxy::Results;
use crate::proxy::figures::Row;
use crate::proxy::targets::evaluate;

/// The whole page. `picture` is the file name of the plot, beside the page.
pub fn page(results: &Results, picture: &str) -> String {
    let machine = &results.machine;
    let rounds = rounds(&results.rows);
    let versions: Vec<String> = machine
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let mut text = format!(
        "# stolon-proxy beside its peers\n\n\
         Written by `make bench`; `RESULTS.json` has every value of every round.\n\n\
         ![What the proxies cost]({picture})\n\n\
         ## Where and how\n\n\
         {}, {} CPUs, {} GiB, {}, loopback; load average at the start {}. {}.\n\n\
         One PostgreSQL behind all of them, under a keeper. stolon-proxy runs under its real control loop: etcd, cluster \
         data, a sentinel, check-ins. {rounds} rounds of a load, the peers in turns and the order reversed in every other round; figures are medians, with the least and the most in brackets. CPU is that of the proxy's processes, from \
         schedstat. All sockets of the machine use `reno`, but where a load says `bbr` (found and put back: `{}`).\n\n\
         - HAProxy: as it comes (a thread a CPU). HAProxy tuned: one thread, `splice-request`, `splice-response`, \
         `tune.pipesize 1048576`.\n\
         - nginx: the stream module, one worker, its buffer of 16 KiB. PgBouncer: session pooling; it answers a client's login itself and keeps \
         server connections, so a connection a transaction is not the same work for it; it cannot carry what is not \
         PostgreSQL's protocol.\n\
         - `pgbench -S` without `-C` selects among 100,000 accounts (`-D scale=1`): a new server process maps shared buffers \
         as it first touches them, which costs less the fewer there are; PgBouncer's server processes live on from run to \
         run and have done it.\n\
         - Bulk, short and idle connections and changes of master go to plain TCP servers, each a process of its own; the \
         cluster data of these stolon-proxies are written by the benchmark, as a sentinel would.\n\
         - Go stolon's proxy was not there to be measured.\n\n\
         ## Where it stands\n\n",
        machine.processor,
        machine.cpus,
        machine.memory_gib,
        machine.kernel,
        machine.load,
        versions.join(", "),
        machine.congestion,
    );
    text.push_str(&table::targets(&evaluate(&results.rows)));
    text.push('\n');
    text.push_str(table::TARGETS_LEGEND);
    text.push_str("\n## Loads\n");
    for row in &results.rows {
        // a String takes whatever is written to it
        let _ = write!(text, "\n### `{}`: {}\n\n{}", row.load, row.title, table::row(row));
    }
    text
}

/// How often loads were run: `8`, or `8 to 14`.
fn rounds(rows: &[Row]) -> String {
    let cells = rows.iter().flat_map(|row| &row.cells);
    let counts: BTreeSet<usize> = cells.map(|cell| cell.series.values().len()).collect();
    match (counts.first(), counts.last()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (Some(all), _) => all.to_string(),
        _ => "No".to_owned(),
    }
}
