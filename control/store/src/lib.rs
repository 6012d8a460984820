//! Access to etcd: reads, watches, transactions, leases, election. The meaning of the values is left to `model` and the
//! programs.
//!
//! Every request is limited by the store timeout; while no endpoint is reachable a request waits until then (store
//! 3.3). Connections are re-established automatically, and one log line each reports when the store becomes unreachable
//! and when it is reachable again.

#![forbid(unsafe_code)]
// These panic when the reader of the output is gone.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod client_error;
mod config;
mod connections;
pub mod election;
mod election_ttl;
mod endpoint;
mod entry;
mod error;
mod etcd_fault;
mod etcd_types;
pub mod keys;
mod kv;
mod latency;
mod lease;
pub mod metrics;
mod requester;
mod session;
mod store;
mod tls;
mod txn;
mod watch;

pub use self::{
    config::{ConfigError, DEFAULT_TIMEOUT, StoreConfig, StoreOptions},
    endpoint::{DEFAULT_ENDPOINT, Endpoint, EndpointsError, Scheme},
    entry::{Entry, KeyRange, LeaseId, Revision, Snapshot},
    error::{Cause, StoreError, UNREACHABLE_HINT},
    etcd_fault::EtcdFault,
    keys::{Keys, KeysError},
    lease::{INFO_TTL_MIN, LeaseGrant, LeaseTtl, info_ttl},
    store::Store,
    tls::{TlsError, TlsOptions, certificate_chain, client_tls},
    txn::{CommitOrRead, Committed, Txn, TxnOutcome},
    watch::{Changes, KeyChange, Watch},
};
