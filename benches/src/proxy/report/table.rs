//! Text tables: a line per peer, a column per figure, each as `median (minimum to maximum)`.

use std::fmt::Write as _;

use crate::proxy::figures::{Formatted, Row};
use crate::proxy::targets::{Level, TargetResult};

/// The meaning of a figure in a table.
pub const LEGEND: &str = "median (minimum to maximum of the rounds)";

/// Returns the figures of one load as an aligned Markdown table.
pub fn row(row: &Row) -> String {
    let figures = row.figures();
    let mut lines = vec![
        [
            vec![String::new()],
            figures.iter().map(|figure| figure.title.to_owned()).collect(),
        ]
        .concat(),
    ];
    for peer in row.peers() {
        let mut line = vec![peer.title().to_owned()];
        for figure in &figures {
            line.push(row.series(peer, *figure).map_or_else(
                || "–".to_owned(),
                |series| {
                    let (min, max) = series.min_max();
                    let median = Formatted(*figure, series.median());
                    format!("{median} ({} to {})", Formatted(*figure, min), Formatted(*figure, max))
                },
            ));
        }
        lines.push(line);
    }
    aligned(&lines)
}

/// The explanation of [`targets`].
pub const TARGETS_LEGEND: &str = "\
A ratio is the median of the ratios of all rounds; in brackets is a confidence interval of at least 95 %, with fewer than
six rounds the minimum and the maximum. *level*: the required bound is missed but lies within the interval, so this run
does not decide. *must* and *want* are decided by the median alone.
";

/// Returns the targets and the measurements as a Markdown table.
pub fn targets(targets: &[TargetResult]) -> String {
    let mut lines = vec![
        ["load", "what", "measured", "must", "want", "reached"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for target in targets {
        let unit = |text: String| format!("{text} {}", target.unit).trim_end().to_owned();
        lines.push(vec![
            target.load.to_owned(),
            target.what.clone(),
            match target.interval {
                Some((min, max)) => unit(format!("{:.2} ({min:.2} to {max:.2})", target.measured)),
                None => unit(format!("{:.2}", target.measured)),
            },
            unit(target.must.to_string()),
            target
                .want
                .map_or_else(|| "–".to_owned(), |want| unit(want.to_string())),
            match (target.level(), target.want) {
                (Level::Missed, _) => "**no**",
                (Level::Undecided, _) => "*level*",
                (Level::Required, _) | (Level::Wanted, None) => "must",
                (Level::Wanted, Some(_)) => "want",
            }
            .to_owned(),
        ]);
    }
    aligned(&lines)
}

/// Returns a Markdown table whose columns are as wide as their widest cell; the first line is the header.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default().max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let rule = "-".repeat(if column == 0 { *width } else { width - 1 });
                let _ = write!(text, "| {rule}{} ", if column == 0 { "" } else { ":" });
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::figures::{CPU_PER_TRANSACTION, TPS};
    use crate::proxy::peers::Peer;
    use crate::proxy::targets::Bound;

    #[test]
    fn a_row_has_median_and_spread_and_shows_missing_figures() {
        let mut measured = Row::new("x", "x".to_owned());
        measured.add(Peer::Direct, vec![(TPS, 7.0)]);
        for cost in [3.0, 1.0, 2.0] {
            measured.add(Peer::Stolon, vec![(TPS, cost), (CPU_PER_TRANSACTION, cost)]);
        }
        let expected = "\
|              | transactions per second | proxy CPU, µs per transaction |
| ------------ | ----------------------: | ----------------------------: |
| direct       | 7 (7 to 7)              | –                             |
| stolon-proxy | 2 (1 to 3)              | 2.0 (1.0 to 3.0)              |
";
        assert_eq!(row(&measured), expected);
    }

    #[test]
    fn the_table_of_targets_shows_each_level() {
        let target = |measured, interval| TargetResult {
            load: "x",
            what: "y".to_owned(),
            measured,
            interval,
            unit: "×",
            must: Bound::AtLeast(0.97),
            want: Some(Bound::AtLeast(1.0)),
        };
        let all = [
            target(0.9, Some((0.8, 0.96))),
            target(0.9, Some((0.8, 1.2))),
            target(0.98, None),
            target(1.0, None),
        ];
        let expected = "\
| load | what | measured              | must     | want  | reached |
| ---- | ---: | --------------------: | -------: | ----: | ------: |
| x    | y    | 0.90 (0.80 to 0.96) × | ≥ 0.97 × | ≥ 1 × | **no**  |
| x    | y    | 0.90 (0.80 to 1.20) × | ≥ 0.97 × | ≥ 1 × | *level* |
| x    | y    | 0.98 ×                | ≥ 0.97 × | ≥ 1 × | must    |
| x    | y    | 1.00 ×                | ≥ 0.97 × | ≥ 1 × | want    |
";
        assert_eq!(targets(&all), expected);
    }
}
