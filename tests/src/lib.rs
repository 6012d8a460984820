//! The harness of the end-to-end tests: real etcd, real PostgreSQL, the four real binaries.
