//! The one place of unsafe code: calls that the safe wrappers do not offer. Each borrows or owns its descriptors and
//! speaks `io::Result`.
#![allow(unsafe_code, reason = "the one module that may, see the README's map")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current runtime, so that it can be waited for to become readable.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always gives the same descriptor, and is closed only when it is dropped; the
    // `AsyncFd` owns it, and lends it only by reference.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(registered?)
}
