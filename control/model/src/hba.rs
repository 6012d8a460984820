//! Checks of `pg_hba.conf` lines in a cluster spec that need no server, and how strict a line is that a server refuses.

use base::redact::{mask_value, redacted};

/// Longest accepted line. PostgreSQL 13 has a line buffer of 8 KiB.
const LINE_BYTES_MAX: usize = 8000;
/// Longest accepted field. PostgreSQL drops a longer one and the rest of the line (hba.c, `MAX_TOKEN`).
const FIELD_BYTES_MAX: usize = 10_000;

/// One field of a line, split as the server does (`next_token` of hba.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HbaField {
    /// Its text, without quotes.
    pub text: String,
    /// The field begins with a quote, so it is neither a keyword nor a file reference.
    pub quoted: bool,
}

/// Returns the fields of a line; none when it is empty or a comment. The elements of a list are separate fields here.
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

/// Returns whether hba.c treats the character as blank (`pg_isblank`).
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// Returns why this line cannot be used, as far as that can be checked without a server; none when it can.
pub fn check_hba_line(line: &str) -> Option<String> {
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

/// Returns the beginning of a line, to identify it in messages: at most four fields, and nothing from the first option
/// on, because options may hold passwords.
pub fn hba_excerpt(line: &str) -> String {
    const COUNT: usize = 4;
    let fields = hba_fields(line).into_iter().map(|field| field.text);
    let shown: Vec<String> = fields.take(COUNT).take_while(|text| !text.contains('=')).collect();
    shortened(&redacted(&shown.join(" ")))
}

/// Returns the reason `why` with the values of password options of the line masked.
pub fn redacted_hba_reason(why: &str, line: &str) -> String {
    let is_secret = |name: &str| {
        ["passw", "secret"]
            .iter()
            .any(|part| name.to_ascii_lowercase().contains(part))
    };
    let fields = hba_fields(line);
    let options = fields.iter().filter_map(|field| field.text.split_once('='));
    let values = options.filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
    redacted(&values.fold(why.to_owned(), |why, value| mask_value(&why, value)))
}

/// Returns the first 200 characters of a text.
pub(super) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

const TYPES: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];

/// How strict a line is towards the clients it matches; greater is stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HbaStrictness {
    /// No authentication.
    Trust,
    /// A password or an equivalent (Kerberos, peer, LDAP …).
    Credentials,
    /// A client certificate.
    Certificate,
    /// Rejects all clients.
    Reject,
    /// Unknown, treated as the strictest.
    Unknown,
}

/// Returns how strict a line is, by the one field that is an authentication method; [`HbaStrictness::Unknown`] when no
/// field or several are. None for a comment.
pub fn hba_strictness(line: &str) -> Option<HbaStrictness> {
    let fields = hba_fields(line);
    if fields.is_empty() {
        return None;
    }
    // The first field is the connection type; the second and third are names.
    let mut methods = fields.iter().skip(3).filter_map(|field| match field.text.as_str() {
        "trust" => Some(HbaStrictness::Trust),
        "cert" => Some(HbaStrictness::Certificate),
        "reject" => Some(HbaStrictness::Reject),
        "md5" | "scram-sha-256" | "password" | "gss" | "sspi" | "ident" | "peer" | "pam" | "bsd" | "ldap"
        | "radius" | "oauth" => Some(HbaStrictness::Credentials),
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
            let fault = check_hba_line(line).unwrap_or_default();
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
            assert_eq!(check_hba_line(line.trim_end_matches('\r')), None, "{line:?}");
        }
    }

    #[test]
    fn a_line_that_names_no_method_counts_as_the_strictest() {
        use HbaStrictness::{Certificate, Credentials, Reject, Trust, Unknown};
        for (line, wanted) in [
            ("hosst all all 10.0.0.1/32 md5", Some(Credentials)),
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
        assert!(Trust < Credentials && Credentials < Certificate && Certificate < Reject && Reject < Unknown);
    }
}
