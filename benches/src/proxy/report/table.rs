//! Tables of text: a line a peer, a column a figure, each as `median (least to most)`.

use std::fmt::Write as _;

use crate::proxy::figures::{Formatted, Row};
use crate::proxy::targets::{Level, TargetResult};

/// What a line of figures means.
pub const LEGEND: &str = "median (least to most of the rounds)";

/// One load, for the terminal and for the page alike: it is Markdown, and aligned.
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
                    let (least, most) = series.min_max();
                    let median = Formatted(*figure, series.median());
                    format!(
                        "{median} ({} to {})",
                        Formatted(*figure, least),
                        Formatted(*figure, most)
                    )
                },
            ));
        }
        lines.push(line);
    }
    aligned(&lines)
}

/// What stands below [`verdicts`].
pub const TARGETS_LEGEND: &str = "\
A ratio is the median of the ratios of every round; in brackets is where it lies with a certainty of at least 95 %, or, of
fewer than six rounds, the least and the most of them. *level*: not what must be reached, but that lies within the
brackets, so that this run cannot tell. *must* and *want* go by the median alone.
";

/// The standards and how far each is reached.
pub fn targets(verdicts: &[TargetResult]) -> String {
    let mut lines = vec![
        ["load", "what", "measured", "must", "want", "reached"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for verdict in verdicts {
        let unit = |text: String| format!("{text} {}", verdict.unit).trim_end().to_owned();
        lines.push(vec![
            verdict.load.to_owned(),
            verdict.what.clone(),
            match verdict.interval {
                Some((least, most)) => unit(format!("{:.2} ({least:.2} to {most:.2})", verdict.measured)),
                None => unit(format!("{:.2}", verdict.measured)),
            },
            unit(verdict.must.to_string()),
            verdict
                .want
                .map_or_else(|| "–".to_owned(), |want| unit(want.to_string())),
            match (verdict.level(), verdict.want) {
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

/// Lines of cells as a Markdown table whose columns are as wide as their widest cell; the first line is the head.
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
            // a String takes whatever is written to it
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
    fn a_row_tells_median_and_spread_and_what_is_missing() {
        let mut measured = Row::new("x", "x".to_owned());
        measured.add(Peer::Direct, vec![(TPS, 7.0)]);
        for cost in [3.0, 1.0, 2.0] {
            measured.add(Peer::Stolon, vec![(TPS, cost), (CPU_PER_TRANSACTION, cost)]);
        }
        let expected = "\
|              | transactions a second | proxy CPU, µs a transaction |
| ------------ | --------------------: | --------------------------: |
| direct       | 7 (7 to 7)            | –                           |
| stolon-proxy | 2 (1 to 3)            | 2.0 (1.0 to 3.0)            |
";
        assert_eq!(row(&measured), expected);
    }

    #[test]
    fn the_standards_tell_how_far_each_is_reached() {
        let verdict = |measured, interval| TargetResult {
            load: "x",
            what: "y".to_owned(),
            measured,
            interval,
            unit: "×",
            must: Bound::AtLeast(0.97),
            want: Some(Bound::AtLeast(1.0)),
        };
        let all = [
            verdict(0.9, Some((0.8, 0.96))),
            verdict(0.9, Some((0.8, 1.2))),
            verdict(0.98, None),
            verdict(1.0, None),
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
