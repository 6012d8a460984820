//! stolon-keeper as a library: its rooms, for the program and its tests.

pub mod agenda;
pub mod alive;
pub mod args;
pub mod backoff;
pub mod boots;
pub mod claim;
pub mod collect;
pub mod connections;
pub mod converge;
pub mod health;
pub mod keeper;
pub mod local;
pub mod metrics;
pub mod pass;
pub mod places;
pub mod postgres;
pub mod problems;
pub mod publish;
pub mod settings;
pub mod streaming;
pub mod tell;
