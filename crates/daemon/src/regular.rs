//! Small files that others put into directories: descriptions of devices, lists of networks, filters.

use rustix::fs::{FileType, Mode, OFlags};
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// A regular file's content, of at most `max` bytes. What else has its name is not waited for: a FIFO has no end, and no
/// writer perhaps.
///
/// # Errors
/// If it cannot be read, is no regular file, or is longer.
pub(crate) fn read(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    // Its length may be another one by now, and is 0 in /proc.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= max) {
        Ok(bytes)
    } else {
        Err(Error::new(ErrorKind::FileTooLarge, format!("it is longer than {max} bytes")))
    }
}

/// As [`read`], as text.
pub(crate) fn read_text(path: &Path, max: u64) -> std::io::Result<String> {
    String::from_utf8(read(path, max)?).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        assert_eq!(read_text(&at("file"), 5).unwrap(), "12345");
        assert_eq!(read(&at("file"), 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        assert_eq!(read(&at("link"), 5).unwrap(), b"12345");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR).unwrap();
        for other in [at("pipe"), "/dev/zero".into(), dir.path().to_owned()] {
            assert_eq!(read(&other, 5).unwrap_err().kind(), ErrorKind::InvalidInput, "{other:?}");
        }
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(read(&at("socket"), 5).is_err());
        assert_eq!(read(&at("none"), 5).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::write(at("bytes"), b"\xff").unwrap();
        assert_eq!(read_text(&at("bytes"), 5).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
