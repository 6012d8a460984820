//! Which characters a line for people may hold as they are. How the others are escaped is left to the format of the line.

use std::borrow::Cow;

/// Returns whether a character is visible and changes nothing around it: it is not a control character, not invisible,
/// and does not change the direction of the text (Unicode's categories Cc, Zl, Zp and the bulk of Cf).
pub fn is_printable(c: char) -> bool {
    let is_invisible = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !is_invisible
}

/// Returns a text with each character that is not printable in the form `\n` or `\u{7}`, for a line on a terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_printable(c) {
            true => line.push(c),
            false => line.extend(c.escape_default()),
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_seen_is_escaped() {
        assert_eq!(printable("käse \\ \"u\u{308}\" 🐘 例"), "käse \\ \"u\u{308}\" 🐘 例");
        assert_eq!(
            printable("a\u{1b}[31m\n\0\u{7f}\u{9b}\u{202e}b"),
            "a\\u{1b}[31m\\n\\u{0}\\u{7f}\\u{9b}\\u{202e}b"
        );
    }
}
