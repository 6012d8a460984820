//! The relay threads and their load. Which connection runs on which of them is decided by `listener`; how a connection
//! is made is left to `connect`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};

use super::counters::ByteCounters;

/// A thread with its own runtime for connections alone, so that a store that hangs never delays bytes.
#[derive(Debug)]
pub struct RelayThread {
    handle: Handle,
    counters: Arc<ByteCounters>,
    connections: Arc<AtomicUsize>,
}

impl RelayThread {
    /// Starts the thread of this number. It runs until the program ends.
    pub fn start(number: usize, counters: Arc<ByteCounters>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name(format!("relay-{number}"))
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Self {
            handle,
            counters,
            connections: Arc::default(),
        })
    }

    /// Returns the handle of its runtime.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns its byte counters.
    pub fn counters(&self) -> &Arc<ByteCounters> {
        &self.counters
    }

    /// Returns the number of its connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection as its own until the returned value is dropped.
    pub fn count_connection(&self) -> ConnectionCount {
        ConnectionCount::new(&self.connections)
    }
}

/// Counts one for as long as it exists.
#[derive(Debug)]
pub struct ConnectionCount(Arc<AtomicUsize>);

impl ConnectionCount {
    /// Adds one to `count`.
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
