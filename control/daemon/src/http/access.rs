//! Who may ask the HTTP server: TLS, and a bearer token. Both are read from files again when these change, so that a
//! renewed certificate or token needs no restart.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base::Clock;
use base::clock::Boottime;
use http::HeaderValue;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Maximum size of a file, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Minimum interval of looking for changed files.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The files that restrict access, as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessOptions {
    /// Certificate chain (PEM) and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// A file with the token.
    pub token: Option<PathBuf>,
}

/// Why access cannot be restricted as configured.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file is no regular file, or too large.
    #[error("{} must be a regular file of at most {FILE_BYTES_MAX} bytes", path.display())]
    Unsuitable {
        /// The file.
        path: PathBuf,
    },
    /// A file has no certificate or key in PEM format.
    #[error("{} has no {what} in PEM format", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it must have.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not fit together, or are not supported.
    #[error("use the certificate {}", path.display())]
    Certificate {
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// The token has no characters, or such that no header may have.
    #[error("{} must have one line of visible ASCII characters", path.display())]
    Token {
        /// The file.
        path: PathBuf,
    },
}

/// A token that requests must have. Its debug form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct BearerToken(Vec<u8>);

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

impl BearerToken {
    /// Whether a request with this `Authorization` header may be answered (RFC 6750, section 2.1).
    pub(super) fn admits(&self, header: Option<&HeaderValue>) -> bool {
        let Some((scheme, token)) = header.map(HeaderValue::as_bytes).and_then(split_at_space) else {
            return false;
        };
        // The time does not depend on where the first difference is.
        let difference = token.iter().zip(&self.0).fold(0, |all, (a, b)| all | (a ^ b));
        scheme.eq_ignore_ascii_case(b"bearer") && token.len() == self.0.len() && difference == 0
    }
}

fn split_at_space(header: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = header.iter().position(|byte| *byte == b' ')?;
    Some((&header[..at], header[at..].trim_ascii()))
}

/// What one connection needs.
#[derive(Clone, Default)]
pub(super) struct ConnectionAccess {
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) token: Option<Arc<BearerToken>>,
}

/// Access to a server, kept up to date with its files.
pub struct HttpAccess {
    options: AccessOptions,
    clock: Clock,
    checked: Boottime,
    files: Vec<FileVersion>,
    current: ConnectionAccess,
}

/// Modification time and size of a file; `None` when it cannot be asked for.
type FileVersion = Option<(SystemTime, u64)>;

impl fmt::Debug for HttpAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpAccess")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl HttpAccess {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read or used.
    pub fn load(options: AccessOptions, clock: Clock) -> Result<Self, AccessError> {
        Ok(Self {
            files: options.versions(),
            current: options.read()?,
            checked: clock.now(),
            options,
            clock,
        })
    }

    /// Anyone may ask, without TLS.
    pub fn open(clock: Clock) -> Self {
        Self {
            options: AccessOptions::default(),
            checked: clock.now(),
            clock,
            files: Vec::new(),
            current: ConnectionAccess::default(),
        }
    }

    /// Returns what the next connection needs. If changed files cannot be used, the last ones stay in force.
    pub(super) fn current(&mut self) -> ConnectionAccess {
        let now = self.clock.now();
        if self.options != AccessOptions::default() && now.since(self.checked) >= CHECK_INTERVAL {
            self.checked = now;
            let files = self.options.versions();
            if files != self.files {
                self.files = files;
                match self.options.read() {
                    Ok(current) => self.current = current,
                    Err(error) => tracing::warn!(
                        error = %base::Chain(&error),
                        "cannot use the changed files for metrics over HTTP, going on with the last ones"
                    ),
                }
            }
        }
        self.current.clone()
    }
}

impl AccessOptions {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let tls = self.tls.iter().flat_map(|(certificate, key)| [certificate, key]);
        tls.chain(&self.token).map(PathBuf::as_path)
    }

    fn versions(&self) -> Vec<FileVersion> {
        let version = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        self.paths().map(version).collect()
    }

    fn read(&self) -> Result<ConnectionAccess, AccessError> {
        let tls = self.tls.as_ref().map(|(certificate, key)| read_tls(certificate, key));
        let token = self.token.as_ref().map(|path| read_token(path));
        Ok(ConnectionAccess {
            tls: tls.transpose()?,
            token: token.transpose()?.map(Arc::new),
        })
    }
}

fn read_tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, AccessError> {
    let pem_error = |path: &Path, what| {
        let path = path.to_owned();
        move |source| AccessError::Pem { path, what, source }
    };
    let text = read_file(certificate)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.and_then(|chain| match chain.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(chain),
    });
    let chain = chain.map_err(pem_error(certificate, "certificate"))?;
    let private_key = PrivateKeyDer::from_pem_slice(&read_file(key)?).map_err(pem_error(key, "private key"))?;
    let unusable = |source| AccessError::Certificate {
        path: certificate.to_owned(),
        source,
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(unusable)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read_token(path: &Path) -> Result<BearerToken, AccessError> {
    let text = read_file(path)?;
    let token = text.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(AccessError::Token { path: path.to_owned() });
    }
    Ok(BearerToken(token.to_vec()))
}

/// Reads a small regular file; anything else could block.
fn read_file(path: &Path) -> Result<Vec<u8>, AccessError> {
    let error = |source| AccessError::Read {
        path: path.to_owned(),
        source,
    };
    let unsuitable = || AccessError::Unsuitable { path: path.to_owned() };
    if !fs::metadata(path).map_err(error)?.is_file() {
        return Err(unsuitable());
    }
    let mut text = Vec::new();
    let mut file = File::open(path).map_err(error)?.take(FILE_BYTES_MAX + 1);
    file.read_to_end(&mut text).map_err(error)?;
    if u64::try_from(text.len()).is_ok_and(|len| len <= FILE_BYTES_MAX) {
        return Ok(text);
    }
    Err(unsuitable())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_admitted() {
        let token = BearerToken(b"secret".to_vec());
        let admits = |header: &'static str| token.admits(Some(&HeaderValue::from_static(header)));
        assert!(admits("Bearer secret"));
        assert!(admits("bearer  secret"));
        for wrong in [
            "",
            "secret",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secret2",
            "Bearer secres",
            "Basic secret",
        ] {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(!token.admits(None));
        assert_eq!(format!("{token:?}"), "BearerToken(…)");
    }

    #[test]
    fn a_changed_token_is_used_and_an_unusable_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let now = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let read = Arc::clone(&now);
        let clock = Clock::custom(move || Boottime::from_nanos(read.load(std::sync::atomic::Ordering::Relaxed)));
        let options = AccessOptions {
            tls: None,
            token: Some(path.clone()),
        };
        let mut access = HttpAccess::load(options, clock).unwrap();
        let mut token_after = |seconds: u64| {
            now.store(seconds * 1_000_000_000, std::sync::atomic::Ordering::Relaxed);
            let token = access.current().token.unwrap();
            String::from_utf8(token.0.clone()).unwrap()
        };
        fs::write(&path, "second token").unwrap();
        assert_eq!(token_after(9), "first");
        assert_eq!(token_after(10), "first", "a token has no space");
        fs::write(&path, "third").unwrap();
        assert_eq!(token_after(20), "third");
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let options = |tls: bool| AccessOptions {
            tls: tls.then(|| (path.clone(), path.clone())),
            token: (!tls).then(|| path.clone()),
        };
        let error = |tls: bool| match HttpAccess::load(options(tls), Clock::system()) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string().replace(&path.display().to_string(), "FILE"),
        };
        assert_eq!(error(false), "read FILE");
        fs::write(&path, "\n").unwrap();
        assert_eq!(error(false), "FILE must have one line of visible ASCII characters");
        assert_eq!(error(true), "FILE has no certificate in PEM format");
        fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert_eq!(error(false), "FILE must be a regular file of at most 65536 bytes");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(error(true), "FILE must be a regular file of at most 65536 bytes");
    }
}
