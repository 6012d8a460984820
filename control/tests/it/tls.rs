//! TLS towards the store (store 3.2, corner case 19).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use control::store::{Store, StoreConfig, StoreError, StoreOptions, TlsOptions};
use stolon_tests::etcd::{Etcd, ServerTls};
use tempfile::TempDir;

use crate::{SOON, options};

/// Two authorities, a server's certificate for 127.0.0.1 and a client's, made with the `openssl` program.
struct Certificates(TempDir);

impl Certificates {
    fn make() -> Self {
        let made = Self(TempDir::with_prefix("stolon-tls.").unwrap());
        for ca in ["ca", "other"] {
            made.openssl(&format!(
                "req -x509 -newkey ec:p256 -nodes -days 1 -subj /CN={ca} -keyout {ca}.key -out {ca}.pem"
            ));
        }
        for (name, extension) in [
            ("server", "subjectAltName=IP:127.0.0.1"),
            ("client", "extendedKeyUsage=clientAuth"),
        ] {
            fs::write(made.path("extension"), extension).unwrap();
            made.openssl(&format!(
                "req -newkey ec:p256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            made.openssl(&format!(
                "x509 -req -days 1 -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extension -out {name}.pem"
            ));
        }
        made.join("bundle.pem", &["other.pem", "ca.pem"]);
        made.join("bundle-with-key.pem", &["ca.pem", "ca.key"]);
        fs::write(made.path("empty.pem"), "no block at all\n").unwrap();
        made
    }

    fn openssl(&self, args: &str) {
        // ec:p256 is short for two options
        let args = args.replace("ec:p256", "ec -pkeyopt ec_paramgen_curve:prime256v1");
        let done = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(self.0.path())
            .output();
        let done = done.expect("the tests need the openssl program");
        assert!(
            done.status.success(),
            "openssl {args}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn join(&self, name: &str, parts: &[&str]) {
        let whole: Vec<u8> = parts
            .iter()
            .flat_map(|part| fs::read(self.path(part)).unwrap())
            .collect();
        fs::write(self.path(name), whole).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn server(&self) -> ServerTls {
        ServerTls {
            cert: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: None,
        }
    }
}

fn trusting(ca: &Path) -> TlsOptions {
    TlsOptions {
        ca_file: Some(ca.to_owned()),
        ..TlsOptions::default()
    }
}

fn connect(etcd: &Etcd, tls: TlsOptions) -> Store {
    connect_to(&etcd.endpoint(), tls, SOON)
}

fn connect_to(endpoint: &str, tls: TlsOptions, timeout: Duration) -> Store {
    let options = StoreOptions {
        tls,
        timeout,
        ..options(endpoint)
    };
    Store::connect(StoreConfig::load(&options).expect("the options are fine"))
}

async fn refusal(store: &Store) -> String {
    match store.get("key").await {
        Err(StoreError::Unreachable { source: Some(why), .. }) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_is_taken_when_an_authority_of_the_bundle_vouches_for_its_address() {
    let certificates = Certificates::make();
    let etcd = Etcd::start_with_tls(certificates.server()).await;
    for ca in ["ca.pem", "bundle.pem"] {
        connect(&etcd, trusting(&certificates.path(ca)))
            .put("key", ca)
            .await
            .unwrap();
    }
    let short = Duration::from_millis(500);
    for ca in ["other.pem", "empty.pem"] {
        let why = refusal(&connect_to(&etcd.endpoint(), trusting(&certificates.path(ca)), short)).await;
        assert!(why.contains("certificate"), "{ca}: {why}");
    }
    // right authority, another name than the one dialled
    let by_name = etcd.endpoint().replace("127.0.0.1", "localhost");
    let why = refusal(&connect_to(&by_name, trusting(&certificates.path("ca.pem")), short)).await;
    assert!(why.contains("localhost") || why.contains("not valid for name"), "{why}");
    // and without verification any server will do
    let anyone = TlsOptions {
        skip_verify: true,
        ..TlsOptions::default()
    };
    connect_to(&by_name, anyone, SOON).put("key", "any").await.unwrap();
}

#[tokio::test]
async fn a_client_shows_its_certificate_when_it_has_one() {
    let certificates = Certificates::make();
    let server = ServerTls {
        client_ca: Some(certificates.path("ca.pem")),
        ..certificates.server()
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
    let certificates = Certificates::make();
    let path = |name: &str| Some(certificates.path(name));
    let load = |tls: TlsOptions| {
        StoreConfig::load(&StoreOptions {
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
