//! A failed operation on a file or directory, with a remedy for common causes. What follows from it is left to the
//! callers.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::postgres::data::walker::FileSystemHung;

/// A failed operation on a file.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}{}", path.display(), Remedy(source))]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { action, path, source }
    }

    /// Returns the path that does not answer, if that is the error.
    pub fn unanswered(&self) -> Option<&Path> {
        (self.kind() == ErrorKind::TimedOut).then_some(&self.path)
    }

    /// Whether the file was found missing, too short or not text, rather than not read.
    pub fn proves_damage(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData
        )
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

impl From<FileSystemHung> for FileError {
    fn from(FileSystemHung { path }: FileSystemHung) -> Self {
        let source = io::Error::new(ErrorKind::TimedOut, "it does not answer");
        Self::new("access", path)(source)
    }
}

/// What an operator can do about common errors.
struct Remedy<'a>(&'a io::Error);

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => " (free space on its file system)",
            ErrorKind::PermissionDenied => " (it must belong to the user that runs the keeper)",
            ErrorKind::TimedOut => " (fix its file system, or the server that exports it)",
            ErrorKind::ReadOnlyFilesystem => " (its file system is read-only)",
            _ => "",
        })
    }
}
