//! Child processes that end together with the keeper. The postmaster is not one of them: it must survive a killed
//! keeper, so that its clients keep their connections.
#![allow(
    unsafe_code,
    reason = "what runs between fork and exec cannot be proven by the compiler"
)]

use std::io;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// Lets the kernel kill the program when the thread that spawned it ends (`PR_SET_PDEATHSIG`, prctl(2)). Spawn it from
/// a thread that lives as long as the process, such as the one of the keeper's loop.
///
/// SIGKILL is used because initdb reacts to SIGTERM by removing PGDATA, which may belong to its successor
/// by then. Descendants of the program are not killed; see `pgdata_holders`.
pub(crate) fn kill_with_parent(command: &mut Command) {
    let keeper = getpid();
    let set_up = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The keeper may have ended before the call.
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
