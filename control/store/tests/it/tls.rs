//! TLS towards the store (store 3.2, corner case 19).

use std::{fs, path::Path, time::Duration};

use stolon_tests::certificates::Certificates;
use stolon_tests::deadlines::SHORT_TIMEOUT;
use stolon_tests::etcd::{Etcd, ServerTls};
use stolon_tests::store_client;
use stolon_tests::wait::eventually;
use store::{Store, StoreConfig, StoreError, StoreOptions, TlsOptions};

use crate::options;

/// Two CAs, a server certificate for 127.0.0.1, a client certificate, and invalid files.
fn certificates() -> Certificates {
    let made = Certificates::with_authorities(&["ca", "other"]);
    made.sign("server", "ca", "subjectAltName=IP:127.0.0.1");
    made.sign("client", "ca", "extendedKeyUsage=clientAuth");
    join(&made, "bundle.pem", &["other.pem", "ca.pem"]);
    join(&made, "bundle-with-key.pem", &["ca.pem", "ca.key"]);
    fs::write(made.path("empty.pem"), "no block at all\n").unwrap();
    made
}

fn join(certificates: &Certificates, name: &str, parts: &[&str]) {
    let whole: Vec<u8> = parts
        .iter()
        .flat_map(|part| fs::read(certificates.path(part)).unwrap())
        .collect();
    fs::write(certificates.path(name), whole).unwrap();
}

fn server(certificates: &Certificates) -> ServerTls {
    ServerTls {
        cert: certificates.path("server.pem"),
        key: certificates.path("server.key"),
        client_ca: None,
    }
}

fn trusting(ca: &Path) -> TlsOptions {
    TlsOptions {
        ca_file: Some(ca.to_owned()),
        ..TlsOptions::default()
    }
}

fn connect(etcd: &Etcd, tls: TlsOptions) -> Store {
    connect_to(&etcd.endpoint(), tls, SHORT_TIMEOUT)
}

fn connect_to(endpoint: &str, tls: TlsOptions, timeout: Duration) -> Store {
    let options = StoreOptions {
        tls,
        timeout,
        ..options(endpoint)
    };
    store_client::connect_with(&options)
}

/// Waits until the error contains one of these words: on a busy machine the timeout of a request may expire before the
/// handshake fails.
async fn is_refused_for(store: &Store, words: &[&str]) {
    eventually(
        format!("a refusal for {words:?}"),
        SHORT_TIMEOUT,
        async || match store.get("key").await {
            Err(StoreError::Unreachable { source: Some(why), .. }) => {
                let why = why.to_string();
                let fits = words.iter().any(|words| why.contains(words));
                if fits { Ok(()) } else { Err(why) }
            }
            other => panic!("{other:?}"),
        },
    )
    .await;
}

#[tokio::test]
async fn a_server_is_accepted_when_a_ca_of_the_bundle_signed_its_address() {
    let certificates = certificates();
    let etcd = Etcd::start_with_tls(server(&certificates)).await;
    for ca in ["ca.pem", "bundle.pem"] {
        connect(&etcd, trusting(&certificates.path(ca)))
            .put("key", ca)
            .await
            .unwrap();
    }
    let short = Duration::from_millis(500);
    for ca in ["other.pem", "empty.pem"] {
        let store = connect_to(&etcd.endpoint(), trusting(&certificates.path(ca)), short);
        is_refused_for(&store, &["certificate"]).await;
    }
    // the right CA, another name than the one connected to
    let by_name = etcd.endpoint().replace("127.0.0.1", "localhost");
    let store = connect_to(&by_name, trusting(&certificates.path("ca.pem")), short);
    is_refused_for(&store, &["localhost", "not valid for name"]).await;
    // and without verification any server is accepted
    let anyone = TlsOptions {
        skip_verify: true,
        ..TlsOptions::default()
    };
    connect_to(&by_name, anyone, SHORT_TIMEOUT)
        .put("key", "any")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_sends_its_certificate_when_it_has_one() {
    let certificates = certificates();
    let server = ServerTls {
        client_ca: Some(certificates.path("ca.pem")),
        ..server(&certificates)
    };
    let etcd = Etcd::start_with_tls(server).await;
    let known = TlsOptions {
        cert_file: Some(certificates.path("client.pem")),
        key_file: Some(certificates.path("client.key")),
        ..trusting(&certificates.path("ca.pem"))
    };
    connect(&etcd, known).put("key", "value").await.unwrap();
    let unknown = connect_to(
        &etcd.endpoint(),
        trusting(&certificates.path("ca.pem")),
        Duration::from_secs(2),
    );
    unknown.get("key").await.unwrap_err();
}

#[test]
fn bad_files_are_errors_at_the_start() {
    let certificates = certificates();
    let path = |name: &str| Some(certificates.path(name));
    let load = |tls: TlsOptions| {
        StoreConfig::validate(&StoreOptions {
            tls,
            ..options("https://127.0.0.1:1")
        })
    };
    let half = TlsOptions {
        cert_file: path("client.pem"),
        ..TlsOptions::default()
    };
    let half_too = TlsOptions {
        key_file: path("client.key"),
        ..TlsOptions::default()
    };
    let swapped = TlsOptions {
        cert_file: path("client.key"),
        key_file: path("client.pem"),
        ..TlsOptions::default()
    };
    let foreign = TlsOptions {
        cert_file: path("client.pem"),
        key_file: path("server.key"),
        ..TlsOptions::default()
    };
    for (what, tls) in [
        (
            "a private key among the authorities",
            trusting(&certificates.path("bundle-with-key.pem")),
        ),
        ("a missing file", trusting(&certificates.path("missing.pem"))),
        ("a certificate without its key", half),
        ("a key without its certificate", half_too),
        ("a certificate for a key", swapped),
        ("another's key", foreign),
    ] {
        assert_eq!(load(tls).map(drop).unwrap_err().len(), 1, "{what}");
    }
}
