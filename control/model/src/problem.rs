//! Problems that a program reports in its info for an operator to fix.

use serde::{Deserialize, Serialize};

use crate::is_zero;

/// Something that an operator has to fix: `stolonctl status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Problem {
    /// The subject, one word such as `login` or `configuration`; the label of the metric.
    pub kind: String,
    /// What is wrong, on one line, with the server's message if there is one.
    pub text: String,
    /// What fixes it; may be empty.
    #[serde(skip_serializing_if = "is_zero")]
    pub remedy: String,
}

impl Problem {
    /// Most bytes of a text or a remedy that are published or shown.
    pub const TEXT_BYTES_MAX: usize = 600;
    /// Most problems of one program that are published or shown.
    pub const COUNT_MAX: usize = 20;

    /// Returns a problem whose text and remedy are each on one line, without control characters, and not longer than
    /// [`Self::TEXT_BYTES_MAX`].
    pub fn new(kind: &str, text: &str, remedy: &str) -> Self {
        Self {
            kind: one_line(kind),
            text: one_line(text),
            remedy: one_line(remedy),
        }
    }

    /// Returns the problem in printable form: an info in the store may hold any characters.
    #[must_use]
    pub fn printable(&self) -> Self {
        Self::new(&self.kind, &self.text, &self.remedy)
    }
}

fn one_line(text: &str) -> String {
    const CUT: &str = " …";
    let mut line = text.replace(char::is_control, " ").trim().to_owned();
    if line.len() > Problem::TEXT_BYTES_MAX {
        let mut fits = (0..=Problem::TEXT_BYTES_MAX - CUT.len()).rev();
        line.truncate(fits.find(|at| line.is_char_boundary(*at)).unwrap_or(0));
        line.push_str(CUT);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_becomes_one_short_line() {
        let problem = Problem::new("login", "first\nsecond\u{1b}[31m\0\n", &"é".repeat(1000));
        assert_eq!(problem.text, "first second [31m");
        assert!(
            problem.remedy.len() <= Problem::TEXT_BYTES_MAX,
            "{}",
            problem.remedy.len()
        );
        assert!(problem.remedy.ends_with("é …"));
        assert_eq!(problem.printable(), problem);
    }
}
