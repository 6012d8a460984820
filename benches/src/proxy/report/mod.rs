//! What a run gave, told: as a table on the terminal, as JSON, and as a page with a picture.

pub mod json;
pub mod markdown;
pub mod plot;
pub mod table;
