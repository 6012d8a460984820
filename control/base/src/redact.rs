//! Masks passwords in text that other programs print before it is logged: connection strings, SQL, URIs, and password
//! verifiers.

use std::borrow::Cow;

/// The replacement of a secret.
const MASK: &str = "***";
/// The words that precede a secret, in lower case.
const WORDS: [&str; 6] = [
    "password",
    "passwd",
    "passphrase_command",
    "passphrase",
    "secrets",
    "secret",
];

/// Returns a text with its secrets masked.
///
/// The text is one unit: a newline inside a quoted value does not end the value.
pub fn redacted(text: &str) -> String {
    let mut redactor = Redactor::default();
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive(['\n', '\r']) {
        let end = line.trim_end_matches(['\n', '\r']).len();
        out.push_str(&redactor.line(&line[..end], PieceStart::Continuation));
        out.push_str(&line[end..]);
    }
    out
}

/// Returns whether a parameter of this name may hold a password that cannot be recognised from its value.
pub fn may_hold_password(parameter: &str) -> bool {
    const PARTS: [&str; 5] = ["command", "conninfo", "passphrase", "password", "secret"];
    let lower = parameter.to_ascii_lowercase();
    lower != "password_encryption" && PARTS.iter().any(|part| lower.contains(part))
}

/// Returns a message with a value masked. A value of one or two characters is not masked, because it would match by
/// chance.
pub fn mask_value(why: &str, value: &str) -> String {
    const BYTES_MIN: usize = 3;
    match value.len() >= BYTES_MIN {
        true => why.replace(value, MASK),
        false => why.to_owned(),
    }
}

/// Masks the lines of one output stream. A statement may span several lines: the server begins those after the first
/// with a tab.
#[derive(Debug, Default)]
pub struct Redactor {
    open: OpenSecret,
}

/// Where a piece of output begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceStart {
    /// After a newline, or at the start: an open value continues only if the line begins with a tab.
    Line,
    /// After a carriage return, which may be part of a quoted value like any other character.
    Continuation,
}

/// What is still open at the end of a line.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum OpenSecret {
    #[default]
    Nothing,
    /// After the word, before its value.
    Value,
    /// Inside a value that ends with this delimiter.
    Until(String),
}

impl Redactor {
    /// Returns the line with its secrets masked.
    pub fn line<'a>(&mut self, line: &'a str, begins: PieceStart) -> Cow<'a, str> {
        if line.is_empty() {
            return Cow::Borrowed(line); // between carriage return and newline
        }
        let open = std::mem::take(&mut self.open);
        let goes_on = begins == PieceStart::Continuation || line.starts_with('\t');
        let open = if goes_on { open } else { OpenSecret::Nothing };
        if open == OpenSecret::Nothing && !may_hold_secret(line) {
            return Cow::Borrowed(line);
        }
        let mut out = String::with_capacity(line.len());
        let mut rest = match open {
            OpenSecret::Nothing => line,
            OpenSecret::Value => self.value(line, &mut out, false),
            OpenSecret::Until(end) => self.quoted(line, &end, &mut out),
        };
        while let Some(first) = rest.chars().next() {
            rest = if let Some(word) = starts_with_word(rest) {
                out.push_str(&rest[..word]);
                self.value(&rest[word..], &mut out, true)
            } else if let Some(length) = stored_secret(rest, out.chars().next_back()) {
                out.push_str(MASK);
                &rest[length..]
            } else if let Some((shown, length)) = uri_with_password(rest) {
                out.push_str(&rest[..shown]);
                out.push_str(MASK);
                &rest[length..]
            } else {
                out.push(first);
                &rest[first.len_utf8()..]
            };
        }
        Cow::Owned(out)
    }

    /// Handles the text after a word: copies the separator and masks the value, if there is one.
    fn value<'a>(&mut self, text: &'a str, out: &mut String, is_first_line: bool) -> &'a str {
        let key_end = text.trim_start_matches(['"', '\'', '\\', '`', ']']); // of a quoted key
        let separated = key_end.trim_start().strip_prefix([':', '=']);
        let is_separated = separated.is_some();
        let after = text.trim_start();
        let value = separated.map_or(after, |value| value.trim_start_matches(['=', '>']).trim_start());
        let quoted = opening_quote(value);
        let value = match quoted {
            None if !is_separated => {
                // Only blanks follow: the value may be in the next line.
                if after.is_empty() && (is_first_line || text.trim().is_empty()) {
                    self.open = OpenSecret::Value;
                }
                return text;
            }
            _ => value,
        };
        if value.is_empty() {
            self.open = OpenSecret::Value;
        }
        out.push_str(&text[..text.len() - value.len()]);
        match quoted {
            Some((length, end)) => {
                out.push_str(&value[..length]);
                self.quoted(&value[length..], &end, out)
            }
            None => {
                let length = bare_value(value);
                if length > 0 {
                    out.push_str(MASK);
                }
                &value[length..]
            }
        }
    }

    /// Inside a quoted value: masks it up to its end, or the whole line.
    fn quoted<'a>(&mut self, text: &'a str, end: &str, out: &mut String) -> &'a str {
        out.push_str(MASK);
        let escapes = !end.starts_with('$') && !end.starts_with('\\');
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            if text[at..].starts_with(end) {
                let doubled = escapes && text[at + end.len()..].starts_with(end);
                if !doubled {
                    return &text[at..];
                }
                at += 2 * end.len();
            } else if c == '\\' && escapes {
                at += 1;
                at += text[at..].chars().next().map_or(0, char::len_utf8);
            } else {
                at += c.len_utf8();
            }
        }
        self.open = OpenSecret::Until(end.to_owned());
        ""
    }
}

/// A fast check; nearly every line holds no secret.
fn may_hold_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    WORDS.iter().any(|word| lower.contains(word))
        || lower.contains("scram-sha-256$")
        || lower.contains("md5")
        || lower.contains("://")
}

/// Returns the length of the secret's preceding word, if the text begins with one.
fn starts_with_word(text: &str) -> Option<usize> {
    let fits = |word: &&&str| {
        text.get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    WORDS.iter().find(fits).map(|word| word.len())
}

/// Returns the length of the opening quote at the start of the text, and the closing delimiter: `'x'`, `''x''`,
/// `\'x\'`, `"x"`, `E'x'`, `U&'x'`, `$tag$x$tag$`.
fn opening_quote(text: &str) -> Option<(usize, String)> {
    let prefix = ["E", "e", "U&", "u&", "N", "n"]
        .iter()
        .find(|prefix| text.strip_prefix(**prefix).is_some_and(|rest| rest.starts_with('\'')));
    let start = prefix.map_or(0, |prefix| prefix.len());
    let rest = &text[start..];
    if let Some(tagged) = rest.strip_prefix('$') {
        let tag = tagged.find('$')?;
        let is_tag = tagged[..tag].chars().all(|c| c.is_alphanumeric() || c == '_');
        return is_tag.then(|| (tag + 2, rest[..tag + 2].to_owned()));
    }
    let backslashes = rest.len() - rest.trim_start_matches('\\').len();
    let quote = rest[backslashes..].chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let quotes = rest[backslashes..].chars().take_while(|c| *c == quote).count();
    // A doubled quote inside a string is one quote; '' alone is an empty string.
    let taken = if backslashes == 0 && quotes >= 2 && rest[2..].chars().next().is_some_and(is_value_char) {
        2
    } else {
        1
    };
    let length = backslashes + taken;
    Some((start + length, rest[..length].to_owned()))
}

fn is_value_char(c: char) -> bool {
    !c.is_whitespace() && !matches!(c, ',' | ';' | ')' | '\'' | '"')
}

/// Returns the length of an unquoted value: up to a blank without a backslash before it.
fn bare_value(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().find(|(_, c)| {
        let ends = c.is_whitespace() && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at)
}

/// Returns the length of a password verifier at the start of the text: SCRAM, or `md5` and 32 hexadecimal digits.
fn stored_secret(text: &str, before: Option<char>) -> Option<usize> {
    const SCRAM: &str = "SCRAM-SHA-256$";
    let starts = |prefix: &str| {
        text.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if starts(SCRAM) {
        let is_of_it = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | ':' | '$' | '-');
        return Some(text.find(|c| !is_of_it(c)).unwrap_or(text.len()));
    }
    let is_hash = starts("md5")
        && text
            .get(3..35)
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && !text[35..].starts_with(|c: char| c.is_ascii_alphanumeric())
        && !before.is_some_and(|before| before.is_ascii_alphanumeric());
    is_hash.then_some(35)
}

/// Returns begin and end of the secret in `://user:secret@`.
fn uri_with_password(text: &str) -> Option<(usize, usize)> {
    let authority = text.strip_prefix("://")?;
    let end = authority
        .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\''))
        .unwrap_or(authority.len());
    // a password may hold a raw @, so the last one counts
    let at = authority[..end].rfind('@')?;
    let colon = authority[..at].find(':')?;
    Some((3 + colon + 1, 3 + at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, wanted: &str) {
        assert_eq!(Redactor::default().line(line, PieceStart::Line), wanted);
    }

    fn is_hidden(line: &str) {
        let shown = Redactor::default().line(line, PieceStart::Line).into_owned();
        assert!(!shown.contains("geheim") && !shown.contains("wort"), "{line} → {shown}");
    }

    #[test]
    fn connection_strings_keep_all_but_the_password() {
        check(
            "parameter \"primary_conninfo\" changed to \"application_name=a host=h password=geheim port=1 user=u\"",
            "parameter \"primary_conninfo\" changed to \"application_name=a host=h password=*** port=1 user=u\"",
        );
        check("password='geheim wort' user=u", "password='***' user=u");
        check("password = geheim user=u", "password = *** user=u");
        check(
            "connection to postgresql://u:geheim@h/db failed",
            "connection to postgresql://u:***@h/db failed",
        );
        for line in [
            "password=geheim\\ wort user=u",
            "password=geheim\\\\wort",
            "password='ge\\'geheim wort' user=u",
            "'host=h password=''geheim wort'' user=u'",
            "\"host=h password=\\'geheim wort\\' user=u\"",
            "PASSWORD=geheim",
            "PGPASSWORD=geheim pg_dump",
            "sslpassword=geheim",
            "--pg-su-password=geheim",
            "postgres://u:ge@geheim@h:5432/db?x=y",
            "postgresql://h/db?user=u&password=geheim",
            "{\"password\":\"geheim wort\"}",
            "{\"password\": \"geheim\\\"wort\"}",
            "passwd: geheim",
        ] {
            is_hidden(line);
        }
    }

    #[test]
    fn statements_keep_all_but_the_password() {
        check(
            "STATEMENT:  alter role r password 'geheim' valid until 'infinity'",
            "STATEMENT:  alter role r password '***' valid until 'infinity'",
        );
        for line in [
            "CREATE ROLE r ENCRYPTED PASSWORD 'it''s geheim' LOGIN",
            "create user mapping for u server s options (user 'x', password 'geheim wort')",
            "alter role r password E'a\\'geheim wort'",
            "alter role r password U&'geheim wort'",
            "alter role r password $$geheim wort$$",
            "alter role r password $x$geheim $$ wort$x$ login",
            "alter role r password'geheim'",
            "create subscription s connection 'host=h password=geheim' publication p",
            "password 'geheim wort", // cut
        ] {
            is_hidden(line);
        }
        check("alter role r password '' login", "alter role r password '***' login");
        check("alter role r password null", "alter role r password null");
    }

    #[test]
    fn password_verifiers_are_masked_too() {
        check(
            "update x set v = 'SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk+/=:c2VydmVy=' where y",
            "update x set v = '***' where y",
        );
        check("v = md5a1b2c3d4e5f60718293a4b5c6d7e8f90;", "v = ***;");
        check("select md5('x'), md5sum", "select md5('x'), md5sum");
        check(
            "hmd5a1b2c3d4e5f60718293a4b5c6d7e8f90",
            "hmd5a1b2c3d4e5f60718293a4b5c6d7e8f90",
        );
    }

    #[test]
    fn a_secret_in_the_next_line_of_a_statement_is_hidden() {
        let mut lines = Redactor::default();
        assert_eq!(
            lines.line("STATEMENT:  alter role r password", PieceStart::Line),
            "STATEMENT:  alter role r password"
        );
        assert_eq!(lines.line("\t'geheim' login", PieceStart::Line), "\t'***' login");
        assert_eq!(
            lines.line("STATEMENT:  alter role r password 'geheim", PieceStart::Line),
            "STATEMENT:  alter role r password '***"
        );
        assert_eq!(lines.line("\twort' login", PieceStart::Line), "***' login");
        assert_eq!(lines.line("\tand 'more'", PieceStart::Line), "\tand 'more'");
        assert_eq!(lines.line("password 'geheim", PieceStart::Line), "password '***");
        assert_eq!(
            lines.line("LOG:  another message", PieceStart::Line),
            "LOG:  another message"
        );
    }

    #[test]
    fn a_carriage_return_before_the_newline_does_not_end_a_value() {
        let mut lines = Redactor::default();
        lines.line("STATEMENT:  alter role r password", PieceStart::Line);
        assert_eq!(lines.line("", PieceStart::Line), "");
        assert_eq!(lines.line("\t'geheim", PieceStart::Line), "\t'***");
        assert_eq!(lines.line("", PieceStart::Line), "");
        assert_eq!(lines.line("\twort' login", PieceStart::Line), "***' login");
    }

    #[test]
    fn a_carriage_return_in_a_password_does_not_end_it() {
        let mut lines = Redactor::default();
        assert_eq!(
            lines.line("STATEMENT:  alter role r password 'ge", PieceStart::Line),
            "STATEMENT:  alter role r password '***"
        );
        assert_eq!(lines.line("heim wort", PieceStart::Continuation), "***");
        assert_eq!(lines.line("geheim' login", PieceStart::Continuation), "***' login");
        assert_eq!(lines.line(" 12/34 kB", PieceStart::Continuation), " 12/34 kB");
    }

    #[test]
    fn a_newline_in_a_password_of_one_text_does_not_end_it() {
        assert_eq!(
            redacted("near \"password 'ge\nheim\r\nwort' login\": no\nmore"),
            "near \"password '***\n***\r\n***' login\": no\nmore"
        );
        assert_eq!(redacted("a\r\n\r\nb\n"), "a\r\n\r\nb\n");
    }

    #[test]
    fn options_of_hba_lines_with_secrets_are_hidden() {
        for line in [
            "host all all all ldap ldapserver=x ldapbindpasswd=\"geheim\"",
            "host all all all radius radiussecrets=\"geheim,wort\" radiusports=1",
            "host all all all radius radiussecret=geheim",
            "ssl_passphrase_command = 'echo geheim wort'",
        ] {
            is_hidden(line);
        }
        assert_eq!(redacted("a\npassword=x b\n"), "a\npassword=*** b\n");
    }

    #[test]
    fn lines_without_secrets_are_unchanged() {
        for line in [
            "FATAL:  password authentication failed for user \"stolon\"",
            "DETAIL:  Connection matched file \"pg_hba.conf\" line 1: \"local postgres stolon md5\"",
            "parameter \"password_encryption\" changed to \"scram-sha-256\"",
            "fe_sendauth: no password supplied",
            "LOG:  listening on Unix socket \"/tmp/.s.PGSQL.5432\"",
            "http://example.org/a:b@c",
            "ünïcode 'ok' €",
            "",
        ] {
            check(line, line);
        }
    }

    #[test]
    fn no_line_panics() {
        let pieces = [
            "password",
            "=",
            "'",
            "\"",
            "\\",
            "$",
            "$x$",
            " ",
            "é",
            "E'",
            "U&'",
            "://",
            "u:",
            "@",
            "md5",
            "SCRAM-SHA-256$",
            "\t",
        ];
        let mut lines = Redactor::default();
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    for d in pieces {
                        let _ = lines.line(&format!("{a}{b}{c}{d}"), PieceStart::Continuation);
                        let _ = lines.line(&format!("\tpassword={a}{b}{c}{d}"), PieceStart::Line);
                    }
                }
            }
        }
    }
}
