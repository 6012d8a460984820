//! The only unsafe code of the proxy: system calls that the safe wrappers do not offer. Each function borrows or owns
//! its descriptors and returns `io::Result`.
#![allow(unsafe_code, reason = "the one module that may, see ARCHITECTURE.md")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

/// Readiness for reading. Urgent bytes are reported with it, at no cost.
const READ: Interest = Interest::READABLE.add(Interest::PRIORITY);

/// Registers a descriptor with the current runtime for being readable.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(fd, READ).map_err(|(_, err)| err)
}

/// Registers a descriptor with the current runtime for being writable.
pub(crate) fn writable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::WRITABLE).map_err(|(_, err)| err)
}

/// Registers a descriptor with the current runtime for both. An error returns the descriptor.
pub(crate) fn readable_and_writable(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, (OwnedFd, io::Error)> {
    register(fd, READ.add(Interest::WRITABLE))
}

fn register(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, (OwnedFd, io::Error)> {
    // SAFETY: an `OwnedFd` is open, always returns the same descriptor, and is closed only when it is dropped; the
    // `AsyncFd` owns it, and lends it only by reference.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(AsyncFdRegisterError::into_parts)
}

/// Sets the low-water mark: from how many bytes on the kernel reports the socket as readable (`SO_RCVLOWAT`,
/// socket(7)). If that many are there already it does so at once; at the end of the stream, after an error, or with a
/// full buffer it does so regardless of the mark.
pub(crate) fn set_low_water_mark(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    let socket = socket.as_fd();
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: `socket` is borrowed, so the descriptor stays open for the call; SO_RCVLOWAT reads one c_int through the
    // pointer, `bytes` is one, and the length given is its.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Returns the low-water mark.
#[cfg(test)]
pub(super) fn low_water_mark(socket: impl AsFd) -> io::Result<usize> {
    // SAFETY: SO_RCVLOWAT is one c_int.
    let bytes: libc::c_int = unsafe { get_option(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT) }?;
    Ok(usize::try_from(bytes).unwrap_or_default())
}

/// Returns what the kernel reports about a TCP connection (`TCP_INFO`, tcp(7)); fields that an older kernel does not
/// have are 0.
pub(crate) fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: `tcp_info` is made of integers alone.
    unsafe { get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO) }
}

/// Returns the value of a socket option; bytes that the kernel does not write are 0.
///
/// # Safety
///
/// Whatever the kernel writes for this option, followed by zero bytes, must be a valid `T`.
unsafe fn get_option<T>(socket: impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    let socket = socket.as_fd();
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `socket` is borrowed, so the descriptor stays open for the call; the kernel writes as many bytes through
    // the first pointer as the length behind the second one allows, and that is the size of `value`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status == 0 {
        // SAFETY: the caller guarantees that the value is valid, and it was zero before the kernel wrote to it.
        Ok(unsafe { value.assume_init() })
    } else {
        Err(io::Error::last_os_error())
    }
}
