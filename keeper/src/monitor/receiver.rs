//! The WAL receiver of a standby as an observation showed it, and its process, whose end is waited for. Observing is left
//! to `monitor`.

use crate::postgres::client::replication_state::StandbyStatus;
use crate::postgres::server::process::Process;

/// The WAL receiver at an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ObservedReceiver {
    pub(super) pid: i32,
    pub(super) is_streaming: bool,
}

impl ObservedReceiver {
    pub(super) fn of(standby: &StandbyStatus) -> Option<Self> {
        let receiver = standby.receiver.as_ref()?;
        Some(Self {
            pid: receiver.pid,
            is_streaming: receiver.is_streaming,
        })
    }
}

/// The process of an observed WAL receiver.
#[derive(Debug)]
pub(super) enum ReceiverProcess<'a> {
    Runs(&'a Process),
    HasEnded,
    /// None was observed, or its process cannot be looked at.
    NoneOrUnknown,
}

/// The process id and the process of the last receiver, kept open: opening it reads `/proc`.
#[derive(Debug, Default)]
pub(super) struct OpenReceiver(Option<(i32, Process)>);

impl OpenReceiver {
    /// Returns the process of the receiver.
    pub(super) fn process(&mut self, receiver: Option<ObservedReceiver>) -> ReceiverProcess<'_> {
        let kept = self.0.take();
        let Some(ObservedReceiver { pid, .. }) = receiver else {
            return ReceiverProcess::NoneOrUnknown;
        };
        self.0 = match kept.filter(|(kept, _)| *kept == pid) {
            Some(kept) => Some(kept),
            None => match Process::open(pid) {
                Ok(process) => process.map(|process| (pid, process)),
                Err(_) => return ReceiverProcess::NoneOrUnknown,
            },
        };
        match &self.0 {
            Some((_, process)) => ReceiverProcess::Runs(process),
            None => ReceiverProcess::HasEnded,
        }
    }

    /// Closes the process, which has ended.
    pub(super) fn close(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(pid: u32) -> Option<ObservedReceiver> {
        Some(ObservedReceiver {
            pid: pid.try_into().unwrap(),
            is_streaming: true,
        })
    }

    #[tokio::test]
    async fn the_end_of_the_present_receiver_is_seen() {
        let sleep = || std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (mut first, mut second) = (sleep(), sleep());
        let mut open = OpenReceiver::default();
        assert!(matches!(open.process(None), ReceiverProcess::NoneOrUnknown));
        assert!(matches!(open.process(observed(first.id())), ReceiverProcess::Runs(_)));
        // Another one is observed: the end of the first one means nothing any more.
        assert!(matches!(open.process(observed(second.id())), ReceiverProcess::Runs(_)));
        second.kill().unwrap();
        second.wait().unwrap();
        let ReceiverProcess::Runs(kept) = open.process(observed(second.id())) else {
            panic!("it stays open");
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), kept.ended())
            .await
            .unwrap();
        open.close();
        assert!(matches!(open.process(observed(second.id())), ReceiverProcess::HasEnded));
        assert!(matches!(open.process(observed(first.id())), ReceiverProcess::Runs(_)));
        first.kill().unwrap();
        first.wait().unwrap();
    }
}
