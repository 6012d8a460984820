//! An error and its causes on one line.

use std::error::Error;
use std::fmt;

/// Displays an error and its causes on one line, as in `read stolon/cluster/main/clusterdata: connection refused`. A
/// cause whose text is already contained is left out.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text_so_far = one_line(&self.0.to_string());
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = one_line(&cause.to_string());
            if !text_so_far.contains(&text) {
                if !text_so_far.is_empty() {
                    text_so_far.push_str(": ");
                }
                text_so_far.push_str(&text);
            }
            next = cause.source();
        }
        f.write_str(&text_so_far)
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
    struct TestError {
        text: &'static str,
        #[source]
        cause: Option<Box<TestError>>,
    }

    fn chain(texts: &[&'static str]) -> String {
        let error = texts
            .iter()
            .rev()
            .fold(None, |cause, text| Some(Box::new(TestError { text, cause })));
        Chain(error.unwrap().as_ref()).to_string()
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
    fn a_cause_that_is_already_contained_is_left_out() {
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
