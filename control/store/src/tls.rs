//! TLS for the connections to the store (store 3.2): CA and client certificates. Connecting is left to `connections`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base::user_file::{ReadLimits, read_user_file};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};

/// The TLS options of a client as given; each is named for the store's option.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// `--store-ca-file`: replaces the system's roots.
    pub ca_file: Option<PathBuf>,
    /// `--store-cert-file`: the client's certificate.
    pub cert_file: Option<PathBuf>,
    /// `--store-key`: the client's key.
    pub key_file: Option<PathBuf>,
    /// `--store-skip-tls-verify`.
    pub skip_verify: bool,
}

/// An invalid TLS option.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a PEM file, or one without the expected block.
    #[error("parse {} as PEM", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The CA file holds a block that is not a certificate.
    #[error("{} holds a block of kind {kind:?}: only certificates may stand in a CA file", .path.display())]
    NotACertificate {
        /// The file.
        path: PathBuf,
        /// The label of the block.
        kind: String,
    },
    /// A certificate or key that the TLS library refuses.
    #[error("use {}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Only one of the two was given. Go stolon silently sends no client certificate then (store 3.2).
    #[error("--store-cert-file and --store-key must be given together")]
    IncompleteClientCertificate,
    /// The TLS library offers no protocol version.
    #[error("set up TLS")]
    Library(#[source] rustls::Error),
}

/// Reads the files that the options name; `protocol` is the one to negotiate (ALPN), such as `h2`.
///
/// # Errors
/// A file cannot be read or used, or only one of certificate and key is given.
pub fn client_tls(options: &TlsOptions, protocol: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Library)?;
    let roots = match &options.ca_file {
        Some(path) => load_ca_file(path)?,
        None => system_roots(),
    };
    let builder = if options.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnyServer(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    let mut config = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|source| TlsError::Unusable {
                path: cert.clone(),
                source,
            })?,
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsError::IncompleteClientCertificate),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// Loads a CA file. Every block must be a certificate; without any, no server is trusted (store 3.2).
fn load_ca_file(path: &Path) -> Result<RootCertStore, TlsError> {
    let text = read(path)?;
    for line in String::from_utf8_lossy(&text).lines() {
        let label = line
            .trim_end()
            .strip_prefix("-----BEGIN ")
            .and_then(|rest| rest.strip_suffix("-----"));
        if let Some(kind) = label.filter(|&label| label != "CERTIFICATE") {
            return Err(TlsError::NotACertificate {
                path: path.to_owned(),
                kind: kind.to_owned(),
            });
        }
    }
    let mut roots = RootCertStore::empty();
    for block in CertificateDer::pem_slice_iter(&text) {
        let certificate = block.map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            source,
        })?;
        roots.add(certificate).map_err(|source| TlsError::Unusable {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
}

/// Returns the system's root certificates that can be read; without any, every connection fails with that error.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificate_chain(&read(path)?).map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })
}

/// Returns the certificates in a text in PEM format, in their order.
///
/// # Errors
/// The text is not in that format, or has none.
pub fn certificate_chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>()?;
    match chain.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(chain),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    match read_user_file(path, ReadLimits::DOCUMENT) {
        Ok((text, _)) => Ok(text),
        Err(source) => Err(TlsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Accepts any server certificate, for `--store-skip-tls-verify`. Signatures are still verified, so the peer holds the
/// key of its certificate.
#[derive(Debug)]
struct AcceptAnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
