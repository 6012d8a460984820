//! An error and its causes on one line.

use std::error::Error;
use std::fmt;

/// Displays an error and its causes, `read stolon/cluster/main/clusterdata: connection refused`, on one line; a cause
/// that an error before it already tells is not told again (style 3).
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = one_line(&self.0.to_string());
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = one_line(&cause.to_string());
            if !told.contains(&text) {
                if !told.is_empty() {
                    told.push_str(": ");
                }
                told.push_str(&text);
            }
            next = cause.source();
        }
        f.write_str(&told)
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn one_line(text: &str) -> String {
    let parts: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        #[source]
        cause: Option<Box<Told>>,
    }

    fn chain(texts: &[&'static str]) -> String {
        let told = texts
            .iter()
            .rev()
            .fold(None, |cause, text| Some(Box::new(Told { text, cause })));
        Chain(told.unwrap().as_ref()).to_string()
    }

    #[test]
    fn causes_follow_on_one_line() {
        assert_eq!(chain(&["read clusterdata"]), "read clusterdata");
        assert_eq!(
            chain(&["read clusterdata", "etcd", "refused\n  by 127.0.0.1"]),
            "read clusterdata: etcd: refused by 127.0.0.1"
        );
    }

    #[test]
    fn a_cause_that_is_already_told_is_not_told_again() {
        assert_eq!(
            chain(&["connect", "cannot connect: refused", "refused"]),
            "connect: cannot connect: refused"
        );
        assert_eq!(
            chain(&["connect: refused", "refused", "os error 111"]),
            "connect: refused: os error 111"
        );
    }
}
