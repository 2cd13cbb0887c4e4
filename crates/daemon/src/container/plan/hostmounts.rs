//! How the node's own mounts propagate (/proc/PID/mountinfo, proc_pid_mountinfo(5)).

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How a mount propagates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Both ways.
    Shared,
    /// From its master only.
    Slave,
    /// Not at all.
    Private,
}

/// How the mount that holds a path propagates.
pub(crate) fn sharing(path: &Path) -> Result<Sharing> {
    const SELF: &str = "/proc/self/mountinfo";
    let text = std::fs::read(SELF).map_err(|e| Error::internal(format!("{SELF}: {e}")))?;
    // Symlinks lead to another mount: the path that counts is the one that the kernel sees.
    let fd = strata_sys::path::Root::open(Path::new("/"))
        .and_then(|root| root.resolve(path, rustix::fs::OFlags::PATH))
        .map_err(|e| Error::precondition(e.to_string()))?;
    let real = std::fs::read_link(strata_sys::path::fd_path(&fd)).unwrap_or_else(|_| path.into());
    Ok(sharing_in(&text, &real))
}

fn sharing_in(mountinfo: &[u8], path: &Path) -> Sharing {
    let mut best: Option<(PathBuf, Sharing)> = None;
    for line in mountinfo.split(|b| *b == b'\n') {
        let Some((point, sharing)) = parse(line) else { continue };
        // Of two mounts at one place the later one is on top.
        let deeper = best.as_ref().is_none_or(|(b, _)| point.as_os_str().len() >= b.as_os_str().len());
        if path.starts_with(&point) && deeper {
            best = Some((point, sharing));
        }
    }
    best.map_or(Sharing::Private, |(_, sharing)| sharing)
}

fn parse(line: &[u8]) -> Option<(PathBuf, Sharing)> {
    let mut fields = line.split(|b| *b == b' ');
    let point = unescape(fields.nth(4)?);
    let optional: Vec<&[u8]> = fields.skip(1).take_while(|f| *f != b"-").collect();
    let has = |tag: &[u8]| optional.iter().any(|f| f.starts_with(tag));
    let sharing = match () {
        () if has(b"shared:") => Sharing::Shared,
        () if has(b"master:") => Sharing::Slave,
        () => Sharing::Private,
    };
    Some((PathBuf::from(OsString::from_vec(point)), sharing))
}

/// Undoes the kernel's `\040` for blanks.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    debug_assert!(!std::ffi::OsStr::from_bytes(&out).is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[u8] = b"\
21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /run rw master:2 - tmpfs tmpfs rw
23 22 0:21 / /run/my\\040dir rw - tmpfs tmpfs rw
24 21 0:22 / /over rw - tmpfs tmpfs rw
25 24 0:23 / /over rw shared:9 - tmpfs tmpfs rw
";

    #[test]
    fn the_deepest_and_latest_mount_counts() {
        let of = |path: &str| sharing_in(INFO, Path::new(path));
        assert_eq!(of("/etc/x"), Sharing::Shared);
        assert_eq!(of("/run/x"), Sharing::Slave);
        assert_eq!(of("/running"), Sharing::Shared);
        assert_eq!(of("/run/my dir/x"), Sharing::Private);
        assert_eq!(of("/over/x"), Sharing::Shared);
    }

    #[test]
    fn the_nodes_own_mounts_can_be_read() {
        sharing(Path::new("/proc/self")).unwrap();
    }
}
