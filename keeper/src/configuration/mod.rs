//! The configuration of the server: its generated files, and which parts of the desired one PostgreSQL accepts. When it is
//! written is decided by `reconcile`.

mod check;
mod generate;

pub use check::{ConfigCheck, RELOAD_LIMIT, ReloadEffect};
pub use generate::address;
