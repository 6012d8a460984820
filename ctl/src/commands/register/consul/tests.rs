use std::time::Duration;

use base::Chain;
use stolon_tests::consul::{ConsulMode, FakeConsul};
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::wait::eventually;

use super::*;

fn client(agent: &FakeConsul) -> Consul {
    let authority: http::uri::Authority = agent.url().split_once("://").unwrap().1.parse().unwrap();
    Consul::new(ConsulConfig {
        server: HttpEndpoint {
            address: (authority.host().to_owned(), authority.port_u16().unwrap()),
            authority,
            tls: None,
            timeout: Duration::from_secs(30),
            body_bytes_max: 1 << 20,
        },
        token: TokenSource::None,
        authorization: None,
        namespace: None,
    })
}

fn service(id: &str, name: &str, address: &str) -> Service {
    Service {
        id: id.to_owned(),
        name: name.to_owned(),
        tags: vec!["slave".to_owned()],
        address: address.to_owned(),
        port: 5432,
    }
}

#[test]
fn a_registration_has_the_bytes_of_go_stolon() {
    // cli 15.3
    let body = to_compact(&Registration::from(&service("0e9f8d7c", "mycluster", "10.20.0.12")));
    assert_eq!(
        body,
        r#"{"ID":"0e9f8d7c","Name":"mycluster","Tags":["slave"],"Port":5432,"Address":"10.20.0.12","Check":{"Interval":"10s","TCP":"10.20.0.12:5432"},"Checks":null}"#
    );
    let body = to_compact(&Registration::from(&service("a", "c", "fe80::1")));
    assert!(
        body.contains(r#""Address":"fe80::1","Check":{"Interval":"10s","TCP":"[fe80::1]:5432"}"#),
        "{body}"
    );
}

#[tokio::test]
async fn services_of_any_name_are_registered_found_and_removed() {
    let agent = FakeConsul::start();
    let consul = client(&agent);
    for name in [
        "c",
        "a/b",
        "a/../b",
        "käse & <wine>",
        "100%",
        "?x=y#z",
        "..",
        " ",
        "\"q\"\\",
    ] {
        let registered = service(name, name, "10.0.0.1");
        consul.register(&registered).await.unwrap();
        consul.register(&registered).await.unwrap();
        assert_eq!(consul.services(name).await.unwrap(), [registered], "{name:?}");
        consul.deregister(name).await.unwrap();
        assert_eq!(consul.services(name).await.unwrap(), [], "{name:?}");
    }
    let targets: Vec<String> = agent.requests().into_iter().map(|request| request.target).collect();
    assert!(
        targets.contains(&"/v1/catalog/service/%2E%2E".to_owned()),
        "{targets:?}"
    );
    assert!(
        targets.contains(&"/v1/agent/service/deregister/a%2Fb".to_owned()),
        "{targets:?}"
    );
}

#[tokio::test]
async fn every_request_has_token_credentials_and_namespace() {
    let agent = FakeConsul::start();
    let Consul(mut config) = client(&agent);
    config.token = TokenSource::Value(token_header("t0ken").unwrap());
    config.authorization = Some(HeaderValue::from_static("Basic dTpw"));
    config.namespace = Some("team a".to_owned());
    let consul = Consul::new(config);
    consul.services("c").await.unwrap();
    consul.register(&service("d1", "c", "10.0.0.1")).await.unwrap();
    consul.deregister("d1").await.unwrap();
    let requests = agent.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        let header = |name: &str| request.headers.get(name).map(String::as_str).unwrap_or_default();
        assert_eq!(
            (header("x-consul-token"), header("authorization")),
            ("t0ken", "Basic dTpw")
        );
        assert!(request.target.ends_with("?ns=team%20a"), "{request:?}");
        assert_eq!(header("connection"), "close");
    }
}

/// Returns the error of a read, on one line.
async fn failure(consul: &Consul) -> String {
    let error = consul.services("c").await.unwrap_err();
    Chain(&error).to_string()
}

#[tokio::test]
async fn failures_name_the_agent_and_the_remedy() {
    let agent = FakeConsul::start();
    let consul = client(&agent);
    let start = format!("cannot read the services named \"c\" at Consul {} (", agent.url());
    for (mode, remedy, cause) in [
        (
            ConsulMode::Status(403),
            "CONSUL_HTTP_TOKEN",
            "status 403 Forbidden: Permission denied: \\u{1b}[31mno",
        ),
        (
            ConsulMode::Status(500),
            "see the agent's log",
            "status 500 Internal Server Error: ",
        ),
        (ConsulMode::Status(301), "redirects are not followed", "status 301"),
        (ConsulMode::Status(404), "another agent", "status 404"),
        (ConsulMode::Status(204), "agent", "status 204"),
        (
            ConsulMode::Bytes(b"\x16\x03\x01 garbage".to_vec()),
            "is a running Consul agent",
            "not HTTP",
        ),
        (
            ConsulMode::Bytes(Vec::new()),
            "is a running Consul agent",
            "not HTTP, or ended early",
        ),
        (
            ConsulMode::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[".to_vec()),
            "is a running Consul agent",
            "ended early",
        ),
        (
            ConsulMode::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>".to_vec()),
            "is a running Consul agent",
            "not a list of services",
        ),
        (
            ConsulMode::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n[{\"ServicePort\":\"http\"}".to_vec()),
            "is a running Consul agent",
            "not a list of services",
        ),
        (
            ConsulMode::Huge(100 << 20),
            "is a running Consul agent",
            "larger than 1048576 bytes",
        ),
    ] {
        agent.set_mode(mode.clone());
        let failed = failure(&consul).await;
        let shown = failed.starts_with(&start) && failed.contains(remedy) && failed.contains(cause);
        assert!(shown, "{mode:?}: {failed}");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_respond_is_given_up() {
    let agent = FakeConsul::start();
    agent.set_mode(ConsulMode::Silent);
    let Consul(mut config) = client(&agent);
    config.server.timeout = Duration::from_millis(50);
    let failed = failure(&Consul::new(config.clone())).await;
    assert!(failed.contains("no complete response within 50ms"), "{failed}");
    config.server.timeout = Duration::from_secs(30);
    drop(agent);
    // The port is closed once the agent's thread has ended.
    let consul = Consul::new(config);
    let failed = eventually("the connection to be refused", SHORT_TIMEOUT, async || {
        let failed = failure(&consul).await;
        if failed.contains("refused") {
            Ok(failed)
        } else {
            Err(failed)
        }
    })
    .await;
    assert!(failed.contains("is a running Consul agent): connect: "), "{failed}");
}

#[tokio::test]
async fn an_id_that_is_too_long_for_a_url_is_an_error() {
    let agent = FakeConsul::start();
    let error = client(&agent).deregister(&"x".repeat(100_000)).await.unwrap_err();
    assert!(Chain(&error).to_string().contains("cannot stand in a URL"), "{error}");
}

#[test]
fn an_empty_catalogue_has_any_form() {
    for text in [
        "[]",
        "null",
        "[{}]",
        r#"[{"ServiceID":"a","ServiceTags":null,"Unknown":{"x":[1]}}]"#,
    ] {
        let found: Option<Vec<CatalogService>> = from_slice(text.as_bytes()).unwrap();
        let services: Vec<Service> = found.unwrap_or_default().into_iter().map(Service::from).collect();
        assert!(services.iter().all(|service| service.tags.is_empty()), "{text}");
    }
}
