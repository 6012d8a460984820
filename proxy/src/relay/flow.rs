//! Which path carries a direction next, from what the last rounds took. How bytes move is the paths' own business.

use super::copy;

/// Full reads in a row after which a direction is spliced: copying wins below 8 to 16 KiB a wake-up, splicing above.
const FULL_READS: u8 = 2;
/// Small rounds in a row after which it is copied again.
const SMALL_ROUNDS: u8 = 3;
/// What counts as small while splicing.
const SMALL_BYTES: usize = 16 * 1024;

/// How the two paths share a connection. All but the first are for tests and measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paths {
    /// Each direction by what flows.
    #[default]
    ByFlow,
    /// Copying alone.
    Copy,
    /// Splicing alone, where the kernel does it.
    Splice,
    /// One after the other, changing with every round.
    Alternate,
}

/// One of the two paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Through the buffer of the thread.
    Copy,
    /// Through a pipe, without touching the bytes.
    Splice,
}

/// What one direction has seen lately.
#[derive(Debug, Default)]
pub(super) struct Flow {
    splicing: bool,
    refused: bool,
    run: u8,
}

impl Flow {
    /// The path of the next round.
    pub(super) fn way(&self, paths: Paths) -> Way {
        let splice = match paths {
            Paths::ByFlow | Paths::Alternate => self.splicing,
            Paths::Copy => false,
            Paths::Splice => true,
        };
        if splice && !self.refused {
            Way::Splice
        } else {
            Way::Copy
        }
    }

    /// Notes that a round of `way` took `bytes`.
    pub(super) fn took(&mut self, way: Way, bytes: usize, paths: Paths) {
        if paths == Paths::Alternate {
            self.splicing = way == Way::Copy;
            return;
        }
        let (counts, enough) = match way {
            Way::Copy => (bytes == copy::BUFFER_BYTES, FULL_READS),
            Way::Splice => (bytes < SMALL_BYTES, SMALL_ROUNDS),
        };
        self.run = if counts { self.run + 1 } else { 0 };
        if self.run >= enough {
            self.splicing = way == Way::Copy;
            self.run = 0;
        }
    }

    /// Notes that no pipe is to be had now: the direction has to earn one anew.
    pub(super) fn out_of_pipes(&mut self) {
        (self.splicing, self.run) = (false, 0);
    }

    /// Notes that the kernel does not splice these sockets.
    pub(super) fn refused(&mut self) {
        self.refused = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = copy::BUFFER_BYTES;

    fn after(rounds: &[usize]) -> Way {
        let mut flow = Flow::default();
        for bytes in rounds {
            flow.took(flow.way(Paths::ByFlow), *bytes, Paths::ByFlow);
        }
        flow.way(Paths::ByFlow)
    }

    #[test]
    fn two_full_reads_in_a_row_lead_to_splicing() {
        assert_eq!(after(&[]), Way::Copy);
        assert_eq!(after(&[FULL]), Way::Copy);
        assert_eq!(after(&[FULL, FULL - 1, FULL]), Way::Copy);
        assert_eq!(after(&[100, FULL, FULL]), Way::Splice);
    }

    #[test]
    fn three_small_rounds_in_a_row_lead_back_to_copying() {
        assert_eq!(after(&[FULL, FULL, 1, 1]), Way::Splice);
        assert_eq!(after(&[FULL, FULL, 1, 1, SMALL_BYTES, 1, 1]), Way::Splice);
        assert_eq!(after(&[FULL, FULL, 1, SMALL_BYTES - 1, 1]), Way::Copy);
    }

    // copying comes in between where splicing finds an urgent byte
    #[test]
    fn a_run_that_changes_paths_midway_leads_where_it_was_going() {
        let mut flow = Flow::default();
        for _ in 0..FULL_READS {
            flow.took(Way::Copy, FULL, Paths::ByFlow);
        }
        flow.took(Way::Splice, 1, Paths::ByFlow);
        flow.took(Way::Splice, 1, Paths::ByFlow);
        for _ in 0..300 {
            flow.took(Way::Copy, FULL, Paths::ByFlow);
            assert_eq!(flow.way(Paths::ByFlow), Way::Splice);
        }
    }

    #[test]
    fn a_refusal_stays_and_a_lack_of_pipes_passes() {
        let mut flow = Flow::default();
        let full_twice = |flow: &mut Flow| {
            for _ in 0..2 {
                flow.took(Way::Copy, FULL, Paths::ByFlow);
            }
        };
        full_twice(&mut flow);
        flow.out_of_pipes();
        assert_eq!(flow.way(Paths::ByFlow), Way::Copy);
        full_twice(&mut flow);
        assert_eq!(flow.way(Paths::ByFlow), Way::Splice);
        flow.refused();
        assert_eq!(flow.way(Paths::ByFlow), Way::Copy);
        assert_eq!(flow.way(Paths::Splice), Way::Copy);
    }
}
