//! Processes of the operating system: the postmaster of a PGDATA, others that use it, its port and sockets, and
//! what a running server shows without a login.

pub mod error;
pub mod pgdata_holders;
mod pgdata_use;
pub mod port;
pub mod position;
pub mod postmaster;
pub mod process;
pub mod recovery;
pub mod sockets;
pub mod supervisor;
pub mod wal_senders;
