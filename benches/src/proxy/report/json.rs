//! All figures of all rounds as JSON, for programs.

use serde_json::{Map, Value, json};

use crate::proxy::Results;
use crate::proxy::targets::{Level, evaluate};

/// The whole run.
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
                let (least, most) = cell.series.min_max();
                let figures = peers
                    .entry(cell.peer.name())
                    .or_insert_with(|| Value::Object(Map::new()));
                figures[cell.figure.name] = json!({
                    "median": cell.series.median(), "min": least, "max": most, "values": cell.series.values(),
                });
            }
            json!({ "load": row.load, "title": row.title, "peers": peers })
        })
        .collect();
    let standards: Vec<Value> = evaluate(&results.rows)
        .iter()
        .map(|verdict| {
            json!({
                "load": verdict.load, "what": verdict.what, "measured": verdict.measured, "unit": verdict.unit,
                "interval": verdict.interval.map(|(least, most)| [least, most]),
                "must": verdict.must.to_string(), "want": verdict.want.map(|want| want.to_string()),
                "must_reached": verdict.level() >= Level::Required, "level": verdict.level() == Level::Undecided,
                "want_reached": verdict.want.map(|_| verdict.level() == Level::Wanted),
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
