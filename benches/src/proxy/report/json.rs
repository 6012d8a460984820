//! All figures of all rounds as JSON.

use serde_json::{Map, Value, json};

use crate::proxy::Results;
use crate::proxy::targets::{Level, evaluate};

/// Returns the results of the run.
pub fn json(results: &Results) -> Value {
    let machine = &results.machine;
    let versions: Map<String, Value> = machine
        .versions
        .iter()
        .map(|(name, version)| ((*name).to_owned(), version.as_str().into()))
        .collect();
    let loads: Vec<Value> = results
        .rows
        .iter()
        .map(|row| {
            let mut peers = Map::new();
            for cell in &row.cells {
                let (min, max) = cell.series.min_max();
                let figures = peers
                    .entry(cell.peer.name())
                    .or_insert_with(|| Value::Object(Map::new()));
                figures[cell.figure.name] = json!({
                    "median": cell.series.median(), "min": min, "max": max, "values": cell.series.values(),
                });
            }
            json!({ "load": row.load, "title": row.title, "peers": peers })
        })
        .collect();
    let standards: Vec<Value> = evaluate(&results.rows)
        .iter()
        .map(|target| {
            json!({
                "load": target.load, "what": target.what, "measured": target.measured, "unit": target.unit,
                "interval": target.interval.map(|(min, max)| [min, max]),
                "must": target.must.to_string(), "want": target.want.map(|want| want.to_string()),
                "must_reached": target.level() >= Level::Required, "level": target.level() == Level::Undecided,
                "want_reached": target.want.map(|_| target.level() == Level::Wanted),
            })
        })
        .collect();
    json!({
        "machine": {
            "processor": machine.processor, "cpus": machine.cpus, "memory_gib": machine.memory_gib,
            "kernel": machine.kernel, "load_at_start": machine.load, "congestion_control_found": machine.congestion,
        },
        "versions": versions,
        "rounds": results.size.rounds,
        "close_rounds": results.size.close_rounds,
        "loads": loads,
        "standards": standards,
    })
}
