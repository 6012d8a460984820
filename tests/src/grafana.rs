//! Grafana's dashboards as JSON: the part of its schema (version 38, Grafana 9.4 and later) that ours use. A field that
//! is not here is refused, so a misspelt one cannot pass.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Columns of Grafana's grid.
const GRID_COLUMNS: u32 = 24;
/// Panel types that every Grafana has.
const PANEL_TYPES: [&str; 6] = ["row", "stat", "timeseries", "state-timeline", "table", "bargauge"];
/// The units that ours use, by Grafana's ids.
const UNITS: [&str; 11] = [
    "short",
    "none",
    "s",
    "bytes",
    "Bps",
    "ops",
    "cps",
    "percentunit",
    "dateTimeFromNow",
    "dateTimeAsLocal",
    "bool_yes_no",
];
/// Named colours that ours use.
const COLORS: [&str; 9] = [
    "green",
    "yellow",
    "orange",
    "red",
    "blue",
    "purple",
    "text",
    "transparent",
    "dark-red",
];

/// A dashboard.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct Dashboard {
    pub uid: String,
    pub title: String,
    pub description: String,
    pub tags: Vec<String>,
    pub schema_version: u32,
    pub version: u32,
    pub editable: bool,
    pub graph_tooltip: u8,
    pub refresh: String,
    pub time: TimeRange,
    pub timezone: String,
    pub links: Vec<DashboardLink>,
    pub templating: Templating,
    pub annotations: Annotations,
    pub panels: Vec<Panel>,
}

/// The time that is shown at first.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct TimeRange {
    pub from: String,
    pub to: String,
}

/// A link to the dashboards with the same tag.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct DashboardLink {
    pub title: String,
    pub r#type: String,
    pub tags: Vec<String>,
    pub as_dropdown: bool,
    pub include_vars: bool,
    pub keep_time: bool,
    pub target_blank: bool,
}

/// The variables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct Templating {
    pub list: Vec<Variable>,
}

/// A variable: the data source, or the values of a label.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct Variable {
    pub name: String,
    pub label: String,
    pub r#type: String,
    pub query: Value,
    #[serde(default)]
    pub definition: String,
    pub datasource: Option<DatasourceRef>,
    #[serde(default)]
    pub refresh: u8,
    #[serde(default)]
    pub sort: u8,
    #[serde(default)]
    pub multi: bool,
    #[serde(default)]
    pub include_all: bool,
    #[serde(default)]
    pub current: Value,
}

/// Which data source is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct DatasourceRef {
    pub r#type: String,
    pub uid: String,
}

/// Marks in the graphs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct Annotations {
    pub list: Vec<Annotation>,
}

/// One kind of mark.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct Annotation {
    pub name: String,
    pub datasource: DatasourceRef,
    pub enable: bool,
    pub icon_color: String,
    pub expr: String,
    pub title_format: String,
    pub text_format: String,
    pub step: String,
}

/// A panel, or the row above some.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct Panel {
    pub id: u32,
    pub r#type: String,
    pub title: String,
    #[serde(default)]
    pub description: String,
    pub grid_pos: GridPos,
    pub datasource: Option<DatasourceRef>,
    #[serde(default)]
    pub targets: Vec<Target>,
    pub field_config: Option<FieldConfig>,
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
    #[serde(default)]
    pub transformations: Vec<Value>,
    pub collapsed: Option<bool>,
    #[serde(default)]
    pub panels: Vec<Value>,
}

/// Where a panel is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct GridPos {
    pub h: u32,
    pub w: u32,
    pub x: u32,
    pub y: u32,
}

/// A query of a panel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct Target {
    pub ref_id: String,
    pub datasource: DatasourceRef,
    pub expr: String,
    pub legend_format: String,
    pub instant: bool,
    pub range: bool,
    #[serde(default)]
    pub format: String,
}

/// How values are shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct FieldConfig {
    pub defaults: FieldDefaults,
    pub overrides: Vec<Value>,
}

/// How all values of a panel are shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct FieldDefaults {
    pub unit: String,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub decimals: Option<u8>,
    #[serde(default)]
    pub no_value: String,
    #[serde(default)]
    pub mappings: Vec<Value>,
    pub thresholds: Thresholds,
    pub color: Option<Value>,
    pub custom: Option<Value>,
}

/// From which value on a colour is shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct Thresholds {
    pub mode: String,
    pub steps: Vec<ThresholdStep>,
}

/// One colour; the first one has no value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are Grafana's")]
pub struct ThresholdStep {
    pub color: String,
    pub value: Option<f64>,
}

impl Dashboard {
    /// Reads all dashboards of the repository, with their file names.
    ///
    /// # Panics
    ///
    /// One cannot be read, or has a field that is not in the schema.
    pub fn read_all() -> Vec<(String, Self)> {
        let mut found: Vec<PathBuf> = fs::read_dir(directory())
            .expect("there are dashboards")
            .map(|entry| entry.expect("a directory is read").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        found.sort();
        let read = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("a file is read");
            let dashboard = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, dashboard)
        };
        found.into_iter().map(read).collect()
    }

    /// Returns all queries, with the titles of their panels.
    pub fn queries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.panels.iter().flat_map(|panel| {
            panel
                .targets
                .iter()
                .map(|target| (panel.title.as_str(), target.expr.as_str()))
        })
    }

    /// Returns the variables that are filled with the values of a label: name, metric, label.
    ///
    /// # Panics
    ///
    /// A query is not `label_values(metric, label)`.
    pub fn label_variables(&self) -> Vec<(&str, &str, &str)> {
        let queries = self
            .templating
            .list
            .iter()
            .filter(|variable| variable.r#type == "query");
        queries
            .map(|variable| {
                let inner = variable.definition.strip_prefix("label_values(");
                let parts = inner.and_then(|text| text.strip_suffix(')')?.rsplit_once(','));
                let (metric, label) = parts.unwrap_or_else(|| panic!("{}: no label_values", variable.name));
                (variable.name.as_str(), metric.trim(), label.trim())
            })
            .collect()
    }

    /// Returns what Grafana would refuse or show wrongly; empty when all is well.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        check(
            self.schema_version == 38,
            format!("schemaVersion {}", self.schema_version),
        );
        check(self.uid.len() <= 40, format!("uid {} is too long", self.uid));
        check(!self.description.is_empty(), "no description".to_owned());
        check(self.graph_tooltip <= 2, format!("graphTooltip {}", self.graph_tooltip));
        for variable in &self.templating.list {
            let is_known = ["datasource", "query"].contains(&variable.r#type.as_str());
            check(
                is_known,
                format!("variable {} of type {}", variable.name, variable.r#type),
            );
            let query = variable.query.get("query").unwrap_or(&variable.query).as_str();
            let agrees = variable.r#type == "datasource" || query == Some(&variable.definition);
            check(
                agrees,
                format!("variable {}: query and definition differ", variable.name),
            );
        }
        for (index, panel) in self.panels.iter().enumerate() {
            let others = &self.panels[index + 1..];
            check(
                others.iter().all(|other| other.id != panel.id),
                format!("id {} twice", panel.id),
            );
            let overlapping = others.iter().find(|other| panel.grid_pos.overlaps(&other.grid_pos));
            check(
                overlapping.is_none(),
                format!("{:?} overlaps another panel", panel.title),
            );
            faults_of(panel)
                .into_iter()
                .for_each(|fault| check(false, format!("{:?}: {fault}", panel.title)));
        }
        faults
    }
}

impl GridPos {
    fn overlaps(&self, other: &Self) -> bool {
        let apart = self.x + self.w <= other.x
            || other.x + other.w <= self.x
            || self.y + self.h <= other.y
            || other.y + other.h <= self.y;
        !apart
    }
}

fn faults_of(panel: &Panel) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |holds: bool, fault: &str| {
        if !holds {
            faults.push(fault.to_owned());
        }
    };
    check(PANEL_TYPES.contains(&panel.r#type.as_str()), "an unknown type");
    let GridPos { h, w, x, .. } = panel.grid_pos;
    check(h > 0 && w > 0 && x + w <= GRID_COLUMNS, "outside of the grid");
    if panel.r#type == "row" {
        check(
            panel.panels.is_empty() && panel.targets.is_empty(),
            "a row with content",
        );
        return faults;
    }
    check(!panel.description.is_empty(), "no description");
    check(!panel.targets.is_empty(), "no query");
    let mut sources = panel
        .targets
        .iter()
        .map(|target| &target.datasource)
        .chain(&panel.datasource);
    check(
        sources.all(|source| source.r#type == "prometheus" && source.uid == "${datasource}"),
        "another data source than the variable",
    );
    let mut refs: Vec<&str> = panel.targets.iter().map(|target| target.ref_id.as_str()).collect();
    refs.dedup();
    check(refs.len() == panel.targets.len(), "a refId twice");
    check(
        panel.targets.iter().all(|target| target.instant != target.range),
        "neither instant nor range",
    );
    let Some(FieldConfig { defaults, .. }) = &panel.field_config else {
        check(false, "no unit");
        return faults;
    };
    check(UNITS.contains(&defaults.unit.as_str()), "an unknown unit");
    let steps = &defaults.thresholds.steps;
    check(defaults.thresholds.mode == "absolute", "thresholds are not absolute");
    check(
        steps.first().is_some_and(|step| step.value.is_none()),
        "the first threshold has a value",
    );
    let values: Vec<Option<f64>> = steps.iter().map(|step| step.value).collect();
    check(values.is_sorted(), "thresholds are not in order");
    check(
        values.iter().skip(1).all(Option::is_some),
        "a later threshold has no value",
    );
    check(
        steps.iter().all(|step| COLORS.contains(&step.color.as_str())),
        "an unknown colour",
    );
    faults
}

/// Returns the directory of dashboards and rules.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}
