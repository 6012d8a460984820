//! Free TCP ports on loopback.

pub use local_cluster::Port;

/// Reserves a port on which no socket listens, until it is dropped.
///
/// # Panics
///
/// All are in use.
pub fn free() -> Port {
    Port::free().expect("some ports are free")
}
