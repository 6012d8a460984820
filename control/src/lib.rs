//! The shared language and the judge: what the cluster is (`model`), where that is kept (`store`), and what it
//! should become (`plan`). The programs' own loops live with the programs.

pub mod args;
pub mod clock;
pub mod model;
pub mod plan;
pub mod sentinel;
pub mod store;
pub mod telemetry;
