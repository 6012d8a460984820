//! Reads files that an operator names, within limits: a mistaken path may be a directory, a device, a huge file, or a
//! pipe without a writer. What the text means is left to the callers.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::Clock;
use crate::clock::Boottime;

const READ_BYTES: usize = 64 << 10;

/// How much is read at most, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// Most bytes of the whole text.
    pub bytes: u64,
    /// Longest wait for the whole text from a pipe or a device, such as a shell's `<(…)`. Regular files and terminals
    /// have none: the one never waits for a writer, and at the other a person sees what is waited for.
    pub time: Duration,
}

impl ReadLimits {
    /// Limits of a file with one secret, for a daemon: a larger one was given by mistake.
    pub const SECRET: Self = Self {
        bytes: 64 << 10,
        time: Duration::from_secs(10),
    };
    /// Limits of a spec or of certificates, for a daemon. The store accepts values of up to 2 MiB (store S-13), and an
    /// indented text is several times as long; the certificates of a whole operating system have less than 1 MiB.
    pub const DOCUMENT: Self = Self {
        bytes: 8 << 20,
        time: Duration::from_secs(10),
    };
}

/// Returns the contents of a file, and its metadata; a link is followed.
///
/// # Errors
/// It cannot be opened or read, or exceeds a limit.
pub fn read_user_file(path: &Path, limits: ReadLimits) -> io::Result<(Vec<u8>, Metadata)> {
    // With O_NONBLOCK the open of a pipe does not wait for a writer (fifo(7)).
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() > limits.bytes {
        return Err(too_large(limits));
    }
    let waits = !metadata.is_file() && !file.is_terminal();
    Ok((read_to_end(&file, limits, waits)?, metadata))
}

/// Returns all of standard input.
///
/// # Errors
/// It cannot be read, or exceeds a limit.
pub fn read_stdin(limits: ReadLimits) -> io::Result<Vec<u8>> {
    let stdin = io::stdin();
    read_to_end(&stdin, limits, !stdin.is_terminal())
}

fn read_to_end(source: impl AsFd, limits: ReadLimits, is_limited_in_time: bool) -> io::Result<Vec<u8>> {
    let clock = Clock::system();
    let end = is_limited_in_time.then(|| clock.now() + limits.time);
    let (mut text, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
    loop {
        wait_readable(&source, end, &clock, limits)?;
        match rustix::io::read(&source, &mut buffer) {
            Ok(0) => return Ok(text),
            Ok(read) => text.extend_from_slice(&buffer[..read]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        if text.len() as u64 > limits.bytes {
            return Err(too_large(limits));
        }
    }
}

/// Waits for data or the end of the input. A pipe that had no writer yet has neither (poll(2)).
fn wait_readable(source: &impl AsFd, end: Option<Boottime>, clock: &Clock, limits: ReadLimits) -> io::Result<()> {
    loop {
        let left = end.map(|end| end.since(clock.now()));
        if left.is_some_and(|left| left.is_zero()) {
            let why = format!("its writer did not end within {:?}", limits.time);
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(source, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn too_large(limits: ReadLimits) -> io::Error {
    let why = format!("it is larger than {}, the most that is read", Bytes(limits.bytes));
    io::Error::other(why)
}

/// A count of bytes in the largest unit without a remainder.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 20) == 0 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{CWD, mkfifoat};
    use rustix::pipe::pipe;

    use super::*;

    const LIMITS: ReadLimits = ReadLimits {
        bytes: 64 << 10,
        time: Duration::from_millis(50),
    };
    const PATIENT: ReadLimits = ReadLimits {
        bytes: 64 << 10,
        time: Duration::from_secs(60),
    };

    fn refused(path: &Path) -> String {
        read_user_file(path, LIMITS).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (size, fits) in [(0, true), (64 << 10, true), ((64 << 10) + 1, false)] {
            let text = vec![b'x'; size];
            fs::write(&path, &text).unwrap();
            match read_user_file(&path, LIMITS) {
                Ok((read, metadata)) => assert!(fits && read == text && metadata.len() == size as u64),
                Err(error) => assert!(!fits && error.to_string().contains("larger than 64 KiB"), "{error}"),
            }
        }
        // sparse: nothing of it is read
        File::create(&path).unwrap().set_len(100 << 30).unwrap();
        assert!(refused(&path).contains("larger than 64 KiB"));
    }

    #[test]
    fn directories_devices_and_missing_files_are_errors() {
        assert!(refused(Path::new("/")).contains("directory"));
        assert!(refused(Path::new("/dev/zero")).contains("larger than 64 KiB"));
        assert!(refused(Path::new("/nonexistent")).contains("No such file"));
        assert_eq!(read_user_file(Path::new("/dev/null"), LIMITS).unwrap().0, b"");
    }

    #[test]
    fn a_pipe_without_an_end_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(refused(&path).contains("did not end within 50ms"), "no writer at all");
        let (reader, writer) = pipe().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(b"begun").unwrap();
        let silent = Path::new("/dev/fd").join(reader.as_raw_fd().to_string());
        assert!(refused(&silent).contains("did not end within 50ms"), "a silent writer");
    }

    #[test]
    fn a_pipe_is_read_to_its_end_as_a_shell_gives_it() {
        let (reader, writer) = pipe().unwrap();
        let mut writer = File::from(writer);
        let path = Path::new("/dev/fd").join(reader.as_raw_fd().to_string());
        let text = vec![b'x'; 60 << 10]; // less than a pipe holds
        writer.write_all(&text).unwrap();
        drop(writer);
        assert_eq!(read_user_file(&path, PATIENT).unwrap().0, text);
        assert_eq!(read_user_file(&path, PATIENT).unwrap().0, b"", "nothing is left");
    }

    #[test]
    fn a_writer_that_comes_later_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let read = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_user_file(&path, PATIENT));
            // The open returns when the reader has opened it, too (fifo(7)).
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all(b"late")
                .unwrap();
            reader.join().unwrap()
        });
        assert_eq!(read.unwrap().0, b"late");
    }
}
