//! What the paths answer: what a round came to, what follows, and why there is no going on. What is made of it belongs to
//! `direction`.

use std::io;

use super::SocketOperation;

/// What one round of a path came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// Bytes that it took from the source.
    pub(super) read: usize,
    /// Bytes that it gave to the sink.
    pub(super) written: usize,
    /// What is to be done next.
    pub(super) status: TransferStatus,
}

impl Transfer {
    /// A round with these counts.
    pub(super) fn new(read: usize, written: usize, status: TransferStatus) -> Self {
        Self { read, written, status }
    }
}

/// What follows a round. `SourceEmpty` and `SinkFull` have left the task's waker where the next event will come from,
/// unless the sink is to be widened first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransferStatus {
    /// All that was taken was given, and more may be there.
    More,
    /// Nothing to read: wait until the source is readable.
    SourceEmpty,
    /// The path holds bytes that the sink does not take: wait until it is writable, read nothing meanwhile.
    SinkFull,
    /// The source has finished and the path holds nothing.
    Eof,
    /// There is something that cannot be spliced: let the copy path look at it. Nothing has moved.
    Unspliceable,
    /// No pipe is to be had: copy for now. Nothing has moved.
    NoPipe,
    /// The kernel does not splice these sockets: copy. Nothing has moved.
    SpliceUnsupported,
}

/// Why a direction cannot go on.
#[derive(Debug)]
pub(super) enum TransferError {
    /// The gate is closed; what was taken is dropped.
    GateClosed,
    /// The socket that is read from failed.
    Source(SocketOperation, io::Error),
    /// The socket that is written to failed.
    Sink(SocketOperation, io::Error),
}
