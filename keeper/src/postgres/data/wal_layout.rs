//! Where records and segments of the WAL lie, by position. Reading them is left to `wal_end`.

use model::Lsn;

/// Sizes of WAL segments and pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalLayout {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
}

/// For tests: the layout of a server that was built and initialised with the defaults.
#[cfg(test)]
pub(crate) const LAYOUT: WalLayout = WalLayout {
    segment_bytes: 16 << 20,
    page_bytes: 8192,
};

/// Returns the end of a record of `length` bytes that begins at `start`. Its length is rounded up to a multiple of 8,
/// and each page that it enters has a header first, a longer one on a segment's first page (access/xlog_internal.h). An
/// end at a page boundary is the end of the page, as in the server.
pub(crate) fn end_of_record(start: Lsn, length: u64, layout: WalLayout) -> Lsn {
    const LONG_HEADER: u64 = 40;
    const SHORT_HEADER: u64 = 24;
    let mut position = start.0;
    let mut left = length.next_multiple_of(8);
    while left > 0 {
        if position % layout.page_bytes == 0 {
            position += if position % layout.segment_bytes == 0 {
                LONG_HEADER
            } else {
                SHORT_HEADER
            };
        }
        let taken = left.min(layout.page_bytes - position % layout.page_bytes);
        position += taken;
        left -= taken;
    }
    Lsn(position)
}

/// Returns the name of the segment file that contains a position.
pub fn segment_name(timeline: u64, position: Lsn, layout: WalLayout) -> String {
    let segment = position.0 / layout.segment_bytes;
    let per_high = (1 << 32) / layout.segment_bytes;
    format!("{timeline:08X}{:08X}{:08X}", segment / per_high, segment % per_high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_record_includes_alignment_and_page_headers() {
        let end = |start, length| end_of_record(Lsn(start), length, LAYOUT).0;
        assert_eq!(
            end(0x300_0028, 114),
            0x300_00A0,
            "a shutdown checkpoint, rounded up to 120"
        );
        assert_eq!(end(0x300_1FF8, 114), 0x300_2000 + 24 + 112, "a header in the middle");
        assert_eq!(end(0x3FF_FFF8, 114), 0x400_0000 + 40 + 112, "the header of a segment");
        assert_eq!(end(0x300_1F88, 114), 0x300_2000, "the end of a page is the end");
        assert_eq!(
            end(0x300_0028, 20_000),
            0x300_0028 + 20_000 + 2 * 24,
            "more than a page"
        );
    }

    #[test]
    fn a_position_lies_in_its_segment() {
        assert_eq!(segment_name(2, Lsn(0x1_0300_0148), LAYOUT), "000000020000000100000003");
    }
}
