//! Sizes as PostgreSQL writes them: a whole number and a unit (PostgreSQL manual 20.1.1).

/// What is valid, for users.
pub(super) const LIMIT_FORM: &str = "give a whole number with one of the units B, kB, MB, GB and TB, such as 16MB";

/// Units of 1024, in PostgreSQL's spelling; upper and lower case matter.
const UNITS: [(&str, u64); 5] = [
    ("kB", 1 << 10),
    ("MB", 1 << 20),
    ("GB", 1 << 30),
    ("TB", 1 << 40),
    ("B", 1),
];

/// Returns the bytes of a size; `None` if it is none, or too large.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let stripped = UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = stripped?;
    // `parse` would take a sign.
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_postgresql_s_units() {
        for (text, bytes) in [
            ("0B", 0),
            ("17B", 17),
            ("1kB", 1024),
            ("16MB", 16 << 20),
            ("2GB", 2 << 30),
            ("1TB", 1 << 40),
            ("18446744073709551615B", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "16",
            "MB",
            "16mb",
            "16KB",
            "16 MB",
            "-1MB",
            "+1MB",
            "1.5MB",
            "16MBB",
            "16%4DB",
            "0x10MB",
            "99999999TB",
            "18446744073709551616B",
        ] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }
}
