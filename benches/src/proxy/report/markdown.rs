//! The page: the machine, the chart, the targets, and a table per load.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::table;
use crate::proxy::Results;
use crate::proxy::figures::Row;
use crate::proxy::targets::evaluate;

/// Returns the page. `chart` is the file name of the chart beside the page.
pub fn page(results: &Results, chart: &str) -> String {
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
         ![CPU and throughput of the proxies]({chart})\n\n\
         ## Setup\n\n\
         {}, {} CPUs, {} GiB, {}, loopback; load average at the start {}. {}.\n\n\
         One PostgreSQL behind all of them, under a keeper. stolon-proxy runs under its real control loop: etcd, cluster \
         data, a sentinel, check-ins. {rounds} rounds per load, in which the peers take turns, in reverse order in every other round. Figures are medians, \
         with minimum and maximum in brackets. CPU is the CPU time of the proxy's processes, from schedstat. All sockets of the \
         machine use `reno`, except in loads with `bbr` (restored afterwards: `{}`).\n\n\
         - HAProxy: defaults (a thread per CPU). HAProxy tuned: one thread, `splice-request`, `splice-response`, \
         `tune.pipesize 1048576`.\n\
         - nginx: the stream module, one worker, its buffer of 16 KiB. PgBouncer: session pooling. It answers logins itself and \
         keeps server connections, so a connection per transaction is less work for it; it supports only PostgreSQL's \
         protocol.\n\
         - `pgbench -S` without `-C` selects among 100,000 accounts (`-D scale=1`): a new server process maps each page of \
         shared buffers at its first access, which costs less with fewer pages; PgBouncer's server processes stay from run to \
         run and have mapped them.\n\
         - Bulk, short and idle connections and changes of master use plain TCP servers, each in its own process; the \
         benchmark writes the cluster data of these stolon-proxies in place of a sentinel.\n\
         - Go stolon's proxy was not measured.\n\n\
         ## Targets\n\n",
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
        // Writing to a String cannot fail.
        let _ = write!(text, "\n### `{}`: {}\n\n{}", row.load, row.title, table::row(row));
    }
    text
}

/// Returns the number of rounds: `8`, or `8 to 14`.
fn rounds(rows: &[Row]) -> String {
    let cells = rows.iter().flat_map(|row| &row.cells);
    let counts: BTreeSet<usize> = cells.map(|cell| cell.series.values().len()).collect();
    match (counts.first(), counts.last()) {
        (Some(min), Some(max)) if min < max => format!("{min} to {max}"),
        (Some(all), _) => all.to_string(),
        _ => "No".to_owned(),
    }
}
