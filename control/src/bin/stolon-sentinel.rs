//! stolon-sentinel.
fn main() {}
