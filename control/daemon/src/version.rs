//! The version of the programs, fixed at build time (cli 16).

/// As printed by `--version`.
pub const VERSION: &str = env!("STOLON_VERSION_TEXT");
