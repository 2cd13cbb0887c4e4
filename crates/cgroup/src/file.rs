//! Reading and writing cgroup files.

use crate::{Error, Result};
use rustix::io::Errno;
use std::path::Path;
use strata_sys::CallExt;

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path).call(|| format!("read({path:?})"))?)
}

/// Reads a file, or `None` if this kernel has none of that name or the group has gone.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e)
            if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP)) =>
        {
            Ok(None)
        }
        Err(e) => Ok(Err(e).call(|| format!("read({path:?})"))?),
    }
}

/// Reads a number; `max` is `u64::MAX`.
pub(crate) fn read_u64(path: &Path) -> Result<Option<u64>> {
    let Some(text) = read_if_there(path)? else { return Ok(None) };
    match text.trim() {
        "max" => Ok(Some(u64::MAX)),
        number => match number.parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(Error::Content(path.display().to_string(), text)),
        },
    }
}

/// The value of a key in a file of `key value` lines.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Writes with one write(2), as cgroup files need.
pub(crate) fn write(path: &Path, value: &str) -> std::result::Result<(), Errno> {
    use rustix::fs::{Mode, OFlags};
    let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        match rustix::io::write(&fd, value.as_bytes()) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}
