//! The chart: a panel per figure, a bar per peer, ours in colour, as SVG.

use std::fmt::Write as _;

use crate::proxy::figures::{
    Better, CPU_PER_CONNECTION, CPU_PER_GB, CPU_PER_TRANSACTION, Figure, Formatted, LAST_CLOSE, MEMORY_PER_CONNECTION,
    P99, Row, TPS,
};
use crate::proxy::peers::Peer;

/// The panels in reading order: load, figure, title.
const PANELS: [(&str, Figure, &str); 12] = [
    (
        "select-16",
        CPU_PER_TRANSACTION,
        "CPU per transaction, select, 16 clients (µs)",
    ),
    (
        "prepared-16",
        CPU_PER_TRANSACTION,
        "CPU per transaction, prepared, 16 clients (µs)",
    ),
    ("select-16", TPS, "transactions per second, select, 16 clients"),
    ("bulk-1", CPU_PER_GB, "CPU per GB, one bulk stream (ms)"),
    ("bulk-4", CPU_PER_GB, "CPU per GB, four bulk streams (ms)"),
    ("copy-out", CPU_PER_GB, "CPU per GB, COPY … TO STDOUT (ms)"),
    ("copy-in", CPU_PER_GB, "CPU per GB, COPY … FROM STDIN (ms)"),
    ("reconnect", TPS, "transactions per second, each on a new connection"),
    ("idle", MEMORY_PER_CONNECTION, "memory per idle connection (KiB)"),
    ("connect", CPU_PER_CONNECTION, "CPU per short connection (µs)"),
    ("idle", LAST_CLOSE, "closing of all idle connections (ms)"),
    ("latency-beside-copy", P99, "p99 of one client beside a COPY (µs)"),
];

const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 470;
const BAR_HEIGHT: usize = 18;
const BAR_STEP: usize = 23;
const TITLE_HEIGHT: usize = 30;
const LABEL_WIDTH: usize = 118;
const VALUE_WIDTH: usize = 70;
const MARGIN: usize = 20;
const BARS: usize = 6;

/// Draws the panels for which the rows have figures.
pub fn svg(rows: &[Row]) -> String {
    let panels: Vec<(&Row, Figure, &str)> = PANELS
        .iter()
        .filter_map(|(load, figure, title)| {
            let row = rows.iter().find(|row| row.load == *load)?;
            row.figures().contains(figure).then_some((row, *figure, *title))
        })
        .collect();
    let panel_height = TITLE_HEIGHT + BARS * BAR_STEP + MARGIN;
    let width = COLUMNS * PANEL_WIDTH + MARGIN;
    let height = panels.len().div_ceil(COLUMNS) * panel_height + MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (number, (row, figure, title)) in panels.into_iter().enumerate() {
        let x = MARGIN + number % COLUMNS * PANEL_WIDTH;
        let y = MARGIN + number / COLUMNS * panel_height;
        panel(&mut text, row, figure, title, x, y);
    }
    text.push_str("</svg>\n");
    text
}

fn panel(text: &mut String, row: &Row, figure: Figure, title: &str, x: usize, y: usize) {
    // Writing to a String cannot fail.
    let (better, best) = match figure.better {
        Better::Lower => ("lower is better", f64::min as fn(f64, f64) -> f64),
        Better::Higher => ("higher is better", f64::max as fn(f64, f64) -> f64),
    };
    let _ = writeln!(
        text,
        "<text x=\"{x}\" y=\"{}\" font-weight=\"600\" fill=\"#1f2430\">{title}<tspan dx=\"8\" font-weight=\"400\" fill=\"#7a8194\">\
         {better}</tspan></text>",
        y + 14
    );
    let bars: Vec<(Peer, f64)> = row
        .peers()
        .into_iter()
        .filter(|peer| peer.is_usual())
        .filter_map(|peer| Some((peer, row.median(peer, figure)?)))
        .collect();
    let max = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let of_proxies = bars.iter().filter(|(peer, _)| *peer != Peer::Direct);
    let best_value = of_proxies.map(|(_, value)| *value).reduce(best);
    for (number, (peer, value)) in bars.iter().enumerate() {
        let top = y + TITLE_HEIGHT + number * BAR_STEP;
        let room = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH - MARGIN;
        let length = (value.max(0.0) / max * room as f64).max(1.0);
        let colour = match peer {
            Peer::Direct => "#d5d9e2",
            peer if peer.is_ours() => "#d2691e",
            _ => "#8fa3bf",
        };
        let weight = if best_value == Some(*value) && *peer != Peer::Direct {
            700
        } else {
            400
        };
        let baseline = top + 13;
        let _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{baseline}\" fill=\"#1f2430\">{}</text>\
             <rect x=\"{}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{baseline}\" fill=\"#1f2430\" font-weight=\"{weight}\">{}</text>",
            peer.title(),
            x + LABEL_WIDTH,
            (x + LABEL_WIDTH) as f64 + length + 6.0,
            Formatted(figure, *value)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_that_was_measured_has_a_bar() {
        let mut row = Row::new("bulk-1", String::new());
        for peer in [Peer::Direct, Peer::Nginx, Peer::Stolon] {
            row.add(peer, vec![(CPU_PER_GB, 100.0)]);
        }
        let chart = svg(&[row]);
        // The background and three bars.
        assert_eq!(chart.matches("<rect").count(), 4);
        assert!(chart.contains(">nginx<") && chart.contains(">stolon-proxy<"));
        assert!(!chart.contains("COPY"));
    }
}
