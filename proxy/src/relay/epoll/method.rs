//! Selects the method of the next transfer of a direction, from the sizes of the last ones. How bytes are moved is left
//! to the methods.

use super::copy;

/// Full reads in a row after which a direction is spliced. Copying is faster below 8 to 16 KiB per wake-up, splicing
/// above.
const FULL_READS: u8 = 2;
/// Small reads in a row after which it is copied again.
const SMALL_READS: u8 = 3;
/// A read of fewer bytes counts as small while splicing.
const SMALL_BYTES: usize = 16 * 1024;

/// Which methods a connection uses. All but the first are for tests and measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MethodPolicy {
    /// Selected for each direction by the size of its reads.
    #[default]
    Adaptive,
    /// Copy only.
    Copy,
    /// Splice, where the kernel supports it.
    Splice,
    /// Alternating with every transfer.
    Alternate,
}

/// How bytes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Through a buffer of the thread.
    Copy,
    /// Through a pipe, without copying (splice(2)).
    Splice,
}

/// Selects the method of one direction by its recent reads.
#[derive(Debug, Default)]
pub(super) struct MethodSelector {
    splicing: bool,
    splice_unsupported: bool,
    /// Full reads in a row while copying, small ones while splicing.
    streak: u8,
}

impl MethodSelector {
    /// Returns the method of the next transfer.
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

    /// Records a read of `bytes` bytes by this method.
    pub(super) fn note_read(&mut self, method: Method, bytes: usize, policy: MethodPolicy) {
        if policy == MethodPolicy::Alternate {
            self.splicing = method == Method::Copy;
            return;
        }
        let (continues_streak, needed) = match method {
            Method::Copy => (bytes == copy::BUFFER_BYTES, FULL_READS),
            Method::Splice => (bytes < SMALL_BYTES, SMALL_READS),
        };
        self.streak = if continues_streak { self.streak + 1 } else { 0 };
        if self.streak >= needed {
            self.splicing = method == Method::Copy;
            self.streak = 0;
        }
    }

    /// Records that no pipe is available: splicing begins again only after full reads.
    pub(super) fn note_no_pipe(&mut self) {
        (self.splicing, self.streak) = (false, 0);
    }

    /// Records that the kernel does not splice these sockets.
    pub(super) fn note_splice_unsupported(&mut self) {
        self.splice_unsupported = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = copy::BUFFER_BYTES;

    fn after(rounds: &[usize]) -> Method {
        let mut selector = MethodSelector::default();
        for bytes in rounds {
            selector.note_read(selector.method(MethodPolicy::Adaptive), *bytes, MethodPolicy::Adaptive);
        }
        selector.method(MethodPolicy::Adaptive)
    }

    #[test]
    fn two_full_reads_in_a_row_lead_to_splicing() {
        assert_eq!(after(&[]), Method::Copy);
        assert_eq!(after(&[FULL]), Method::Copy);
        assert_eq!(after(&[FULL, FULL - 1, FULL]), Method::Copy);
        assert_eq!(after(&[100, FULL, FULL]), Method::Splice);
    }

    #[test]
    fn three_small_reads_in_a_row_lead_back_to_copying() {
        assert_eq!(after(&[FULL, FULL, 1, 1]), Method::Splice);
        assert_eq!(after(&[FULL, FULL, 1, 1, SMALL_BYTES, 1, 1]), Method::Splice);
        assert_eq!(after(&[FULL, FULL, 1, SMALL_BYTES - 1, 1]), Method::Copy);
    }

    // copying comes in between where splicing finds an urgent byte
    #[test]
    fn a_streak_survives_a_transfer_by_the_other_method() {
        let mut selector = MethodSelector::default();
        for _ in 0..FULL_READS {
            selector.note_read(Method::Copy, FULL, MethodPolicy::Adaptive);
        }
        selector.note_read(Method::Splice, 1, MethodPolicy::Adaptive);
        selector.note_read(Method::Splice, 1, MethodPolicy::Adaptive);
        for _ in 0..300 {
            selector.note_read(Method::Copy, FULL, MethodPolicy::Adaptive);
            assert_eq!(selector.method(MethodPolicy::Adaptive), Method::Splice);
        }
    }

    #[test]
    fn missing_kernel_support_is_permanent_and_a_lack_of_pipes_temporary() {
        let mut selector = MethodSelector::default();
        let full_twice = |selector: &mut MethodSelector| {
            for _ in 0..2 {
                selector.note_read(Method::Copy, FULL, MethodPolicy::Adaptive);
            }
        };
        full_twice(&mut selector);
        selector.note_no_pipe();
        assert_eq!(selector.method(MethodPolicy::Adaptive), Method::Copy);
        full_twice(&mut selector);
        assert_eq!(selector.method(MethodPolicy::Adaptive), Method::Splice);
        selector.note_splice_unsupported();
        assert_eq!(selector.method(MethodPolicy::Adaptive), Method::Copy);
        assert_eq!(selector.method(MethodPolicy::Splice), Method::Copy);
    }
}
