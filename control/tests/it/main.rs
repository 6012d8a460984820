//! The store against a real etcd.
