//! Giving files that exist a label: pods' own files, and volumes whose mounts say `selinux_relabel`.

use crate::error::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use strata_store::deep::{Visitor, kind_of, visit};
use strata_sys::path::fd_path;

const NAME: &str = "security.selinux";

/// What belongs to the whole node: other programs could use nothing of it any more.
const SYSTEM: [&str; 25] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Refuses to relabel what is the system's; what is not there yet is not.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument)
pub(crate) fn check(path: &Path) -> Result<()> {
    open(path).map_or(Ok(()), |file| check_open(path, &file))
}

fn open(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// By where it really is, whatever symlinks led there.
fn check_open(path: &Path, file: &OwnedFd) -> Result<()> {
    let real = std::fs::read_link(fd_path(file))
        .map_err(|e| Error::internal(format!("where {} is cannot be read: {e}", path.display())))?;
    let kernels = ["/proc", "/sys"].iter().any(|top| real.starts_with(top));
    match kernels || SYSTEM.iter().any(|top| real == Path::new(top)) {
        false => Ok(()),
        true => Err(Error::invalid(format!(
            "host path {}: relabelling it for SELinux would take it from the rest of the node; mount a directory of the \
             container's own, or leave selinux_relabel out",
            path.display()
        ))),
    }
}

/// Labels one file or directory; a symlink at the end of its path is followed. Where its file system has no labels, or cannot
/// be written, it stays as it is.
///
/// # Errors
/// If the policy or the file system refuses.
pub(crate) fn one(path: &Path, label: &str) -> Result<()> {
    set(path, label).map_err(|e| failed(path, label, &e))
}

/// Labels a file or directory and all that is below it on the same file system, itself last, as [`one`] does. Symlinks in it are
/// labelled and not followed.
///
/// # Errors
/// As [`check`], or if the policy or the file system refuses; what has been labelled by then stays so.
pub(crate) fn tree(path: &Path, label: &str) -> Result<()> {
    let top = open(path).map_err(|e| failed(path, label, &e))?;
    // It may be exchanged meanwhile: what is checked is what is labelled.
    check_open(path, &top)?;
    let stat = rustix::fs::fstat(&top).map_err(|e| failed(path, label, &e))?;
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        visit(&top, &mut Below { label }).map_err(|e| failed(path, label, &e))?;
    }
    set(&fd_path(&top), label).map_err(|e| failed(path, label, &e))
}

struct Below<'a> {
    label: &'a str,
}

impl Visitor for Below<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], kind: FileType) -> strata_store::Result<bool> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(false),
            other => other.map_err(std::io::Error::from)?,
        };
        // Its link in /proc leads to the very file, also to a symlink.
        set(&fd_path(&file), self.label).map_err(|e| {
            let name = String::from_utf8_lossy(name).into_owned();
            strata_store::Error::from(std::io::Error::from(e)).context(format!("{name:?} below it"))
        })?;
        Ok(kind_of(dir, name, kind)? == FileType::Directory)
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &[u8]) -> strata_store::Result<()> {
        Ok(())
    }
}

fn set(path: &Path, label: &str) -> std::result::Result<(), Errno> {
    match rustix::fs::setxattr(path, NAME, label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP | Errno::ROFS | Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn failed(path: &Path, label: &str, e: &dyn std::fmt::Display) -> Error {
    Error::precondition(format!(
        "{} cannot be given the SELinux label {label:?}: {e}; does the policy let stratad relabel it?",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_is_the_systems_is_not_relabelled() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        for bad in
            ["/", "/usr", "/usr/", "/dev", "/etc/../etc", "/proc/self", "/sys/fs", link.to_str().unwrap()]
        {
            assert_eq!(check(Path::new(bad)).unwrap_err().kind(), Kind::InvalidArgument, "{bad}");
        }
        for good in [dir.path().to_str().unwrap(), "/usr/bin/env", "/not/there"] {
            assert!(check(Path::new(good)).is_ok(), "{good}");
        }
    }

    /// Kernels without SELinux keep the attribute as they would any other.
    #[test]
    fn a_tree_is_labelled_without_what_its_symlinks_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let (inside, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::write(&outside, "").unwrap();
        std::fs::write(inside.join("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("a/link")).unwrap();
        match rustix::fs::setxattr(&outside, NAME, b"own", XattrFlags::empty()) {
            Err(e) => return eprintln!("skipped: no label can be set here: {e}"),
            Ok(()) => tree(&inside, label).unwrap(),
        }
        let of = |path: &Path| {
            let mut value = [0; 256];
            let n = rustix::fs::lgetxattr(path, NAME, &mut value[..]).unwrap();
            String::from_utf8_lossy(&value[..n]).into_owned()
        };
        for labelled in ["", "a", "a/b", "a/b/file", "a/link"] {
            assert_eq!(of(&inside.join(labelled)), label, "{labelled}");
        }
        assert_eq!(of(&outside), "own");
        tree(&outside, label).unwrap();
        assert_eq!(of(&outside), label);
        assert!(tree(&dir.path().join("absent"), label).is_err());
    }
}
