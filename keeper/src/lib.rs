//! stolon-keeper as a library: its rooms, for the program and its tests.

pub mod converge;
pub mod postgres;
