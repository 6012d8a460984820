//! The endpoint list of the store's options (store S-14 to S-18): what can be connected to, and why the rest cannot.

use std::fmt;

use base::host::{check_host, parse_port};
use http::uri::Authority;

/// The default of `--store-endpoints` for etcd (store S-18).
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";

/// One etcd server's client address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The scheme, the same for all endpoints.
    pub scheme: Scheme,
    host: String,
    port: u16,
    authority: Authority,
}

/// The protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// Returns the scheme as it stands in URLs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority)
    }
}

impl Endpoint {
    /// Returns host and port; an IPv6 address without its brackets.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Returns host and port as they stand in URLs.
    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// An error in the endpoint list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointsError {
    /// Nothing but commas and blanks.
    #[error("--store-endpoints {0:?} names no endpoint: give http://host:port or https://host:port")]
    NoEndpoint(String),
    /// Not an address that can ever be connected to.
    #[error(
        "invalid store endpoint {endpoint:?}: {why}; --store-endpoints takes http://host:port or https://host:port"
    )]
    Syntax {
        /// The endpoint as given, without the part that may be a password.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// `http` and `https` mixed; an endpoint without a scheme counts as `http`.
    #[error("all store endpoints must have the same scheme, but {0:?} and {1:?} differ")]
    MixedSchemes(String, String),
    /// Neither `http` nor `https`.
    #[error("unsupported scheme {0:?} of the store endpoints: use http or https")]
    Scheme(String),
}

/// An item of the list.
struct ListItem {
    /// In lower case.
    scheme: String,
    /// The item without what may be a password.
    shown: String,
    /// Host and port, not yet checked.
    address: String,
}

/// Parses the option's value, in the order of checks of store S-17.
pub(super) fn parse_endpoints(list: &str) -> Result<(Scheme, Vec<Endpoint>), EndpointsError> {
    let list = if list.is_empty() { DEFAULT_ENDPOINT } else { list };
    let items = list.split(',').map(|item| item.trim_matches(' '));
    let items: Vec<ListItem> = items.filter(|item| !item.is_empty()).map(split_item).collect();
    let Some(first) = items.first().map(|item| item.scheme.clone()) else {
        return Err(EndpointsError::NoEndpoint(list.to_owned()));
    };
    if let Some(other) = items.iter().find(|item| item.scheme != first) {
        return Err(EndpointsError::MixedSchemes(first, other.scheme.clone()));
    }
    let scheme = match first.as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => return Err(EndpointsError::Scheme(other.to_owned())),
    };
    let endpoint = |item: ListItem| match parse_address(&item.address) {
        Ok((host, port, authority)) => Ok(Endpoint {
            scheme,
            host,
            port,
            authority,
        }),
        Err(why) => Err(EndpointsError::Syntax {
            endpoint: item.shown,
            why,
        }),
    };
    let endpoints = items.into_iter().map(endpoint).collect::<Result<_, _>>()?;
    Ok((scheme, endpoints))
}

/// Splits an item into scheme and address. Of a URL the rest is dropped (store S-15).
fn split_item(item: &str) -> ListItem {
    let url = item.split_once("://").filter(|(scheme, _)| is_scheme(scheme));
    let Some((scheme, rest)) = url else {
        return ListItem {
            scheme: "http".to_owned(),
            shown: without_userinfo(item).to_owned(),
            address: item.to_owned(),
        };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    ListItem {
        scheme: scheme.to_ascii_lowercase(),
        shown: format!("{scheme}://{}", without_userinfo(rest)),
        // In a URL the zone of an IPv6 address follows an encoded percent sign (RFC 6874).
        address: without_userinfo(authority).replace("%25", "%"),
    }
}

/// Splits `host:port`. Returns also both as they stand in requests.
fn parse_address(address: &str) -> Result<(String, u16, Authority), String> {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        _ if host.contains('@') => return Err("a user is only possible in a URL".to_owned()),
        None if host.is_empty() => return Err("the host is missing, such as 127.0.0.1 for this machine".to_owned()),
        None if host.contains([':', '[', ']']) => {
            return Err("an IPv6 address stands in brackets, as in http://[::1]:2379".to_owned());
        }
        Some(bare) if !bare.contains(':') => return Err("only an IPv6 address stands in brackets".to_owned()),
        _ => {}
    }
    let bare = bare.unwrap_or(host);
    check_host(bare).map_err(|why| why.to_string())?;
    let port = match port {
        None | Some("") => return Err("the port is missing, usually 2379".to_owned()),
        Some(port) => parse_port(port).filter(|port| *port != 0),
    };
    let port = port.ok_or("the port is not a number from 1 to 65535")?;
    // Names in other scripts than ASCII cannot stand in requests.
    let authority = Authority::try_from(address).map_err(|why| why.to_string())?;
    Ok((bare.to_owned(), port, authority))
}

/// Returns an address without the part before the `@`, which may hold a password and must not be shown.
fn without_userinfo(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, address)| address)
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &str) -> Vec<String> {
        parse_endpoints(list)
            .unwrap()
            .1
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn endpoint_lists_are_parsed_as_in_go_stolon() {
        // store S-14 to S-18 and corner case 2
        assert_eq!(addresses(""), ["http://127.0.0.1:2379"]);
        assert_eq!(addresses("http://a:1,b:2"), ["http://a:1", "http://b:2"]);
        assert_eq!(addresses("HTTP://a:1"), ["http://a:1"]);
        assert_eq!(addresses("http://a:1/"), ["http://a:1"]);
        assert_eq!(
            addresses("https://user:secret@a:1/path?query#fragment"),
            ["https://a:1"]
        );
        assert_eq!(
            addresses("http://[::1]:2379,[::2]:1"),
            ["http://[::1]:2379", "http://[::2]:1"]
        );
        assert_eq!(addresses("http://127.1:2379"), ["http://127.1:2379"]);
        assert_eq!(addresses("my_host.:02379"), ["http://my_host.:02379"]);
    }

    #[test]
    fn blanks_and_empty_items_are_dropped() {
        // store S-14
        assert_eq!(addresses("a:1, http://b:2 ,"), ["http://a:1", "http://b:2"]);
        for list in [",", " ", " , "] {
            assert_eq!(
                parse_endpoints(list),
                Err(EndpointsError::NoEndpoint(list.to_owned())),
                "{list:?}"
            );
        }
    }

    #[test]
    fn host_and_port_are_what_is_connected_to() {
        let parts = |list: &str| {
            let endpoint = parse_endpoints(list).unwrap().1.remove(0);
            let (host, port) = endpoint.host_and_port();
            (host.to_owned(), port)
        };
        assert_eq!(parts("http://[::1]:2379"), ("::1".to_owned(), 2379));
        assert_eq!(parts("http://[fe80::1%25eth0]:1"), ("fe80::1%eth0".to_owned(), 1));
        assert_eq!(parts("[fe80::1%eth0]:1"), ("fe80::1%eth0".to_owned(), 1));
    }

    #[test]
    fn what_can_never_be_connected_to_is_refused_with_the_reason() {
        for (item, why) in [
            ("http://127.0.0.1:65536", "the port is not a number from 1 to 65535"),
            ("http://127.0.0.1:0", "the port is not a number"),
            ("http://127.0.0.1:http", "the port is not a number"),
            ("http://127.0.0.1:-1", "the port is not a number"),
            ("127.0.0.1:+1", "the port is not a number"),
            ("http://", "the host is missing"),
            ("http://:2379", "the host is missing"),
            (":2379", "the host is missing"),
            ("http:///path", "the host is missing"),
            ("localhost", "the port is missing"),
            ("localhost:", "the port is missing"),
            ("http://localhost/", "the port is missing"),
            ("http://[::1]", "the port is missing"),
            ("::1:2379", "brackets"),
            ("http://[::1:2379", "brackets"),
            ("[a]:2379", "only an IPv6 address"),
            ("[::g]:2379", "not an IPv6 address"),
            ("http://300.1.1.1:2379", "not an IPv4 address"),
            ("a b:1", "' '"),
            ("a\u{7}:1", "'\\u{7}'"),
            ("a:1/path", "the port is not a number"),
            ("http:/a:1", "brackets"),
            ("http//a:1", "'/'"),
            ("käse:1", "invalid"),
            ("http://a;b:1", "';'"),
        ] {
            let refused = parse_endpoints(item).unwrap_err().to_string();
            assert!(refused.contains(why), "{item}: {refused}");
            assert!(
                refused.starts_with(&format!("invalid store endpoint {item:?}: ")),
                "{refused}"
            );
        }
        let one_of_many = parse_endpoints("http://a:1,http://b,http://c:1")
            .unwrap_err()
            .to_string();
        assert!(one_of_many.contains("\"http://b\""), "{one_of_many}");
    }

    #[test]
    fn bad_endpoint_lists_are_refused_in_the_order_of_the_checks() {
        let refused = |list| parse_endpoints(list).unwrap_err();
        assert_eq!(
            refused("https://a:1,b:2"),
            EndpointsError::MixedSchemes("https".into(), "http".into())
        );
        assert_eq!(refused("ftp://a:1"), EndpointsError::Scheme("ftp".into()));
        assert_eq!(
            refused("ftp://a:1,http://b:2"),
            EndpointsError::MixedSchemes("ftp".into(), "http".into())
        );
        assert_eq!(refused("ftp://a"), EndpointsError::Scheme("ftp".into()));
    }

    #[test]
    fn what_may_be_a_password_is_not_shown() {
        // store S-15
        for item in ["https://user:sec/ret@a:x", "user:secret@a:1", "http://user:secret@a"] {
            let refused = parse_endpoints(item).unwrap_err().to_string();
            assert!(!refused.contains("sec"), "{refused}");
        }
        assert!(
            parse_endpoints("user:secret@a:1")
                .unwrap_err()
                .to_string()
                .contains("only possible in a URL")
        );
    }
}
