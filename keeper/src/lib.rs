//! stolon-keeper as a library: its rooms, for the program and its tests.

pub mod args;
pub mod converge;
pub mod postgres;
