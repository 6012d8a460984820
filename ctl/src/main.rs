//! stolonctl.
fn main() {}
