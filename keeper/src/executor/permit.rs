//! The permit to become master within one round (extensions ), and the deadline that it sets to one start or
//! promotion. Requesting it is left to `publish`.

use base::clock::Boottime;

use crate::executor::StepError;
use crate::reconcile::{StartAs, TargetDb};

/// The permit of one round, used by one start or one promotion.
#[derive(Debug, Default)]
pub struct RoundPermit {
    /// When its request was sent.
    sent: Option<Boottime>,
}

/// Until when a start or a promotion may begin.
#[derive(Debug, Clone, Copy)]
pub enum StartDeadline {
    /// No permit is needed.
    None,
    /// No start as master and no promotion after half of failInterval (extensions ): the sentinel replaces a
    /// silent master only after the whole failInterval since the permit was written.
    At(Boottime),
}

impl RoundPermit {
    /// Records a permit whose request was sent at this time.
    pub fn grant(&mut self, sent: Boottime) {
        self.sent = Some(sent);
    }

    /// Consumes the permit for one start as `role` or one promotion.
    pub fn consume(&mut self, role: StartAs, target: &TargetDb) -> Result<StartDeadline, StepError> {
        if role == StartAs::Standby {
            return Ok(StartDeadline::None);
        }
        let sent = self.sent.take().ok_or(StepError::PermitExpired)?;
        Ok(StartDeadline::At(sent + target.fail_interval / 2))
    }
}

impl StartDeadline {
    /// Whether the start or promotion may begin now.
    pub fn allows(self, now: Boottime) -> bool {
        match self {
            Self::None => true,
            Self::At(end) => now <= end,
        }
    }
}
