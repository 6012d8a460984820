//! Requests to the programs' HTTP pages, as bytes: tests also send what no client library would.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Timeout of a read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Gets a page; returns its status and body.
///
/// # Errors
/// There is no answer, or it is not HTTP.
pub fn get(address: &str, path: &str) -> io::Result<(u16, String)> {
    request(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"),
    )
}

/// Sends these bytes; returns status and body of the answer.
///
/// # Errors
/// There is no answer, or it is not HTTP.
pub fn request(address: &str, bytes: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    // The server may answer and close before it has read everything.
    let sent = stream.write_all(bytes.as_bytes());
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    if answer.is_empty() {
        sent?;
        read?;
    }
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other(format!("{answer:?} is not HTTP")))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status_line = head.strip_prefix("HTTP/1.1 ").or(head.strip_prefix("HTTP/1.0 "));
    let status = status_line?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}
