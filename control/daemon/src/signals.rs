//! The signals that a program handles. What one does is left to the program; the default action of all others stays.

use std::future::poll_fn;
use std::task::Poll;
use std::{fmt, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that a program may handle (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGHUP.
    Hangup,
    /// SIGUSR1.
    User1,
}

/// The signals that stop a daemon.
pub const STOP: [ProcessSignal; 2] = [ProcessSignal::Terminate, ProcessSignal::Interrupt];

impl ProcessSignal {
    fn kind(self) -> SignalKind {
        match self {
            Self::Terminate => SignalKind::terminate(),
            Self::Interrupt => SignalKind::interrupt(),
            Self::Hangup => SignalKind::hangup(),
            Self::User1 => SignalKind::user_defined1(),
        }
    }
}

impl fmt::Display for ProcessSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Hangup => "SIGHUP",
            Self::User1 => "SIGUSR1",
        })
    }
}

/// Handlers of some signals.
#[derive(Debug)]
pub struct SignalHandlers(Vec<(ProcessSignal, Signal)>);

impl SignalHandlers {
    /// Installs handlers, for the rest of the process: from now on these signals no longer end it. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// A handler cannot be installed (sigaction(2)).
    pub fn install(signals: &[ProcessSignal]) -> io::Result<Self> {
        let handlers = signals.iter().map(|which| Ok((*which, signal(which.kind())?)));
        Ok(Self(handlers.collect::<io::Result<_>>()?))
    }

    /// Waits for the next of these signals. Several of one kind may arrive as one. Cancel-safe: none is lost.
    pub async fn next(&mut self) -> ProcessSignal {
        poll_fn(|context| {
            let arrived = self
                .0
                .iter_mut()
                .find_map(|(which, handler)| handler.poll_recv(context).is_ready().then_some(*which));
            arrived.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn signals_are_returned_one_after_the_other() {
        let mut handlers = SignalHandlers::install(&[ProcessSignal::Hangup, ProcessSignal::User1]).unwrap();
        for (sent, expected) in [
            (Signal::USR1, ProcessSignal::User1),
            (Signal::HUP, ProcessSignal::Hangup),
            (Signal::USR1, ProcessSignal::User1),
        ] {
            kill_process(getpid(), sent).unwrap();
            assert_eq!(handlers.next().await, expected);
        }
    }
}
