//! Processes of the operating system: the postmaster of a data directory, others that use it, its port and sockets, and
//! what a running server shows without a login.

mod data_dir_use;
pub mod data_dir_users;
pub mod error;
pub mod port;
pub mod position;
pub mod postmaster;
pub mod process;
pub mod recovery;
pub mod sockets;
pub mod supervisor;
