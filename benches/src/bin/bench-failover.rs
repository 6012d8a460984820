//! Starts a cluster, breaks it, and measures the gap that clients see.
fn main() {}
