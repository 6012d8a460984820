//! The ports that the playground's servers listen on.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context;
use local_cluster::Port;

/// One port for each server.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) etcd: u16,
    pub(super) etcd_peer: u16,
    pub(super) postgres: [u16; 3],
    pub(super) proxy: u16,
    /// Keeps other playgrounds from taking the same free ports.
    _reserved: Vec<Port>,
}

impl Ports {
    /// Returns the usual ports: those of the README's walk-through, and one more for the third instance.
    pub(super) fn usual() -> Self {
        Self {
            etcd: 2379,
            etcd_peer: 2380,
            postgres: [5432, 5435, 5436],
            proxy: 25432,
            _reserved: Vec::new(),
        }
    }

    /// Returns ports that no program listens on.
    pub(super) fn free() -> anyhow::Result<Self> {
        let mut reserved = Vec::new();
        let mut next = || -> anyhow::Result<u16> {
            let port = Port::free()?;
            let number = port.number();
            reserved.push(port);
            Ok(number)
        };
        Ok(Self {
            etcd: next()?,
            etcd_peer: next()?,
            postgres: [next()?, next()?, next()?],
            proxy: next()?,
            _reserved: reserved,
        })
    }

    /// Returns an error that names the port if another process listens on one.
    pub(super) fn ensure_free(&self) -> anyhow::Result<()> {
        for port in [self.etcd, self.etcd_peer, self.proxy].into_iter().chain(self.postgres) {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
                format!("port {port} is in use: stop the program that listens there, or use other ports")
            })?;
        }
        Ok(())
    }
}
