//! Which path carries a direction next, from what the last rounds took. How bytes move is the paths' own business.

use super::copy;

/// Full reads in a row after which a direction is spliced: copying wins below 8 to 16 KiB a wake-up, splicing above.
const FULL_READS: u8 = 2;
/// Small rounds in a row after which it is copied again.
const SMALL_READS: u8 = 3;
/// What counts as small while splicing.
const SMALL_BYTES: usize = 16 * 1024;

/// How the two paths share a connection. All but the first are for tests and measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MethodPolicy {
    /// Each direction by what flows.
    #[default]
    Adaptive,
    /// Copying alone.
    Copy,
    /// Splicing alone, where the kernel does it.
    Splice,
    /// One after the other, changing with every round.
    Alternate,
}

/// One of the two paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Through the buffer of the thread.
    Copy,
    /// Through a pipe, without touching the bytes.
    Splice,
}

/// What one direction has seen lately.
#[derive(Debug, Default)]
pub(super) struct MethodSelector {
    splicing: bool,
    splice_unsupported: bool,
    streak: u8,
}

impl MethodSelector {
    /// The path of the next round.
    pub(super) fn method(&self, policy: MethodPolicy) -> Method {
        let splice = match policy {
            MethodPolicy::Adaptive | MethodPolicy::Alternate => self.splicing,
            MethodPolicy::Copy => false,
            MethodPolicy::Splice => true,
        };
        if splice && !self.splice_unsupported {
            Method::Splice
        } else {
            Method::Copy
        }
    }

    /// Notes that a round of `way` took `bytes`.
    pub(super) fn note_read(&mut self, method: Method, bytes: usize, policy: MethodPolicy) {
        if policy == MethodPolicy::Alternate {
            self.splicing = method == Method::Copy;
            return;
        }
        let (counts, enough) = match method {
            Method::Copy => (bytes == copy::BUFFER_BYTES, FULL_READS),
            Method::Splice => (bytes < SMALL_BYTES, SMALL_READS),
        };
        self.streak = if counts { self.streak + 1 } else { 0 };
        if self.streak >= enough {
            self.splicing = method == Method::Copy;
            self.streak = 0;
        }
    }

    /// Notes that no pipe is to be had now: the direction has to earn one anew.
    pub(super) fn note_no_pipe(&mut self) {
        (self.splicing, self.streak) = (false, 0);
    }

    /// Notes that the kernel does not splice these sockets.
    pub(super) fn note_splice_unsupported(&mut self) {
        self.splice_unsupported = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = copy::BUFFER_BYTES;

    fn after(rounds: &[usize]) -> Method {
        let mut flow = MethodSelector::default();
        for bytes in rounds {
            flow.note_read(flow.method(MethodPolicy::Adaptive), *bytes, MethodPolicy::Adaptive);
        }
        flow.method(MethodPolicy::Adaptive)
    }

    #[test]
    fn two_full_reads_in_a_row_lead_to_splicing() {
        assert_eq!(after(&[]), Method::Copy);
        assert_eq!(after(&[FULL]), Method::Copy);
        assert_eq!(after(&[FULL, FULL - 1, FULL]), Method::Copy);
        assert_eq!(after(&[100, FULL, FULL]), Method::Splice);
    }

    #[test]
    fn three_small_rounds_in_a_row_lead_back_to_copying() {
        assert_eq!(after(&[FULL, FULL, 1, 1]), Method::Splice);
        assert_eq!(after(&[FULL, FULL, 1, 1, SMALL_BYTES, 1, 1]), Method::Splice);
        assert_eq!(after(&[FULL, FULL, 1, SMALL_BYTES - 1, 1]), Method::Copy);
    }

    // copying comes in between where splicing finds an urgent byte
    #[test]
    fn a_run_that_changes_paths_midway_leads_where_it_was_going() {
        let mut flow = MethodSelector::default();
        for _ in 0..FULL_READS {
            flow.note_read(Method::Copy, FULL, MethodPolicy::Adaptive);
        }
        flow.note_read(Method::Splice, 1, MethodPolicy::Adaptive);
        flow.note_read(Method::Splice, 1, MethodPolicy::Adaptive);
        for _ in 0..300 {
            flow.note_read(Method::Copy, FULL, MethodPolicy::Adaptive);
            assert_eq!(flow.method(MethodPolicy::Adaptive), Method::Splice);
        }
    }

    #[test]
    fn a_refusal_stays_and_a_lack_of_pipes_passes() {
        let mut flow = MethodSelector::default();
        let full_twice = |flow: &mut MethodSelector| {
            for _ in 0..2 {
                flow.note_read(Method::Copy, FULL, MethodPolicy::Adaptive);
            }
        };
        full_twice(&mut flow);
        flow.note_no_pipe();
        assert_eq!(flow.method(MethodPolicy::Adaptive), Method::Copy);
        full_twice(&mut flow);
        assert_eq!(flow.method(MethodPolicy::Adaptive), Method::Splice);
        flow.note_splice_unsupported();
        assert_eq!(flow.method(MethodPolicy::Adaptive), Method::Copy);
        assert_eq!(flow.method(MethodPolicy::Splice), Method::Copy);
    }
}
