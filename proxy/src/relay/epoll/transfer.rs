//! The result of one transfer by a method: byte counts and what has to happen next, or why the direction cannot
//! continue. What follows from it is left to `direction`.

use std::io;

use crate::relay::outcome::SocketOperation;

/// The result of one transfer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// Bytes read from the source.
    pub(super) read: usize,
    /// Bytes written to the sink.
    pub(super) written: usize,
    pub(super) status: TransferStatus,
}

impl Transfer {
    pub(super) fn new(read: usize, written: usize, status: TransferStatus) -> Self {
        Self { read, written, status }
    }
}

/// What has to happen next. With `SourceEmpty` and `SinkFull` the task's waker is registered for the next event, unless
/// the sink is not watched for being writable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransferStatus {
    /// Everything read was written, and there may be more.
    More,
    /// Nothing to read: wait until the source is readable.
    SourceEmpty,
    /// The method holds bytes that the sink does not accept: wait until it is writable, and read nothing meanwhile.
    SinkFull,
    /// The source's stream has ended and the method holds no bytes.
    Eof,
    /// The next byte cannot be spliced: copy it. Nothing was moved.
    Unspliceable,
    /// No pipe is available: copy for now. Nothing was moved.
    NoPipe,
    /// The kernel does not splice these sockets: copy from now on. Nothing was moved.
    SpliceUnsupported,
}

/// Why a direction cannot continue.
#[derive(Debug)]
pub(super) enum TransferError {
    /// The gate is closed; bytes that were read are dropped.
    GateClosed,
    /// Reading from the source failed.
    Source(SocketOperation, io::Error),
    /// Writing to the sink failed.
    Sink(SocketOperation, io::Error),
}
