//! Detects that the machine may have been paused together with its boottime clock (fencing section 1). What follows
//! from that is left to the check-in.

use base::Clock;
use base::clock::Boottime;

/// How many nanoseconds the wall clock may move further than the boottime clock before the machine counts as having
/// been paused (fencing section 1).
const CLOCK_JUMP_MAX: i128 = 1_000_000_000;

/// Both clocks as they were when they were last compared.
#[derive(Debug, Default)]
pub(super) struct ClockComparison(Option<(Boottime, i128)>);

impl ClockComparison {
    /// Whether the wall clock has moved too far since the last call.
    pub(super) fn has_jumped(&mut self, clock: &Clock) -> bool {
        let clocks = (clock.now(), clock.wall());
        self.0.replace(clocks).is_some_and(|before| has_jumped(before, clocks))
    }
}

/// Whether the wall clock moved over a second further than the boottime clock (fencing section 1).
fn has_jumped(before: (Boottime, i128), after: (Boottime, i128)) -> bool {
    let boottime = i128::from(after.0.as_nanos()) - i128::from(before.0.as_nanos());
    after.1 - before.1 - boottime > CLOCK_JUMP_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn only_a_wall_clock_that_moves_ahead_counts_as_a_jump() {
        let at = |boottime: u64, wall: i128| (Boottime::from_nanos(boottime), wall);
        let wall = 1_700_000_000 * i128::from(SECOND);
        let jumped = |forward: i128| has_jumped(at(SECOND, wall), at(6 * SECOND, wall + forward));
        assert!(!jumped(5 * i128::from(SECOND)));
        assert!(!jumped(6 * i128::from(SECOND)), "a second is tolerated");
        assert!(jumped(6 * i128::from(SECOND) + 1));
        assert!(!jumped(-3600 * i128::from(SECOND)), "set back");
    }
}
