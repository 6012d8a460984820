//! The results of a run as a table, as JSON, and as a page with a chart.

pub mod json;
pub mod markdown;
pub mod plot;
pub mod table;
