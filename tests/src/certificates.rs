//! Certificates for TLS to etcd and PostgreSQL, made with the `openssl` program.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use local_cluster::UnixUser;
use tempfile::TempDir;

/// A directory of keys (`NAME.key`) and certificates (`NAME.pem`), valid for a day. It is removed when this is dropped.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// Makes a directory with these certificate authorities.
    ///
    /// # Panics
    ///
    /// The directory cannot be made, or there is no `openssl`.
    pub fn with_authorities(authorities: &[&str]) -> Self {
        let made = Self(TempDir::with_prefix("stolon-tls.").expect("a temporary directory can be made"));
        for name in authorities {
            made.openssl(&format!(
                "req -x509 -newkey ec:p256 -nodes -days 1 -subj /CN={name} -keyout {name}.key -out {name}.pem"
            ));
        }
        made
    }

    /// Makes the certificate `name`, signed by an authority, with an X.509 extension as `openssl` writes it
    /// (`subjectAltName=IP:127.0.0.1`).
    ///
    /// # Panics
    ///
    /// There is no such authority, or `openssl` refuses the extension.
    pub fn sign(&self, name: &str, authority: &str, extension: &str) {
        fs::write(self.path("extension"), extension).expect("the directory is ours");
        self.openssl(&format!(
            "req -newkey ec:p256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -days 1 -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial \
             -extfile extension -out {name}.pem"
        ));
    }

    /// Makes the key `name` readable by a user's server, and the certificates by everybody. Servers refuse a key that
    /// users other than its owner may read.
    ///
    /// # Panics
    ///
    /// There is no such key.
    pub fn make_readable_by(&self, name: &str, user: Option<&UnixUser>) {
        let may_be_entered = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.0.path(), may_be_entered).expect("the directory is ours");
        if let Some(user) = user {
            let key = self.path(&format!("{name}.key"));
            chown(key, Some(user.uid), Some(user.gid)).expect("root gives files away");
        }
    }

    /// Returns the path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, args: &str) {
        // ec:p256 stands for two options.
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
}
