//! Who may send requests to the HTTP server: TLS, and a bearer token. Both are read from files again when these change,
//! so that a renewed certificate or token needs no restart.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::user_file::{ReadLimits, read_user_file};
use http::HeaderValue;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject as _};
use store::certificate_chain;
use tokio_rustls::TlsAcceptor;

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

/// Access to a server, kept up to date with its files. Clones share it.
#[derive(Clone)]
pub struct HttpAccess {
    options: AccessOptions,
    current: Arc<Mutex<ConnectionAccess>>,
}

/// When a file's contents, owner or mode last changed, in seconds and nanoseconds, and its size; `None` when it cannot
/// be asked for.
type FileVersion = Option<(i64, i64, u64)>;

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
    pub fn load(options: AccessOptions) -> Result<Self, AccessError> {
        let current = Arc::new(Mutex::new(options.read()?));
        Ok(Self { options, current })
    }

    /// Returns what the next connection needs.
    pub(super) fn current(&self) -> ConnectionAccess {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again whenever they have changed. If they cannot be used, the last ones stay in force. Files are
    /// read on a thread of their own: their file system may hang.
    pub(super) async fn follow_files(self) {
        if self.options == AccessOptions::default() {
            return;
        }
        let mut follower = FileFollower::new(self);
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            match tokio::task::spawn_blocking(move || {
                follower.check();
                follower
            })
            .await
            {
                Ok(same) => follower = same,
                Err(_panicked) => return,
            }
        }
    }
}

/// Compares the files with their last versions.
struct FileFollower {
    access: HttpAccess,
    versions: Vec<FileVersion>,
}

impl FileFollower {
    /// The files may have changed since they were read: the first check reads them.
    fn new(access: HttpAccess) -> Self {
        let versions = Vec::new();
        Self { access, versions }
    }

    fn check(&mut self) {
        let versions = self.access.options.versions();
        if versions == self.versions {
            return;
        }
        match self.access.options.read() {
            Ok(current) => *self.access.current.lock().unwrap_or_else(PoisonError::into_inner) = current,
            Err(error) => tracing::warn!(
                error = %base::Chain(&error),
                "cannot use the changed files that restrict access to the HTTP server, going on with the last ones"
            ),
        }
        self.versions = versions;
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
            Some((data.ctime(), data.ctime_nsec(), data.len()))
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
    let chain = certificate_chain(&read_file(certificate)?).map_err(pem_error(certificate, "certificate"))?;
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

fn read_file(path: &Path) -> Result<Vec<u8>, AccessError> {
    let read = read_user_file(path, ReadLimits::SECRET).map_err(|source| AccessError::Read {
        path: path.to_owned(),
        source,
    });
    read.map(|(text, _)| text)
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
        let options = AccessOptions {
            tls: None,
            token: Some(path.clone()),
        };
        let access = HttpAccess::load(options).unwrap();
        let mut follower = FileFollower::new(access.clone());
        let mut token_after = |text: &str| {
            fs::write(&path, text).unwrap();
            follower.check();
            String::from_utf8(access.current().token.unwrap().0.clone()).unwrap()
        };
        assert_eq!(token_after("second token"), "first", "a token has no space");
        assert_eq!(token_after("third"), "third");
        assert_eq!(token_after(""), "third");
        assert_eq!(token_after("fourth\n"), "fourth");
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let options = |tls: bool| AccessOptions {
            tls: tls.then(|| (path.clone(), path.clone())),
            token: (!tls).then(|| path.clone()),
        };
        let error = |tls: bool| match HttpAccess::load(options(tls)) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string().replace(&path.display().to_string(), "FILE"),
        };
        assert_eq!(error(false), "read FILE");
        fs::write(&path, "\n").unwrap();
        assert_eq!(error(false), "FILE must have one line of visible ASCII characters");
        assert_eq!(error(true), "FILE has no certificate in PEM format");
        fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert_eq!(error(false), "read FILE", "it is too large");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(error(true), "read FILE", "it is a directory");
    }
}
