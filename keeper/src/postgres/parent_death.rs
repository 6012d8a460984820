//! Children that end with the keeper, whatever ends it. The postmaster is none of them: it outlives a killed keeper
//! (design D-5).
#![allow(
    unsafe_code,
    reason = "what runs between fork and exec cannot be proven by the compiler"
)]

use std::io;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// Has the kernel kill the program when the thread that spawns it ends (`PR_SET_PDEATHSIG`, prctl(2)): spawn it from one
/// that lives as long as the process, such as the one that runs the keeper's loop.
///
/// By SIGKILL: initdb answers SIGTERM by removing the data directory, which may be its successor's by then. What the
/// program has started itself is not killed, see `at_work`.
pub(crate) fn kill_with_parent(command: &mut Command) {
    let keeper = getpid();
    let set_up = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The keeper may have ended before.
        if getppid() == Some(keeper) {
            Ok(())
        } else {
            Err(Errno::SRCH.into())
        }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called (signal-safety(7)). These are system
    // calls alone, prctl and getppid; neither allocates, and an `io::Error` of an error number does not either.
    unsafe {
        command.pre_exec(set_up);
    }
}
