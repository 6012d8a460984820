//! Chooses the user's hba lines to use when some are refused. The first line that matches a client decides (PostgreSQL
//! manual 21.1): without a line that rejects clients or requires more of them, a later line could admit them.

use std::collections::BTreeMap;

use model::{HbaStrictness, check_hba_line, hba_excerpt, hba_fields, hba_strictness, redacted_hba_reason};

/// Returns the lines to write, and a text for each refused one.
///
/// A refused line is left out if every later line that admits clients requires the same method with the same options.
/// Otherwise all lines stay as a server last accepted them. If none were ever accepted, the lines above the refused
/// one are used, and of those below it only `reject` lines.
pub fn choose_lines(
    wanted: Option<&[String]>,
    refused: &BTreeMap<String, String>,
    last: Option<&Option<Vec<String>>>,
) -> (Option<Vec<String>>, Vec<String>) {
    let Some(lines) = wanted else { return (None, Vec::new()) };
    let fault = |line: &String| check_hba_line(line).or_else(|| refused.get(line).cloned());
    let faults: Vec<Option<String>> = lines.iter().map(fault).collect();
    let is_good = |at: usize| faults[at].is_none();
    // The first refused line whose omission would admit more clients decides for all lines.
    let decisive = (0..lines.len()).find(|at| !is_good(*at) && admits_more_without(lines, *at, is_good));
    let outcome = match (decisive, last) {
        (None, _) => "it is left out",
        (Some(_), Some(_)) => {
            "the last pgHBA that PostgreSQL accepted is used, because leaving the entry out could allow more access"
        }
        (Some(_), None) => "it is left out with all entries below it that allow access",
    };
    let texts = (1..)
        .zip(lines.iter().zip(&faults))
        .filter_map(|(number, (line, fault))| {
            let why = redacted_hba_reason(fault.as_ref()?, line);
            let start = hba_excerpt(line);
            Some(format!(
                "pgHBA entry {number} ({start:?} …) is refused, {outcome}: {why}"
            ))
        });
    let texts = texts.collect();
    let used = match (decisive, last) {
        (Some(_), Some(last)) => return (last.clone(), texts),
        (None, _) => lines.len(),
        (Some(at), None) => at,
    };
    let rejects = |line: &String| hba_strictness(line) == Some(HbaStrictness::Reject);
    let kept = (0..lines.len()).filter(|at| is_good(*at) && (*at < used || rejects(&lines[*at])));
    (Some(kept.map(|at| lines[at].clone()).collect()), texts)
}

/// Returns whether a valid line below `at` admits clients by another method than the line at `at`. Methods are not
/// ranked: a second factor (`radius`, `pam`) and an option (`clientcert`, `map`, `include_realm`) require something of
/// their own.
fn admits_more_without(lines: &[String], at: usize, is_good: impl Fn(usize) -> bool) -> bool {
    if hba_strictness(&lines[at]).is_none() {
        return false; // a comment
    }
    let required = method_with_options(&lines[at]);
    if required.as_deref().is_some_and(|required| required == ["trust"]) {
        return false; // no method requires less
    }
    let mut below = (at + 1..lines.len()).filter(|below| is_good(*below));
    below.any(|below| match hba_strictness(&lines[below]) {
        None | Some(HbaStrictness::Reject) => false,
        Some(_) => required.is_none() || method_with_options(&lines[below]) != required,
    })
}

/// Returns the method of a line and its options; `None` if the method is unknown.
fn method_with_options(line: &str) -> Option<Vec<String>> {
    let strictness = hba_strictness(line).filter(|strictness| *strictness != HbaStrictness::Unknown)?;
    let fields: Vec<String> = hba_fields(line).into_iter().map(|field| field.text).collect();
    // The first three fields are type, database and user. A field is the method if it alone determines the strictness
    // of the line.
    let is_method = |field: &String| hba_strictness(&format!("host all all {field}")) == Some(strictness);
    let at = (3..fields.len()).find(|at| is_method(&fields[*at]))?;
    Some(fields[at..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], refused: &[&str], last: Option<&[&str]>, wanted: &[&str]) {
        let texts = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let refused: BTreeMap<_, _> = refused
            .iter()
            .map(|line| ((*line).to_owned(), "no".to_owned()))
            .collect();
        let last = last.map(|last| Some(texts(last)));
        let (used, notes) = choose_lines(Some(&texts(lines)), &refused, last.as_ref());
        assert_eq!(used.unwrap(), texts(wanted), "{lines:?}");
        let faults = lines
            .iter()
            .filter(|line| check_hba_line(line).is_some() || refused.contains_key(**line));
        assert_eq!(notes.len(), faults.count(), "{notes:?}");
    }

    const A: &str = "host all a 10.0.0.1/32 md5";
    const B: &str = "host all b 10.0.0.2/32 md5";
    const OPEN: &str = "host all all 0.0.0.0/0 trust";
    const DENY: &str = "host all all 10.0.0.9/32 reject";

    #[test]
    fn a_refused_line_that_only_admits_does_not_affect_the_others() {
        check(&["hosst all all 10.0.0.1/32 md5", A, DENY], &[], Some(&[B]), &[A, DENY]);
        check(
            &[A, "host all all nowhere/99 md5", B],
            &["host all all nowhere/99 md5"],
            None,
            &[A, B],
        );
        check(
            &[A, "host all x 10.0.0.300/32 trust", OPEN],
            &["host all x 10.0.0.300/32 trust"],
            None,
            &[A, OPEN],
        );
        check(&[A, B], &[], Some(&[]), &[A, B]);
        check(&[], &[], None, &[]);
    }

    #[test]
    fn without_a_reject_line_no_other_client_is_admitted() {
        for bad in [
            "hosst all all 10.0.0.0/8 reject",
            "host all all 10.0.0.0/8 rejekt",
            "host",
            "hostsll all all 10.0.0.0/8 cert",
            "include deny.conf",
            "host all all 10.0.0.0/8 reject \\",
        ] {
            check(&[A, bad, DENY, B], &[bad], Some(&[DENY]), &[DENY]);
            check(&[A, bad, DENY, B], &[bad], None, &[A, DENY]);
            check(&[A, bad], &[bad], Some(&[B]), &[A]); // no line below it admits clients
        }
        check(&["hosst all all 10.0.0.0/8 md5", OPEN], &[], Some(&[B]), &[B]);
    }

    #[test]
    fn a_line_is_omitted_only_above_lines_that_require_the_same() {
        for (bad, below) in [
            (
                "hostssl all admin all scram-sha-256 clientcert=verify-full",
                "hostssl all all all md5",
            ),
            (
                "hostssl all admin all md5 clientcert=verify-full",
                "hostssl all all all md5",
            ),
            ("host all admin all radius radiusservers=x", "host all all all password"),
            ("host all all all gss map=x", "host all all all gss"),
            ("hostssl all all all trust clientcert=verify-ca", OPEN),
            ("host all all all md5", "local a,trust all peer"),
        ] {
            check(&[DENY, bad, below], &[bad], Some(&[B]), &[B]);
            check(&[DENY, bad, below], &[bad], None, &[DENY]);
        }
        let bad = "hostssl all admin 10.0.0.300/32 scram-sha-256 clientcert=verify-full";
        let same = "hostssl all all 10.0.0.1 255.255.255.255 scram-sha-256 clientcert=verify-full";
        check(&[bad, same, DENY], &[bad], Some(&[B]), &[same, DENY]);
    }

    #[test]
    fn a_refused_line_is_named_without_its_passwords() {
        let line = "host all all all radius radiussecrets=\"geheim wort\"".to_owned();
        let why = "could not parse RADIUS secrets list \"geheim wort\"".to_owned();
        let refused = BTreeMap::from([(line.clone(), why)]);
        let (_, texts) = choose_lines(Some(&[A.to_owned(), line]), &refused, None);
        assert_eq!(
            texts,
            [
                "pgHBA entry 2 (\"host all all all\" …) is refused, it is left out: could not parse RADIUS secrets list \"***\""
            ]
        );
    }

    #[test]
    fn admitting_every_user_is_kept() {
        assert_eq!(choose_lines(None, &BTreeMap::new(), None), (None, Vec::new()));
        let bad = ["host all all 10.0.0.0/8 rejekt".to_owned(), A.to_owned()];
        let refused = BTreeMap::from([(bad[0].clone(), "no".to_owned())]);
        assert_eq!(
            choose_lines(Some(&bad), &refused, Some(&None)).0,
            None,
            "as it was before"
        );
    }
}
