//! Option values as Go's flag parser reads them: switches and integers. Durations are in `model`.

use std::str::FromStr;

/// A boolean option: `--name` is true, `--name=false` is false, and in `--name false` the second word is a separate
/// argument (cli O-3). The parser configures options of this type accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch(pub bool);

/// The text is not a boolean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a switch takes true or false (or 1, t, T, TRUE, True, 0, f, F, FALSE, False)")]
pub struct SwitchError;

impl FromStr for Switch {
    type Err = SwitchError;

    fn from_str(text: &str) -> Result<Self, SwitchError> {
        match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Self(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Self(false)),
            _ => Err(SwitchError),
        }
    }
}

/// A 64-bit integer: decimal, or with the prefix `0x`, `0b`, `0o` or a plain `0` for octal (cli O-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoInt(pub i64);

/// The text is not a 64-bit integer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a whole number of 64 bits")]
pub struct IntError;

impl FromStr for GoInt {
    type Err = IntError;

    fn from_str(text: &str) -> Result<Self, IntError> {
        let (sign, digits) = match text.as_bytes().first() {
            Some(b'-') => ("-", &text[1..]),
            Some(b'+') => ("", &text[1..]),
            _ => ("", text),
        };
        let lower = digits.to_ascii_lowercase();
        let (radix, digits) = match lower.as_bytes() {
            [b'0', b'x', ..] => (16, &lower[2..]),
            [b'0', b'b', ..] => (2, &lower[2..]),
            [b'0', b'o', ..] => (8, &lower[2..]),
            [b'0', _, ..] => (8, &lower[1..]),
            _ => (10, lower.as_str()),
        };
        if !digits.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Err(IntError); // a second sign, or no digits
        }
        i64::from_str_radix(&format!("{sign}{digits}"), radix)
            .map(Self)
            .map_err(|_| IntError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_the_prefixes_of_go() {
        // cli O-4
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("-10", -10),
            ("+7", 7),
            ("0x1F", 31),
            ("-0b101", -5),
            ("017", 15),
        ] {
            assert_eq!(text.parse(), Ok(GoInt(value)), "{text}");
        }
        assert_eq!("9223372036854775807".parse(), Ok(GoInt(i64::MAX)));
        assert_eq!("-9223372036854775808".parse(), Ok(GoInt(i64::MIN)));
        for text in [
            "",
            "-",
            "0x",
            "08",
            "1.0",
            "1e2",
            "--1",
            "0x-1",
            " 1",
            "9223372036854775808",
        ] {
            assert_eq!(text.parse::<GoInt>(), Err(IntError), "{text}");
        }
    }

    #[test]
    fn switches_have_the_spellings_of_go() {
        // cli O-4
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(text.parse(), Ok(Switch(true)));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(text.parse(), Ok(Switch(false)));
        }
        for text in ["", "yes", "on", "tRUE", "2"] {
            assert_eq!(text.parse::<Switch>(), Err(SwitchError));
        }
    }
}
