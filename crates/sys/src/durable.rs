//! Writes that survive a power cut: written beside, synced, renamed, and the directory synced.

use crate::error::{CallExt, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// Opens a directory to work in and to sync.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open({path:?}, O_DIRECTORY)"))
}

/// Writes a file so that a reader sees the old content or the new, after a power cut too.
///
/// The bytes are on disk under the name when this returns. Two writers of one name need a lock of their own.
pub fn write_file(dir: impl AsFd, name: &OsStr, bytes: &[u8], mode: u32) -> Result<()> {
    let beside = beside(name);
    let written = write_synced(&dir, &beside, bytes, mode).and_then(|()| rename(&dir, &beside, &dir, name));
    if written.is_err() {
        // What could not be finished is of no use; the first error is the one to tell.
        let _ = rustix::fs::unlinkat(&dir, beside.as_os_str(), AtFlags::empty());
    }
    written?;
    sync_dir(dir)
}

/// Writes a file as [`write_file`] does, but without syncing: for directories that a reboot empties anyway.
pub fn write_file_volatile(dir: impl AsFd, name: &OsStr, bytes: &[u8], mode: u32) -> Result<()> {
    let beside = beside(name);
    create(&dir, &beside, mode)?.write_all(bytes).call(|| format!("write({beside:?})"))?;
    rename(&dir, &beside, &dir, name)
}

fn beside(name: &OsStr) -> OsString {
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(".new");
    beside
}

fn create(dir: impl AsFd, name: &OsStr, mode: u32) -> Result<std::fs::File> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))
        .call(|| format!("openat({name:?}, O_CREAT|O_TRUNC, {mode:#o})"))
        .map(std::fs::File::from)
}

fn write_synced(dir: impl AsFd, name: &OsStr, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = create(dir, name, mode)?;
    file.write_all(bytes).call(|| format!("write({name:?}, {} bytes)", bytes.len()))?;
    rustix::fs::fsync(&file).call(|| format!("fsync({name:?})"))
}

/// Renames; nothing is synced.
pub fn rename(from_dir: impl AsFd, from: &OsStr, to_dir: impl AsFd, to: &OsStr) -> Result<()> {
    rustix::fs::renameat(from_dir, from, to_dir, to).call(|| format!("renameat({from:?}, {to:?})"))
}

/// Renames, unless the new name is taken (`RENAME_NOREPLACE`): `Ok(false)` then.
pub fn rename_new(from_dir: impl AsFd, from: &OsStr, to_dir: impl AsFd, to: &OsStr) -> Result<bool> {
    match rustix::fs::renameat_with(from_dir, from, to_dir, to, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
        Err(e) => Err(e).call(|| format!("renameat2({from:?}, {to:?}, NOREPLACE)")),
    }
}

/// Removes a file durably; absence is success.
pub fn remove_file(dir: impl AsFd, name: &OsStr) -> Result<()> {
    crate::path::remove_at(&dir, name, false)?;
    sync_dir(dir)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: impl AsFd) -> Result<()> {
    rustix::fs::fsync(dir).call(|| "fsync(directory)".into())
}

/// Makes everything written to a file system durable, and tells of errors since the descriptor was opened
/// (syncfs(2), Linux 5.8): open it before the first write.
pub fn syncfs(fd: impl AsFd) -> Result<()> {
    rustix::fs::syncfs(fd).call(|| "syncfs".into())
}

/// Begins to write part of a file to disk and does not wait for it (sync_file_range(2)); `len` in bytes. A hint for a later
/// [`syncfs`], which tells of errors: this promises nothing, and file systems without it do without.
pub fn start_writing(file: impl AsFd, from: u64, len: u64) {
    let (Ok(from), Ok(len)) = (libc::off64_t::try_from(from), libc::off64_t::try_from(len)) else { return };
    // SAFETY: the descriptor is borrowed and so open during the call, which takes no pointers.
    let _ =
        unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), from, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes a directory by a trusted path, and its parents; those that exist are left as they are.
pub fn mkdir_all(path: &Path, mode: u32) -> Result<()> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) if path.is_dir() => Ok(()),
        Err(Errno::NOENT) if path.parent().is_some() => {
            mkdir_all(path.parent().unwrap_or(Path::new("/")), mode)?;
            mkdir_all(path, mode)
        }
        Err(e) => Err(e).call(|| format!("mkdir({path:?}, {mode:#o})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = open_dir(tmp.path()).unwrap();
        write_file(&dir, OsStr::new("a"), b"one", 0o600).unwrap();
        write_file(&dir, OsStr::new("a"), b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(tmp.path().join("a")).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1);
        remove_file(&dir, OsStr::new("a")).unwrap();
        remove_file(&dir, OsStr::new("a")).unwrap();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_taken_name_is_told() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = open_dir(tmp.path()).unwrap();
        for name in ["a", "b"] {
            std::fs::create_dir(tmp.path().join(name)).unwrap();
        }
        assert!(!rename_new(&dir, OsStr::new("a"), &dir, OsStr::new("b")).unwrap());
        assert!(rename_new(&dir, OsStr::new("a"), &dir, OsStr::new("c")).unwrap());
        mkdir_all(&tmp.path().join("x/y/z"), 0o755).unwrap();
        assert!(tmp.path().join("x/y/z").is_dir());
    }
}
