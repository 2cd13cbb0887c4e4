//! Untrusted paths: resolved beneath a directory by the kernel (openat2(2), Linux 5.6), never by joining strings.

use crate::error::{CallExt, Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A directory that paths are resolved in as if it were `/`: `..` and symlinks cannot leave it.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// How often a lookup is repeated that lost a race against a rename (openat2(2), `EAGAIN`).
const RETRIES: usize = 64;

/// How many symlinks are followed that lead to what is missing (path_resolution(7) has 40 too).
const LINKS: usize = 40;

impl Root {
    /// Opens a directory of the host, by a trusted path.
    pub fn open(path: &Path) -> Result<Self> {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open({path:?}, O_PATH|O_DIRECTORY)"))
            .map(Self)
    }

    /// Takes a descriptor of a directory, such as a detached mount.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens a path below the root. Symlinks are followed inside it, magic links of /proc never.
    pub fn resolve(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
        self.openat2(path.as_ref(), flags, Mode::empty())
    }

    /// Opens a path that does not leave the root at any step: absolute symlinks are refused instead of being taken from the
    /// root, and so is a `..` too many.
    ///
    /// # Errors
    /// `EXDEV` for a path that leaves the root.
    pub fn resolve_beneath(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
        self.openat2_as(path.as_ref(), flags, Mode::empty(), ResolveFlags::BENEATH)
    }

    fn openat2(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        self.openat2_as(path, flags, mode, ResolveFlags::IN_ROOT)
    }

    fn openat2_as(&self, path: &Path, flags: OFlags, mode: Mode, how: ResolveFlags) -> Result<OwnedFd> {
        let resolve = how | ResolveFlags::NO_MAGICLINKS;
        // An empty path is the root itself.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < RETRIES => tries += 1,
                other => {
                    let how = if how == ResolveFlags::BENEATH { "BENEATH" } else { "IN_ROOT" };
                    return other.call(|| format!("openat2({path:?}, {flags:?}, {how}|NO_MAGICLINKS)"));
                }
            }
        }
    }

    /// Opens a directory below the root, making what is missing of it with these permission bits.
    ///
    /// A symlink on the way is followed inside the root; what is missing of where it leads is made too.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
        self.mkdir_following(path.as_ref(), mode, LINKS)
    }

    fn mkdir_following(&self, path: &Path, mode: u32, links: usize) -> Result<OwnedFd> {
        let mut dir = self.resolve(".", OFlags::PATH | OFlags::DIRECTORY)?;
        let mut done = PathBuf::new();
        for part in path.components() {
            let Component::Normal(name) = part else {
                if part == Component::ParentDir {
                    done.pop();
                    dir = self.resolve(&done, OFlags::PATH | OFlags::DIRECTORY)?;
                }
                continue;
            };
            done.push(name);
            dir = match self.resolve(&done, OFlags::PATH | OFlags::DIRECTORY) {
                Err(e) if e.errno == Errno::NOENT => {
                    match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode)) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => {
                            if let Some(to) = link_target(&dir, &done, links)? {
                                self.mkdir_following(&to, mode, links - 1)?;
                            }
                        }
                        Err(e) => return Err(e).call(|| format!("mkdirat({done:?}, {mode:#o})")),
                    }
                    self.resolve(&done, OFlags::PATH | OFlags::DIRECTORY)?
                }
                other => other?,
            };
        }
        Ok(dir)
    }

    /// Opens a file below the root for writing, making it if it is missing; its directory must be there.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
        self.openat2(
            path.as_ref(),
            OFlags::CREATE | OFlags::WRONLY | OFlags::NOCTTY,
            Mode::from_raw_mode(mode),
        )
    }

    /// As [`Self::create_file`], making missing directories too, and what is missing of where symlinks lead.
    pub fn create_file_all(&self, path: impl AsRef<Path>, mode: u32, dir_mode: u32) -> Result<OwnedFd> {
        let mut path = path.as_ref().to_owned();
        for links in (0..=LINKS).rev() {
            let name =
                path.file_name().ok_or_else(|| Error::new(format!("create {path:?}"), Errno::INVAL))?;
            let dir = self.mkdir_all(path.parent().unwrap_or(Path::new("")), dir_mode)?;
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK;
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(mode)) {
                Err(Errno::LOOP) => {}
                other => return other.call(|| format!("openat({path:?}, O_CREAT|O_NOFOLLOW, {mode:#o})")),
            }
            match link_target(&dir, &path, links)? {
                Some(to) => path = to,
                None => break,
            }
        }
        Err(Error::new(format!("create {path:?}"), Errno::LOOP))
    }

    /// The directory that holds the last component of a path, and that component.
    ///
    /// # Errors
    /// `EINVAL` for a path that ends in `..` or is the root.
    pub fn parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or_else(|| Error::new(format!("parent of {path:?}"), Errno::INVAL))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// Reads a regular file below the root whole.
    ///
    /// # Errors
    /// `EFBIG` if it is longer than `max` bytes, `EINVAL` if it is no regular file (a FIFO would block).
    pub fn read(&self, path: impl AsRef<Path>, max: usize) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let call = || format!("read({path:?})");
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = rustix::fs::fstat(&fd).call(call)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Error::new(call(), Errno::INVAL));
        }
        let mut bytes = Vec::new();
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        std::fs::File::from(fd).take(limit).read_to_end(&mut bytes).call(call)?;
        if bytes.len() > max { Err(Error::new(call(), Errno::FBIG)) } else { Ok(bytes) }
    }

    /// [`Self::read`], as text; bytes that are not UTF-8 are replaced.
    pub fn read_to_string(&self, path: impl AsRef<Path>, max: usize) -> Result<String> {
        self.read(path, max).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether anything is at a path; symlinks are followed inside the root.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool> {
        match self.resolve(path, OFlags::PATH) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.errno, Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Where the symlink at the end of `path` leads, as a path from the root; `None`: it is no symlink. `dir` holds it.
fn link_target(dir: &OwnedFd, path: &Path, links: usize) -> Result<Option<PathBuf>> {
    let name = path.file_name().unwrap_or_default();
    let target = match rustix::fs::readlinkat(dir, name, Vec::new()) {
        Ok(target) => target,
        Err(Errno::INVAL) => return Ok(None),
        Err(e) => return Err(e).call(|| format!("readlinkat({path:?})")),
    };
    if links == 0 {
        return Err(Error::new(format!("follow {path:?}"), Errno::LOOP));
    }
    // An absolute target replaces the whole path.
    let to = path.parent().unwrap_or(Path::new("")).join(OsStr::from_bytes(target.as_bytes()));
    Ok(Some(to))
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The path by which this process can name what a descriptor refers to.
pub fn fd_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// A path beside a directory's descriptor, for calls that take no more than a short path: socket addresses hold 108
/// bytes (unix(7)).
pub fn short_path(dir: impl AsFd, name: &OsStr) -> PathBuf {
    fd_path(dir).join(name)
}

/// Removes a file or an empty directory below a directory; absence is success.
pub fn remove_at(dir: impl AsFd, name: &OsStr, directory: bool) -> Result<()> {
    let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match rustix::fs::unlinkat(dir, name.as_bytes(), flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).call(|| format!("unlinkat({name:?})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(inside.join("etc")).unwrap();
        std::fs::write(inside.join("etc/passwd"), "inside").unwrap();
        symlink("/etc", inside.join("abs")).unwrap();
        symlink("../../../../secret", inside.join("up")).unwrap();
        symlink("/proc/self/root", inside.join("etc/magic")).unwrap();
        let root = Root::open(&inside).unwrap();
        (dir, root)
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (_dir, root) = tree();
        assert_eq!(root.read_to_string("abs/passwd", 100).unwrap(), "inside");
        assert_eq!(root.read_to_string("../../etc/passwd", 100).unwrap(), "inside");
        assert_eq!(root.read("up", 100).unwrap_err().errno, Errno::NOENT);
        assert!(root.read("etc/magic/etc/passwd", 100).is_err());
    }

    #[test]
    fn directories_are_made_through_links_inside_only() {
        let (dir, root) = tree();
        root.mkdir_all("abs/a/b", 0o755).unwrap();
        assert!(dir.path().join("root/etc/a/b").is_dir());
        root.mkdir_all("/x/../../../y", 0o755).unwrap();
        assert!(dir.path().join("root/y").is_dir() && !dir.path().join("y").exists());
        symlink("/nowhere/at/all", dir.path().join("root/dangling")).unwrap();
        root.mkdir_all("dangling/a", 0o755).unwrap();
        assert!(dir.path().join("root/nowhere/at/all/a").is_dir());
        symlink("loop", dir.path().join("root/loop")).unwrap();
        assert_eq!(root.mkdir_all("loop/a", 0o755).unwrap_err().errno, Errno::LOOP);
    }

    #[test]
    fn files_are_made_where_links_inside_lead() {
        let (dir, root) = tree();
        symlink("../../../run/resolve/stub.conf", dir.path().join("root/etc/resolv.conf")).unwrap();
        drop(root.create_file_all("etc/resolv.conf", 0o644, 0o755).unwrap());
        assert!(dir.path().join("root/run/resolve/stub.conf").is_file());
        drop(root.create_file_all("/new/dir/file", 0o644, 0o755).unwrap());
        assert!(dir.path().join("root/new/dir/file").is_file());
        symlink("b", dir.path().join("root/a")).unwrap();
        symlink("a", dir.path().join("root/b")).unwrap();
        assert_eq!(root.create_file_all("a", 0o644, 0o755).unwrap_err().errno, Errno::LOOP);
        assert_eq!(root.create_file_all("..", 0o644, 0o755).unwrap_err().errno, Errno::INVAL);
    }

    #[test]
    fn long_and_odd_files_are_refused() {
        let (dir, root) = tree();
        assert_eq!(root.read("etc/passwd", 3).unwrap_err().errno, Errno::FBIG);
        nix::unistd::mkfifo(&dir.path().join("root/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(root.read("fifo", 3).unwrap_err().errno, Errno::INVAL);
    }

    #[test]
    fn a_swapped_symlink_never_leads_outside() {
        let (dir, root) = tree();
        let spot = dir.path().join("root/spot");
        std::fs::create_dir(&spot).unwrap();
        std::fs::write(spot.join("secret"), "inside").unwrap();
        let (link, stop) = (dir.path().join("root/link"), std::sync::atomic::AtomicBool::new(false));
        symlink("../../..", &link).unwrap();
        std::thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (a, b) = (spot.as_path(), link.as_path());
                    rustix::fs::renameat_with(
                        rustix::fs::CWD,
                        a,
                        rustix::fs::CWD,
                        b,
                        rustix::fs::RenameFlags::EXCHANGE,
                    )
                    .unwrap();
                }
            });
            for _ in 0..20_000 {
                if let Ok(text) = root.read_to_string("spot/secret", 100) {
                    assert_eq!(text, "inside");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
