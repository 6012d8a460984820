//! stolon-keeper.
fn main() {}
