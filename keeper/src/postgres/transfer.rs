//! The progress of a program that transfers data, from the lines that it prints.

/// Bytes that pg_basebackup, pg_rewind or a restore command has transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferProgress {
    pub done: u64,
    /// Estimated at the start; may be exceeded. 0 if it is not known.
    pub total: u64,
}

impl TransferProgress {
    /// Parses a line of `--progress`: `12345/67890 kB (18%), 0/1 tablespace` of pg_basebackup or `12345/67890 kB (18%)
    /// copied` of pg_rewind.
    pub fn parse(line: &str) -> Option<Self> {
        let (numbers, _) = line.trim_start().split_once(" kB (")?;
        let (done, total) = numbers.split_once('/')?;
        let bytes = |kib: &str| Some(kib.trim().parse::<u64>().ok()?.saturating_mul(1024));
        Some(Self {
            done: bytes(done)?,
            total: bytes(total)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_in_its_forms() {
        let progress = |line| TransferProgress::parse(line).map(|progress| (progress.done, progress.total));
        let kib = 1024;
        assert_eq!(progress("    0/30461 kB (0%), 0/1 tablespace"), Some((0, 30_461 * kib)));
        assert_eq!(
            progress("30471/30461 kB (100%), 1/1 tablespace"),
            Some((30_471 * kib, 30_461 * kib))
        );
        assert_eq!(
            progress("  12/ 0 kB (100%), 0/1 tablespace (data/base/1/2)"),
            Some((12 * kib, 0))
        );
        assert_eq!(progress(" 3577/36589 kB (9%) copied"), Some((3577 * kib, 36_589 * kib)));
        assert_eq!(progress("pg_basebackup: base backup completed"), None);
    }
}
