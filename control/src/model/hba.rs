//! The lines of `pg_hba.conf` that a cluster spec may hold, as far as that is known without a server; and what a line
//! that a server refuses would have done.

use crate::redact::{redacted, without_value};

/// The longest line. PostgreSQL 13 has a buffer of 8 KiB for a line.
const LINE_BYTES_MAX: usize = 8000;
/// The longest field. PostgreSQL drops what is longer, and with it the rest of the line (hba.c, `MAX_TOKEN`).
const FIELD_BYTES_MAX: usize = 10_000;

/// One field of a line, as the server divides it (`next_token` of hba.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HbaField {
    /// Its text, without quotes.
    pub text: String,
    /// It begins with a quote: no keyword, no file.
    pub quoted: bool,
}

/// The fields of a line; none when it is empty or a comment. Elements of a list are fields of their own here.
pub fn hba_fields(line: &str) -> Vec<HbaField> {
    let mut fields = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        while rest.next_if(|c| is_blank(*c) || *c == ',').is_some() {}
        match rest.peek() {
            None | Some('#') => return fields,
            Some(first) => {
                let quoted = *first == '"';
                fields.push(HbaField {
                    text: field(&mut rest),
                    quoted,
                });
            }
        }
    }
}

fn field(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let (mut text, mut in_quotes, mut was_quote) = (String::new(), false, false);
    while let Some(c) = rest.next_if(|c| in_quotes || !(is_blank(*c) || matches!(c, ',' | '#'))) {
        if c != '"' || was_quote {
            text.push(c); // a doubled quote is one
        }
        was_quote = c == '"' && in_quotes && !was_quote;
        if c == '"' {
            in_quotes = !in_quotes;
        }
    }
    text
}

/// Blanks of hba.c (`pg_isblank`).
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// Why this line may not be used, as far as that is known without a server.
pub fn hba_fault(line: &str) -> Option<String> {
    if line.contains('\n') {
        return Some("it contains a newline: give each line as an entry of its own".to_owned());
    }
    if let Some(c) = line.chars().find(|c| c.is_control() && *c != '\t') {
        return Some(format!("it contains the control character {c:?}"));
    }
    if line.len() > LINE_BYTES_MAX {
        return Some(format!("it is longer than {LINE_BYTES_MAX} bytes"));
    }
    if line.ends_with('\\') {
        return Some("it ends with a backslash, which would join the next line to it".to_owned());
    }
    let fields = hba_fields(line);
    if fields.iter().any(|field| field.text.len() > FIELD_BYTES_MAX) {
        return Some(format!("one of its fields is longer than {FIELD_BYTES_MAX} bytes"));
    }
    if let Some(file) = fields.iter().find(|field| !field.quoted && field.text.starts_with('@')) {
        return Some(format!(
            "it includes a file ({}): write its content into the line",
            shortened(&file.text)
        ));
    }
    match fields.first() {
        None => None,
        Some(first) if TYPES.contains(&first.text.as_str()) => None,
        Some(first) if first.text.starts_with("include") => Some(format!(
            "it includes a file ({}): give its lines as entries of pgHBA",
            shortened(&first.text)
        )),
        Some(first) => Some(format!(
            "it begins with {:?}, the connection type must be one of {}",
            shortened(&first.text),
            TYPES.join(", ")
        )),
    }
}

/// How a line begins, to name it by: at most four fields, and none from the first option on, for options may hold
/// passwords.
pub fn hba_start(line: &str) -> String {
    const COUNT: usize = 4;
    let fields = hba_fields(line).into_iter().map(|field| field.text);
    let shown: Vec<String> = fields.take(COUNT).take_while(|text| !text.contains('=')).collect();
    shortened(&redacted(&shown.join(" ")))
}

/// A reason why this line is refused, without the values of its options that hold passwords.
pub fn hba_reason(why: &str, line: &str) -> String {
    let is_secret = |name: &str| {
        ["passw", "secret"]
            .iter()
            .any(|part| name.to_ascii_lowercase().contains(part))
    };
    let fields = hba_fields(line);
    let options = fields.iter().filter_map(|field| field.text.split_once('='));
    let values = options.filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
    redacted(&values.fold(why.to_owned(), |why, value| without_value(&why, value)))
}

/// The start of a text that may be very long.
pub(super) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

const TYPES: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];

/// How much a line asks of whom it lets in; more is stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HbaStrictness {
    /// Nothing.
    Trust,
    /// A password, or what stands for one.
    Proof,
    /// A certificate.
    Certificate,
    /// It lets nobody in.
    Reject,
    /// Unknown: it has to be taken for the strictest.
    Unknown,
}

/// How strict a line is, by the one field that names a method; [`HbaStrictness::Unknown`] when none does, or several.
/// Nothing for a comment.
pub fn hba_strictness(line: &str) -> Option<HbaStrictness> {
    let fields = hba_fields(line);
    if fields.is_empty() {
        return None;
    }
    // The first field is the type, the second and third are names.
    let mut methods = fields.iter().skip(3).filter_map(|field| match field.text.as_str() {
        "trust" => Some(HbaStrictness::Trust),
        "cert" => Some(HbaStrictness::Certificate),
        "reject" => Some(HbaStrictness::Reject),
        "md5" | "scram-sha-256" | "password" | "gss" | "sspi" | "ident" | "peer" | "pam" | "bsd" | "ldap"
        | "radius" | "oauth" => Some(HbaStrictness::Proof),
        _ => None,
    });
    match (methods.next(), methods.next()) {
        (Some(method), None) => Some(method),
        _ => Some(HbaStrictness::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_divided_as_the_server_does_it() {
        let fields = |line| {
            let mark = |field: HbaField| {
                if field.quoted {
                    format!("\"{}", field.text)
                } else {
                    field.text
                }
            };
            hba_fields(line).into_iter().map(mark).collect::<Vec<_>>().join("|")
        };
        assert_eq!(
            fields("host all  all\t10.0.0.1/32 md5 # x"),
            "host|all|all|10.0.0.1/32|md5"
        );
        assert_eq!(
            fields("local \"a b\",c \"q\"\"q\" peer map=x#y"),
            "local|\"a b|c|\"q\"q|peer|map=x"
        );
        assert_eq!(fields("  # nothing"), "");
        assert_eq!(fields("local \"open"), "local|\"open");
    }

    #[test]
    fn what_no_server_should_read_is_known_without_one() {
        let long = format!("host all all {} md5", "x".repeat(LINE_BYTES_MAX));
        for (line, why) in [
            ("hosst all all 10.0.0.1/32 md5", "begins with \"hosst\""),
            ("host all all 10.0.0.1/32 md5\nhost all all all trust", "newline"),
            ("host all all 10.0.0.1/32 md5\0", "control character"),
            ("host all all 10.0.0.1/32 reject \\", "backslash"),
            ("# a comment \\", "backslash"),
            ("include other.conf", "includes a file"),
            ("include_dir conf.d", "includes a file"),
            ("include_if_exists x", "includes a file"),
            ("@lines", "includes a file"),
            ("host @dbs all all md5", "includes a file (@dbs)"),
            ("host all a,@users all md5", "includes a file (@users)"),
            (long.as_str(), "longer than"),
            ("\"all\" all all all md5", "begins with"),
            ("HOST all all all md5", "begins with"),
        ] {
            let fault = hba_fault(line).unwrap_or_default();
            assert!(fault.contains(why), "{line:?}: {fault}");
        }
        for line in [
            "",
            "# comment",
            "host all all 10.0.0.1/32 md5",
            "local\tall\tall\tpeer",
            "hostssl all all ::0/0 cert map=x",
            "host \"@x\" all samenet scram-sha-256",
            "host all /^a.*$ all ldap ldapserver=\"x y\"",
            "hostgssenc all all all gss\r",
        ] {
            assert_eq!(hba_fault(line.trim_end_matches('\r')), None, "{line:?}");
        }
    }

    #[test]
    fn a_line_that_names_no_method_counts_as_the_strictest() {
        use HbaStrictness::{Certificate, Proof, Reject, Trust, Unknown};
        for (line, wanted) in [
            ("hosst all all 10.0.0.1/32 md5", Some(Proof)),
            ("host all all 10.0.0.1 255.0.0.0 trust", Some(Trust)),
            ("host all reject 10.0.0.300/32 reject", Some(Reject)),
            ("hostssl all all all cert clientcert=x", Some(Certificate)),
            ("host all all 10.0.0.0/8 rejct", Some(Unknown)),
            ("host all all trust reject", Some(Unknown)),
            ("host", Some(Unknown)),
            ("# x", None),
        ] {
            assert_eq!(hba_strictness(line), wanted, "{line}");
        }
        assert!(Trust < Proof && Proof < Certificate && Certificate < Reject && Reject < Unknown);
    }
}
