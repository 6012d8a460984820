//! The rows of the metric tables: code registers and changes series through them, the documentation is made from them.
//! Which rows there are is left to the programs, and to `shared` for those of all programs.

use std::fmt::Write as _;

use metrics::{
    Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use super::series;

/// One metric: what it is named, how it is shown and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricRow {
    /// The whole name.
    pub name: &'static str,
    /// How it changes.
    pub kind: MetricKind,
    /// What its value is.
    pub unit: MetricUnit,
    /// Its labels, in their order.
    pub labels: &'static [MetricLabel],
    /// One phrase, without a full stop.
    pub help: &'static str,
}

/// How a metric changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It is set.
    Gauge,
    /// It counts durations by size.
    Histogram,
}

/// What the value of a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricUnit {
    /// A number of something, or a number without a unit.
    Count,
    /// 0 or 1.
    Flag,
    /// A duration in seconds.
    Seconds,
    /// Seconds since 1970; 0 before the first time.
    UnixTime,
    /// Bytes, or a position in bytes.
    Bytes,
}

/// One label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricLabel {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub values: LabelValues,
}

/// The values of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelValues {
    /// These; each has a series from the start on.
    Fixed(&'static [&'static str]),
    /// Others, such as uids; what they are. Their series come and go.
    Varying(&'static str),
}

impl MetricLabel {
    /// Returns a label with these values.
    pub const fn fixed(name: &'static str, values: &'static [&'static str]) -> Self {
        let values = LabelValues::Fixed(values);
        Self { name, values }
    }

    /// Returns a label whose values are `what`.
    pub const fn varying(name: &'static str, what: &'static str) -> Self {
        let values = LabelValues::Varying(what);
        Self { name, values }
    }

    fn admits(&self, value: &str) -> bool {
        match self.values {
            LabelValues::Fixed(values) => values.contains(&value),
            LabelValues::Varying(_) => true,
        }
    }
}

impl MetricRow {
    /// Returns the row of a counter of events.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, MetricKind::Counter, MetricUnit::Count, help)
    }

    /// Returns the row of a gauge.
    pub const fn gauge(name: &'static str, unit: MetricUnit, help: &'static str) -> Self {
        Self::new(name, MetricKind::Gauge, unit, help)
    }

    /// Returns the row of a histogram of durations.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(name, MetricKind::Histogram, MetricUnit::Seconds, help)
    }

    const fn new(name: &'static str, kind: MetricKind, unit: MetricUnit, help: &'static str) -> Self {
        let labels = &[];
        Self {
            name,
            kind,
            unit,
            labels,
            help,
        }
    }

    /// Sets what is counted, if that is not a number of events.
    #[must_use]
    pub const fn in_unit(self, unit: MetricUnit) -> Self {
        Self { unit, ..self }
    }

    /// Sets the labels.
    #[must_use]
    pub const fn with(self, labels: &'static [MetricLabel]) -> Self {
        Self { labels, ..self }
    }

    /// Returns the handle of one series of a counter; `values` are those of its labels, in their order.
    pub fn counter_of(&self, values: &[&'static str]) -> Counter {
        debug_assert_eq!(self.kind, MetricKind::Counter, "{}", self.name);
        counter!(self.name, self.labels_of(values))
    }

    /// Returns the handle of one series of a gauge; `values` are those of its labels, in their order.
    pub fn gauge_of(&self, values: &[&'static str]) -> Gauge {
        debug_assert_eq!(self.kind, MetricKind::Gauge, "{}", self.name);
        gauge!(self.name, self.labels_of(values))
    }

    /// Returns the handle of one series of a histogram; `values` are those of its labels, in their order.
    pub fn histogram_of(&self, values: &[&'static str]) -> Histogram {
        debug_assert_eq!(self.kind, MetricKind::Histogram, "{}", self.name);
        histogram!(self.name, self.labels_of(values))
    }

    /// Replaces all series of a gauge with varying labels: the values of the labels in their order, and the value.
    pub fn replace_series(&self, now: impl IntoIterator<Item = (Vec<String>, f64)>) {
        debug_assert!(self.has_varying_labels(), "{}", self.name);
        let sample = |(values, value): (Vec<String>, f64)| {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            self.check_labels(&values);
            (self.series_name(&values), value)
        };
        series::replace(self.name, self.text(now.into_iter().map(sample)));
    }

    /// Whether its series come and go.
    pub fn has_varying_labels(&self) -> bool {
        let is_varying = |label: &MetricLabel| matches!(label.values, LabelValues::Varying(_));
        self.labels.iter().any(is_varying)
    }

    /// Returns the values of the labels of all series that it has from the start on; none if its series come and go.
    pub fn fixed_series(&self) -> Vec<Vec<&'static str>> {
        let mut all = vec![Vec::new()];
        for label in self.labels {
            let LabelValues::Fixed(values) = label.values else {
                return Vec::new();
            };
            let extended = |series: &Vec<&'static str>| {
                let series = series.clone();
                values.iter().map(move |value| [series.as_slice(), &[value]].concat())
            };
            all = all.iter().flat_map(extended).collect();
        }
        all
    }

    /// Returns the series with these values of its labels as Prometheus writes it: `name{label="value"}`.
    pub fn series_name(&self, values: &[&str]) -> String {
        if self.labels.is_empty() {
            return self.name.to_owned();
        }
        let pair = |(label, value): (&MetricLabel, &&str)| format!("{}=\"{}\"", label.name, escaped(value));
        let pairs: Vec<String> = self.labels.iter().zip(values).map(pair).collect();
        format!("{}{{{}}}", self.name, pairs.join(","))
    }

    fn register(&self) {
        let unit = match self.unit {
            MetricUnit::Bytes => Unit::Bytes,
            MetricUnit::Seconds | MetricUnit::UnixTime => Unit::Seconds,
            MetricUnit::Count | MetricUnit::Flag => Unit::Count,
        };
        match self.kind {
            _ if self.has_varying_labels() => return self.replace_series([]),
            MetricKind::Counter => describe_counter!(self.name, unit, self.help),
            MetricKind::Gauge => describe_gauge!(self.name, unit, self.help),
            MetricKind::Histogram => describe_histogram!(self.name, unit, self.help),
        }
        for values in self.fixed_series() {
            match self.kind {
                MetricKind::Counter => self.counter_of(&values).increment(0),
                MetricKind::Gauge => self.gauge_of(&values).increment(0.0),
                MetricKind::Histogram => drop(self.histogram_of(&values)),
            }
        }
    }

    fn labels_of(&self, values: &[&'static str]) -> Vec<Label> {
        self.check_labels(values);
        let pairs = self.labels.iter().zip(values);
        pairs
            .map(|(label, value)| Label::from_static_parts(label.name, value))
            .collect()
    }

    fn check_labels(&self, values: &[&str]) {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        for (label, value) in self.labels.iter().zip(values) {
            debug_assert!(label.admits(value), "{}: {}={value}", self.name, label.name);
        }
    }

    /// Returns help text, type and these samples, by their series, in the text format of Prometheus.
    pub(super) fn text(&self, samples: impl IntoIterator<Item = (String, f64)>) -> String {
        let (name, help) = (self.name, self.help);
        let kind = match self.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (series, value) in samples {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{series} {value}");
        }
        text.push('\n');
        text
    }
}

/// Registers the help texts of these rows, and all their series with fixed labels, so that they exist from the first
/// scrape on.
pub fn register_metrics(table: &[MetricRow]) {
    table.iter().for_each(MetricRow::register);
}

/// Declares rows as constants, and all of them as `TABLE`.
#[macro_export]
macro_rules! metric_table {
    ($($constant:ident = $row:expr;)*) => {
        $(pub(crate) const $constant: $crate::telemetry::MetricRow = $row;)*

        /// All rows, in the order of the documentation.
        pub const TABLE: &[$crate::telemetry::MetricRow] = &[$($constant),*];
    };
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[MetricLabel] = &[
        MetricLabel::fixed("operation", &["read", "put"]),
        MetricLabel::fixed("kind", &["a", "b"]),
    ];

    const VARYING: &[MetricLabel] = &[MetricLabel::varying("db", "uid")];

    #[test]
    fn a_row_has_a_series_for_each_combination_of_its_fixed_labels() {
        let row = MetricRow::counter("x_total", "X");
        assert_eq!(row.fixed_series(), [[""; 0]]);
        let series = row.with(TWO).fixed_series();
        assert_eq!(series, [["read", "a"], ["read", "b"], ["put", "a"], ["put", "b"]]);
        assert!(row.with(VARYING).fixed_series().is_empty());
    }

    #[test]
    fn label_values_are_escaped() {
        let row = MetricRow::gauge("x", MetricUnit::Flag, "X").with(VARYING);
        assert_eq!(row.series_name(&["a\"\\\n"]), r#"x{db="a\"\\\n"}"#);
    }

    #[test]
    #[should_panic(expected = "operation=write")]
    fn a_label_value_that_is_not_in_the_table_is_a_fault() {
        drop(MetricRow::counter("x_total", "X").with(TWO).counter_of(&["write", "a"]));
    }
}
