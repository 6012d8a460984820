//! The text form of `status`, byte for byte as scripts parse it (cli 14.3). Pure.

use base::printable;
use model::Problem;

use super::view::{KeeperRow, ProblemRow, RequestRow, Status};

/// Columns between two tab stops.
const TAB: usize = 8;

/// Whether a row ends with a tab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowEnd {
    Tab,
    Plain,
}

/// Returns all lines, including the empty one at the end.
pub(super) fn render(status: &Status) -> String {
    let mut out = String::from("=== Active sentinels ===\n\n");
    if status.sentinels.is_empty() {
        out.push_str("No active sentinels\n");
    } else {
        let rows = status
            .sentinels
            .iter()
            .map(|sentinel| vec![sentinel.uid.to_string(), sentinel.leader.to_string()]);
        push_table(&mut out, &["ID", "LEADER"], rows, RowEnd::Plain);
    }
    out.push_str("\n=== Active proxies ===\n\n");
    if status.proxies.is_empty() {
        out.push_str("No active proxies\n");
    } else {
        push_table(
            &mut out,
            &["ID"],
            status.proxies.iter().map(|proxy| vec![proxy.uid.to_string()]),
            RowEnd::Plain,
        );
    }
    out.push_str("\n=== Keepers ===\n\n");
    if status.keepers.is_empty() {
        out.push_str("No keepers available\n\n");
    } else {
        push_table(
            &mut out,
            &KEEPER_COLUMNS,
            status.keepers.iter().map(keeper_row),
            RowEnd::Tab,
        );
    }
    push_master(&mut out, status);
    push_requests(&mut out, &status.requests);
    if let Some(problems) = problems_section(&status.problems) {
        out.push('\n');
        out.push_str(&problems);
    }
    out.push('\n');
    out
}

const KEEPER_COLUMNS: [&str; 6] = [
    "UID",
    "HEALTHY",
    "PG LISTENADDRESS",
    "PG HEALTHY",
    "PG WANTEDGENERATION",
    "PG CURRENTGENERATION",
];

fn keeper_row(keeper: &KeeperRow) -> Vec<String> {
    vec![
        keeper.uid.clone(),
        keeper.healthy.to_string(),
        keeper.listen_address.clone(),
        keeper.pg_healthy.to_string(),
        keeper.pg_wanted_generation.to_string(),
        keeper.pg_current_generation.to_string(),
    ]
}

fn push_master(out: &mut String, status: &Status) {
    if status.cluster.master_db_uid.is_empty() {
        out.push_str("No cluster available\n");
        return;
    }
    let keeper = match status.cluster.master_keeper_uid.as_str() {
        "" => "(unknown)",
        uid => uid,
    };
    out.push_str(&format!(
        "\n=== Cluster Info ===\n\nMaster Keeper: {keeper}\n\n===== Keepers/DB tree =====\n\n"
    ));
    for branch in &status.tree {
        let mark = if branch.is_master { " (master)" } else { "" };
        out.push_str(&format!("{}{}{mark}\n", branch.tree_prefix, branch.keeper_uid));
    }
}

/// Adds the section of the requests of operators. Without any there is none, as in Go stolon, which never has one.
fn push_requests(out: &mut String, requests: &[RequestRow]) {
    if requests.is_empty() {
        return;
    }
    out.push_str("\n=== Requests ===\n\n");
    for row in requests {
        let to = row.to.as_ref().map(|to| format!(" to keeper {to}")).unwrap_or_default();
        let mut line = format!("{}{to}, requested at {}", row.kind, row.requested_at);
        if !row.step.is_empty() {
            line.push_str(&format!(", step {}", row.step));
        }
        if !row.waits_for.is_empty() {
            line.push_str(&format!(": {}", row.waits_for));
        }
        out.push_str(&printable(&line));
        out.push('\n');
    }
}

/// Returns the section of the problems that an operator has to fix. Without any there is none, as in Go stolon, which
/// never has one.
pub(super) fn problems_section(problems: &[ProblemRow]) -> Option<String> {
    if problems.is_empty() {
        return None;
    }
    let mut out = "=== Problems ===\n\n".to_owned();
    for reported in problems {
        let Problem { kind, text, remedy } = &reported.problem;
        let when = if reported.is_old {
            " (last report of an unhealthy keeper)"
        } else {
            ""
        };
        let subject = reported.keeper.as_deref().unwrap_or("the cluster"); // no keeper has such a uid
        out.push_str(&format!("{subject}{when}: {kind}: {text}\n"));
        if !remedy.is_empty() {
            out.push_str(&format!("    {remedy}\n"));
        }
    }
    Some(out)
}

/// Aligns the header with the first row, and every later row by itself: Go stolon flushes its table writer after
/// each row, and scripts expect its output.
fn push_table(out: &mut String, header: &[&str], rows: impl Iterator<Item = Vec<String>>, ending: RowEnd) {
    let mut rows = rows;
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    match rows.next() {
        Some(first) => push_rows(out, &[(header, RowEnd::Plain), (first, ending)]),
        None => push_rows(out, &[(header, RowEnd::Plain)]),
    }
    for row in rows {
        push_rows(out, &[(row, ending)]);
    }
}

/// Appends rows with common columns. A cell before a tab is padded to the column's width: the longest such cell plus a
/// blank, rounded up to a tab stop.
fn push_rows(out: &mut String, rows: &[(Vec<String>, RowEnd)]) {
    let is_followed = |row: &(Vec<String>, RowEnd), column: usize| column + 1 < row.0.len() || row.1 == RowEnd::Tab;
    let length = |cell: &String| cell.chars().count();
    for row in rows {
        for (column, cell) in row.0.iter().enumerate() {
            out.push_str(cell);
            if is_followed(row, column) {
                let followed = rows.iter().filter(|row| is_followed(row, column));
                let longest = followed
                    .filter_map(|row| row.0.get(column))
                    .map(length)
                    .max()
                    .unwrap_or(0);
                let width = (longest + 1).next_multiple_of(TAB);
                let tabs = (width - length(cell)).div_ceil(TAB);
                out.push_str(&"\t".repeat(tabs));
            }
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests;
