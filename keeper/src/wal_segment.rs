//! Names of WAL segment files, and the numbers in them. The files are read in `postgres`.

/// WAL segment size that Go stolon assumes, in bytes (keeper section 0, W27).
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// What the name of a WAL segment file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSegment {
    pub timeline: u64,
    /// The position of its first byte divided by its size.
    pub number: u64,
}

impl WalSegment {
    /// Parses the name of a segment file of this size (access/xlog_internal.h, XLogFromFileName); `None` for other names.
    pub fn parse(name: &str, segment_bytes: u64) -> Option<Self> {
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let name = Some(name).filter(|name| is_segment_name(name))?;
        let per_4_gib = (1_u64 << 32).checked_div(segment_bytes)?;
        Some(Self {
            timeline: hex(name.get(..8)?)?,
            number: hex(name.get(8..16)?)?
                .checked_mul(per_4_gib)?
                .checked_add(hex(name.get(16..)?)?)?,
        })
    }
}

/// Whether this is the name of a WAL segment file: 24 characters `0`-`9`, `A`-`F` (keeper T4).
pub fn is_segment_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_are_recognised() {
        // keeper T4
        assert!(is_segment_name("ABCDEF0123456789ABCDEF00"));
        for other in [
            "",
            "ABCDEF0123456789ABCDEF0",
            "$123",
            "00000002.history",
            "abcdef0123456789abcdef00",
        ] {
            assert!(!is_segment_name(other), "{other}");
            assert_eq!(WalSegment::parse(other, SEGMENT_BYTES), None, "{other}");
        }
    }

    #[test]
    fn a_name_has_timeline_and_number() {
        let parse =
            |name: &str, bytes| WalSegment::parse(name, bytes).map(|segment| (segment.timeline, segment.number));
        assert_eq!(
            parse("0000000A0000000200000003", SEGMENT_BYTES),
            Some((10, 2 * 256 + 3))
        );
        assert_eq!(parse("0000000A0000000200000003", 1 << 30), Some((10, 2 * 4 + 3)));
        assert_eq!(parse("0000000A0000000200000003", 0), None);
    }
}
