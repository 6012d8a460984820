//! Measurements shared by the benchmark programs.
