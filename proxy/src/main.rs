//! stolon-proxy.
fn main() {}
